//! The worker that touches no database: the real runtime around a handler that says `reserved` to everybody.
//!
//! What it reaches is the limit of broker, runtime and load generator together. Invariant: its replies have the shape
//! and size of real ones, so that the messages cost the same.

use shared::config::WorkerOptions;
use shared::contract::{Code, Order, PurchaseRequest, Rejection, Verdict};
use shared::error::Error;
use shared::handler::{Answer, Handler};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// The runtime finds a function's queues by its name: this one stands in for the purchase function.
const STANDS_IN_FOR: &str = "purchase";
/// What a real order is held for.
const HOLD: Duration = Duration::minutes(10);

/// Serves until SIGTERM or Ctrl-C, then drains.
///
/// # Errors
/// The broker cannot be used at the start.
pub(crate) async fn serve(options: &WorkerOptions) -> anyhow::Result<()> {
    shared::runtime::serve(Ceiling, options).await
}

/// Says `reserved` to everybody.
struct Ceiling;

impl Handler for Ceiling {
    const NAME: &'static str = STANDS_IN_FOR;
    type Request = PurchaseRequest;

    fn decode(body: &[u8], message_id: Option<&str>) -> Result<PurchaseRequest, Rejection> {
        PurchaseRequest::decode(body, message_id)
    }

    fn request_id(request: &PurchaseRequest) -> &str {
        &request.request_id
    }

    async fn handle(&self, requests: &[PurchaseRequest]) -> Result<Vec<Answer>, Error> {
        let now = OffsetDateTime::now_utc();
        requests.iter().map(|request| reserve(request, now)).collect()
    }
}

fn reserve(request: &PurchaseRequest, now: OffsetDateTime) -> Result<Answer, Error> {
    let (item, quantity) = (request.item.clone(), request.quantity);
    let verdict = Verdict {
        request_id: Some(request.request_id.clone()),
        status: Code::Reserved.status(),
        code: Code::Reserved,
        message: format!("{quantity} of {item} held, without a database."),
        order: Some(Order { id: Uuid::now_v7(), item, quantity, hold_until: now + HOLD }),
        item_version: Some(1),
        decided_at: Some(now),
    };
    serde_json::to_string(&verdict).map(Answer::Verdict).map_err(|error| Error::Unhandled(error.to_string()))
}
