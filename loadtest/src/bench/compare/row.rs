//! How one way to sell went. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::plan::{Contender, Form};
use crate::bench::baseline::{AtServer, BaselineResult};
use crate::bench::measure::Counted;
use crate::result::Outcome;
use crate::stats::{Latency, median, round};
use crate::strategy::Strategy;

/// How one way to sell went: once, or over all repetitions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub buyers: u32,
    pub name: String,
    pub form: Form,
    /// `null` for the ceiling.
    pub strategy: Option<Strategy>,
    pub batch_max: Option<u32>,
    /// `null` where they are not limited by that.
    pub in_flight: Option<u32>,
    pub repetitions: u32,
    /// Buyers who got units.
    pub sold: u64,
    /// Buyers who were answered that there are none left for them.
    pub refused: u64,
    /// Buyers who were answered neither.
    pub failed: u64,
    /// These by kind, without the kinds that did not occur: by HTTP those of [`BaselineResult::failures`]; on the queue
    /// `lost` (no verdict) and `invalid`.
    pub failures: BTreeMap<&'static str, u64>,
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
    /// Decisions that were tried, a batch being one, by buyers who got units; `null` where nobody counts them.
    pub attempts_per_sale: Option<f64>,
    /// Decisions that met a conflict and were made again, by buyers who got units.
    pub conflicts_per_sale: Option<f64>,
    /// Transactions that the database rolled back, by buyers.
    pub rollbacks_per_purchase: Option<f64>,
    /// Statements that the database was sent, BEGIN and COMMIT among them, by buyers.
    pub round_trips_per_purchase: Option<f64>,
    /// Time for which connections to the database were at work, or kept by an open transaction, by buyers.
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
    /// Once, on the queue, where `competing` requests are in flight if they compete; `counted` where a database took part.
    /// With it, the promises that it broke.
    pub(super) fn of_sale(
        contender: &Contender,
        competing: u32,
        outcome: &Outcome,
        counted: Option<Counted>,
    ) -> (Self, Vec<String>) {
        let (audit, verdicts) = (&outcome.audit, outcome.audit.verdicts);
        let failures = [("lost", audit.lost), ("invalid", verdicts.invalid)];
        let attempts = (outcome.attempts.unsigned_abs(), outcome.conflicts.unsigned_abs());
        let row = Self {
            in_flight: contender.in_flight(competing),
            sold: verdicts.reserved,
            refused: verdicts.sold_out + verdicts.refused,
            failed: audit.lost + verdicts.invalid,
            failures: failures.into_iter().filter(|(_, count)| *count > 0).collect(),
            seconds: outcome.timing.seconds,
            latency_ms: outcome.timing.latency_ms,
            order_inversions: audit.order_inversions,
            oversold: audit.oversold,
            ..Self::new(contender, outcome.timing.purchases_per_second)
        };
        let row = match counted {
            Some(counted) => row.with_attempts(attempts).with_counted(counted),
            None => row,
        };
        (row, contender.broken(&audit.invariants))
    }

    /// Once, by HTTP. That buyers fail there is a figure and no broken promise; that more is sold than there is, or that a
    /// buyer is not accounted for, is one.
    pub(super) fn of_http(contender: &Contender, result: &BaselineResult, counted: Counted) -> (Self, Vec<String>) {
        let accounted = result.sold + result.sold_out + result.failed();
        let mut broken = Vec::new();
        if result.oversold > 0 {
            broken.push(format!("never_oversold: {} units beyond the stock", result.oversold));
        }
        if result.sold_without_order > 0 {
            broken.push(format!("every_buyer_told_the_truth: {} sold, and no order", result.sold_without_order));
        }
        if accounted != u64::from(contender.buyers) {
            broken.push(format!("every_buyer_accounted_for: {accounted} of {}", contender.buyers));
        }
        let row = Self {
            sold: result.sold,
            refused: result.sold_out,
            failed: result.failed(),
            failures: result.failures.clone(),
            stalled: Some(result.stalled),
            lag_ms: Some(result.lag_ms),
            seconds: result.seconds,
            latency_ms: result.latency_ms,
            order_inversions: result.order_inversions,
            oversold: result.oversold,
            at_server: Some(result.at_server),
            ..Self::new(contender, result.answers_per_second)
        };
        (row.with_attempts((result.attempts, result.conflicts)).with_counted(counted), broken)
    }

    /// Of which only the pace is known.
    pub(super) fn new(contender: &Contender, purchases_per_second: f64) -> Self {
        Self {
            buyers: contender.buyers,
            name: contender.name(),
            form: contender.form,
            strategy: contender.strategy,
            batch_max: contender.batch_max(),
            in_flight: None,
            repetitions: 1,
            sold: 0,
            refused: 0,
            failed: 0,
            failures: BTreeMap::new(),
            stalled: None,
            lag_ms: None,
            seconds: 0.0,
            purchases_per_second,
            ratio: None,
            runs: vec![round(purchases_per_second, 1e1)],
            latency_ms: Latency::default(),
            attempts_per_sale: None,
            conflicts_per_sale: None,
            rollbacks_per_purchase: None,
            round_trips_per_purchase: None,
            connection_ms_per_purchase: None,
            order_inversions: 0,
            oversold: 0,
            at_server: None,
        }
    }

    /// Decisions that were tried, and those of them that met a conflict.
    pub(super) fn with_attempts(self, (attempts, conflicts): (u64, u64)) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let per_sale = |count: u64| (self.sold > 0).then(|| count as f64 / self.sold as f64);
        Self { attempts_per_sale: per_sale(attempts), conflicts_per_sale: per_sale(conflicts), ..self }
    }

    pub(super) fn with_counted(self, counted: Counted) -> Self {
        let each = |sum: f64| sum / f64::from(self.buyers.max(1));
        #[allow(clippy::cast_precision_loss)]
        Self {
            rollbacks_per_purchase: Some(each(counted.rollbacks as f64)),
            round_trips_per_purchase: counted.statements.map(|statements| each(statements as f64)),
            connection_ms_per_purchase: counted.connection_ms.map(each),
            ..self
        }
    }

    /// Of the repetitions of a row, of which there is one at least: each figure is the median of its own, so that one
    /// disturbed repetition of three changes none; only what must never happen is the most of all.
    pub(super) fn median(all: &[Self]) -> Self {
        let count = |of: &dyn Fn(&Self) -> u64| whole_median(all.iter().map(of).collect());
        let decimal = |of: fn(&Self) -> f64, parts| round(median(&all.iter().map(of).collect::<Vec<_>>()), parts);
        // What was not measured once is unknown.
        let known = |of: fn(&Self) -> Option<f64>, parts| {
            let values: Option<Vec<f64>> = all.iter().map(of).collect();
            values.map(|values| round(median(&values), parts))
        };
        let kinds = all.iter().flat_map(|row| row.failures.keys().copied());
        let failures = kinds.map(|kind| (kind, count(&|row| row.failures.get(kind).copied().unwrap_or(0))));
        let server = |of: fn(&AtServer) -> u64| count(&|row| row.at_server.as_ref().map_or(0, of));
        let pool_wait_ms = known(|row| row.at_server.map(|server| server.pool_wait_ms_per_purchase), 1e1);
        let ms = |of: fn(&Latency) -> f64| {
            round(median(&all.iter().map(|row| of(&row.latency_ms)).collect::<Vec<_>>()), 1e3)
        };
        Self {
            repetitions: u32::try_from(all.len()).unwrap_or(u32::MAX),
            sold: count(&|row| row.sold),
            refused: count(&|row| row.refused),
            failed: count(&|row| row.failed),
            failures: failures.filter(|(_, count)| *count > 0).collect(),
            stalled: all[0].stalled.map(|_| count(&|row| row.stalled.unwrap_or(0))),
            lag_ms: known(|row| row.lag_ms, 1e1),
            seconds: decimal(|row| row.seconds, 1e6),
            purchases_per_second: decimal(|row| row.purchases_per_second, 1e1),
            runs: all.iter().flat_map(|row| row.runs.iter().copied()).collect(),
            latency_ms: Latency {
                min: ms(|latency| latency.min),
                p50: ms(|latency| latency.p50),
                p90: ms(|latency| latency.p90),
                p95: ms(|latency| latency.p95),
                p99: ms(|latency| latency.p99),
                p999: ms(|latency| latency.p999),
                max: ms(|latency| latency.max),
            },
            attempts_per_sale: known(|row| row.attempts_per_sale, 1e3),
            conflicts_per_sale: known(|row| row.conflicts_per_sale, 1e3),
            rollbacks_per_purchase: known(|row| row.rollbacks_per_purchase, 1e5),
            round_trips_per_purchase: known(|row| row.round_trips_per_purchase, 1e5),
            connection_ms_per_purchase: known(|row| row.connection_ms_per_purchase, 1e5),
            order_inversions: count(&|row| row.order_inversions),
            oversold: all.iter().map(|row| row.oversold).max().unwrap_or(0),
            at_server: pool_wait_ms.map(|pool_wait_ms_per_purchase| AtServer {
                pool_wait_ms_per_purchase,
                pool_timeouts: server(|server| server.pool_timeouts),
                lock_timeouts: server(|server| server.lock_timeouts),
                untold: server(|server| server.untold),
                zombie_units: server(|server| server.zombie_units),
                syn_drops: server(|server| server.syn_drops),
                syn_retransmits: server(|server| server.syn_retransmits),
            }),
            ..all[0].clone()
        }
    }
}

/// Of an even number of counts the mean of the two in the middle, rounded up: one failure in two repetitions stays one.
pub(super) fn whole_median(mut counts: Vec<u64>) -> u64 {
    counts.sort_unstable();
    match counts.len() {
        0 => 0,
        length if length % 2 == 1 => counts[length / 2],
        length => (counts[length / 2 - 1] + counts[length / 2]).div_ceil(2),
    }
}
