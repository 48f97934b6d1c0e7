//! What became of the orders of a sale, in exactly the keys that loadtest/README.md documents. Pure.

use super::plan::{FollowUp, FollowUpKind, Plan};
use crate::audit::Evidence;
use crate::stats::{Latency, Reference};
use serde::Serialize;
use shared::messages::{Code, Verdict};
use shared::order::State;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OrdersReport {
    #[serde(flatten)]
    pub plan: Plan,
    pub paid: u64,
    /// By what the buyers were answered.
    pub declined: u64,
    pub cancelled: u64,
    pub expired: u64,
    /// Orders that still hold their units.
    pub held: u64,
    /// Refunded ones included.
    pub charges: u64,
    pub refunds: u64,
    /// What the gateway was asked, repeats included.
    pub gateway_requests: u64,
    pub gateway_spoilt: u64,
    /// Each once.
    pub events: u64,
    /// Events that were published again.
    pub duplicate_events: u64,
    /// From the purchase's verdict to the payment's.
    pub payment_latency_ms: Latency,
    /// From what happened, by the database's clock, to its event's arrival, by ours.
    pub event_lag_ms: Latency,
    /// The same sale, where nobody paid or cancelled and no hold ran out.
    pub quiet: Option<Reference>,
}

impl OrdersReport {
    pub(crate) fn of(evidence: &Evidence) -> Self {
        let Evidence { database, follow_ups, ledger, events, .. } = evidence;
        let in_state =
            |state: State| database.orders.iter().filter(|order| order.state == state.as_str()).count() as u64;
        let answer = |sent: &FollowUp| &follow_ups.answers.answers[sent.index];
        let is_declined = |sent: &&FollowUp| {
            let body = answer(sent).body.as_deref();
            let verdict = body.and_then(|body| serde_json::from_slice::<Verdict>(body).ok());
            verdict.is_some_and(|verdict| verdict.code == Code::Declined)
        };
        let payments = follow_ups.all().filter(|sent| sent.kind == FollowUpKind::Pay && answer(sent).body.is_some());
        let lags = events.published.iter().map(|one| (one.at - one.event.at).try_into().unwrap_or(Duration::ZERO));
        Self {
            plan: follow_ups.plan,
            paid: in_state(State::Paid),
            declined: follow_ups.all().filter(is_declined).count() as u64,
            cancelled: in_state(State::Cancelled),
            expired: in_state(State::Expired),
            held: in_state(State::Reserved) + in_state(State::Paying),
            charges: ledger.charges.len() as u64,
            refunds: (ledger.charges.len() - ledger.kept().count()) as u64,
            gateway_requests: ledger.asked,
            gateway_spoilt: ledger.spoilt,
            events: events.published.len() as u64,
            duplicate_events: events.duplicates,
            payment_latency_ms: payments.map(|sent| answer(sent).at.saturating_sub(sent.at)).collect(),
            event_lag_ms: lags.collect(),
            quiet: None,
        }
    }
}
