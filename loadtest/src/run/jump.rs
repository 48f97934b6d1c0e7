//! Somebody who would jump the line, once in each sale: by a routing key that is not the item, into an emptier partition. In an
//! array, where that is how the others ask.

use crate::audit::Jumper;
use crate::failure::Failure;
use crate::schedule::Schedule;
use shared::amqp::{self, Nodes, OutgoingRequest, RequestOutcome};
use shared::messages::{PURCHASE_EXCHANGE, PurchaseRequest, Verdict};
use std::time::Duration;
use uuid::Uuid;

const WAIT_MAX: Duration = Duration::from_secs(10);

/// What they are told.
pub(super) async fn jump(amqp_url: &str, schedule: &Schedule) -> Result<Jumper, Failure> {
    let (request_id, item) = (Uuid::now_v7().to_string(), schedule.items[0].id.clone());
    let request =
        PurchaseRequest { request_id, item, buyer: "jumper".to_owned(), quantity: 1, deadline: None, sender: None };
    let body = serde_json::to_string(&request).expect("a request has only strings and numbers");
    let body = if schedule.sends_arrays() { format!("[{body}]") } else { body };
    let read = |reply: &[u8]| match schedule.sends_arrays() {
        true => serde_json::from_slice(reply).map(|[verdict]: [Verdict; 1]| verdict),
        false => serde_json::from_slice(reply),
    };
    let request = OutgoingRequest {
        exchange: PURCHASE_EXCHANGE,
        routing_key: "by-the-side-door",
        correlation_id: &request.request_id,
        body: &body,
    };
    Ok(match amqp::request_reply(&Nodes::read(amqp_url)?, "turnstile-loadtest jumper", request, WAIT_MAX).await? {
        RequestOutcome::Verdict(reply) => read(&reply).map_or(Jumper::Unanswered, |verdict| Jumper::Told(verdict.code)),
        RequestOutcome::NotYet | RequestOutcome::NoQueue => Jumper::Unanswered,
    })
}
