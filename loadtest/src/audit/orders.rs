//! The promises about orders after their verdicts: how they came from state to state and how they ended, who was charged,
//! and what their buyers were answered.

use std::collections::HashMap;

use shared::messages::{Code, Verdict};
use shared::order::{Cause, State};
use uuid::Uuid;

use super::database_state::{DatabaseState, RecordedOrder, RecordedTransition};
use super::{Case, Invariant, OrdersEvidence, invariant};
use crate::orders::follow_ups::Sent;

/// The evidence, by order.
pub(super) struct Orders<'a> {
    pub(super) evidence: &'a OrdersEvidence<'a>,
    pub(super) rows: HashMap<Uuid, &'a RecordedOrder>,
    transitions: HashMap<Uuid, Vec<&'a RecordedTransition>>,
    /// Who followed up: the buyer's index, and with what.
    follow_ups: HashMap<Uuid, (usize, Sent)>,
}

pub(super) fn check(case: &Case<'_>, orders: &Orders<'_>) -> Vec<Invariant> {
    let evidence = orders.evidence;
    let answers = &evidence.follow_ups.answers.answers;
    let (paid, sent) = (orders.in_state(State::Paid).count(), orders.follow_ups.len());
    let ended = match evidence.is_over {
        true => "every order is paid, cancelled or expired",
        false => "no payment was left halfway",
    };
    let follow_ups_where = |offends: &dyn Fn(usize, &Sent) -> bool| {
        let offenders = evidence.follow_ups.all().filter(|(index, sent)| offends(*index, sent));
        names(offenders.map(|(_, sent)| sent.follow_up.request_id))
    };
    let unanswered = follow_ups_where(&|index, sent| orders.answer(index, sent).is_none());
    let conflicting = follow_ups_where(&|index, _| answers[index].differing > 0);
    let misreported = follow_ups_where(&|index, sent| {
        let recorded = evidence.history.follow_up_replies.get(&sent.follow_up.request_id.to_string());
        // Not answered: another invariant says so.
        answers[index].body.as_ref().is_some_and(|body| recorded.is_none_or(|reply| reply.as_bytes() != body))
    });
    vec![
        invariant("every_hold_ended", ended, &still_held(orders)),
        invariant("orders_end_once", "no order ended in two ways", &ended_otherwise(orders)),
        invariant("history_is_legal", "each order came to its state step by step", &illegal(orders)),
        invariant("charges_match_paid_orders", format!("{paid} paid, {paid} charged, each once"), &mischarged(orders)),
        invariant("every_follow_up_answered", format!("{sent} follow-ups, a verdict for each"), &unanswered),
        invariant("no_conflicting_follow_ups", "no follow-up was told two things", &conflicting),
        invariant("follow_ups_match_records", "each reply is the recorded verdict, byte for byte", &misreported),
        invariant("follow_ups_match_orders", "what buyers were told became of their orders", &untrue(orders, case)),
    ]
}

impl<'a> Orders<'a> {
    pub(super) fn new(database: &'a DatabaseState, evidence: &'a OrdersEvidence<'a>) -> Self {
        let mut transitions: HashMap<Uuid, Vec<&RecordedTransition>> = HashMap::new();
        for transition in &evidence.history.transitions {
            transitions.entry(transition.order_id).or_default().push(transition);
        }
        let rows = database.orders.iter().map(|order| (order.id, order)).collect();
        let sent = evidence.follow_ups.all();
        let follow_ups = sent.map(|(index, sent)| (sent.follow_up.order_id, (index, sent))).collect();
        Self { evidence, rows, transitions, follow_ups }
    }

    /// In order.
    pub(super) fn history(&self, order: Uuid) -> &[&'a RecordedTransition] {
        self.transitions.get(&order).map_or(&[], Vec::as_slice)
    }

    fn offending(&self, offends: impl Fn(&RecordedOrder) -> bool) -> Vec<String> {
        names(self.rows.values().filter(|order| offends(order)).map(|order| order.id))
    }

    fn in_state(&self, state: State) -> impl Iterator<Item = &'a RecordedOrder> {
        self.rows.values().copied().filter(move |order| order.state == state.as_str())
    }

    /// What the buyer with this index was answered; `None` where that is no verdict on the follow-up.
    fn answer(&self, index: usize, sent: &Sent) -> Option<Verdict> {
        let body = self.evidence.follow_ups.answers.answers[index].body.as_deref()?;
        let verdict: Verdict = serde_json::from_slice(body).ok()?;
        let is_its = verdict.request_id == Some(sent.follow_up.request_id.to_string())
            && verdict.code.status() == verdict.status
            && verdict.order.is_none();
        is_its.then_some(verdict)
    }
}

