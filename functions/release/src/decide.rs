//! The decision on release requests: requests and what the database said of them in, answers and cancellations out.
//!
//! Pure: no clock, no I/O; "now" is the database's. Invariants: requests are decided in the order given; deciding a
//! batch is deciding its requests one by one; an order is cancelled once; and one request id gets one verdict.

use shared::handler::Answer;
use shared::messages::{Code, Rejection, ReleaseRequest, Request, Verdict};
use shared::order::{Cause, Refusal, State};
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;
use uuid::Uuid;

/// What the database said.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment, by the database's clock.
    pub now: OffsetDateTime,
    /// The orders that were asked about and exist, by id.
    pub orders: HashMap<Uuid, Order>,
    /// The verdicts recorded for the request ids that were asked about.
    pub recorded: HashMap<String, Recorded>,
}

/// An order, as its release sees it.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where it stands.
    pub state: State,
    /// The item's id.
    pub item: String,
    /// Units.
    pub quantity: i64,
}

/// A verdict on record, or about to be.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Of the request's content.
    pub fingerprint: Uuid,
    /// The reply as it was sent.
    pub reply: String,
}

/// A decided batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// One answer for each request, in order.
    pub answers: Vec<Answer>,
    /// The orders to cancel, each with the request that asked for it.
    pub cancelled: Vec<(Uuid, String)>,
    /// The units that go back with them, by item.
    pub units: BTreeMap<String, i64>,
    /// The verdicts to record, by request id.
    pub verdicts: BTreeMap<String, Decision>,
}

/// A new verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// How it ends.
    pub code: Code,
    /// Of the request's content.
    pub fingerprint: Uuid,
    /// The reply to send and to record.
    pub reply: String,
}

/// Decides `requests` in order.
#[must_use]
pub fn decide(requests: &[ReleaseRequest], mut snapshot: Snapshot) -> Plan {
    let mut plan = Plan::default();
    for request in requests {
        let fingerprint = request.fingerprint();
        let answer = match snapshot.recorded.get(&request.request_id) {
            Some(recorded) if recorded.fingerprint == fingerprint => Answer::Verdict(recorded.reply.clone()),
            Some(_) => Answer::Rejected(Rejection::reused(&request.request_id)),
            None => {
                let (code, message) = cancel(request, snapshot.orders.get_mut(&request.order_id), &mut plan);
                let reply = reply(request, code, message, snapshot.now);
                snapshot.recorded.insert(request.request_id.clone(), Recorded { fingerprint, reply: reply.clone() });
                let decision = Decision { code, fingerprint, reply: reply.clone() };
                plan.verdicts.insert(request.request_id.clone(), decision);
                Answer::Verdict(reply)
            }
        };
        plan.answers.push(answer);
    }
    plan
}

/// Cancels the order if that can be, and says what became of it.
fn cancel(request: &ReleaseRequest, order: Option<&mut Order>, plan: &mut Plan) -> (Code, String) {
    let id = request.order_id;
    let Some(order) = order else {
        return (Code::UnknownOrder, format!("There is no order {id}."));
    };
    match order.state.after(Cause::Cancel) {
        Ok(next) => {
            order.state = next;
            plan.cancelled.push((id, request.request_id.clone()));
            *plan.units.entry(order.item.clone()).or_default() += order.quantity;
            let units = if order.quantity == 1 { "unit is" } else { "units are" };
            let message =
                format!("The order {id} is cancelled; {} {units} on sale again: {}.", order.quantity, order.item);
            (Code::Cancelled, message)
        }
        Err(Refusal::AlreadyCancelled) => (Code::AlreadyCancelled, format!("The order {id} was cancelled before.")),
        Err(Refusal::AlreadyExpired) => (Code::AlreadyExpired, format!("The hold of the order {id} ran out before.")),
        Err(Refusal::AlreadyPaid) => (Code::AlreadyPaid, format!("The order {id} is paid for.")),
        Err(Refusal::PaymentUnderWay) => (Code::PaymentUnderWay, format!("The order {id} is being paid for.")),
        Err(Refusal::NoPaymentUnderWay) => unreachable!("a cancellation is no outcome of a payment"),
    }
}

fn reply(request: &ReleaseRequest, code: Code, message: String, now: OffsetDateTime) -> String {
    let verdict = Verdict {
        request_id: Some(request.request_id.clone()),
        status: code.status(),
        code,
        message,
        order: None,
        item_version: None,
        decided_at: Some(now),
    };
    serde_json::to_string(&verdict).expect("a verdict is representable as JSON")
}
