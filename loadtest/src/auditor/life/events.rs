//! Events: the world was told what became of every order, all of it, nothing else, and in order.

use std::collections::HashMap;

use shared::messages::EventKind;
use shared::order::Cause;
use shared::outbox::kind_of;
use uuid::Uuid;

use super::{Lives, names};
use crate::auditor::{Case, Invariant, invariant};
use crate::facts::RecordedOrder;
use crate::life::events::First;
use crate::schedule::Schedule;

/// Every check, in reading order.
pub(super) fn check(lives: &Lives<'_>, case: &Case<'_>) -> Vec<Invariant> {
    let heard = lives.facts.events.firsts.len();
    let untold = match lives.facts.recorded.untold {
        0 => Vec::new(),
        rows => vec![format!("{rows} rows of the outbox are still to be told")],
    };
    vec![
        invariant(
            "events_equal_transitions",
            format!("{heard} events, one for each transition"),
            &unequal(lives, case),
        ),
        invariant("events_in_order", "of each order, and of each item's stock", &disordered(lives)),
        invariant("everything_told", "the outbox has nothing of this sale", &untold),
    ]
}

/// Whether an event of this kind moves an item's stock; those do so one after the other.
pub(super) fn moves_stock(kind: EventKind) -> bool {
    match kind {
        EventKind::OrderReserved | EventKind::OrderPaid | EventKind::OrderExpired | EventKind::OrderCancelled => true,
        EventKind::OrderPaying
        | EventKind::OrderDeclined
        | EventKind::ItemCreated
        | EventKind::ItemStockAdded
        | EventKind::ItemStockRemoved
        | EventKind::ItemOpened
        | EventKind::ItemClosed
        | EventKind::ItemRulesChanged => false,
    }
}

/// Orders whose events are not their transitions; events of nothing that happened.
fn unequal(lives: &Lives<'_>, case: &Case<'_>) -> Vec<String> {
    let mut told: HashMap<Uuid, Vec<&First>> = HashMap::new();
    let mut offenders = lives.facts.events.faults.clone();
    for first in &lives.facts.events.firsts {
        match &first.event.order {
            Some(order) => told.entry(order.id).or_default().push(first),
            // Nothing changes the items of a sale but its orders.
            None => offenders.push(format!("{} tells of {}", first.event.event_id, first.event.item)),
        }
    }
    told.values_mut().for_each(|firsts| firsts.sort_unstable_by_key(|first| first.number));
    let buyers: HashMap<&str, usize> = case.ids.iter().map(String::as_str).zip(0..).collect();
    let unknown = told.keys().filter(|order| !lives.orders.contains_key(order)).copied();
    let wrong = lives.orders.values().filter(|order| {
        let told = told.get(&order.id).map_or(&[][..], Vec::as_slice);
        let kinds: Vec<Option<EventKind>> = told.iter().map(|first| Some(first.event.event)).collect();
        kinds != happened(lives, order) || told.iter().any(|first| !is_of(first, order, &buyers))
    });
    offenders.extend(names(unknown.chain(wrong.map(|order| order.id))));
    offenders
}

/// What the world should have been told of an order; `None` stands for what cannot be told.
fn happened(lives: &Lives<'_>, order: &RecordedOrder) -> Vec<Option<EventKind>> {
    let told = lives.history(order.id).iter().map(|step| {
        let cause = Cause::ALL.into_iter().find(|cause| cause.as_str() == step.cause);
        cause.map(kind_of)
    });
    std::iter::once(Some(EventKind::OrderReserved)).chain(told).collect()
}

/// Whether the event says of the order what is on record of it.
fn is_of(first: &First, order: &RecordedOrder, buyers: &HashMap<&str, usize>) -> bool {
    first.event.item == order.item
        && first.event.order.as_ref().is_some_and(|told| {
            let buyer = buyers.get(order.request_id.as_str()).map(|index| Schedule::buyer(*index));
            told.request_id == order.request_id
                && i64::from(told.quantity) == order.quantity
                && Some(&told.buyer) == buyer.as_ref()
        })
}

/// Events that first arrived after one that happened later, to the same order or to the same item's stock.
fn disordered(lives: &Lives<'_>) -> Vec<String> {
    let mut of_orders: HashMap<Uuid, (u64, u64)> = HashMap::new();
    let mut of_items: HashMap<&str, (u64, u64)> = HashMap::new();
    let mut offenders = Vec::new();
    for first in &lives.facts.events.firsts {
        let Some(order) = &first.event.order else { continue };
        let mut is_late = false;
        let before = of_orders.insert(order.id, first.number);
        is_late |= before.is_some_and(|before| before > first.number);
        if moves_stock(first.event.event) {
            let before = of_items.insert(&first.event.item, first.number);
            is_late |= before.is_some_and(|before| before > first.number);
        }
        if is_late {
            offenders.push(first.event.event_id.clone());
        }
    }
    offenders
}