/// Ids as a broken invariant names them, in an order that does not change.
pub(super) fn names(ids: impl IntoIterator<Item = Uuid>) -> Vec<String> {
    let mut names: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

pub(super) fn cause(step: &RecordedTransition) -> Option<Cause> {
    Cause::ALL.into_iter().find(|cause| cause.as_str() == step.cause)
}

/// Orders that still keep units when nothing is under way any more.
fn still_held(orders: &Orders<'_>) -> Vec<String> {
    orders.offending(|order| match State::read(&order.state) {
        Some(State::Paying) => true,
        Some(State::Reserved) => orders.evidence.is_over,
        Some(State::Paid | State::Expired | State::Cancelled) | None => false,
    })
}

/// Orders that have ended more often than once, or less often than their state says.
fn ended_otherwise(orders: &Orders<'_>) -> Vec<String> {
    let is_end = |word: &str| State::read(word).is_none_or(|state| !state.holds_units());
    orders.offending(|order| {
        let ends = orders.history(order.id).iter().filter(|step| is_end(&step.to)).count();
        ends != usize::from(is_end(&order.state))
    })
}

/// Orders whose history does not lead from `reserved` to their state by steps that may be taken.
fn illegal(orders: &Orders<'_>) -> Vec<String> {
    orders.offending(|order| {
        let mut state = State::Reserved;
        for step in orders.history(order.id) {
            match cause(step).and_then(|cause| state.after(cause).ok()) {
                Some(next) if step.from == state.as_str() && step.to == next.as_str() => state = next,
                Some(_) | None => return true,
            }
        }
        order.state != state.as_str()
    })
}

/// Orders that are paid and not charged, or charged otherwise than they are; charges that the shop keeps for no paid order.
fn mischarged(orders: &Orders<'_>) -> Vec<String> {
    let payments = orders.evidence.history.payments.iter();
    let charge_ids: HashMap<Uuid, Option<&str>> =
        payments.map(|payment| (payment.order_id, payment.charge_id.as_deref())).collect();
    let kept: HashMap<&str, _> = orders.evidence.ledger.kept().collect();
    let uncharged = orders.in_state(State::Paid).filter(|order| {
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
        let order = Uuid::try_parse(key).ok().and_then(|id| orders.rows.get(&id));
        order.is_some_and(|order| order.state == State::Paid.as_str())
    };
    offenders.extend(kept.keys().filter(|key| !is_paid(key)).map(|key| format!("{key} is charged and not paid")));
    offenders.sort_unstable();
    offenders
}

/// Orders of which their buyer was answered something else than became of them; orders that were paid or cancelled, and
/// nobody asked for it.
fn untrue(orders: &Orders<'_>, case: &Case<'_>) -> Vec<String> {
    let offends = |order: &RecordedOrder| match orders.follow_ups.get(&order.id) {
        None => [State::Paid, State::Cancelled].iter().any(|state| state.as_str() == order.state),
        Some((index, sent)) => {
            // Not answered: another invariant says so.
            let answer = orders.answer(*index, sent);
            case.ids[*index] != order.request_id
                || answer.is_some_and(|verdict| !became(orders, order, verdict.code, sent))
        }
    };
    let of_nobody = orders.follow_ups.keys().filter(|order| !orders.rows.contains_key(order)).copied();
    names(orders.rows.values().filter(|order| offends(order)).map(|order| order.id).chain(of_nobody))
}

/// Whether this is what became of the order, because of this request.
fn became(orders: &Orders<'_>, order: &RecordedOrder, code: Code, sent: &Sent) -> bool {
    let request_id = sent.follow_up.request_id.to_string();
    let was = |wanted: Cause| {
        let mut steps = orders.history(order.id).iter();
        steps.any(|step| cause(step) == Some(wanted) && step.request_id.as_deref() == Some(&request_id))
    };
    let is = |state: State| order.state == state.as_str();
    let is_untouched = !was(Cause::PaymentCaptured) && !was(Cause::Cancel);
    #[allow(clippy::wildcard_enum_match_arm, reason = "no other code is an answer to the first follow-up of an order")]
    match code {
        Code::Paid => is(State::Paid) && was(Cause::PaymentCaptured),
        Code::Cancelled => is(State::Cancelled) && was(Cause::Cancel),
        Code::Declined => was(Cause::PaymentDeclined) && is_untouched,
        Code::AlreadyExpired => is(State::Expired) && is_untouched,
        _ => false,
    }
}
