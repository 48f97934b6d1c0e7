//! The decision: requests and what the database said of them in, outcomes and stock changes out.
//!
//! Pure: no clock, no randomness, no I/O; "now" is the database's and order ids are minted by the caller. Invariants:
//! requests are decided in the order given; deciding a batch is deciding its requests one by one; and no item gives
//! away more than it has.

use crate::rules::{Buyer, BuyerHistory, Rules, text};
use shared::messages::{Code, Order, PurchaseRequest, Rejection, Request, Status, Verdict};
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    time::Duration,
};
use time::OffsetDateTime;
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
    /// The tiers of those buyers that a rule asks about and who have one, by buyer.
    pub tiers: HashMap<String, String>,
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
    /// Who may buy it, when, and how much of it.
    pub rules: Rules,
    /// What those buyers have of it that its rules ask about; a buyer who is not here has nothing.
    pub histories: HashMap<String, BuyerHistory>,
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
    let mut effects = Effects::default();
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
                Outcome::Decided(decide_one(request, fingerprint, snapshot, &mut effects, &mut mint))
            }
        };
        outcomes.push(outcome);
    }
    Plan { outcomes, changes: effects.changes }
}

/// What the requests before this one, in the same batch, have changed: to the next, it is as if it were committed.
#[derive(Default)]
struct Effects<'a> {
    changes: BTreeMap<&'a str, Change>,
    /// By item and buyer; only where the item's rules ask for it.
    histories: HashMap<(&'a str, &'a str), BuyerHistory>,
}

fn decide_one<'a>(
    request: &'a PurchaseRequest,
    fingerprint: Uuid,
    snapshot: &Snapshot,
    effects: &mut Effects<'a>,
    mint: &mut impl FnMut() -> Uuid,
) -> Decision {
    let now = snapshot.now;
    let item = snapshot.items.get(&request.item);
    let ended = match item {
        None => Err((Code::UnknownItem, format!("There is no item {}.", request.item))),
        Some(item) => reserve(request, item, snapshot, effects),
    };
    let (code, message, order) = match ended {
        Err((code, message)) => (code, message, None),
        Ok(hold_until) => {
            let order = Order { id: mint(), item: request.item.clone(), quantity: request.quantity, hold_until };
            let units = if request.quantity == 1 { "unit is" } else { "units are" };
            let message =
                format!("{} {units} held for you until {}: {}.", request.quantity, text(hold_until), request.item);
            (Code::Reserved, message, Some(order))
        }
    };
    let item_version = item.map(|item| item.version);
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

/// Takes the units, and says until when they are held; or says why the request gets nothing, and changes nothing.
fn reserve<'a>(
    request: &'a PurchaseRequest,
    item: &Item,
    snapshot: &Snapshot,
    effects: &mut Effects<'a>,
) -> Result<OffsetDateTime, (Code, String)> {
    let now = snapshot.now;
    let change = effects.changes.entry(&request.item).or_insert(Change { version: item.version, units: 0 });
    // An item without such rules is not looked up here: most sales have none.
    let mut history = item.rules.look_at_history().then(|| {
        let before = || item.histories.get(&request.buyer).copied().unwrap_or_default();
        effects.histories.entry((&request.item, &request.buyer)).or_insert_with(before)
    });
    let buyer = Buyer {
        tier: snapshot.tiers.get(&request.buyer).map(String::as_str),
        history: history.as_deref().copied().unwrap_or_default(),
    };
    if let Some(refusal) = refuse(request, now, item, change, &buyer) {
        return Err(refusal);
    }
    change.units += i64::from(request.quantity);
    if let Some(history) = &mut history {
        **history = history.after(request.quantity, now);
    }
    Ok(now + item.hold)
}

/// Why the request gets nothing, or `None`: it gets its units.
///
/// The rules come before the stock. Whom a rule refuses gets nothing however much is left: "sold out" would have him wait
/// for units that come back, and would be an answer about the stock that does not depend on the stock.
fn refuse(
    request: &PurchaseRequest,
    now: OffsetDateTime,
    item: &Item,
    change: &Change,
    buyer: &Buyer,
) -> Option<(Code, String)> {
    if let Some(deadline) = request.deadline.filter(|deadline| *deadline <= now) {
        return Some((Code::DeadlinePassed, format!("The request's deadline, {}, has passed.", text(deadline))));
    }
    if let Some(refusal) = item.rules.refuse(request, now, buyer) {
        return Some(refusal);
    }
    let name = &request.item;
    let left = item.available - change.units;
    if left >= i64::from(request.quantity) {
        None
    } else if left == 0 {
        Some((Code::SoldOut, format!("{name} is sold out.")))
    } else {
        Some((Code::SoldOut, format!("{left} of {name} left, {} asked for.", request.quantity)))
    }
}

#[cfg(test)]
mod tests;
