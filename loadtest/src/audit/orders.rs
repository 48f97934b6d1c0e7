//! The promises about orders after their verdicts: how they came from state to state and how they ended, who was charged,
//! and what their buyers were answered.

use super::database_state::{RecordedOrder, RecordedTransition};
use super::{Case, Evidence, Invariant, invariant};
use crate::orders::plan::{FollowUp, card_of};
use shared::messages::{Code, Verdict};
use shared::order::{Cause, State};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// The evidence, by order.
pub(super) struct Orders<'a> {
    pub(super) case: &'a Case<'a>,
    /// Sorted, so that a broken invariant names the same ones each time.
    pub(super) rows: BTreeMap<Uuid, &'a RecordedOrder>,
    steps: HashMap<Uuid, Vec<&'a RecordedTransition>>,
    follow_ups: BTreeMap<Uuid, &'a FollowUp>,
}

pub(super) fn check(orders: &Orders<'_>) -> Vec<Invariant> {
    let follow_ups = &orders.case.evidence.follow_ups;
    let answer = |one: &FollowUp| &follow_ups.answers.answers[one.index];
    let paid = orders.rows.values().filter(|order| is(order, State::Paid)).count();
    let ended = match orders.is_over() {
        true => "every order is paid, cancelled or expired",
        false => "no payment was left halfway",
    };
    let charged = format!("{paid} paid, {paid} charged, each once");
    let answered = format!("{} follow-ups, a verdict for each", orders.follow_ups.len());
    let ids = |follow_up: &FollowUp| follow_up.request_id;
    let unanswered = follow_ups.all().filter(|one| orders.answer(one).is_none()).map(ids);
    let conflicting = follow_ups.all().filter(|one| answer(one).differing > 0).map(ids);
    let misreported = follow_ups.all().filter(|one| {
        let recorded = orders.case.evidence.database.follow_up_replies.get(&one.request_id.to_string());
        // Not answered: another invariant says so.
        answer(one).body.as_ref().is_some_and(|body| recorded.is_none_or(|reply| reply.as_bytes() != body))
    });
    let misreported = misreported.map(ids);
    let still_held = orders.offending(|order| orders.is_still_held(order));
    let ended_otherwise = orders.offending(|order| !orders.ends_once(order));
    let illegal = orders.offending(|order| !orders.is_legal(order));
    let of_nobody = orders.follow_ups.keys().filter(|order| !orders.rows.contains_key(order)).copied();
    let untrue = orders.offending(|order| !orders.is_as_told(order)).chain(of_nobody);
    vec![
        invariant("every_hold_ended", ended, still_held),
        invariant("orders_end_once", "no order ended in two ways", ended_otherwise),
        invariant("history_is_legal", "each order came to its state step by step", illegal),
        invariant("charges_match_paid_orders", charged, mischarged(orders)),
        invariant("every_follow_up_answered", answered, unanswered),
        invariant("no_conflicting_follow_ups", "no follow-up was told two things", conflicting),
        invariant("follow_ups_match_records", "each reply is the recorded verdict, byte for byte", misreported),
        invariant("follow_ups_match_orders", "what buyers were told became of their orders", untrue),
    ]
}

impl<'a> Orders<'a> {
    pub(super) fn of(case: &'a Case<'a>) -> Self {
        let Evidence { database, follow_ups, .. } = case.evidence;
        let mut steps: HashMap<Uuid, Vec<&RecordedTransition>> = HashMap::new();
        for step in &database.transitions {
            steps.entry(step.order_id).or_default().push(step);
        }
        let rows = database.orders.iter().map(|order| (order.id, order)).collect();
        let follow_ups = follow_ups.all().map(|one| (one.order_id, one)).collect();
        Self { case, rows, steps, follow_ups }
    }

    pub(super) fn offending(&self, offends: impl Fn(&RecordedOrder) -> bool) -> impl Iterator<Item = Uuid> {
        self.rows.values().filter(move |order| offends(order)).map(|order| order.id)
    }

    /// In order.
    pub(super) fn steps(&self, order: &RecordedOrder) -> &[&'a RecordedTransition] {
        self.steps.get(&order.id).map_or(&[], Vec::as_slice)
    }

    /// Whether every hold had the time to run out.
    fn is_over(&self) -> bool {
        self.case.evidence.follow_ups.plan.hold_ms.is_some()
    }

