//! The decision: requests and what the database said of them in, outcomes and stock changes out.
//!
//! Pure: no clock, no randomness, no I/O; "now" is the database's and order ids are minted by the caller. Invariants:
//! requests are decided in the order given; deciding a batch is deciding its requests one by one; and no item gives
//! away more than it has.

use shared::contract::{Code, Order, PurchaseRequest, Rejection, Status, Verdict};
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// What the database said, at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment, by the database's clock.
    pub now: OffsetDateTime,
    /// The items that were asked about and exist, by id.
    pub items: HashMap<String, Item>,
    /// The verdicts recorded for the request ids that were asked about.
    pub recorded: HashMap<String, Recorded>,
}

/// An item, as a purchase sees it.
#[derive(Debug, Clone)]
pub struct Item {
    /// What the commit checks.
    pub version: i64,
    /// Units left.
    pub available: i64,
    /// How long an order keeps its units.
    pub hold: Duration,
    /// The sale begins.
    pub opens_at: Option<OffsetDateTime>,
    /// The sale ends.
    pub closes_at: Option<OffsetDateTime>,
}

/// A verdict on record.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Of the request's content.
    pub fingerprint: Uuid,
    /// The reply as it was sent.
    pub reply: String,
}

/// How one request ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was answered before, like this.
    Repeat(String),
    /// It is a copy of the request at this place of the same batch.
    SameAs(usize),
    /// Its id is on record for a request with other content.
    Reused(Rejection),
    /// Its id belongs to the request at this place of the same batch, which has other content: reused, once that one
    /// is on record.
    ClashesWith(usize, Rejection),
    /// It is decided, once committed.
    Decided(Decision),
}

/// A new verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// How it ends.
    pub status: Status,
    /// Of the request's content.
    pub fingerprint: Uuid,
    /// The reply to send and to record.
    pub reply: String,
    /// The order, where units are reserved.
    pub order: Option<Order>,
    /// Whether the decision was made on an item's row, and holds only for the version that was read.
    pub on_item: bool,
}

/// What a batch does to one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The version that the decisions were made on.
    pub version: i64,
    /// Units that they reserve; zero where all of them are refusals.
    pub units: i64,
}

/// A decided batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<'a> {
    /// One outcome for each request, in order.
    pub outcomes: Vec<Outcome>,
    /// The items decided on, in the order of their ids: the order in which their rows are locked.
    pub changes: BTreeMap<&'a str, Change>,
}

/// Decides `requests` in order; `mint` gives each order its id.
pub fn decide<'a>(requests: &[&'a PurchaseRequest], snapshot: &Snapshot, mut mint: impl FnMut() -> Uuid) -> Plan<'a> {
    let mut seen: HashMap<&str, (usize, Uuid)> = HashMap::with_capacity(requests.len());
    let mut changes: BTreeMap<&str, Change> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(requests.len());
    for (place, request) in requests.iter().enumerate() {
        let fingerprint = request.fingerprint();
        let outcome = match (snapshot.recorded.get(&request.request_id), seen.entry(&request.request_id)) {
            (Some(recorded), _) if recorded.fingerprint == fingerprint => Outcome::Repeat(recorded.reply.clone()),
            (None, Entry::Occupied(first)) if first.get().1 == fingerprint => Outcome::SameAs(first.get().0),
            (Some(_), _) => Outcome::Reused(Rejection::reused(&request.request_id)),
            (None, Entry::Occupied(first)) => {
                Outcome::ClashesWith(first.get().0, Rejection::reused(&request.request_id))
            }
            (None, Entry::Vacant(first)) => {
                first.insert((place, fingerprint));
                let item = snapshot.items.get(&request.item);
                let change = item.map(|item| {
                    let unchanged = Change { version: item.version, units: 0 };
                    (item, changes.entry(&request.item).or_insert(unchanged))
                });
                Outcome::Decided(decide_one(request, fingerprint, snapshot.now, change, &mut mint))
            }
        };
        outcomes.push(outcome);
    }
    Plan { outcomes, changes }
}

fn decide_one(
    request: &PurchaseRequest,
    fingerprint: Uuid,
    now: OffsetDateTime,
    item: Option<(&Item, &mut Change)>,
    mint: &mut impl FnMut() -> Uuid,
) -> Decision {
    let item_version = item.as_ref().map(|(item, _)| item.version);
    let (code, message, order) = match refuse(request, now, item.as_ref().map(|(item, change)| (*item, &**change))) {
        Some((code, message)) => (code, message, None),
        None => {
            let (item, change) = item.expect("a request for an unknown item is refused");
            change.units += i64::from(request.quantity);
            let hold_until = now + item.hold;
            let order = Order { id: mint(), item: request.item.clone(), quantity: request.quantity, hold_until };
            let units = if request.quantity == 1 { "unit is" } else { "units are" };
            let message =
                format!("{} {units} held for you until {}: {}.", request.quantity, text(hold_until), request.item);
            (Code::Reserved, message, Some(order))
        }
    };
    let verdict = Verdict {
        request_id: Some(request.request_id.clone()),
        status: code.status(),
        code,
        message,
        order,
        item_version,
        decided_at: Some(now),
    };
    let reply = serde_json::to_string(&verdict).expect("a verdict is representable as JSON");
    Decision { status: verdict.status, fingerprint, reply, order: verdict.order, on_item: item_version.is_some() }
}

/// Why the request gets nothing, or `None`: it gets its units.
fn refuse(request: &PurchaseRequest, now: OffsetDateTime, item: Option<(&Item, &Change)>) -> Option<(Code, String)> {
    let name = &request.item;
    let Some((item, change)) = item else {
        return Some((Code::UnknownItem, format!("There is no item {name}.")));
    };
    if let Some(deadline) = request.deadline.filter(|deadline| *deadline <= now) {
        return Some((Code::DeadlinePassed, format!("The request's deadline, {}, has passed.", text(deadline))));
    }
    if let Some(opens_at) = item.opens_at.filter(|opens_at| now < *opens_at) {
        return Some((Code::SaleNotOpen, format!("The sale of {name} opens at {}.", text(opens_at))));
    }
    if let Some(closes_at) = item.closes_at.filter(|closes_at| *closes_at <= now) {
        return Some((Code::SaleClosed, format!("The sale of {name} closed at {}.", text(closes_at))));
    }
    let left = item.available - change.units;
    if left >= i64::from(request.quantity) {
        None
    } else if left == 0 {
        Some((Code::SoldOut, format!("{name} is sold out.")))
    } else {
        Some((Code::SoldOut, format!("{left} of {name} left, {} asked for.", request.quantity)))
    }
}

fn text(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

#[cfg(test)]
mod tests;
