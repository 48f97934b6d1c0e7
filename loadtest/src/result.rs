//! The result of a run, in exactly the keys that loadtest/README.md documents. Only data.

use serde::Serialize;

use crate::audit::{Invariant, VerdictCounts};
use crate::faults::{CrashReport, EventReport};
use crate::machine::Machine;
use crate::orders::demo::DemoStep;
use crate::orders::report::OrdersReport;
use crate::queues::DepthSample;
use crate::stats::{CurvePoint, Latency};

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub scenario: ScenarioReport,
    pub servers: ServersReport,
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
    pub purchases_per_second: f64,
    /// From the intended send to the verdict.
    pub latency_ms: Latency,
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
    pub workers: Vec<WorkerReport>,
    /// The broker's limit, where it was measured.
    pub ceiling: Option<CeilingReport>,
    /// What became of the orders, where they had a life after their verdict.
    pub life: Option<OrdersReport>,
    /// The lives of two orders, where they were to be shown.
    pub shown: Option<Vec<DemoStep>>,
    pub invariants: Vec<Invariant>,
    pub passed: bool,
    /// The most buyers that were waiting for their verdict, as sampled.
    pub waiting_peak: u64,
    /// Messages ready, buyers waiting and requests sold, over time.
    pub queue_depth: Vec<DepthSample>,
    /// How often the buyers lost the broker and came back.
    pub reconnects: u32,
}

#[derive(Debug, Clone, Serialize)]
pub struct ScenarioReport {
    pub buyers: u32,
    pub stock: u64,
    pub items: u32,
    pub workers: u32,
    pub strategy: &'static str,
    /// The batch limit that was asked for; `null` leaves the worker its own.
    pub batch_max: Option<u32>,
    /// Arrivals per second; 0 is all at once.
    pub rate: f64,
    /// What chose who buys what and when.
    pub seed: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ServersReport {
    pub rabbitmq: String,
    /// The database's version; `null` where none took part.
    pub postgresql: Option<String>,
    /// The version of what counted; `null` where the strategy needs none.
    pub redis: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerReport {
    /// The id, as its replies carry it.
    pub id: String,
    pub verdicts: u64,
    /// Peak resident memory; `null` for a worker that was not started here.
    pub rss_mib: Option<f64>,
}

/// What the same buyers get from workers that touch no database: the mean, where it was measured twice.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CeilingReport {
    /// From the first intended send to the last reply.
    pub seconds: f64,
    pub purchases_per_second: f64,
    /// The sale's purchases per second by the ceiling's; `null` without a sale.
    pub ratio: Option<f64>,
}
