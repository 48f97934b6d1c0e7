//! What came of the lives of a sale's orders, in exactly the keys that the README documents. Pure.

use std::time::Duration;

use serde::Serialize;
use shared::messages::{Code, Verdict};
use shared::order::State;

use crate::facts::Recorded;
use crate::life::follow_ups::FollowUps;
use crate::life::living::Lived;
use crate::life::plan::{Share, Wish};
use crate::stats::Latency;

/// The lives of a sale's orders.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LifeReport {
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
    /// How long it thought.
    pub gateway_latency_ms: u64,
    /// Orders that ended paid.
    pub paid: u64,
    /// Payments that the gateway declined, by what the buyers were told.
    pub declined: u64,
    /// Orders that ended cancelled.
    pub cancelled: u64,
    /// Orders whose hold ran out.
    pub expired: u64,
    /// Orders that still hold their units.
    pub held: u64,
    /// Charges at the gateway, refunded ones included.
    pub charges: u64,
    /// Charges that went back.
    pub refunds: u64,
    /// What the gateway was asked, repeats included.
    pub gateway_requests: u64,
    /// Answers that it spoilt on purpose.
    pub gateway_spoilt: u64,
    /// Events, each once.
    pub events: u64,
    /// Events that were published again.
    pub duplicate_events: u64,
    /// From the purchase's verdict to the payment's.
    pub payment_latency_ms: Latency,
    /// From what happened, by the database's clock, to its event's arrival, by ours.
    pub event_lag_ms: Latency,
    /// The same sale without all this, where it was measured.
    pub quiet: Option<QuietReport>,
}

/// The same sale, where nobody paid or cancelled and no hold ran out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QuietReport {
    /// From the first intended send to the last verdict.
    pub seconds: f64,
    /// Verdicts by seconds.
    pub purchases_per_second: f64,
    /// The purchases per second with life, by this.
    pub ratio: f64,
}

impl LifeReport {
    /// Counts.
    pub(crate) fn of(lived: &Lived, follow_ups: &FollowUps, recorded: &Recorded) -> Self {
        let in_state =
            |state: State| recorded.orders.iter().filter(|order| order.state == state.as_str()).count() as u64;
        let answers = &follow_ups.answers.answers;
        let code = |index: usize| {
            let verdict: Option<Verdict> = serde_json::from_slice(answers[index].body.as_deref()?).ok();
            verdict.map(|verdict| verdict.code)
        };
        let payments = follow_ups
            .all()
            .filter(|(index, asked)| asked.follow_up.wish == Wish::Pay && answers[*index].body.is_some());
        let lags =
            lived.events.firsts.iter().map(|first| (first.at - first.event.at).try_into().unwrap_or(Duration::ZERO));
        Self {
            pay_share: lived.plan.pay,
            cancel_share: lived.plan.cancel,
            hold_ms: lived.plan.hold.map(ms),
            decline_share: lived.options.manners.decline,
            gateway_failure_share: lived.options.manners.failure,
            gateway_latency_ms: ms(lived.options.latency),
            paid: in_state(State::Paid),
            declined: follow_ups.all().filter(|(index, _)| code(*index) == Some(Code::Declined)).count() as u64,
            cancelled: in_state(State::Cancelled),
            expired: in_state(State::Expired),
            held: in_state(State::Reserved) + in_state(State::Paying),
            charges: lived.ledger.charges.len() as u64,
            refunds: (lived.ledger.charges.len() - lived.ledger.kept().count()) as u64,
            gateway_requests: lived.ledger.asked,
            gateway_spoilt: lived.ledger.spoilt,
            events: lived.events.firsts.len() as u64,
            duplicate_events: lived.events.duplicates,
            payment_latency_ms: payments.map(|(index, asked)| answers[index].at.saturating_sub(asked.at)).collect(),
            event_lag_ms: lags.collect(),
            quiet: None,
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
