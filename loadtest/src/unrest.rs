//! Does to workers and servers what a plan of [`crate::events`] says, when it is due. Knows how many buyers are answered, and
//! nothing of the sale else.
//!
//! Invariant: whoever was frozen is woken, at the latest by [`Unrest::settle`]; nobody is chosen who is frozen, was told
//! to stop, or has ended.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context;
use shared::devstack::{Redis, Signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::aftermath::until_next_verdict;
use crate::answers::Answers;
use crate::cluster::Cluster;
use crate::events::{Action, Event};
use crate::failure::Failure;
use crate::outcome::{EventReport, round};
use crate::scenario::Schedule;
use crate::workers::Workers;

/// The events of one sale: those to come, and those that were.
#[derive(Debug, Default)]
pub(crate) struct Unrest<'a> {
    to_come: VecDeque<(usize, Event)>,
    freeze: Duration,
    /// Who is frozen, by index, and when to wake it; the first to be woken comes first.
    frozen: VecDeque<(usize, Instant)>,
    /// The broker, where it is ours to kill.
    cluster: Option<Cluster<'a>>,
    /// What counts, where it is ours to kill.
    redis: Option<&'a mut Redis>,
    done: Vec<Done>,
}

/// An event that came to pass.
#[derive(Debug)]
pub(crate) struct Done {
    event: Event,
    worker: Option<String>,
    broker_node: Option<String>,
    at: Instant,
}

impl Done {
    /// What it meant for the buyers of a sale that began at `opened`.
    pub(crate) fn report(self, opened: Instant, schedule: &Schedule, answers: &Answers) -> EventReport {
        let Self { event: Event { at, action: event }, worker, broker_node, at: done } = self;
        let done = done.saturating_duration_since(opened);
        let next_verdict =
            worker.as_ref().and_then(|worker| until_next_verdict(schedule, answers, event, worker, done));
        let seconds = |duration: Duration| round(duration.as_secs_f64(), 1e3);
        let next_verdict_seconds = next_verdict.map(seconds);
        EventReport { at, event, worker, broker_node, seconds: seconds(done), next_verdict_seconds }
    }
}

impl<'a> Unrest<'a> {
    /// The events of a plan, which is in order; who is frozen stays so for `freeze`. Only a plan that kills a node of the
    /// broker needs the cluster.
    pub(crate) fn new(plan: Vec<(usize, Event)>, freeze: Duration, cluster: Option<Cluster<'a>>) -> Self {
        Self { to_come: plan.into(), freeze, cluster, ..Self::default() }
    }

    /// A plan that kills Redis needs it.
    pub(crate) fn with_redis(self, redis: Option<&'a mut Redis>) -> Self {
        Self { redis, ..self }
    }

    /// Returns when [`Unrest::act`] has something to do; never, when there is nothing to come. May be dropped.
    pub(crate) async fn due(&self, answered: &mut watch::Receiver<usize>) {
        let event = async {
            let Some(&(due, _)) = self.to_come.front() else { return std::future::pending().await };
            // Once the buyers have left, nothing more is answered.
            if answered.wait_for(|answered| *answered >= due).await.is_err() {
                std::future::pending().await
            }
        };
        let wake = async {
            let Some(&(_, at)) = self.frozen.front() else { return std::future::pending().await };
            sleep_until(at).await;
        };
        tokio::select! {
            () = event => (),
            () = wake => (),
        }
    }

    /// Wakes whoever has been frozen for long enough, and does every event that is due when so many are answered.
    ///
    /// # Errors
    /// A worker cannot be started, does not become ready, or the system refuses a signal.
    pub(crate) async fn act(&mut self, answered: usize, workers: &mut Workers) -> Result<(), Failure> {
        self.wake_until(Instant::now(), workers)?;
        while let Some((_, event)) = self.to_come.pop_front_if(|(due, _)| *due <= answered) {
            let at = Instant::now();
            let (worker, broker_node) = match event.action {
                Action::KillBroker => (None, self.kill_node().await?),
                Action::KillRedis => {
                    self.kill_redis().await?;
                    (None, None)
                }
                Action::Add | Action::Stop | Action::Kill | Action::Freeze => {
                    (self.act_on_one(event.action, workers).await?, None)
                }
            };
            tracing::info!(at = %event.at, worker, broker_node, "{}", event.action.past());
            self.done.push(Done { event, worker, broker_node, at });
        }
        Ok(())
    }

    /// Does what is still due when the last buyer has left, and leaves every worker awake and ready to drain.
    ///
    /// # Errors
    /// As [`Unrest::act`].
    pub(crate) async fn settle(mut self, answered: usize, workers: &mut Workers) -> Result<Vec<Done>, Failure> {
        self.act(answered, workers).await?;
        for (index, _) in self.frozen {
            workers.signal(index, Signal::Continue)?;
        }
        workers.all_ready().await?;
        Ok(self.done)
    }

    fn wake_until(&mut self, now: Instant, workers: &mut Workers) -> Result<(), Failure> {
        while let Some((index, _)) = self.frozen.pop_front_if(|(_, at)| *at <= now) {
            workers.signal(index, Signal::Continue)?;
        }
        Ok(())
    }

    async fn kill_node(&mut self) -> Result<Option<String>, Failure> {
        let Some(cluster) = &mut self.cluster else { return Ok(None) };
        cluster.kill_node().await.map(Some)
    }

    async fn kill_redis(&mut self) -> Result<(), Failure> {
        let Some(redis) = &mut self.redis else { return Ok(()) };
        redis.kill_and_restart().await.context("kill Redis and start it again").map_err(Failure::Broken)
    }

    /// Returns the id of the worker that it was done to; `None` where there was none left to do it to.
    async fn act_on_one(&mut self, action: Action, workers: &mut Workers) -> Result<Option<String>, Failure> {
        let chosen = if action == Action::Add { Some(workers.count()) } else { workers.first_at_work() };
        let Some(index) = chosen else { return Ok(None) };
        match action {
            Action::Add => workers.start_another().await?,
            Action::Stop => {
                // Before it is ready, SIGTERM would end it like any program, and not make it drain.
                workers.ready(index).await?;
                workers.signal(index, Signal::Terminate)?;
            }
            Action::Kill => workers.kill(index).await?,
            Action::Freeze => {
                workers.signal(index, Signal::Stop)?;
                self.frozen.push_back((index, Instant::now() + self.freeze));
            }
            Action::KillBroker | Action::KillRedis => return Ok(None),
        }
        Ok(workers.id(index))
    }
}
