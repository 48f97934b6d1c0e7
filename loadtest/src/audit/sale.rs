//! The promises of a sale: that replies and workers alone can prove, and that need the database's word.

use std::collections::{BTreeSet, HashMap};

use shared::messages::Status;
use shared::order::State;

use super::database_state::DatabaseState;
use super::stock::Stock;
use super::{Case, Invariant, invariant};

/// They hold with and without a database.
pub(super) fn replies_and_workers(case: &Case<'_>) -> Vec<Invariant> {
    let answers = case.evidence.answers;
    let unanswered = case.requests_where(|index| case.answered[index].is_none());
    let conflicting = case.requests_where(|index| answers.answers[index].differing > 0);
    let mut strangers = answers.strangers.clone();
    // Only the first few are kept by name; the count must be whole.
    strangers.resize(usize::try_from(answers.stranger_count).unwrap_or(usize::MAX), String::new());
    let unclean = case.evidence.endings.iter().filter(|ending| !ending.clean);
    let unclean: Vec<String> = unclean.map(|ending| format!("{} ({})", ending.worker_id, ending.how)).collect();
    let dead = match case.evidence.dead_growth {
        ..=0 => Vec::new(),
        growth => vec![format!("{growth} messages more than before; look at their x-death and reason headers")],
    };
    vec![
        invariant("every_buyer_answered", format!("{} requests, a verdict for each", case.ids.len()), &unanswered),
        invariant("no_conflicting_replies", "no request was told two things", &conflicting),
        invariant("no_stray_replies", "no reply without a request", &strangers),
        invariant("nothing_dead", "the queue `dead` did not grow", &dead),
        invariant("workers_drained", format!("{} exited cleanly", case.evidence.endings.len()), &unclean),
    ]
}

/// Stock, orders, verdicts, and how they fit the replies.
pub(super) fn records(case: &Case<'_>, database: &DatabaseState, stock: &Stock) -> Vec<Invariant> {
    let oversold: Vec<String> = stock.oversold.iter().map(|(item, units)| format!("{item} by {units}")).collect();
    let units: u64 = case.evidence.schedule.items.iter().map(|item| item.stock).sum();
    let at_any_time = if stock.unaccounted.is_some() { " at any time" } else { "" };
    let reserved = format!("units reserved{at_any_time}: at most {units}");
    let verdicts = format!("{} verdicts, one for each request", database.verdicts.len());
    let unrecorded =
        case.requests_where(|index| case.recorded[index].is_none_or(|verdict| verdict.item != case.item_id(index)));
    let ids = |requests: &[usize]| requests.iter().map(|&index| case.ids[index].as_str()).collect::<Vec<_>>();
    let mut invariants = vec![
        invariant("never_oversold", reserved, &oversold),
        invariant("stock_conserved", format!("available + held + sold = {units}"), &unconserved(case)),
        invariant("orders_match_stock", "held and sold are what the orders add up to", &unbalanced(database)),
        invariant("every_request_recorded", verdicts, &unrecorded),
        invariant("nothing_unknown", "no verdict and no order that nobody asked for", &unknown(case, database)),
        invariant(
            "orders_match_verdicts",
            "an order for each reserved verdict, and no other",
            &case.requests_where(|index| is_mismatched(case, index)),
        ),
        invariant(
            "replies_match_records",
            "each reply is the recorded verdict, byte for byte",
            &case.requests_where(|index| is_misreported(case, index)),
        ),
        invariant("no_false_sold_out", "nobody was sent away while units were left", &ids(&stock.sent_away)),
        invariant("first_come_first_served", "no later request was preferred", &ids(&stock.preferred)),
    ];
    if let Some(unaccounted) = &stock.unaccounted {
        let kept = "each change of the stock is a decision, or units that came back";
        invariants.push(invariant("every_change_accounted", kept, unaccounted));
    }
    invariants
}

/// Items that are gone, whose stock is not what was put on sale, or whose units do not add up.
fn unconserved(case: &Case<'_>) -> Vec<String> {
    let items = case.evidence.schedule.items.iter().zip(&case.items);
    let broken = items.filter_map(|(on_sale, row)| {
        let (id, of) = (&on_sale.id, on_sale.stock);
        let Some(row) = row else { return Some(format!("{id} is gone")) };
        let (available, held, sold, stock) = (row.available, row.held, row.sold, row.stock);
        let is_sound =
            u64::try_from(stock) == Ok(of) && available.min(held).min(sold) >= 0 && available + held + sold == stock;
        (!is_sound).then(|| format!("{id} ({available} + {held} + {sold}, stock {stock}, put on sale {of})"))
    });
    broken.collect()
}

/// Items whose `held` and `sold` are not the sums of their orders.
fn unbalanced(database: &DatabaseState) -> Vec<&str> {
    let mut sums: HashMap<&str, (i64, i64)> = HashMap::new();
    for order in &database.orders {
        let (held, sold) = sums.entry(&order.item).or_default();
        match State::read(&order.state) {
            Some(State::Reserved | State::Paying) => *held += order.quantity,
            Some(State::Paid) => *sold += order.quantity,
            // They gave their units back.
            Some(State::Expired | State::Cancelled) => {}
            // An unknown state can be no one's units: the sums show it.
            None => *held = i64::MIN / 2,
        }
    }
    let sums_of = |id: &str| sums.get(id).copied().unwrap_or_default();
    let differing = database.items.iter().filter(|item| sums_of(&item.id) != (item.held, item.sold));
    differing.map(|item| item.id.as_str()).collect()
}

/// Verdicts and orders of the sale's items whose request id is none of ours.
fn unknown<'a>(case: &Case<'_>, database: &'a DatabaseState) -> Vec<&'a str> {
    let verdicts = database.verdicts.iter().map(|verdict| verdict.request_id.as_str());
    let orders = database.orders.iter().map(|order| order.request_id.as_str());
    let unasked: BTreeSet<&str> = verdicts.chain(orders).filter(|id| case.index(id).is_none()).collect();
    unasked.into_iter().collect()
}

/// Whether there is a reserved verdict and not exactly the order asked for, or an order and no such verdict.
fn is_mismatched(case: &Case<'_>, index: usize) -> bool {
    let is_reserved = case.recorded[index].is_some_and(|verdict| verdict.status == Status::Reserved);
    match case.orders[index][..] {
        [] => is_reserved,
        [order] => !is_reserved || order.item != case.item_id(index) || order.quantity != case.quantity(index),
        [_, _, ..] => true,
    }
}

/// Whether the buyer was answered something else than is recorded.
fn is_misreported(case: &Case<'_>, index: usize) -> bool {
    // Not answered, or not recorded: other invariants say so.
    let Some((body, verdict)) = case.evidence.answers.answers[index].body.as_ref().zip(case.recorded[index]) else {
        return false;
    };
    *body != verdict.reply.as_bytes() || case.answered[index].is_some_and(|answered| answered != verdict.status)
}
