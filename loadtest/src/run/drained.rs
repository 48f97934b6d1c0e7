//! A sale after its end: what the buyers were told, held against what was recorded.

use std::sync::Arc;

use shared::messages::Verdict;

use crate::answers::Answers;
use crate::auditor::{Audit, Ending, Facts, LifeFacts};
use crate::failure::Failure;
use crate::faults::{CrashReport, EventReport};
use crate::life::follow_ups::FollowUps;
use crate::life::living::Lived;
use crate::life::report::LifeReport;
use crate::life::show::Winner;
use crate::machine::Machine;
use crate::queues::DepthSample;
use crate::result::{Outcome, ScenarioReport, ServersReport, WorkerReport};
use crate::schedule::{Scenario, Schedule};
use crate::stats::Timing;
use crate::strategy::Strategy;
use crate::workers::WorkerSpec;
use crate::{database, facts, life};

/// What decides in a sale without a database.
const STRATEGY_OF_CEILING: &str = "none";

/// A sale that is over: nobody buys or decides any more, and nobody has looked at what was recorded.
pub struct Drained {
    pub(super) schedule: Arc<Schedule>,
    pub(super) database_url: String,
    pub(super) scenario: ScenarioReport,
    pub(super) servers: ServersReport,
    pub(super) answers: Answers,
    pub(super) follow_ups: Option<FollowUps>,
    pub(super) orders: Option<Lived>,
    pub(super) depth: Vec<DepthSample>,
    pub(super) dead_growth: i64,
    pub(super) events: Vec<EventReport>,
    pub(super) crashes: Vec<CrashReport>,
    pub(super) workers: Vec<WorkerReport>,
    pub(super) endings: Vec<Ending>,
    pub(super) reconnects: u32,
}

impl Drained {
    /// The first buyer who was told `reserved`, and the order.
    pub fn winner(&self) -> Option<Winner> {
        let bodies = self.answers.answers.iter().map(|answer| answer.body.as_deref());
        bodies.enumerate().find_map(|(index, body)| {
            let verdict: Verdict = serde_json::from_slice(body?).ok()?;
            Some(Winner { buyer: Schedule::buyer(index), order: verdict.order? })
        })
    }

    /// Holds what was recorded against what the buyers were told.
    pub async fn audit(self) -> Result<Outcome, Failure> {
        let (mut recorded, mut recorded_life) = (None, None);
        if self.servers.postgresql.is_some() {
            let database = database::open(&self.database_url).await?;
            recorded = Some(facts::read(&database, &self.schedule).await.map_err(database::failed)?);
            if self.orders.is_some() {
                let read = life::facts::read(&database, &self.schedule).await;
                recorded_life = Some(read.map_err(database::failed)?);
            }
            database.close().await;
        }
        let followed = self.orders.as_ref().zip(self.follow_ups.as_ref());
        let life_facts = followed.zip(recorded_life.as_ref()).map(|((lived, follow_ups), recorded)| LifeFacts {
            follow_ups,
            ledger: &lived.ledger,
            events: &lived.events,
            recorded,
            is_over: lived.plan.hold.is_some(),
        });
        let audit = Audit::of(&Facts {
            schedule: &self.schedule,
            answers: &self.answers,
            dead_growth: self.dead_growth,
            endings: &self.endings,
            recorded: recorded.as_ref(),
            life: life_facts,
        });
        let report = followed.zip(recorded.as_ref());
        let life = report.map(|((lived, follow_ups), recorded)| LifeReport::of(lived, follow_ups, recorded));
        let timing = Timing::of(&self.schedule, &self.answers);
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
            attempts: recorded.as_ref().map_or(0, |recorded| recorded.attempts()),
            conflicts: recorded.as_ref().map_or(0, |recorded| recorded.conflicts()),
            queue_depth_peak: self.depth.iter().map(|sample| sample.messages).max().unwrap_or(0),
            waiting_peak: self.depth.iter().map(|sample| sample.waiting).max().unwrap_or(0),
            queue_depth: DepthSample::with_sold(self.depth, audit.sold_at),
            events: self.events,
            crashes: self.crashes,
            workers: self.workers,
            ceiling: None,
            life,
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
