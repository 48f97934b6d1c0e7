//! A sale after its end: what the buyers were told, held against what was recorded.

use shared::messages::Verdict;

use crate::answers::Answers;
use crate::audit::{Audit, Evidence, Scope, database_state};
use crate::database;
use crate::failure::Failure;
use crate::faults::{CrashReport, EventReport};
use crate::machine::Machine;
use crate::orders::demo::Winner;
use crate::orders::report::OrdersReport;
use crate::queues::DepthSample;
use crate::result::{Outcome, ScenarioReport, ServersReport, WorkerReport};
use crate::schedule::{Scenario, Schedule};
use crate::stats::Timing;
use crate::strategy::Strategy;
use crate::workers::WorkerSpec;

/// What decides in a sale without a database.
const STRATEGY_OF_CEILING: &str = "none";

/// A sale that is over: nobody buys or decides any more, and nobody has looked at what was recorded.
pub struct Drained {
    /// But for what the database holds.
    pub(super) evidence: Evidence,
    pub(super) database_url: String,
    pub(super) scenario: ScenarioReport,
    pub(super) servers: ServersReport,
    pub(super) depth: Vec<DepthSample>,
    pub(super) events: Vec<EventReport>,
    pub(super) crashes: Vec<CrashReport>,
    pub(super) workers: Vec<WorkerReport>,
    pub(super) reconnects: u32,
}

impl Drained {
    /// The first buyer who was told `reserved`, and the order.
    pub fn winner(&self) -> Option<Winner> {
        let bodies = self.evidence.answers.answers.iter().map(|answer| answer.body.as_deref());
        bodies.enumerate().find_map(|(index, body)| {
            let verdict: Verdict = serde_json::from_slice(body?).ok()?;
            Some(Winner { buyer: Schedule::buyer(index), order: verdict.order? })
        })
    }

    /// Holds what was recorded against what the buyers were told.
    pub async fn audit(mut self) -> Result<Outcome, Failure> {
        let Evidence { scope, schedule, .. } = &self.evidence;
        if *scope >= Scope::Records {
            let database = database::open(&self.database_url).await?;
            let read = database_state::read(&database, schedule, *scope == Scope::Orders).await;
            self.evidence.database = read.map_err(database::failed)?;
            database.close().await;
        }
        let Evidence { scope, schedule, answers, database, .. } = &self.evidence;
        let audit = Audit::of(&self.evidence);
        let timing = Timing::of(schedule, answers);
        let (attempts, conflicts) = database.attempts_and_conflicts();
        Ok(Outcome {
            scenario: self.scenario,
            servers: self.servers,
            machine: Machine::here(),
            passed: audit.passed(),
            verdicts: audit.verdicts,
            lost: audit.lost,
            duplicate_replies: audit.duplicate_replies,
            conflicting_replies: audit.conflicting_replies,
            oversold: audit.oversold,
            order_inversions: audit.order_inversions,
            seconds: timing.seconds,
            purchases_per_second: timing.purchases_per_second,
            latency_ms: timing.latency_ms,
            latency_curve: timing.latency_curve,
            attempts,
            conflicts,
            queue_depth_peak: self.depth.iter().map(|sample| sample.messages).max().unwrap_or(0),
            waiting_peak: self.depth.iter().map(|sample| sample.waiting).max().unwrap_or(0),
            queue_depth: DepthSample::with_sold(self.depth, audit.sold_at),
            events: self.events,
            crashes: self.crashes,
            workers: self.workers,
            ceiling: None,
            life: (*scope == Scope::Orders).then(|| OrdersReport::of(&self.evidence)),
            shown: None,
            invariants: audit.invariants,
            reconnects: self.reconnects,
        })
    }
}

pub(super) fn scenario(scenario: &Scenario, workers: &WorkerSpec) -> ScenarioReport {
    ScenarioReport {
        buyers: scenario.buyers,
        stock: scenario.stock,
        items: scenario.items,
        workers: workers.count,
        strategy: workers.strategy.map_or(STRATEGY_OF_CEILING, Strategy::as_str),
        batch_max: workers.batch_max,
        rate: scenario.rate,
        seed: scenario.seed,
    }
}

/// Each worker's part: ours in order of their start, then whoever else replied.
pub(super) fn shares(answers: &Answers, memory: Vec<(String, Option<f64>)>) -> Vec<WorkerReport> {
    let mut verdicts = vec![0_u64; answers.worker_ids.len()];
    for answer in answers.answers.iter().filter(|answer| answer.body.is_some()) {
        verdicts[answer.worker] += 1;
    }
    let mut reports: Vec<WorkerReport> =
        memory.into_iter().map(|(id, rss_mib)| WorkerReport { id, verdicts: 0, rss_mib }).collect();
    for (id, verdicts) in answers.worker_ids.iter().zip(verdicts) {
        match reports.iter_mut().find(|report| report.id == *id) {
            Some(report) => report.verdicts = verdicts,
            None => reports.push(WorkerReport { id: id.clone(), verdicts, rss_mib: None }),
        }
    }
    reports
}
