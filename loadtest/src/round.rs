//! One run of buyers against workers, whatever the workers do: the part that a sale and the ceiling share.
//!
//! Knows queues, workers and buyers, and no database. Invariant: between [`Round::prepare`] and [`Round::finish`]
//! everything that runs belongs to the round, and ends when it is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::answers::Answers;
use crate::auditor::Ending;
use crate::buyers::Buyers;
use crate::depth::DepthSampler;
use crate::failure::Failure;
use crate::outcome::{DepthSample, EventReport, Timing, WorkerReport};
use crate::probe::Probe;
use crate::scenario::Schedule;
use crate::unrest::Unrest;
use crate::workers::{Crew, Endpoints, Workers};

/// Between two looks at the workers while the buyers wait.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Buyers and workers, ready or at work.
pub struct Round<'a> {
    endpoints: Endpoints,
    schedule: Arc<Schedule>,
    workers: Workers,
    dead_before: i64,
    answered: watch::Receiver<usize>,
    unrest: Unrest<'a>,
    opened: Instant,
    stage: Stage,
}

enum Stage {
    Ready(Box<Buyers>, Box<Probe>),
    /// The buyers are at work in the set's only task.
    Open(JoinSet<(Box<Buyers>, Result<(), Failure>)>, DepthSampler),
}

/// What came of a round.
#[derive(Debug)]
pub struct Tally {
    /// What the buyers were told.
    pub answers: Answers,
    /// What the clock says.
    pub timing: Timing,
    /// How deep the queues were.
    pub depth: Vec<DepthSample>,
    /// How many messages the queue `dead` gained.
    pub dead_growth: i64,
    /// What was done to workers and broker.
    pub events: Vec<EventReport>,
    /// Who replied, and how much memory it took.
    pub workers: Vec<WorkerReport>,
    /// How the workers ended.
    pub endings: Vec<Ending>,
    /// How often the buyers lost the broker.
    pub reconnects: u32,
}

impl<'a> Round<'a> {
    /// Starts the workers and connects the buyers; everything is ready for the first request then.
    ///
    /// # Errors
    /// The broker is away or has other queues than ours; a worker does not start.
    pub async fn prepare(endpoints: &Endpoints, schedule: Arc<Schedule>, crew: Crew) -> Result<Self, Failure> {
        let probe = Probe::connect(&endpoints.amqp_url).await?;
        probe.declare_topology().await?;
        let dead_before = probe.dead().await?;
        let workers = Workers::start(crew, endpoints).await?;
        let buyers = Buyers::connect(&endpoints.amqp_url, Arc::clone(&schedule)).await?;
        let answered = buyers.answered();
        let stage = Stage::Ready(Box::new(buyers), Box::new(probe));
        let unrest = Unrest::default();
        Ok(Self {
            endpoints: endpoints.clone(),
            schedule,
            workers,
            dead_before,
            answered,
            unrest,
            opened: Instant::now(),
            stage,
        })
    }

    /// Has this done to workers and broker while the buyers are at work.
    #[must_use]
    pub(crate) fn with_unrest(self, unrest: Unrest<'a>) -> Self {
        Self { unrest, ..self }
    }

    /// Lets the buyers in; they wait for their verdicts no longer than `patience`. To be called once.
    #[must_use]
    pub fn open(self, patience: Duration) -> Self {
        let Stage::Ready(mut buyers, probe) = self.stage else { return self };
        let depth = DepthSampler::start(*probe, self.endpoints.amqp_url.clone(), buyers.waiting());
        let mut buying = JoinSet::new();
        buying.spawn(async move {
            // Running out of patience is no failure: the audit names whoever got no verdict.
            let bought = timeout(patience, buyers.buy()).await.unwrap_or(Ok(()));
            (buyers, bought)
        });
        Self { stage: Stage::Open(buying, depth), opened: Instant::now(), ..self }
    }

    /// How many requests have a verdict, as it grows.
    #[must_use]
    pub fn answered(&self) -> watch::Receiver<usize> {
        self.answered.clone()
    }

    /// The worker processes, for tests that disturb them.
    pub fn workers(&mut self) -> &mut Workers {
        &mut self.workers
    }

    /// Waits for every verdict (or the end of patience, or of the last worker), then drains the workers.
    ///
    /// # Errors
    /// The broker stays away, or the buyers were never let in.
    pub async fn finish(self) -> Result<Tally, Failure> {
        let Self { endpoints, schedule, mut workers, dead_before, mut answered, mut unrest, opened, stage } = self;
        let Stage::Open(mut buying, depth) = stage else {
            return Err(Failure::Broken(anyhow::anyhow!("the sale was never opened")));
        };
        let all = schedule.requests.len();
        let (buyers, bought) = wait(&mut buying, all, &mut workers, &mut answered, &mut unrest).await?;
        bought?;
        let answered = *answered.borrow();
        let done = unrest.settle(answered, &mut workers).await?;
        let depth = depth.stop().await;
        workers.sample_memory();
        let memory = workers.memory();
        let endings = workers.drain().await;
        let (answers, reconnects) = buyers.leave().await;
        let probe = Probe::connect(&endpoints.amqp_url).await?;
        let dead_growth = probe.dead().await? - dead_before;
        probe.close().await;
        let timing = Timing::of(&schedule, &answers);
        let events = done.into_iter().map(|done| done.report(opened, &schedule, &answers)).collect();
        let workers = shares(&answers, memory);
        Ok(Tally { answers, timing, depth, dead_growth, events, workers, endings, reconnects })
    }
}

async fn wait(
    buying: &mut JoinSet<(Box<Buyers>, Result<(), Failure>)>,
    requests: usize,
    workers: &mut Workers,
    answered: &mut watch::Receiver<usize>,
    unrest: &mut Unrest<'_>,
) -> Result<(Box<Buyers>, Result<(), Failure>), Failure> {
    let mut watch = interval(WATCH_PAUSE);
    loop {
        tokio::select! {
            ended = buying.join_next() => {
                let ended = ended.map(|ended| ended.map_err(|error| Failure::Broken(error.into())));
                return ended.unwrap_or_else(|| Err(Failure::Broken(anyhow::anyhow!("the buyers are gone"))));
            }
            () = unrest.due(answered) => {
                let answered = *answered.borrow();
                unrest.act(answered, workers).await?;
            }
            _ = watch.tick() => {
                workers.sample_memory();
                // After the last verdict nobody needs them, and an event may have ended them all.
                if *answered.borrow() < requests && workers.all_ended() {
                    return Err(Failure::Broken(workers.all_gone()));
                }
            }
        }
    }
}

/// Each worker's part: ours in order of their start, then whoever else replied.
fn shares(answers: &Answers, memory: Vec<(String, Option<f64>)>) -> Vec<WorkerReport> {
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
