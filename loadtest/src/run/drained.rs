//! A sale after its end: what the buyers were told, held against what was recorded.

use crate::answers::Answers;
use crate::audit::{Audit, Evidence, Scope, database_state};
use crate::database;
use crate::failure::Failure;
use crate::orders::demo::Winner;
use crate::orders::report::OrdersReport;
use crate::queues::{Depth, DepthSample};
use crate::result::{Outcome, WorkerReport};
use crate::schedule::Schedule;
use crate::stats::Timing;
use shared::messages::Verdict;

/// A sale that is over: nobody buys or decides any more, and nobody has looked at what was recorded.
pub struct Drained {
    /// But for what the database holds.
    pub(super) evidence: Evidence,
    pub(super) database_url: String,
    pub(super) depth: Vec<Depth>,
    /// As far as it is known.
    pub(super) outcome: Outcome,
}

impl Drained {
    /// Holds what was recorded against what the buyers were told.
    pub async fn audit(mut self) -> Result<Outcome, Failure> {
        let Evidence { scope, schedule, .. } = &self.evidence;
        if *scope >= Scope::Records {
            let database = database::open(&self.database_url).await?;
            self.evidence.database = database_state::read(&database, schedule, *scope == Scope::Orders).await?;
            database.close().await;
        }
        let Evidence { scope, schedule, answers, database, .. } = &self.evidence;
        let audit = Audit::of(&self.evidence);
        let (attempts, conflicts) = database.attempts_and_conflicts();
        let queue_depth = DepthSample::all(&self.depth, schedule, answers, &audit.sold_at);
        let peak = |of: fn(&DepthSample) -> u64| queue_depth.iter().map(of).max().unwrap_or(0);
        Ok(Outcome {
            passed: audit.passed(),
            audit,
            timing: Timing::of(schedule, answers),
            attempts,
            conflicts,
            queue_depth_peak: peak(|sample| sample.messages),
            waiting_peak: peak(|sample| sample.waiting),
            queue_depth,
            life: (*scope == Scope::Orders).then(|| OrdersReport::of(&self.evidence)),
            winner: winner(answers),
            ..self.outcome
        })
    }
}

/// The first buyer who was told `reserved`, and the order.
fn winner(answers: &Answers) -> Option<Winner> {
    answers.answers.iter().enumerate().find_map(|(index, answer)| {
        let verdict: Verdict = serde_json::from_slice(answer.body.as_deref()?).ok()?;
        Some(Winner { buyer: Schedule::buyer(index), order: verdict.order? })
    })
}

/// Each worker's part: ours in order of their start, then whoever else replied.
pub(super) fn shares(answers: &Answers, memory: Vec<(String, Option<f64>)>) -> Vec<WorkerReport> {
    let mut verdicts = vec![0; answers.worker_ids.len()];
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
