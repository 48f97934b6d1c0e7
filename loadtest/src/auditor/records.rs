//! The promises that need the database's word: stock, orders, verdicts, and how they fit the replies.

use std::collections::{HashMap, HashSet};

use shared::messages::Status;

use super::{Case, Invariant, invariant};
use crate::facts::{Recorded, RecordedItem};

/// Every check, in reading order.
pub(super) fn check(case: &Case<'_>, recorded: &Recorded) -> Vec<Invariant> {
    let items: HashMap<&str, &RecordedItem> = recorded.items.iter().map(|item| (item.id.as_str(), item)).collect();
    let oversold: Vec<String> = case.oversold().iter().map(|(item, units)| format!("{item} by {units}")).collect();
    let units: u64 = case.facts.schedule.items.iter().map(|item| item.stock).sum();
    let verdicts = recorded.verdicts.len();
    let mut invariants = vec![
        invariant("never_oversold", kept_units(case, units), &oversold),
        invariant("stock_conserved", format!("available + held + sold = {units}"), &unconserved(case, &items)),
        invariant("orders_match_stock", "held and sold are what the orders add up to", &unbalanced(recorded)),
        invariant("every_request_recorded", format!("{verdicts} verdicts, one for each request"), &unrecorded(case)),
        invariant("nothing_unknown", "no verdict and no order that nobody asked for", &unknown(case, recorded)),
        invariant("orders_match_verdicts", "an order for each reserved verdict, and no other", &mismatched(case)),
        invariant("replies_match_records", "each reply is the recorded verdict, byte for byte", &misreported(case)),
        invariant("no_false_sold_out", "nobody was sent away while units were left", &sent_away(case, &items)),
        invariant("first_come_first_served", "no later request was preferred", &case.inversions()),
    ];
    if let Some(replay) = &case.replay {
        let kept = "each change of the stock is a decision, or units that came back";
        invariants.push(invariant("every_change_accounted", kept, &replay.unaccounted));
    }
    invariants
}

fn kept_units(case: &Case<'_>, units: u64) -> String {
    match case.replay {
        None => format!("units reserved: at most {units}"),
        Some(_) => format!("units reserved at any time: at most {units}"),
    }
}

/// Items that are gone, whose stock is not what was put on sale, or whose units do not add up.
fn unconserved(case: &Case<'_>, items: &HashMap<&str, &RecordedItem>) -> Vec<String> {
    let broken = |on_sale: &crate::schedule::ItemOnSale| match items.get(on_sale.id.as_str()) {
        None => Some(format!("{} is gone", on_sale.id)),
        Some(item) => {
            let sound = u64::try_from(item.stock) == Ok(on_sale.stock)
                && item.available.min(item.held).min(item.sold) >= 0
                && item.available + item.held + item.sold == item.stock;
            let RecordedItem { id, stock, available, held, sold, .. } = item;
            let of = on_sale.stock;
            (!sound).then(|| format!("{id} ({available} + {held} + {sold}, stock {stock}, put on sale {of})"))
        }
    };
    case.facts.schedule.items.iter().filter_map(broken).collect()
}

/// Items whose `held` and `sold` are not the sums of their orders.
fn unbalanced(recorded: &Recorded) -> Vec<String> {
    let mut sums: HashMap<&str, (i64, i64)> = HashMap::new();
    for order in &recorded.orders {
        let (held, sold) = sums.entry(&order.item).or_default();
        match order.state.as_str() {
            "reserved" | "paying" => *held += order.quantity,
            "paid" => *sold += order.quantity,
            // Expired and cancelled orders gave their units back.
            "expired" | "cancelled" => {}
            // A state that this auditor does not know can be no one's units: the sums show it.
            _ => *held = i64::MIN / 2,
        }
    }
    let differs =
        |item: &&RecordedItem| sums.get(item.id.as_str()).copied().unwrap_or_default() != (item.held, item.sold);
    recorded.items.iter().filter(differs).map(|item| item.id.clone()).collect()
}

/// Requests without a recorded verdict on the item that they asked for.
fn unrecorded<'a>(case: &'a Case<'_>) -> Vec<&'a str> {
    let offends = |index: usize| {
        let item = &case.facts.schedule.items[case.facts.schedule.requests[index].item as usize].id;
        case.recorded_verdict(index).is_none_or(|verdict| verdict.item != *item)
    };
    (0..case.ids.len()).filter(|&index| offends(index)).map(|index| case.ids[index].as_str()).collect()
}

/// Verdicts and orders of the sale's items whose request id is none of ours.
fn unknown<'a>(case: &Case<'_>, recorded: &'a Recorded) -> Vec<&'a str> {
    let asked: HashSet<&str> = case.ids.iter().map(String::as_str).collect();
    let verdicts = recorded.verdicts.iter().map(|verdict| verdict.request_id.as_str());
    let orders = recorded.orders.iter().map(|order| order.request_id.as_str());
    let unasked: HashSet<&str> = verdicts.chain(orders).filter(|id| !asked.contains(id)).collect();
    let mut named: Vec<&str> = unasked.into_iter().collect();
    named.sort_unstable();
    named
}

/// Requests with a reserved verdict and not exactly the order they asked for, or with an order and no such verdict.
fn mismatched<'a>(case: &'a Case<'_>) -> Vec<&'a str> {
    let offends = |index: usize| {
        let due = case.facts.schedule.requests[index];
        let orders = case.orders.get(case.ids[index].as_str()).map_or(&[][..], Vec::as_slice);
        let reserved = case.recorded_verdict(index).is_some_and(|verdict| verdict.status == Status::Reserved);
        match orders {
            [] => reserved,
            [order] => {
                let item = &case.facts.schedule.items[due.item as usize].id;
                !reserved || order.item != *item || order.quantity != i64::from(due.quantity)
            }
            [_, _, ..] => true,
        }
    };
    (0..case.ids.len()).filter(|&index| offends(index)).map(|index| case.ids[index].as_str()).collect()
}

/// Requests whose buyer was told something else than is recorded.
fn misreported<'a>(case: &'a Case<'_>) -> Vec<&'a str> {
    let offends = |index: usize| match (&case.facts.answers.answers[index].body, case.recorded_verdict(index)) {
        // Not answered, or not recorded: other invariants say so.
        (None, _) | (_, None) => false,
        (Some(body), Some(verdict)) => {
            *body != verdict.reply.as_bytes() || case.told[index].is_some_and(|told| told != verdict.status)
        }
    };
    (0..case.ids.len()).filter(|&index| offends(index)).map(|index| case.ids[index].as_str()).collect()
}

/// Requests that were sold out while the item still had enough units: where the stock only shrinks, what is left at the end
/// was left all along; where units come back, the replay knows what was left.
fn sent_away<'a>(case: &'a Case<'_>, items: &HashMap<&str, &RecordedItem>) -> Vec<&'a str> {
    if let Some(replay) = &case.replay {
        return replay.sent_away.iter().map(|&index| case.ids[index].as_str()).collect();
    }
    let left = |index: usize| {
        let due = case.facts.schedule.requests[index];
        let item = items.get(case.facts.schedule.items[due.item as usize].id.as_str());
        item.is_some_and(|item| item.available >= i64::from(due.quantity))
    };
    (0..case.ids.len())
        .filter(|&index| case.status(index) == Some(Status::SoldOut) && left(index))
        .map(|index| case.ids[index].as_str())
        .collect()
}
