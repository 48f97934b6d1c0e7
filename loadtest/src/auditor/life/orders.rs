//! Orders: how they came from state to state and how they ended, who was charged, and what their buyers were told of it.

use std::collections::HashMap;

use shared::messages::Code;
use shared::order::{Cause, State};
use uuid::Uuid;

use super::{Lives, names};
use crate::auditor::{Case, Invariant, invariant};
use crate::facts::RecordedOrder;
use crate::life::follow_ups::Asked;

/// Every check, in reading order.
pub(super) fn check(lives: &Lives<'_>, case: &Case<'_>) -> Vec<Invariant> {
    let answers = &lives.facts.follow_ups.answers.answers;
    let paid = lives.in_state(State::Paid).count();
    let asked = lives.asked.len();
    let of_asked = |offends: &dyn Fn(usize, &Asked) -> bool| {
        let offenders = lives.facts.follow_ups.all().filter(|(index, asked)| offends(*index, asked));
        names(offenders.map(|(_, asked)| asked.follow_up.request_id))
    };
    let unanswered = of_asked(&|index, asked| lives.told(index, asked).is_none());
    let conflicting = of_asked(&|index, _| answers[index].differing > 0);
    let misreported = of_asked(&|index, asked| {
        let recorded = lives.facts.recorded.follow_up_replies.get(&asked.follow_up.request_id.to_string());
        // Not answered: another invariant says so.
        answers[index].body.as_ref().is_some_and(|body| recorded.is_none_or(|reply| reply.as_bytes() != body))
    });
    vec![
        invariant("every_hold_ended", ended_detail(lives), &still_held(lives)),
        invariant("orders_end_once", "no order ended in two ways", &ended_otherwise(lives)),
        invariant("history_is_legal", "each order came to its state step by step", &illegal(lives)),
        invariant("charges_match_paid_orders", format!("{paid} paid, {paid} charged, each once"), &mischarged(lives)),
        invariant("every_follow_up_answered", format!("{asked} follow-ups, a verdict for each"), &unanswered),
        invariant("no_conflicting_follow_ups", "no follow-up was told two things", &conflicting),
        invariant("follow_ups_match_records", "each reply is the recorded verdict, byte for byte", &misreported),
        invariant("follow_ups_match_orders", "what buyers were told became of their orders", &untrue(lives, case)),
    ]
}

fn ended_detail(lives: &Lives<'_>) -> &'static str {
    match lives.facts.is_over {
        true => "every order is paid, cancelled or expired",
        false => "no payment was left halfway",
    }
}

/// Orders that still keep units when nothing is under way any more.
fn still_held(lives: &Lives<'_>) -> Vec<String> {
    let paying = lives.in_state(State::Paying);
    let reserved = lives.in_state(State::Reserved).filter(|_| lives.facts.is_over);
    names(paying.chain(reserved).map(|order| order.id))
}

/// Orders that have ended more often than once, or less often than their state says.
fn ended_otherwise(lives: &Lives<'_>) -> Vec<String> {
    let is_end = |word: &str| State::read(word).is_none_or(|state| !state.holds_units());
    let offends = |order: &&RecordedOrder| {
        let ends = lives.history(order.id).iter().filter(|transition| is_end(&transition.to)).count();
        ends != usize::from(is_end(&order.state))
    };
    names(lives.orders.values().copied().filter(offends).map(|order| order.id))
}

/// Orders whose history does not lead from `reserved` to their state by steps that may be taken.
fn illegal(lives: &Lives<'_>) -> Vec<String> {
    let leads_there = |order: &RecordedOrder| {
        let mut state = State::Reserved;
        for step in lives.history(order.id) {
            let Some(cause) = Cause::ALL.into_iter().find(|cause| cause.as_str() == step.cause) else { return false };
            match state.after(cause) {
                Ok(next) if step.from == state.as_str() && step.to == next.as_str() => state = next,
                Ok(_) | Err(_) => return false,
            }
        }
        order.state == state.as_str()
    };
    names(lives.orders.values().filter(|order| !leads_there(order)).map(|order| order.id))
}

/// Orders that are paid and not charged, or charged otherwise than they are; charges that the shop keeps for no paid order.
fn mischarged(lives: &Lives<'_>) -> Vec<String> {
    let charge_ids: HashMap<Uuid, Option<&str>> =
        lives.facts.recorded.payments.iter().map(|payment| (payment.order_id, payment.charge_id.as_deref())).collect();
    let kept: HashMap<&str, _> = lives.facts.ledger.kept().collect();
    let uncharged = lives.in_state(State::Paid).filter(|order| {
        let id = order.id.to_string();
        kept.get(id.as_str()).is_none_or(|charge| {
            charge.is_reused
                || charge.bill.order_id != id
                || charge.bill.item != order.item
                || i64::from(charge.bill.quantity) != order.quantity
                || charge_ids.get(&order.id).copied().flatten() != Some(charge.id.as_str())
        })
    });
    let mut offenders = names(uncharged.map(|order| order.id));
    let is_paid = |key: &str| {
        let order = Uuid::try_parse(key).ok().and_then(|id| lives.orders.get(&id));
        order.is_some_and(|order| order.state == State::Paid.as_str())
    };
    offenders.extend(kept.keys().filter(|key| !is_paid(key)).map(|key| format!("{key} is charged and not paid")));
    offenders.sort_unstable();
    offenders
}

/// Orders of which their buyer was told something else than became of them; orders that were paid or cancelled, and
/// nobody asked for it.
fn untrue(lives: &Lives<'_>, case: &Case<'_>) -> Vec<String> {
    let offends = |order: &RecordedOrder| match lives.asked.get(&order.id) {
        None => [State::Paid, State::Cancelled].iter().any(|state| state.as_str() == order.state),
        Some((index, asked)) => {
            let is_its_buyers = case.ids[*index] == order.request_id;
            // Not answered: another invariant says so.
            let told = lives.told(*index, asked);
            !is_its_buyers || told.is_some_and(|told| !became(lives, order, told.code, asked))
        }
    };
    let of_nobody = lives.asked.keys().filter(|order| !lives.orders.contains_key(order)).copied();
    names(lives.orders.values().filter(|order| offends(order)).map(|order| order.id).chain(of_nobody))
}

/// Whether this is what became of the order, because of this request.
fn became(lives: &Lives<'_>, order: &RecordedOrder, code: Code, asked: &Asked) -> bool {
    let request_id = asked.follow_up.request_id.to_string();
    let was = |cause: Cause| {
        lives
            .history(order.id)
            .iter()
            .any(|step| step.cause == cause.as_str() && step.request_id.as_deref() == Some(&request_id))
    };
    let is_untouched = !was(Cause::PaymentCaptured) && !was(Cause::Cancel);
    #[allow(clippy::wildcard_enum_match_arm, reason = "no other code is an answer to the first follow-up of an order")]
    match code {
        Code::Paid => order.state == State::Paid.as_str() && was(Cause::PaymentCaptured),
        Code::Cancelled => order.state == State::Cancelled.as_str() && was(Cause::Cancel),
        Code::Declined => was(Cause::PaymentDeclined) && is_untouched,
        Code::AlreadyExpired => order.state == State::Expired.as_str() && is_untouched,
        _ => false,
    }
}
