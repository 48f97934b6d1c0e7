//! Somebody who would jump the line, once in each sale: by a routing key that is not the item, into an emptier partition.

use std::time::Duration;

use shared::amqp::{self, Nodes, OutgoingRequest, RequestOutcome};
use shared::messages::{PURCHASE_EXCHANGE, PurchaseRequest, Verdict};
use uuid::Uuid;

use crate::audit::Jumper;
use crate::failure::Failure;

const WAIT_MAX: Duration = Duration::from_secs(10);

/// What they are told.
pub(super) async fn jump(amqp_url: &str, item: &str) -> Result<Jumper, Failure> {
    let (request_id, item) = (Uuid::now_v7().to_string(), item.to_owned());
    let request =
        PurchaseRequest { request_id, item, buyer: "jumper".to_owned(), quantity: 1, deadline: None, sender: None };
    let body = serde_json::to_string(&request).expect("a request has only strings and numbers");
    let request = OutgoingRequest {
        exchange: PURCHASE_EXCHANGE,
        routing_key: "by-the-side-door",
        request_id: &request.request_id,
        body: &body,
    };
    Ok(match amqp::request_reply(&Nodes::read(amqp_url)?, "turnstile-loadtest jumper", request, WAIT_MAX).await? {
        RequestOutcome::Verdict(reply) => {
            serde_json::from_slice(&reply).map_or(Jumper::Unanswered, |verdict: Verdict| Jumper::Told(verdict.code))
        }
        RequestOutcome::NotYet | RequestOutcome::NoQueue => Jumper::Unanswered,
    })
}
