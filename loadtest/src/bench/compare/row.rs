//! How one way to sell went. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::{Contender, Form};
use crate::audit::Invariant;
use crate::bench::baseline::{AtServer, BaselineResult};
use crate::bench::measure::Counted;
use crate::failure::Failure;
use crate::result::Outcome;
use crate::stats::{Latency, medians, round};

/// The promise that requests which compete do not make: whoever decides many at once, each by itself, gives it up.
const ORDER: &str = "first_come_first_served";

/// How one way to sell went: once, or over all repetitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    #[serde(flatten)]
    pub contender: Contender,
    pub repetitions: u32,
    /// Buyers who got units.
    pub sold: u64,
    /// Buyers who were answered that there are none left for them.
    pub refused: u64,
    /// Buyers who were answered neither, and these by kind, without the kinds that did not occur: by HTTP those of
    /// [`BaselineResult::failures`]; on the queue `lost` (no verdict) and `invalid`.
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    /// See [`BaselineResult::stalled`]; `null` where nobody connects to buy, as the next.
    pub stalled: Option<u64>,
    /// How late the buyers' own processes were at the most: where this is much, the machine was too small for server and
    /// buyers together, and latencies and time-outs are partly the buyers' doing.
    #[serde(rename = "crowd_lag_ms")]
    pub lag_ms: Option<f64>,
    /// From the first intended send to the last answer.
    pub seconds: f64,
    /// Verdicts by seconds; by HTTP: answers.
    pub purchases_per_second: f64,
    /// Its pace by the ceiling's with as many buyers; `null` for the ceiling itself.
    pub ratio: Option<f64>,
    /// The pace of each repetition, in the order in which they were run.
    pub runs: Vec<f64>,
    /// From the intended send to the answer.
    pub latency_ms: Latency,
    /// Decisions that were tried, a batch being one, by buyers who got units; `null` where nobody counts them, as the next.
    pub attempts_per_sale: Option<f64>,
    pub conflicts_per_sale: Option<f64>,
    /// By buyers, as the next: transactions that the database rolled back.
    pub rollbacks_per_purchase: Option<f64>,
    /// Statements that the database was sent, BEGIN and COMMIT among them.
    pub round_trips_per_purchase: Option<f64>,
    /// Time for which connections to the database were at work, or kept by an open transaction.
    pub connection_ms_per_purchase: Option<f64>,
    /// Accepted requests that were sent after a refused one of equal or smaller quantity.
    pub order_inversions: u64,
    /// Units sold beyond the stock.
    pub oversold: u64,
    /// `null` on the queue.
    #[serde(rename = "door")]
    pub at_server: Option<AtServer>,
}

impl Row {
    /// Once, on the queue; `counted` where a database took part. With it, the promises that it broke.
    pub(super) fn of_sale(contender: &Contender, outcome: &Outcome, counted: Option<Counted>) -> (Self, Vec<String>) {
        let (audit, verdicts) = (&outcome.audit, outcome.audit.verdicts);
        let failures = [("lost", audit.lost), ("invalid", verdicts.invalid)];
        let attempts = (outcome.attempts.unsigned_abs(), outcome.conflicts.unsigned_abs());
        let row = Self {
            sold: verdicts.reserved,
            refused: verdicts.sold_out + verdicts.refused,
            seconds: outcome.timing.seconds,
            latency_ms: outcome.timing.latency_ms,
            order_inversions: audit.order_inversions,
            oversold: audit.oversold,
            ..Self::new(contender, outcome.timing.purchases_per_second, failures)
        };
        let row = counted.map_or(row.clone(), |counted| row.with_counted(counted, attempts));
        (row, broken(contender, &audit.invariants))
    }

    /// Once, by HTTP. That buyers fail there is a figure and no broken promise; that more is sold than there is, or that a
    /// buyer is not accounted for, is one.
    pub(super) fn of_http(contender: &Contender, result: &BaselineResult, counted: Counted) -> (Self, Vec<String>) {
        let failures = result.failures.iter().map(|(kind, number)| (*kind, *number));
        let row = Self {
            sold: result.sold,
            refused: result.sold_out,
            stalled: Some(result.stalled),
            lag_ms: Some(result.lag_ms),
            seconds: result.seconds,
            latency_ms: result.latency_ms,
            order_inversions: result.order_inversions,
            oversold: result.oversold,
            at_server: Some(result.at_server),
            ..Self::new(contender, result.answers_per_second, failures)
        };
        let row = row.with_counted(counted, (result.attempts, result.conflicts));
        let (oversold, untrue, accounted) =
            (row.oversold, result.sold_without_order, row.sold + row.refused + row.failed);
        let is_complete = accounted == u64::from(contender.buyers);
        let invariants = [
            ("never_oversold", oversold == 0, format!("{oversold} units beyond the stock")),
            ("every_buyer_told_the_truth", untrue == 0, format!("{untrue} sold, and no order")),
            ("every_buyer_accounted_for", is_complete, format!("{accounted} of {}", contender.buyers)),
        ];
        (row, broken(contender, &invariants.map(|(name, holds, detail)| Invariant { name, holds, detail })))
    }

    fn new(
        contender: &Contender,
        purchases_per_second: f64,
        failures: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Self {
        let occurred = failures.into_iter().filter(|(_, number)| *number > 0);
        let failures: BTreeMap<String, u64> = occurred.map(|(kind, number)| (kind.to_owned(), number)).collect();
        let (failed, runs) = (failures.values().sum(), vec![round(purchases_per_second, 1e1)]);
        Self { contender: contender.clone(), failed, failures, purchases_per_second, runs, ..Self::default() }
    }

    /// `attempts` are decisions that were tried, and those of them that met a conflict.
    #[allow(clippy::cast_precision_loss)]
    fn with_counted(self, counted: Counted, attempts: (u64, u64)) -> Self {
        let each = |sum: f64, by: f64| (by > 0.0).then(|| round(sum / by, 1e5));
        let (sold, buyers) = (self.sold as f64, f64::from(self.contender.buyers));
        Self {
            attempts_per_sale: each(attempts.0 as f64, sold),
            conflicts_per_sale: each(attempts.1 as f64, sold),
            rollbacks_per_purchase: each(counted.rollbacks as f64, buyers),
            round_trips_per_purchase: counted.statements.and_then(|statements| each(statements as f64, buyers)),
            connection_ms_per_purchase: counted.connection_ms.and_then(|ms| each(ms, buyers)),
            ..self
        }
    }

    /// Of all repetitions: medians, but for what must never happen, which is the most of all.
    pub(super) fn median(all: &[Self]) -> Result<Self, Failure> {
        let row = medians(all)?;
        Ok(Self {
            repetitions: u32::try_from(all.len()).unwrap_or(u32::MAX),
            failures: row.failures.into_iter().filter(|(_, number)| *number > 0).collect(),
            runs: all.iter().flat_map(|row| row.runs.iter().copied()).collect(),
            oversold: all.iter().map(|row| row.oversold).max().unwrap_or(0),
            ..row
        })
    }
}

/// The promises that it makes, and did not keep.
fn broken(contender: &Contender, invariants: &[Invariant]) -> Vec<String> {
    let is_promised = |invariant: &&Invariant| contender.form != Form::Competing || invariant.name != ORDER;
    let broken = invariants.iter().filter(is_promised).filter(|invariant| !invariant.holds);
    broken.map(|invariant| format!("{}: {}", invariant.name, invariant.detail)).collect()
}
