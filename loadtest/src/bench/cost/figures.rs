//! From what sales took to what a purchase costs. Pure.
//!
//! A cost is a sum over all sales by their purchases, so that a long sale weighs more than a short one; only the pace is a
//! median, for it is what a busy machine disturbs most.

use std::time::Duration;

use serde::Serialize;

use crate::bench::measure::CpuTimes;
use crate::stats::{median, round};

/// What one sale took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Taken {
    pub(super) purchases: u32,
    pub(super) purchases_per_second: f64,
    pub(super) cpu: CpuTimes,
    /// Transactions that recorded verdicts.
    pub(super) batches: i64,
    pub(super) round_trips: i64,
    pub(super) wal_bytes: i64,
    /// Messages ready, at the most.
    pub(super) queue_depth_peak: u64,
    /// Of all workers together, at their peaks.
    pub(super) workers_rss_mib: Option<f64>,
}

/// What a purchase costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// The median of the sales.
    pub purchases_per_second: f64,
    /// CPU time.
    pub cpu_us_per_purchase: CpuFigures,
    /// Purchases that one commit recorded.
    pub messages_per_batch: f64,
    /// Statements that the workers sent to the database, and waited for.
    pub round_trips_per_purchase: f64,
    /// Bytes of write-ahead log.
    pub wal_bytes_per_purchase: f64,
    /// The most messages that were ready in all partitions together, as sampled: how long the queue was.
    pub queue_depth_peak: u64,
    /// Resident memory of all workers together, at its peak; `null` where it cannot be read.
    pub workers_rss_mib: Option<f64>,
}

/// Microseconds of CPU time for each purchase; `null` where the processes are not on this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CpuFigures {
    /// The Erlang machine.
    pub broker: Option<f64>,
    /// All worker processes.
    pub workers: Option<f64>,
    /// All processes of the database server.
    pub database: Option<f64>,
    /// The load generator: no part of what a purchase costs, but of what the machine had to do.
    pub buyers: Option<f64>,
}

impl CpuFigures {
    /// Of all who are part of what a purchase costs.
    fn of_servers_and_workers(&self) -> Option<f64> {
        Some(self.broker? + self.workers? + self.database?)
    }

    /// This cost by another; `None` where one of them is not known, or nothing.
    pub(super) fn ratio(&self, by: &Self) -> Option<f64> {
        let by = by.of_servers_and_workers().filter(|by| *by > 0.0)?;
        Some(round(self.of_servers_and_workers()? / by, 1e3))
    }
}

impl Figures {
    /// What a purchase costs, over all of these sales.
    pub(super) fn of(sales: &[Taken]) -> Self {
        let purchases: f64 = sales.iter().map(|sale| f64::from(sale.purchases)).sum();
        let per_purchase = |sum: f64, parts| if purchases > 0.0 { round(sum / purchases, parts) } else { 0.0 };
        let cpu = |of: fn(&CpuTimes) -> Option<Duration>| {
            let time: Option<Duration> = sales.iter().map(|sale| of(&sale.cpu)).sum();
            time.map(|time| per_purchase(time.as_secs_f64() * 1e6, 1e1))
        };
        let sum = |of: fn(&Taken) -> i64| sales.iter().map(of).sum::<i64>();
        #[allow(clippy::cast_precision_loss)]
        let (batches, round_trips, wal_bytes) =
            (sum(|sale| sale.batches) as f64, sum(|sale| sale.round_trips) as f64, sum(|sale| sale.wal_bytes) as f64);
        let rss_mib = sales.iter().filter_map(|sale| sale.workers_rss_mib).max_by(f64::total_cmp);
        let paces: Vec<f64> = sales.iter().map(|sale| sale.purchases_per_second).collect();
        Self {
            purchases_per_second: round(median(&paces), 1e1),
            cpu_us_per_purchase: CpuFigures {
                broker: cpu(|cpu| cpu.broker),
                workers: cpu(|cpu| cpu.workers),
                database: cpu(|cpu| cpu.database),
                buyers: cpu(|cpu| cpu.buyers),
            },
            messages_per_batch: if batches > 0.0 { round(purchases / batches, 1e1) } else { 0.0 },
            round_trips_per_purchase: per_purchase(round_trips, 1e5),
            wal_bytes_per_purchase: per_purchase(wal_bytes, 1e0),
            queue_depth_peak: sales.iter().map(|sale| sale.queue_depth_peak).max().unwrap_or(0),
            workers_rss_mib: rss_mib.map(|mib| round(mib, 1e1)),
        }
    }
}

