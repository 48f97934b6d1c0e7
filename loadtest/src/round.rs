//! One run of buyers against workers, whatever the workers do: the part that a sale and the ceiling share.
//!
//! Knows queues, workers and buyers, and no database. Invariant: between [`Round::prepare`] and [`Round::finish`]
//! everything that runs belongs to the round, and ends when it is dropped.

use std::sync::Arc;
use std::time::Duration;

use shared::devstack::Redis;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::answers::Answers;
use crate::audit::Ending;
use crate::buyers::Buyers;
use crate::crashes::Crashes;
use crate::depth::DepthSampler;
use crate::failure::Failure;
use crate::orders::follow_ups::FollowUps;
use crate::orders::plan::Plan;
use crate::outcome::{CrashReport, DepthSample, EventReport, Timing, WorkerReport};
use crate::probe::Probe;
use crate::scenario::Schedule;
use crate::unrest::Unrest;
use crate::workers::{Crew, Endpoints, Staff, Workers};

/// Between two looks at the workers while the buyers wait.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Buyers and workers, ready or at work.
pub struct Round<'a> {
    endpoints: Endpoints,
    schedule: Arc<Schedule>,
    staff: Staff,
    dead_before: i64,
    answered: watch::Receiver<usize>,
    unrest: Unrest<'a>,
    crashes: Crashes,
    opened: Instant,
    stage: Stage,
}

/// What makes a round more than purchases.
#[derive(Debug)]
pub struct Beside {
    /// What buyers do with the units that they got.
    pub plan: Plan,
    /// Who works beside the purchase crew.
    pub crews: Vec<Crew>,
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
    /// What they asked for next, and were told; `None` where nobody follows up.
    pub follow_ups: Option<FollowUps>,
    /// What the clock says.
    pub timing: Timing,
    /// How deep the queues were.
    pub depth: Vec<DepthSample>,
    /// How many messages the queue `dead` gained.
    pub dead_growth: i64,
    /// What was done to workers and servers.
    pub events: Vec<EventReport>,
    /// Who was killed at random.
    pub crashes: Vec<CrashReport>,
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
    pub async fn prepare(
        endpoints: &Endpoints,
        schedule: Arc<Schedule>,
        crew: Crew,
        beside: Option<Beside>,
    ) -> Result<Self, Failure> {
        let probe = Probe::connect(&endpoints.amqp_url).await?;
        probe.declare_topology().await?;
        let dead_before = probe.dead().await?;
        let (plan, crews) = beside.map(|beside| (beside.plan, beside.crews)).unzip();
        let staff = Staff::start(crew, crews.unwrap_or_default(), endpoints).await?;
        let buyers = Buyers::connect(&endpoints.amqp_url, Arc::clone(&schedule), plan).await?;
        let answered = buyers.answered();
        let stage = Stage::Ready(Box::new(buyers), Box::new(probe));
        let unrest = Unrest::default();
        Ok(Self {
            endpoints: endpoints.clone(),
            schedule,
            staff,
            dead_before,
            answered,
            unrest,
            crashes: Crashes::default(),
            opened: Instant::now(),
            stage,
        })
    }

    /// Has this done to workers and servers while the buyers are at work.
    #[must_use]
    pub(crate) fn with_unrest(self, unrest: Unrest<'a>) -> Self {
        Self { unrest, ..self }
    }

    /// Gives its unrest the Redis that it kills.
    #[must_use]
    pub fn with_redis(self, redis: Option<&'a mut Redis>) -> Self {
        Self { unrest: self.unrest.with_redis(redis), ..self }
    }

    /// Has these workers killed, and replaced, meanwhile.
    #[must_use]
    pub fn with_crashes(self, crashes: Crashes) -> Self {
        Self { crashes, ..self }
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

    /// The purchase function's processes, for tests that disturb them.
    pub fn workers(&mut self) -> &mut Workers {
        &mut self.staff.purchase
    }

    /// Waits for every verdict (or the end of patience, or of the last worker), then for `rest`, then drains the workers.
    ///
    /// # Errors
    /// The broker stays away, the buyers were never let in, or `rest` fails.
    pub async fn finish(self, rest: impl Future<Output = Result<(), Failure>>) -> Result<Tally, Failure> {
        let Self { endpoints, schedule, staff, dead_before, answered, unrest, crashes, opened, stage } = self;
        let Stage::Open(mut buying, depth) = stage else {
            return Err(Failure::Broken(anyhow::anyhow!("the sale was never opened")));
        };
        let mut work = Work { requests: schedule.requests.len(), staff, answered, unrest, crashes, opened };
        let (buyers, bought) = work.until_bought(&mut buying).await?;
        bought?;
        let depth = depth.stop().await;
        work.until_rested(rest).await?;
        let Work { mut staff, answered, unrest, crashes, .. } = work;
        let answered = *answered.borrow();
        let done = unrest.settle(answered, &mut staff.purchase).await?;
        staff.all_ready().await?;
        staff.sample_memory();
        let memory = staff.purchase.memory();
        let endings = staff.drain().await;
        let (answers, follow_ups, reconnects) = buyers.leave().await;
        let probe = Probe::connect(&endpoints.amqp_url).await?;
        let dead_growth = probe.dead().await? - dead_before;
        probe.close().await;
        let timing = Timing::of(&schedule, &answers);
        let events = done.into_iter().map(|done| done.report(opened, &schedule, &answers)).collect();
        let (workers, crashes) = (shares(&answers, memory), crashes.done());
        Ok(Tally { answers, follow_ups, timing, depth, dead_growth, events, crashes, workers, endings, reconnects })
    }
}

/// A round at work: who works, and what is done to them meanwhile.
struct Work<'a> {
    requests: usize,
    staff: Staff,
    answered: watch::Receiver<usize>,
    unrest: Unrest<'a>,
    crashes: Crashes,
    opened: Instant,
}

type Bought = (Box<Buyers>, Result<(), Failure>);

impl Work<'_> {
    async fn until_bought(&mut self, buying: &mut JoinSet<Bought>) -> Result<Bought, Failure> {
        let mut watch = interval(WATCH_PAUSE);
        loop {
            tokio::select! {
                ended = buying.join_next() => {
                    let ended = ended.map(|ended| ended.map_err(|error| Failure::Broken(error.into())));
                    return ended.unwrap_or_else(|| Err(Failure::Broken(anyhow::anyhow!("the buyers are gone"))));
                }
                () = self.unrest.due(&mut self.answered) => {
                    let answered = *self.answered.borrow();
                    self.unrest.act(answered, &mut self.staff.purchase).await?;
                }
                () = self.crashes.due(self.opened) => self.crashes.act(self.opened, &mut self.staff).await?,
                _ = watch.tick() => {
                    self.staff.sample_memory();
                    // After the last verdict nobody needs them, and an event may have ended them all.
                    if *self.answered.borrow() < self.requests && self.staff.purchase.all_ended() {
                        return Err(Failure::Broken(self.staff.purchase.all_gone()));
                    }
                }
            }
        }
    }

    /// Waits for `rest` and for every crash, whichever is later.
    async fn until_rested(&mut self, rest: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        let mut rest = std::pin::pin!(rest);
        let mut is_rested = false;
        while !is_rested || !self.crashes.are_over() {
            tokio::select! {
                rested = &mut rest, if !is_rested => {
                    rested?;
                    is_rested = true;
                }
                () = self.crashes.due(self.opened) => self.crashes.act(self.opened, &mut self.staff).await?,
            }
        }
        Ok(())
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
