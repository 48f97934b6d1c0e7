//! How a verdict is decided: requests and what the database said of them in; answers, orders and stock changes out.
//!
//! Pure: "now" is the database's, and order ids come from the caller. Invariants: requests are decided in the order given;
//! deciding a batch is deciding its requests one by one; and no item gives away more than it has.

use crate::rules::{Buyer, BuyerHistory, Refusal, Rules};
use shared::handler::Answer;
use shared::idempotency::Verdicts;
use shared::messages::time::text;
use shared::messages::{Code, Order, PurchaseRequest, Verdict};
use std::collections::{BTreeMap, HashMap};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// What the database said of a batch's items and buyers. The moment, and the verdicts on record, are in [`Verdicts`].
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The items that exist, by id.
    pub items: HashMap<String, Item>,
    /// The tiers of those buyers that a rule asks about and who have one, by buyer.
    pub tiers: HashMap<String, String>,
}

/// An item, as a purchase sees it.
#[derive(Debug, Clone, sqlx_macros::FromRow)]
pub struct Item {
    pub version: i64,
    /// Units left.
    pub available: i64,
    /// How long an order keeps its units.
    pub hold_ms: i64,
    #[sqlx(flatten)]
    pub rules: Rules,
    /// What those buyers have of it that its rules ask about; a buyer who is not here has nothing.
    #[sqlx(skip)]
    pub histories: HashMap<String, BuyerHistory>,
}

/// A decided batch.
#[derive(Debug, Default)]
pub struct Decided<'a, 'b> {
    /// One for each request, in order. What a new one rests on is still to be committed.
    pub answers: Vec<Answer>,
    /// The items decided on, in the order of their ids: the order in which their rows are locked.
    pub changes: BTreeMap<&'a str, Change<'b>>,
    pub orders: Vec<NewOrder<'a>>,
}

/// What a batch does to one item.
#[derive(Debug, Clone, Copy)]
pub struct Change<'b> {
    /// What the decisions were made on.
    pub item: &'b Item,
    /// Units that they reserve; zero where all of them are refusals.
    pub units: i64,
    /// Whether one of them is right only with exactly as many units: that somebody is sold out, and the words that say so.
    pub is_exact: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct NewOrder<'a> {
    pub id: Uuid,
    pub request: &'a PurchaseRequest,
    pub hold_until: OffsetDateTime,
}

/// Decides `requests` in order, and adds the new verdicts to those on record.
pub fn decide<'a, 'b>(
    requests: &[&'a PurchaseRequest],
    snapshot: &'b Snapshot,
    verdicts: &mut Verdicts<'a>,
    mut new_order_id: impl FnMut() -> Uuid,
) -> Decided<'a, 'b> {
    let mut batch = Batch { now: verdicts.now, snapshot, histories: HashMap::new(), decided: Decided::default() };
    batch.decided.answers.reserve(requests.len());
    for request in requests.iter().copied() {
        let answer = match verdicts.answer(request) {
            Some(answer) => answer,
            None => verdicts.add(request, batch.verdict(request, &mut new_order_id)),
        };
        batch.decided.answers.push(answer);
    }
    batch.decided
}

/// A batch under way. To each request, what those before it have changed is as if it were committed.
struct Batch<'a, 'b> {
    now: OffsetDateTime,
    snapshot: &'b Snapshot,
    /// By item and buyer; only where the item's rules ask for it.
    histories: HashMap<(&'a str, &'a str), BuyerHistory>,
    decided: Decided<'a, 'b>,
}

impl<'a, 'b> Batch<'a, 'b> {
    fn verdict(&mut self, request: &'a PurchaseRequest, new_order_id: &mut impl FnMut() -> Uuid) -> Verdict {
        let (id, now) = (&request.request_id, self.now);
        let Some(item) = self.snapshot.items.get(&request.item) else {
            return Verdict::decided(id, Code::UnknownItem, format!("There is no item {}.", request.item), now);
        };
        let (code, message, order) = match self.reserve(request, item) {
            Err((code, message)) => (code, message, None),
            Ok(()) => {
                let hold_until = now + Duration::milliseconds(item.hold_ms);
                let order = NewOrder { id: new_order_id(), request, hold_until };
                self.decided.orders.push(order);
                let PurchaseRequest { item, quantity, .. } = request;
                let units = if *quantity == 1 { "unit is" } else { "units are" };
                let message = format!("{quantity} {units} held for you until {}: {item}.", text(hold_until));
                let order = Order { id: order.id, item: item.clone(), quantity: *quantity, hold_until };
                (Code::Reserved, message, Some(order))
            }
        };
        Verdict { order, item_version: Some(item.version), ..Verdict::decided(id, code, message, now) }
    }

    /// Takes the units; or says why the request gets nothing, and takes nothing.
    fn reserve(&mut self, request: &'a PurchaseRequest, item: &'b Item) -> Result<(), Refusal> {
        let new = Change { item, units: 0, is_exact: false };
        let change = self.decided.changes.entry(&request.item).or_insert(new);
        // An item without such rules is not looked up here: most sales have none.
        let mut history = item.rules.look_at_history().then(|| {
            let before = || item.histories.get(&request.buyer).copied().unwrap_or_default();
            self.histories.entry((&request.item, &request.buyer)).or_insert_with(before)
        });
        let buyer = Buyer {
            tier: self.snapshot.tiers.get(&request.buyer).map(String::as_str),
            history: history.as_deref().copied().unwrap_or_default(),
        };
        if let Some(refusal) = refuse(request, self.now, item, change.units, &buyer) {
            change.is_exact |= refusal.0 == Code::SoldOut;
            return Err(refusal);
        }
        change.units += i64::from(request.quantity);
        if let Some(history) = &mut history {
            **history = history.after(request.quantity, self.now);
        }
        Ok(())
    }
}

/// Why the request gets nothing, or `None`: it gets its units, behind those who got `taken` units before it.
///
/// The rules come before the stock. Whom a rule refuses gets nothing however much is left: "sold out" would have them wait
/// for units that come back, and would be an answer about the stock that does not depend on the stock.
fn refuse(request: &PurchaseRequest, now: OffsetDateTime, item: &Item, taken: i64, buyer: &Buyer) -> Option<Refusal> {
    if let Some(deadline) = request.deadline.filter(|deadline| *deadline <= now) {
        // With the offset and the digits that the sender wrote: any time that RFC 3339 can write, also one that has none in UTC.
        let as_sent = deadline.format(&Rfc3339).unwrap_or_else(|_| deadline.to_string());
        return Some((Code::DeadlinePassed, format!("The request's deadline, {as_sent}, has passed.")));
    }
    if let Some(refusal) = item.rules.refuse(request, now, buyer) {
        return Some(refusal);
    }
    let name = &request.item;
    match item.available - taken {
        left if left >= i64::from(request.quantity) => None,
        0 => Some((Code::SoldOut, format!("{name} is sold out."))),
        left => Some((Code::SoldOut, format!("{left} of {name} left, {} asked for.", request.quantity))),
    }
}

#[cfg(test)]
mod tests;
