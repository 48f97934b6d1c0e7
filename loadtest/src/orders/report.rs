//! What became of the orders of a sale, in exactly the keys that loadtest/README.md documents. Pure.

use std::time::Duration;

use serde::Serialize;
use shared::messages::{Code, Verdict};
use shared::order::State;

use super::FinishedOrders;
use super::follow_ups::FollowUps;
use super::plan::{FollowUpKind, Share};
use crate::audit::database_state::DatabaseState;
use crate::stats::Latency;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OrdersReport {
    /// Of those who got units: who was to pay.
    pub pay_share: Share,
    /// Of those who got units: who was to cancel.
    pub cancel_share: Share,
    /// How long an order held its units; `null` holds them for longer than the sale.
    pub hold_ms: Option<u64>,
    /// Of the payment methods: those that the gateway was to decline.
    pub decline_share: Share,
    /// Of the gateway's answers: those that it was to spoil.
    pub gateway_failure_share: Share,
    pub gateway_latency_ms: u64,
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
    pub quiet: Option<QuietReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QuietReport {
    pub seconds: f64,
    pub purchases_per_second: f64,
    /// The purchases per second of the sale itself, by this.
    pub ratio: f64,
}

/// A step of the demo, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemoStep {
    /// From the first step on.
    pub seconds: f64,
    /// What was done.
    pub what: String,
    /// A verdict's code, or an event.
    pub came: String,
}

impl OrdersReport {
    pub(crate) fn of(orders: &FinishedOrders, follow_ups: &FollowUps, database: &DatabaseState) -> Self {
        let FinishedOrders { plan, ledger, events } = orders;
        let in_state =
            |state: State| database.orders.iter().filter(|order| order.state == state.as_str()).count() as u64;
        let answers = &follow_ups.answers.answers;
        let is_declined = |index: usize| {
            let verdict = answers[index].body.as_deref().and_then(|body| serde_json::from_slice::<Verdict>(body).ok());
            verdict.is_some_and(|verdict| verdict.code == Code::Declined)
        };
        let payments = follow_ups
            .all()
            .filter(|(index, sent)| sent.follow_up.kind == FollowUpKind::Pay && answers[*index].body.is_some());
        let lags = events.published.iter().map(|one| (one.at - one.event.at).try_into().unwrap_or(Duration::ZERO));
        Self {
            pay_share: plan.pay,
            cancel_share: plan.cancel,
            hold_ms: plan.hold.map(ms),
            decline_share: plan.decline,
            gateway_failure_share: plan.gateway_failure,
            gateway_latency_ms: ms(plan.gateway_latency),
            paid: in_state(State::Paid),
            declined: follow_ups.all().filter(|(index, _)| is_declined(*index)).count() as u64,
            cancelled: in_state(State::Cancelled),
            expired: in_state(State::Expired),
            held: in_state(State::Reserved) + in_state(State::Paying),
            charges: ledger.charges.len() as u64,
            refunds: (ledger.charges.len() - ledger.kept().count()) as u64,
            gateway_requests: ledger.asked,
            gateway_spoilt: ledger.spoilt,
            events: events.published.len() as u64,
            duplicate_events: events.duplicates,
            payment_latency_ms: payments.map(|(index, sent)| answers[index].at.saturating_sub(sent.at)).collect(),
            event_lag_ms: lags.collect(),
            quiet: None,
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
