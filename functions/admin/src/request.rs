//! Requests to functions, sent as any other system would; and the verdicts that come back.

use crate::NAME;
use crate::failure::Failure;
use crate::report::{Document, or_dash, time_text, visible};
use anyhow::{Context, anyhow};
use clap::Args;
use serde::Serialize;
use shared::amqp::{self, Nodes, OutgoingRequest, RequestOutcome};
use shared::config::BrokerOptions;
use shared::messages::{Request, Status, Verdict, is_id, is_opaque_id};
use shared::table::Style;
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug, Args)]
pub struct RequestOptions {
    /// The request's id; give the same again to repeat a request whose answer was lost. A new one where absent.
    #[arg(long, value_name = "ID", value_parser = opaque_id)]
    request_id: Option<String>,
    /// How long to wait for the verdict.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    wait_seconds_max: u64,
    #[command(flatten)]
    broker: BrokerOptions,
}

/// Sends the request, made with its id, to its function, and waits for the verdict.
pub(crate) async fn send<R: Request + Serialize>(
    options: RequestOptions,
    request: impl FnOnce(String) -> R,
) -> Result<Verdict, Failure> {
    send_by(R::FUNCTION, options, request).await
}

/// The same, by this routing key.
pub(crate) async fn send_by<R: Request + Serialize>(
    routing_key: &str,
    RequestOptions { request_id, wait_seconds_max, broker }: RequestOptions,
    request: impl FnOnce(String) -> R,
) -> Result<Verdict, Failure> {
    let request = request(request_id.unwrap_or_else(|| format!("admin-{}", Uuid::now_v7())));
    let (function, request_id) = (R::FUNCTION, request.request_id());
    let body = serde_json::to_string(&request).expect("a request is representable as JSON");
    let outgoing = OutgoingRequest { exchange: function, routing_key, correlation_id: request_id, body: &body };
    let (nodes, wait) = (Nodes::of(&broker)?, Duration::from_secs(wait_seconds_max));
    match amqp::request_reply(&nodes, NAME, outgoing, wait).await? {
        RequestOutcome::Verdict(verdict) => serde_json::from_slice(&verdict)
            .with_context(|| format!("the verdict on {request_id} is none that this program knows"))
            .map_err(Failure::Broken),
        RequestOutcome::NotYet => Err(Failure::Unreachable(anyhow!(
            "nobody answered within {wait_seconds_max} s; the request is in the queue {function} and will be decided \
             once a {function} function runs and has come to it. Ask again with --request-id {request_id} for its \
             verdict; it is granted once"
        ))),
        RequestOutcome::NoQueue => Err(Failure::Unreachable(anyhow!(
            "there is no queue {function}, so nothing was sent; start a {function} function, which declares it"
        ))),
    }
}

impl Document for Verdict {
    fn text(&self, style: Style) -> String {
        let code = self.code.as_str();
        let code = if self.is_well() { style.good(code) } else { style.bad(code) };
        let request = or_dash(self.request_id.clone());
        let order = self.order.as_ref().map_or_else(String::new, |order| {
            format!("Order {}, to be paid for until {}.\n", order.id, time_text(order.hold_until))
        });
        format!("{code}: {}\n{order}Request {request}.\n", visible(&self.message))
    }

    fn is_well(&self) -> bool {
        matches!(self.status, Status::Done | Status::Reserved)
    }
}

pub(crate) fn id(text: &str) -> Result<String, String> {
    if is_id(text) { Ok(text.to_owned()) } else { Err("an id matches [A-Za-z0-9._:-]{1,128}".to_owned()) }
}

/// A request's, or a buyer's.
pub(crate) fn opaque_id(text: &str) -> Result<String, String> {
    let message = "this id has 1 to 128 characters of printable ASCII, without space, quotation mark and backslash";
    if is_opaque_id(text) { Ok(text.to_owned()) } else { Err(message.to_owned()) }
}
