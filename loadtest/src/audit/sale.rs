//! The promises of a sale: those that replies and workers alone can prove, and those that need the database's word.

use super::database_state::{DatabaseState, RecordedOrder, RecordedVerdict};
use super::stock::Stock;
use super::{Case, Evidence, Invariant, Jumper, invariant};
use crate::schedule::Schedule;
use shared::messages::{Code, Status, Verdict};
use shared::order::State;
use std::collections::{BTreeSet, HashMap};
use std::iter::repeat_n;

/// They hold with and without a database.
pub(super) fn replies_and_workers(case: &Case<'_>) -> Vec<Invariant> {
    let Evidence { answers, dead_growth, endings, jumper, doors, .. } = case.evidence;
    let unanswered = case.requests_where(|index| case.is_unanswered(index));
    let unsent = case.requests_where(|index| !case.was_sent(index)).count();
    let in_time = if unsent == 0 { String::new() } else { format!("; {unsent} were not sent, as the time was over") };
    let asked = format!("{} requests, a verdict for each{in_time}", case.ids.len() - unsent);
    let refused = case.requests_where(|index| is_refused(case, index));
    let conflicting = case.requests_where(|index| answers.answers[index].differing > 0);
    // Only the first few are kept by name; the count must be whole.
    let unnamed = usize::try_from(answers.stranger_count).unwrap_or(usize::MAX) - answers.strangers.len();
    let strangers = answers.strangers.iter().map(String::as_str).chain(repeat_n("", unnamed));
    let dead = format!("{dead_growth} messages more than before; `admin dead list` has their reasons");
    let jumped = match jumper {
        Jumper::NotTried | Jumper::Told(Code::WrongRoutingKey) => None,
        Jumper::Unanswered => Some("no answer"),
        Jumper::Told(code) => Some(code.as_str()),
    };
    let unclean = endings.iter().filter(|ending| !ending.clean);
    let unclean = unclean.map(|ending| format!("{} ({})", ending.worker_id, ending.how));
    let failed = doors.as_ref().map(|doors| {
        let failures = doors.failures.iter().map(|(kind, number)| format!("{number} {kind}"));
        invariant("no_request_failed", "by HTTP, everybody was answered the first time", failures)
    });
    let invariants = vec![
        invariant("every_buyer_answered", asked, unanswered),
        invariant("nobody_refused", "no rule stood in anybody's way: who got nothing was sold out", refused),
        invariant("no_conflicting_replies", "no request was told two things", conflicting),
        invariant("no_stray_replies", "no reply without a request", strangers),
        invariant("nothing_dead", "the queue `dead` did not grow", (*dead_growth > 0).then_some(dead)),
        invariant("nobody_jumps_the_line", "a purchase by another routing key than its item is refused", jumped),
        invariant("workers_drained", format!("{} exited cleanly", endings.len()), unclean),
    ];
    invariants.into_iter().chain(failed).collect()
}

/// Stock, orders, verdicts, and how they fit the replies.
pub(super) fn records(case: &Case<'_>, stock: &Stock) -> Vec<Invariant> {
    let units: u64 = case.evidence.schedule.items.iter().map(|item| item.stock).sum();
    let at_any_time = if stock.unaccounted.is_some() { " at any time" } else { "" };
    let reserved = format!("units reserved{at_any_time}: at most {units}");
    let oversold = stock.oversold.iter().map(|(item, units)| format!("{item} by {units}"));
    let conserved = format!("available + held + sold = {units}");
    let balanced = "held and sold are what the orders add up to";
    let recorded = format!("{} verdicts, one for each request", case.evidence.database.verdicts.len());
    let is_unrecorded = |index: usize| match case.recorded[index] {
        None => case.was_sent(index),
        Some(verdict) => verdict.item != case.item_id(index),
    };
    let unrecorded = case.requests_where(is_unrecorded);
    let mismatched = case.requests_where(|index| is_mismatched(case, index));
    let misreported = case.requests_where(|index| is_misreported(case, index));
    let sent_away = stock.sent_away.iter().map(|&index| &case.ids[index]);
    let preferred = stock.preferred.iter().map(|&index| &case.ids[index]);
    let mut invariants = vec![
        invariant("never_oversold", reserved, oversold),
        invariant("stock_conserved", conserved, unconserved(case)),
        invariant("orders_match_stock", balanced, unbalanced(&case.evidence.database)),
        invariant("every_request_recorded", recorded, unrecorded),
        invariant("nothing_unknown", "no verdict and no order that nobody asked for", unknown(case)),
        invariant("orders_match_verdicts", "an order for each reserved verdict, and no other", mismatched),
        invariant("replies_match_records", "each reply is the recorded verdict, byte for byte", misreported),
        invariant("no_false_sold_out", "nobody was sent away while units were left", sent_away),
        invariant("first_come_first_served", "no later request was preferred", preferred),
    ];
    if let Some(unaccounted) = &stock.unaccounted {
        let accounted = "each change of the stock is a decision, or units that came back";
        invariants.push(invariant("every_change_accounted", accounted, unaccounted));
    }
    invariants
}

