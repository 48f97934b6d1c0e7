//! The result of a run, in exactly the keys that loadtest/README.md documents. Only data.

use crate::audit::Audit;
use crate::faults::{CrashReport, EventReport, FaultKind};
use crate::machine::Machine;
use crate::orders::demo::{DemoStep, Winner};
use crate::orders::report::OrdersReport;
use crate::queues::DepthSample;
use crate::schedule::Scenario;
use crate::stats::{Reference, Timing};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    pub scenario: ScenarioReport,
    pub servers: ServersReport,
    pub machine: Machine,
    #[serde(flatten)]
    pub audit: Audit,
    #[serde(flatten)]
    pub timing: Timing,
    /// How many messages the requests went in, those that were sent again among them; by HTTP, how many requests were made.
    pub messages: u64,
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
    /// How many faults of each kind were drawn and done, those crashes among them.
    pub faults: BTreeMap<FaultKind, u32>,
    pub workers: Vec<WorkerReport>,
    /// What the same buyers get from workers that touch no database, where it was measured.
    pub ceiling: Option<Reference>,
    /// What became of the orders, where they had a life after their verdict.
    pub life: Option<OrdersReport>,
    /// What happened to two orders, where they were to be shown.
    pub shown: Option<Vec<DemoStep>>,
    pub passed: bool,
    /// The most buyers that were waiting for their verdict, as sampled.
    pub waiting_peak: u64,
    /// Messages ready, buyers waiting and requests sold, over time.
    pub queue_depth: Vec<DepthSample>,
    /// How many messages a hostile sender sent meanwhile.
    pub hostile_messages: u64,
    /// How often the buyers lost the broker and came back.
    pub reconnects: u32,
    /// What buyers met at the doors; `null` where they sent their requests to the queue themselves.
    pub doors: Option<DoorsReport>,
    /// Whose order can go on after the sale.
    #[serde(skip)]
    pub winner: Option<Winner>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ScenarioReport {
    #[serde(flatten)]
    pub sale: Scenario,
    pub workers: u32,
    pub strategy: &'static str,
    /// The batch limit that was asked for; `null` leaves the worker its own.
    pub batch_max: Option<u32>,
}

/// What doors answered that is no verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DoorsReport {
    /// Answers that a request is not decided yet (202).
    pub not_yet: u64,
    /// Requests that got no answer, or none that says anything of the purchase, and were asked again: refused, reset, timed_out,
    /// unavailable (503) and other, without the kinds that did not occur.
    pub failures: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ServersReport {
    pub rabbitmq: String,
    /// The database's version; `null` where none took part.
    pub postgresql: Option<String>,
    /// The version of what counted; `null` where the strategy needs none.
    pub redis: Option<String>,
}

/// For people.
impl fmt::Display for ServersReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RabbitMQ {}", self.rabbitmq)?;
        let others = [("PostgreSQL", &self.postgresql), ("Redis", &self.redis)];
        others
            .into_iter()
            .filter_map(|(name, version)| Some((name, version.as_ref()?)))
            .try_for_each(|(name, version)| write!(formatter, ", {name} {version}"))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerReport {
    /// The id, as its replies carry it.
    pub id: String,
    pub verdicts: u64,
    /// Peak resident memory; `null` for a worker that was not started here.
    pub rss_mib: Option<f64>,
}
