//! The result of a run, in exactly the keys that the README documents. Only data: others fill and print it.

mod latency;

use std::time::Duration;

use serde::Serialize;

use crate::answers::Answers;
use crate::audit::{Invariant, VerdictCounts};
use crate::events::{Action, Point};
use crate::machine::Machine;
use crate::orders::report::{DemoStep, OrdersReport};
use crate::scenario::Schedule;
pub use latency::{CurvePoint, Latency};

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// What was run.
    pub scenario: ScenarioReport,
    /// On what.
    pub servers: ServersReport,
    /// On which machine.
    pub machine: Machine,
    /// How the requests ended, by what the buyers were told.
    pub verdicts: VerdictCounts,
    /// Requests without a reply or without a recorded verdict.
    pub lost: u64,
    /// Identical replies beyond the number of sends.
    pub duplicate_replies: u64,
    /// Replies that contradict the first reply to the same request.
    pub conflicting_replies: u64,
    /// Units reserved beyond the stock.
    pub oversold: u64,
    /// Accepted requests that were published after a refused one of equal or smaller quantity.
    pub order_inversions: u64,
    /// From the first intended send to the last verdict.
    pub seconds: f64,
    /// Verdicts by seconds.
    pub purchases_per_second: f64,
    /// From the intended send to the verdict.
    pub latency_ms: Latency,
    /// The same, whole.
    pub latency_curve: Vec<CurvePoint>,
    /// Decisions that were tried on the sale's items (a batch is one).
    pub attempts: i64,
    /// Decisions that met a version conflict and were made again.
    pub conflicts: i64,
    /// The most messages that were ready in all partitions together, as sampled.
    pub queue_depth_peak: u64,
    /// What was done to workers and broker in mid-sale, in the order in which it was done.
    pub events: Vec<EventReport>,
    /// Who was killed at random, in the order in which it was done.
    pub crashes: Vec<CrashReport>,
    /// Who decided.
    pub workers: Vec<WorkerReport>,
    /// The broker's limit, where it was measured.
    pub ceiling: Option<CeilingReport>,
    /// What became of the orders, where they had a life after their verdict.
    pub life: Option<OrdersReport>,
    /// The lives of two orders, where they were to be shown.
    pub shown: Option<Vec<DemoStep>>,
    /// Every promise.
    pub invariants: Vec<Invariant>,
    /// Whether every promise was kept.
    pub passed: bool,
    /// The most buyers that were waiting for their verdict, as sampled.
    pub waiting_peak: u64,
    /// Messages ready, buyers waiting and requests sold, over time.
    pub queue_depth: Vec<DepthSample>,
    /// How often the buyers lost the broker and came back.
    pub reconnects: u32,
}

/// What was run.
#[derive(Debug, Clone, Serialize)]
pub struct ScenarioReport {
    /// Requests.
    pub buyers: u32,
    /// Units, over all items.
    pub stock: u64,
    /// Items.
    pub items: u32,
    /// Worker processes that were started.
    pub workers: u32,
    /// How the workers decide.
    pub strategy: &'static str,
    /// The batch limit that was asked for; `null` leaves the worker its own.
    pub batch_max: Option<u32>,
    /// Arrivals per second; 0 is all at once.
    pub rate: f64,
    /// What chose who buys what and when.
    pub seed: u64,
}

/// On what.
#[derive(Debug, Clone, Serialize)]
pub struct ServersReport {
    /// The broker's version.
    pub rabbitmq: String,
    /// The database's version; `null` where none took part.
    pub postgresql: Option<String>,
    /// The version of what counted; `null` where the strategy needs none.
    pub redis: Option<String>,
}

/// One worker's part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerReport {
    /// The id, as its replies carry it.
    pub id: String,
    /// Requests whose first reply it sent.
    pub verdicts: u64,
    /// Peak resident memory; `null` for a worker that was not started here.
    pub rss_mib: Option<f64>,
}

/// One event that came to pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventReport {
    /// The point of the sale that it was planned for.
    pub at: Point,
    /// What was done.
    pub event: Action,
    /// To which worker; `null` where none was left to do it to, and where it was done to the broker.
    pub worker: Option<String>,
    /// When, from the start of the sale.
    pub seconds: f64,
    /// How long the buyers felt it; see [`crate::aftermath::until_next_verdict`].
    pub next_verdict_seconds: Option<f64>,
    /// To which node of the broker; `null` where it was done to a worker.
    pub broker_node: Option<String>,
}

/// A worker that was killed by `--crashes`, and replaced at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CrashReport {
    /// Which.
    pub worker: String,
    /// When, from the start of the sale.
    pub seconds: f64,
}