/// The median of the ratios of each pair: of two sales, one right after the other, the machine was busy with both, or with
/// neither, more often than not. A sale without a verdict has no pace, and is no pair; 0 where there is none.
pub(super) fn ratio_of_pairs(paces: &[f64], by: &[f64]) -> f64 {
    let pairs = paces.iter().zip(by).filter(|(_, by)| **by > 0.0);
    round(median(&pairs.map(|(pace, by)| pace / by).collect::<Vec<_>>()), 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken() -> Taken {
        let ms = |ms| Some(Duration::from_millis(ms));
        Taken {
            purchases: 1_000,
            purchases_per_second: 5_000.0,
            cpu: CpuTimes { broker: ms(100), workers: ms(50), database: None, buyers: ms(10) },
            batches: 4,
            round_trips: 12,
            wal_bytes: 900_000,
            queue_depth_peak: 700,
            workers_rss_mib: Some(30.0),
        }
    }

    #[test]
    fn a_cost_is_what_was_taken_by_the_purchases_it_was_taken_for() {
        let figures = Figures::of(&[taken()]);
        let cpu = &figures.cpu_us_per_purchase;
        assert_eq!((cpu.broker, cpu.workers, cpu.database, cpu.buyers), (Some(100.0), Some(50.0), None, Some(10.0)));
        assert_eq!((figures.messages_per_batch, figures.round_trips_per_purchase), (250.0, 0.012));
        assert_eq!((figures.wal_bytes_per_purchase, figures.workers_rss_mib), (900.0, Some(30.0)));
        assert_eq!(figures.queue_depth_peak, 700);
    }

    #[test]
    fn a_long_sale_weighs_more_and_the_pace_is_the_median() {
        let long = Taken { purchases: 9_000, batches: 6, wal_bytes: 100_000, purchases_per_second: 9_000.0, ..taken() };
        let disturbed = Taken { purchases: 0, batches: 0, wal_bytes: 0, purchases_per_second: 1.0, ..taken() };
        let figures = Figures::of(&[taken(), long, disturbed]);
        assert_eq!((figures.wal_bytes_per_purchase, figures.messages_per_batch), (100.0, 1_000.0));
        assert_eq!(figures.purchases_per_second, 5_000.0);
    }

    #[test]
    fn whoever_was_not_seen_once_is_not_in_the_sum() {
        let unseen = Taken { cpu: CpuTimes::default(), ..taken() };
        assert_eq!(Figures::of(&[taken(), unseen]).cpu_us_per_purchase.broker, None);
    }

    #[test]
    fn one_cost_by_another_is_without_the_buyers_and_needs_everybody_else() {
        let cpu = |broker, buyers| CpuFigures { broker, workers: Some(20.0), database: Some(30.0), buyers };
        assert_eq!(cpu(Some(40.0), Some(1.0)).ratio(&cpu(Some(50.0), None)), Some(0.9));
        assert_eq!(
            (cpu(None, None).ratio(&cpu(Some(50.0), None)), cpu(Some(1.0), None).ratio(&cpu(None, None))),
            (None, None)
        );
    }

    #[test]
    fn a_ratio_is_that_of_neighbours_so_that_a_busy_machine_is_not_in_it() {
        assert_eq!(ratio_of_pairs(&[95.0, 45.0, 96.0], &[100.0, 50.0, 100.0]), 0.95);
        assert_eq!((ratio_of_pairs(&[1.0, 3.0], &[0.0, 6.0]), ratio_of_pairs(&[], &[])), (0.5, 0.0));
    }
}