    /// What the buyer was answered; `None` where that is no verdict on the follow-up.
    fn answer(&self, follow_up: &FollowUp) -> Option<Verdict> {
        let body = self.case.evidence.follow_ups.answers.answers[follow_up.index].body.as_deref()?;
        let verdict: Verdict = serde_json::from_slice(body).ok()?;
        let is_its = verdict.request_id == Some(follow_up.request_id.to_string())
            && verdict.code.status() == verdict.status
            && verdict.order.is_none();
        is_its.then_some(verdict)
    }

    /// Whether it keeps units when nothing is under way any more.
    fn is_still_held(&self, order: &RecordedOrder) -> bool {
        is(order, State::Paying) || self.is_over() && is(order, State::Reserved)
    }

    /// Whether it has ended as often as its state says: once, or not at all.
    fn ends_once(&self, order: &RecordedOrder) -> bool {
        let is_end = |word: &str| State::read(word).is_none_or(|state| !state.holds_units());
        self.steps(order).iter().filter(|step| is_end(&step.to)).count() == usize::from(is_end(&order.state))
    }

    /// Whether its history leads from `reserved` to its state by steps that may be taken.
    fn is_legal(&self, order: &RecordedOrder) -> bool {
        let led_to = self.steps(order).iter().try_fold(State::Reserved, |state, step| {
            let next = state.after(cause(step)?).ok()?;
            (step.from == state.as_str() && step.to == next.as_str() && step.is_in_time).then_some(next)
        });
        led_to.is_some_and(|state| is(order, state))
    }

    /// Whether its buyer was answered what became of it; and if it was paid or cancelled, somebody asked for it.
    fn is_as_told(&self, order: &RecordedOrder) -> bool {
        match self.follow_ups.get(&order.id) {
            None => !is(order, State::Paid) && !is(order, State::Cancelled),
            Some(follow_up) => {
                // Not answered: another invariant says so.
                let answer = self.answer(follow_up);
                self.case.ids[follow_up.index] == order.request_id
                    && answer.is_none_or(|verdict| self.became(order, verdict.code, follow_up))
            }
        }
    }

    /// Whether this is what became of the order, because of this request.
    fn became(&self, order: &RecordedOrder, code: Code, follow_up: &FollowUp) -> bool {
        let request_id = follow_up.request_id.to_string();
        let was = |wanted: Cause| {
            let mut steps = self.steps(order).iter();
            steps.any(|step| cause(step) == Some(wanted) && step.request_id.as_deref() == Some(&request_id))
        };
        let is_untouched = !was(Cause::PaymentCaptured) && !was(Cause::Cancel);
        #[allow(clippy::wildcard_enum_match_arm, reason = "no other code answers the first follow-up of an order")]
        match code {
            Code::Paid => is(order, State::Paid) && was(Cause::PaymentCaptured),
            Code::Cancelled => is(order, State::Cancelled) && was(Cause::Cancel),
            Code::Declined => was(Cause::PaymentDeclined) && is_untouched,
            Code::AlreadyExpired => is(order, State::Expired) && is_untouched,
            _ => false,
        }
    }
}

fn is(order: &RecordedOrder, state: State) -> bool {
    order.state == state.as_str()
}

pub(super) fn cause(step: &RecordedTransition) -> Option<Cause> {
    Cause::ALL.into_iter().find(|cause| cause.as_str() == step.cause)
}

/// Orders that are paid and not charged, or charged otherwise than they are; charges that the shop keeps for no paid order.
fn mischarged(orders: &Orders<'_>) -> Vec<String> {
    let kept: BTreeMap<&str, _> = orders.case.evidence.ledger.kept().collect();
    let uncharged = orders.offending(|order| {
        let id = order.id.to_string();
        is(order, State::Paid)
            && kept.get(id.as_str()).is_none_or(|charge| {
                charge.is_reused
                    || charge.bill.order_id != id
                    || charge.bill.item != order.item
                    || charge.bill.payment_method != card_of(&order.buyer)
                    || i64::from(charge.bill.quantity) != order.quantity
                    || orders.case.evidence.database.charge_ids.get(&order.id) != Some(&Some(charge.id.clone()))
            })
    });
    let is_paid = |key: &str| {
        let order = Uuid::try_parse(key).ok().and_then(|id| orders.rows.get(&id));
        order.is_some_and(|order| is(order, State::Paid))
    };
    let unpaid = kept.keys().filter(|key| !is_paid(key)).map(|key| format!("{key} is charged and not paid"));
    uncharged.map(|id| id.to_string()).chain(unpaid).collect()
}