/// What the same buyers get from workers that touch no database: the mean, where it was measured twice.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CeilingReport {
    /// From the first intended send to the last reply.
    pub seconds: f64,
    /// Replies by seconds.
    pub purchases_per_second: f64,
    /// The sale's purchases per second by the ceiling's; `null` without a sale.
    pub ratio: Option<f64>,
}

/// The depth of all partitions together, and who waits, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DepthSample {
    /// From the start of the sale.
    pub at_ms: u64,
    /// Messages ready.
    pub messages: u64,
    /// Buyers who have sent their request and have no verdict: also those whose message is with a worker.
    pub waiting: u64,
    /// Buyers who were told by then that they got their units.
    pub sold: u64,
}

impl DepthSample {
    /// The samples, with what was sold until each: one moment for every request that was, in any order.
    #[must_use]
    pub(crate) fn with_sold(mut samples: Vec<Self>, mut sold_at: Vec<Duration>) -> Vec<Self> {
        sold_at.sort_unstable();
        for sample in &mut samples {
            let until = Duration::from_millis(sample.at_ms);
            sample.sold = sold_at.partition_point(|at| *at <= until) as u64;
        }
        samples
    }
}

/// What the clock says about a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timing {
    /// From the first intended send to the last verdict.
    pub seconds: f64,
    /// Verdicts by seconds.
    pub purchases_per_second: f64,
    /// From the intended send to the verdict.
    pub latency_ms: Latency,
    /// The same, whole.
    pub latency_curve: Vec<CurvePoint>,
}

impl Timing {
    /// Reads the clock's part from the answers.
    #[must_use]
    pub fn of(schedule: &Schedule, answers: &Answers) -> Self {
        let mut histogram = latency::histogram();
        let mut last = Duration::ZERO;
        for (due, answer) in schedule.requests.iter().zip(&answers.answers) {
            if answer.body.is_some() {
                last = last.max(answer.at);
                latency::record(&mut histogram, answer.at.saturating_sub(due.at));
            }
        }
        let first = schedule.requests.first().map_or(Duration::ZERO, |due| due.at);
        let seconds = last.saturating_sub(first).as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let verdicts = histogram.len() as f64;
        Self {
            seconds: round(seconds, 1e6),
            purchases_per_second: if seconds > 0.0 { round(verdicts / seconds, 1e1) } else { 0.0 },
            latency_ms: Latency::of(&histogram),
            latency_curve: latency::curve(&histogram),
        }
    }
}

/// `value` to the nearest `1 / parts`, so that JSON shows no noise.
pub(crate) fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// The one in the middle, or the mean of the two there; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[middle],
        _even => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn latency_counts_from_the_intended_time_and_seconds_from_the_first() {
        let scenario = Scenario { buyers: 2, items: 1, stock: 1, quantities: 1..=1, rate: 0.0, seed: 1 };
        let mut schedule = Schedule::new(&scenario, "t");
        schedule.requests[0].at = Duration::from_millis(1_000);
        schedule.requests[1].at = Duration::from_millis(1_500);
        let mut answers = Answers::to(&schedule.requests);
        for (due, at) in schedule.requests.iter().zip([1_010, 3_000]) {
            answers.record(&due.request_id.to_string(), "w", vec![], Duration::from_millis(at));
        }
        let timing = Timing::of(&schedule, &answers);
        assert_eq!((timing.seconds, timing.purchases_per_second), (2.0, 1.0));
        assert_eq!(timing.latency_ms.min, 10.0);
        assert!((timing.latency_ms.max - 1_500.0).abs() < 1.5, "{:?}", timing.latency_ms);
    }

    #[test]
    fn a_sample_counts_what_was_sold_until_then() {
        let sample = |at_ms| DepthSample { at_ms, messages: 0, waiting: 0, sold: 0 };
        let samples = DepthSample::with_sold(
            vec![sample(5), sample(10), sample(20)],
            [15, 10, 30].map(Duration::from_millis).to_vec(),
        );
        assert_eq!(samples.iter().map(|sample| sample.sold).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn where_nobody_was_answered_every_figure_is_zero() {
        let scenario = Scenario { buyers: 2, items: 1, stock: 1, quantities: 1..=1, rate: 0.0, seed: 1 };
        let schedule = Schedule::new(&scenario, "t");
        assert_eq!(Timing::of(&schedule, &Answers::to(&schedule.requests)), Timing::default());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0]), median(&[])), (2.0, 2.5, 0.0));
    }
}
