//! The decisions on payments, pure: [`begin`] says whom the gateway is asked about, [`finish`] what its answer leads to.
//!
//! No clock, no I/O; "now" is the database's. Invariants: a batch is decided as its requests one by one, in order; one
//! request at a time pays for an order, and one request pays for one order; and one request id gets one verdict.

mod begin;
mod finish;

pub use begin::{Begun, Step, begin};
pub use finish::{End, Ended, Finished, finish};

use shared::handler::Answer;
use shared::messages::{Code, PaymentRequest, Rejection, Request, Verdict};
use shared::order::{Refusal, State};
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// What the database said.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment, by the database's clock.
    pub now: OffsetDateTime,
    /// The orders that were asked about and exist, by id.
    pub orders: HashMap<Uuid, Order>,
    /// The payments of these orders, and those under way by these requests, by order.
    pub payments: HashMap<Uuid, Payment>,
    /// The verdicts recorded for the request ids that were asked about.
    pub recorded: HashMap<String, Recorded>,
}

/// An order, as its payment sees it.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where it stands.
    pub state: State,
    /// The item's id.
    pub item: String,
    /// Units.
    pub quantity: i64,
    /// The end of the hold, unless the order is paid for, or being paid for.
    pub hold_until: OffsetDateTime,
}

/// The payment of an order: the one under way, or the last one.
#[derive(Debug, Clone)]
pub struct Payment {
    /// Which request pays.
    pub request_id: String,
    /// Of that request's content.
    pub fingerprint: Uuid,
    /// Whether the gateway may have been asked, and the outcome is not committed.
    pub is_under_way: bool,
}

/// A verdict on record, or about to be.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Of the request's content.
    pub fingerprint: Uuid,
    /// The reply as it was sent.
    pub reply: String,
}

/// The verdicts to record, by request id.
pub type Verdicts = BTreeMap<String, Decision>;

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

impl Payment {
    /// Whether it is under way by this very request.
    fn is_by(&self, request: &PaymentRequest) -> bool {
        self.is_under_way && self.request_id == request.request_id && self.fingerprint == request.fingerprint()
    }
}

impl Snapshot {
    /// What is on record for this request.
    fn recorded(&self, request: &PaymentRequest) -> Option<Answer> {
        let recorded = self.recorded.get(&request.request_id)?;
        Some(if recorded.fingerprint == request.fingerprint() {
            Answer::Verdict(recorded.reply.clone())
        } else {
            Answer::Rejected(Rejection::reused(&request.request_id))
        })
    }

    /// Has a verdict recorded for a request that has none.
    fn record(&mut self, request: &PaymentRequest, (code, message): (Code, String), verdicts: &mut Verdicts) -> Answer {
        let verdict = Verdict {
            request_id: Some(request.request_id.clone()),
            status: code.status(),
            code,
            message,
            order: None,
            item_version: None,
            decided_at: Some(self.now),
        };
        let reply = serde_json::to_string(&verdict).expect("a verdict is representable as JSON");
        let fingerprint = request.fingerprint();
        self.recorded.insert(request.request_id.clone(), Recorded { fingerprint, reply: reply.clone() });
        verdicts.insert(request.request_id.clone(), Decision { code, fingerprint, reply: reply.clone() });
        Answer::Verdict(reply)
    }
}

/// Why an order cannot be paid for, for programs and for people.
fn refused(id: Uuid, refusal: Refusal) -> (Code, String) {
    match refusal {
        Refusal::AlreadyCancelled => (Code::AlreadyCancelled, format!("The order {id} was cancelled before.")),
        Refusal::AlreadyExpired => too_late(id),
        Refusal::AlreadyPaid => (Code::AlreadyPaid, format!("The order {id} is paid for.")),
        Refusal::PaymentUnderWay => {
            (Code::PaymentUnderWay, format!("The order {id} is being paid for, by another request."))
        }
        Refusal::NoPaymentUnderWay => (Code::Declined, format!("The payment of the order {id} has ended before.")),
    }
}

fn too_late(id: Uuid) -> (Code, String) {
    (Code::AlreadyExpired, format!("The hold of the order {id} ran out before; nothing is charged."))
}

fn unknown(id: Uuid) -> (Code, String) {
    (Code::UnknownOrder, format!("There is no order {id}."))
}

fn units(order: &Order) -> String {
    format!("{} {} of {}", order.quantity, if order.quantity == 1 { "unit" } else { "units" }, order.item)
}

fn text(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).expect("the schema keeps times that RFC 3339 can write")
}

#[cfg(test)]
mod tests;
