//! The worker that touches no database: the real runtime around a handler that says `reserved` to everybody, in replies
//! of the shape and size of real ones. What it reaches is the limit of broker, runtime and load generator together.

use shared::config::WorkerOptions;
use shared::error::Error;
use shared::handler::{Answer, Handler};
use shared::messages::{Code, Order, PurchaseRequest, Verdict};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// What a real order is held for.
const HOLD: Duration = Duration::minutes(10);

/// Serves until SIGTERM or Ctrl-C, then drains.
pub(crate) async fn serve(options: &WorkerOptions) -> anyhow::Result<()> {
    shared::worker::serve(Ceiling, options).await
}

struct Ceiling;

impl Handler for Ceiling {
    type Request = PurchaseRequest;

    async fn handle(&self, requests: &[PurchaseRequest]) -> Result<Vec<Answer>, Error> {
        let now = OffsetDateTime::now_utc();
        requests.iter().map(|request| reserve(request, now)).collect()
    }
}

fn reserve(request: &PurchaseRequest, now: OffsetDateTime) -> Result<Answer, Error> {
    let (item, quantity) = (request.item.clone(), request.quantity);
    let verdict = Verdict {
        request_id: Some(request.request_id.clone()),
        item: Some(item.clone()),
        status: Code::Reserved.status(),
        code: Code::Reserved,
        message: format!("{quantity} of {item} held, without a database."),
        order: Some(Order { id: Uuid::now_v7(), item, quantity, hold_until: now + HOLD }),
        item_version: Some(1),
        decided_at: Some(now),
    };
    serde_json::to_string(&verdict).map(Answer::Verdict).map_err(|error| Error::Unhandled(error.to_string()))
}
