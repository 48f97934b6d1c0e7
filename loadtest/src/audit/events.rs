//! The promises about events: what became of every order was published, all of it, nothing else, and in order.

use super::database_state::RecordedOrder;
use super::orders::{Orders, cause};
use super::{Invariant, invariant};
use crate::orders::events::PublishedEvent;
use crate::schedule::Schedule;
use shared::messages::EventKind;
use shared::outbox::kind_of;
use std::collections::{BTreeSet, HashMap};
use uuid::Uuid;

/// What an event says of its item's units. Those that move do so one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Units {
    Reserved,
    Sold,
    CameBack,
    Unmoved,
}

pub(super) fn units_of(kind: EventKind) -> Units {
    match kind {
        EventKind::OrderReserved => Units::Reserved,
        EventKind::OrderPaid => Units::Sold,
        EventKind::OrderExpired | EventKind::OrderCancelled => Units::CameBack,
        EventKind::OrderPaying
        | EventKind::OrderDeclined
        | EventKind::ItemCreated
        | EventKind::ItemStockAdded
        | EventKind::ItemStockRemoved
        | EventKind::ItemOpened
        | EventKind::ItemClosed
        | EventKind::ItemRulesChanged => Units::Unmoved,
    }
}

pub(super) fn check(orders: &Orders<'_>) -> [Invariant; 3] {
    let equal = format!("{} events, one for each transition", orders.case.evidence.events.published.len());
    let rows = orders.case.evidence.database.unpublished;
    let unpublished = (rows > 0).then(|| format!("{rows} rows of the outbox are still to be told"));
    [
        invariant("events_equal_transitions", equal, unequal(orders)),
        invariant("events_in_order", "of each order, and of each item's stock", disordered(orders)),
        invariant("everything_told", "the outbox has nothing of this sale", unpublished),
    ]
}

/// Orders whose events are not their transitions; events of nothing that happened.
fn unequal(orders: &Orders<'_>) -> Vec<String> {
    let mut published: HashMap<Uuid, Vec<&PublishedEvent>> = HashMap::new();
    let mut offenders = orders.case.evidence.events.faults.clone();
    for one in &orders.case.evidence.events.published {
        match &one.event.order {
            Some(order) => published.entry(order.id).or_default().push(one),
            // Nothing changes the items of a sale but its orders.
            None => offenders.push(format!("{} tells of {}", one.event.event_id, one.event.item)),
        }
    }
    published.values_mut().for_each(|events| events.sort_unstable_by_key(|one| one.number));
    let unknown = published.keys().copied().filter(|id| !orders.rows.contains_key(id));
    let wrong = orders.offending(|order| {
        let events = published.get(&order.id).map_or(&[][..], Vec::as_slice);
        // `None` stands for what cannot be published.
        let transitions = orders.steps(order).iter().map(|step| cause(step).map(kind_of));
        let expected = [Some(EventKind::OrderReserved)].into_iter().chain(transitions);
        !events.iter().map(|one| Some(one.event.event)).eq(expected)
            || events.iter().any(|one| !is_of(one, order, orders.case.index(&order.request_id)))
    });
    offenders.extend(unknown.chain(wrong).collect::<BTreeSet<_>>().iter().map(Uuid::to_string));
    offenders
}

/// Whether the event says of the order what is on record of it.
fn is_of(published: &PublishedEvent, order: &RecordedOrder, buyer: Option<usize>) -> bool {
    published.event.item == order.item
        && published.event.order.as_ref().is_some_and(|event| {
            event.request_id == order.request_id
                && i64::from(event.quantity) == order.quantity
                && buyer.is_some_and(|index| Schedule::buyer(index) == event.buyer)
        })
}

/// Events that first arrived after one that happened later, to the same order or to the same item's stock.
fn disordered<'a>(orders: &Orders<'a>) -> impl Iterator<Item = &'a str> {
    let mut of_orders: HashMap<Uuid, (u64, u64)> = HashMap::new();
    let mut of_items: HashMap<&str, (u64, u64)> = HashMap::new();
    let late = orders.case.evidence.events.published.iter().filter(move |one| {
        let Some(order) = &one.event.order else { return false };
        let before = of_orders.insert(order.id, one.number);
        let moved_before = match units_of(one.event.event) {
            Units::Unmoved => None,
            Units::Reserved | Units::Sold | Units::CameBack => of_items.insert(&one.event.item, one.number),
        };
        before.max(moved_before) > Some(one.number)
    });
    late.map(|one| one.event.event_id.as_str())
}