/// Items that are gone, whose stock is not what was put on sale, or whose units do not add up.
fn unconserved(case: &Case<'_>) -> impl Iterator<Item = String> {
    case.evidence.schedule.items.iter().zip(&case.items).filter_map(|(on_sale, row)| {
        let (id, of) = (&on_sale.id, on_sale.stock);
        let Some(row) = row else { return Some(format!("{id} is gone")) };
        let (available, held, sold, stock) = (row.available, row.held, row.sold, row.stock);
        let is_sound =
            u64::try_from(stock) == Ok(of) && available.min(held).min(sold) >= 0 && available + held + sold == stock;
        (!is_sound).then(|| format!("{id} ({available} + {held} + {sold}, stock {stock}, put on sale {of})"))
    })
}

/// Items whose `held` and `sold` are not the sums of their orders.
fn unbalanced(database: &DatabaseState) -> impl Iterator<Item = &str> {
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
    let is_off = move |id: &str, units| sums.get(id).copied().unwrap_or_default() != units;
    let items = database.items.iter().filter(move |item| is_off(&item.id, (item.held, item.sold)));
    items.map(|item| item.id.as_str())
}

/// The request ids of verdicts and orders of the sale's items that are none of ours.
fn unknown<'a>(case: &Case<'a>) -> BTreeSet<&'a str> {
    let verdicts = case.evidence.database.verdicts.iter().map(|verdict| verdict.request_id.as_str());
    let orders = case.evidence.database.orders.iter().map(|order| order.request_id.as_str());
    verdicts.chain(orders).filter(|id| case.index(id).is_none()).collect()
}

/// Whether the buyer was told, or it is on record, that a rule is against them: these sales have none.
fn is_refused(case: &Case<'_>, index: usize) -> bool {
    let said = [case.answered[index], case.recorded[index].map(|verdict| verdict.status)];
    said.into_iter().flatten().any(|status| match status {
        Status::Reserved | Status::SoldOut => false,
        Status::Refused | Status::Done | Status::Invalid => true,
    })
}

/// Whether there is a reserved verdict and not exactly the order asked for, or an order and no such verdict; or a verdict of
/// another order.
fn is_mismatched(case: &Case<'_>, index: usize) -> bool {
    let is_reserved = case.recorded[index].is_some_and(|verdict| verdict.status == Status::Reserved);
    match case.orders[index][..] {
        [] => is_reserved,
        [order] => {
            !is_reserved
                || order.item != case.item_id(index)
                || order.quantity != case.quantity(index)
                || order.buyer != Schedule::buyer(index)
                || !case.recorded[index].is_some_and(|verdict| is_of(verdict, order))
        }
        [_, _, ..] => true,
    }
}

/// Whether the verdict speaks of this order.
fn is_of(verdict: &RecordedVerdict, order: &RecordedOrder) -> bool {
    let said = serde_json::from_str::<Verdict>(&verdict.reply).ok().and_then(|verdict| verdict.order);
    said.is_some_and(|said| {
        said.id == order.id && said.item == order.item && i64::from(said.quantity) == order.quantity
    })
}

/// Whether the buyer was answered something else than is recorded. Not answered, or not recorded: other invariants say so.
fn is_misreported(case: &Case<'_>, index: usize) -> bool {
    let told = case.evidence.answers.answers[index].body.as_ref().zip(case.recorded[index]);
    told.is_some_and(|(body, verdict)| {
        *body != verdict.reply.as_bytes() || case.answered[index].is_some_and(|answered| answered != verdict.status)
    })
}
