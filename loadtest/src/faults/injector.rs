//! Does to workers and servers what a sale's [`Faults`] say, when it is due.
//!
//! Whoever was frozen is woken, at the latest by [`Injector::finish`]; no event chooses a worker that is frozen, was asked
//! to stop, or has ended.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::pending;
use std::time::Duration;

use anyhow::Context;
use shared::devstack::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Action, CrashReport, Event, EventReport, Faults, until_next_verdict};
use crate::answers::Answers;
use crate::failure::Failure;
use crate::queues::Probe;
use crate::random::Random;
use crate::schedule::Schedule;
use crate::stats::round;
use crate::workers::Workers;

/// Keeps the choice of moments apart from other choices of the same seed.
const MOMENTS: u64 = 4;

pub(crate) struct Injector<'a> {
    faults: Faults<'a>,
    amqp_url: String,
    /// By the queue's name, the broker's node that leads it.
    leaders: HashMap<String, String>,
    opened: Instant,
    /// Each with the number of verdicts that it is due at.
    events: VecDeque<(usize, Event)>,
    /// What is due at a moment from the start of the sale.
    timed: BTreeSet<(Duration, Timed)>,
    done: Vec<EventReport>,
    crashed: Vec<CrashReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timed {
    /// Who is frozen, by index.
    Wake(usize),
    /// The number chooses among the workers that are there then.
    Crash(u64),
}

impl<'a> Injector<'a> {
    /// The faults of a sale of so many `buyers`, whose crashes are spread over this time. Asks who leads which queue, as
    /// that takes seconds, and leaders do not move before a node dies.
    pub(crate) async fn of(
        faults: Faults<'a>,
        amqp_url: &str,
        buyers: usize,
        crashes_over: Duration,
        seed: u64,
    ) -> Result<Self, Failure> {
        let leaders = match &faults.broker {
            Some(broker) => broker.rabbitmq.leaders(broker.vhost).await?,
            None => HashMap::new(),
        };
        let mut events = faults.events.clone();
        events.sort_by_key(|event| (event.at.percent(), event.action));
        Ok(Self {
            events: events.into_iter().map(|event| (event.answered(buyers), event)).collect(),
            timed: crashes(faults.crashes, crashes_over, seed),
            faults,
            amqp_url: amqp_url.to_owned(),
            leaders,
            opened: Instant::now(),
            done: Vec::new(),
            crashed: Vec::new(),
        })
    }

    pub(crate) fn open(&mut self) {
        self.opened = Instant::now();
    }

    /// Returns when [`Injector::act`] has something to do; never, when there is nothing to come. May be dropped.
    pub(crate) async fn due(&self, answered: &mut watch::Receiver<usize>) {
        let event = async {
            let Some(&(due, _)) = self.events.front() else { return pending().await };
            // Once the buyers have left, nothing more is answered.
            if answered.wait_for(|answered| *answered >= due).await.is_err() {
                pending().await
            }
        };
        let timed = async {
            match self.timed.first() {
                Some((at, _)) => sleep_until(self.opened + *at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = event => (),
            () = timed => (),
        }
    }

    /// Does whatever is due now and when so many are answered.
    pub(crate) async fn act(&mut self, answered: usize, workers: &mut Workers) -> Result<(), Failure> {
        while let Some((_, event)) = self.events.pop_front_if(|(due, _)| *due <= answered) {
            self.inject(event, workers).await?;
        }
        while let Some(&(at, timed)) = self.timed.first()
            && at <= self.opened.elapsed()
        {
            self.timed.pop_first();
            match timed {
                Timed::Wake(index) => workers.signal(index, Signal::Continue)?,
                Timed::Crash(pick) => {
                    let seconds = seconds(self.opened.elapsed());
                    if let Some(worker) = workers.crash(pick).await? {
                        tracing::info!(worker, seconds, "killed");
                        self.crashed.push(CrashReport { worker, seconds });
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the last crash, does what is still due, and leaves every worker awake and ready to drain.
    pub(crate) async fn finish(
        &mut self,
        answered: &mut watch::Receiver<usize>,
        workers: &mut Workers,
    ) -> Result<(), Failure> {
        let is_crash = |(_, timed): &(Duration, Timed)| matches!(timed, Timed::Crash(_));
        while self.timed.iter().any(is_crash) {
            self.due(answered).await;
            let answered = *answered.borrow();
            self.act(answered, workers).await?;
        }
        let answered = *answered.borrow();
        self.act(answered, workers).await?;
        for (_, timed) in std::mem::take(&mut self.timed) {
            if let Timed::Wake(index) = timed {
                workers.signal(index, Signal::Continue)?;
            }
        }
        workers.all_ready().await
    }

    /// What came to pass, and what it meant for the buyers.
    pub(crate) fn reports(mut self, schedule: &Schedule, answers: &Answers) -> (Vec<EventReport>, Vec<CrashReport>) {
        for event in &mut self.done {
            let at = Duration::from_secs_f64(event.seconds);
            let next = |worker: &String| until_next_verdict(schedule, answers, event.event, worker, at);
            event.next_verdict_seconds = event.worker.as_ref().and_then(next).map(seconds);
        }
        (self.done, self.crashed)
    }

    async fn inject(&mut self, event: Event, workers: &mut Workers) -> Result<(), Failure> {
        let at = self.opened.elapsed();
        let mut broker_node = None;
        let index = match event.action {
            Action::Add => Some(workers.start_another().await?),
            Action::Stop | Action::Kill | Action::Freeze => workers.first_at_work(),
            Action::KillBroker | Action::KillRedis => None,
        };
        match (event.action, index) {
            (Action::Add, _) | (Action::Stop | Action::Kill | Action::Freeze, None) => {}
            (Action::Stop, Some(index)) => {
                // Before it is ready, SIGTERM would end it like any program, and not make it drain.
                workers.ready(index).await?;
                workers.signal(index, Signal::Terminate)?;
            }
            (Action::Kill, Some(index)) => workers.kill(index).await?,
            (Action::Freeze, Some(index)) => {
                self.timed.insert((at + self.faults.freeze, Timed::Wake(index)));
                workers.signal(index, Signal::Stop)?;
            }
            (Action::KillBroker, _) => broker_node = self.kill_node().await?,
            (Action::KillRedis, _) => {
                if let Some(redis) = &mut self.faults.redis {
                    redis.kill_and_restart().await.context("kill Redis and start it again")?;
                }
            }
        }
        let worker = index.and_then(|index| workers.id(index));
        tracing::info!(at = %event.at, worker, broker_node, "{}", event.action.past());
        let (seconds, Event { at, action: event }) = (seconds(at), event);
        self.done.push(EventReport { at, event, worker, seconds, next_verdict_seconds: None, broker_node });
        Ok(())
    }

    /// Kills the node that leads what most requests wait in, and returns its name.
    async fn kill_node(&mut self) -> Result<Option<String>, Failure> {
        let Some(broker) = &mut self.faults.broker else { return Ok(None) };
        let probe = Probe::connect(&self.amqp_url).await?;
        let partitions = probe.partitions().await?;
        probe.close().await;
        let depths = partitions.iter().map(|queue| (queue.name().as_str(), queue.message_count()));
        let node = busiest(&self.leaders, depths).context("no node leads a partition")?;
        broker.rabbitmq.kill_node(&node).await?;
        Ok(Some(node))
    }
}

/// Moments spread uniformly over this time: equal seed, equal moments, and equal choices among equally many workers.
fn crashes(count: u32, over: Duration, seed: u64) -> BTreeSet<(Duration, Timed)> {
    let mut random = Random::of(seed, MOMENTS, u64::from(count));
    (0..count).map(|_| (over.mul_f64(random.unit()), Timed::Crash(random.next()))).collect()
}

/// The node that leads the partitions in which most requests wait; of several such, the one that leads more of them.
fn busiest<'a>(leaders: &HashMap<String, String>, depths: impl Iterator<Item = (&'a str, u32)>) -> Option<String> {
    let mut loads: HashMap<&str, (u32, usize)> = HashMap::new();
    for (partition, depth) in depths {
        if let Some(leader) = leaders.get(partition) {
            let load = loads.entry(leader).or_default();
            *load = (load.0 + depth, load.1 + 1);
        }
    }
    let busiest = loads.into_iter().max_by_key(|(node, load)| (*load, *node));
    busiest.map(|(node, _)| node.to_owned())
}

fn seconds(duration: Duration) -> f64 {
    round(duration.as_secs_f64(), 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Duration = Duration::from_secs(20);

    #[test]
    fn the_moments_are_spread_over_the_time_and_follow_from_the_seed() {
        let moments = crashes(50, OVER, 42);
        assert!(moments.len() == 50 && moments.iter().all(|(at, _)| *at <= OVER));
        let late = moments.iter().filter(|(at, _)| *at > OVER / 2).count();
        assert!((10..=40).contains(&late), "they are spread: {late}");
        assert_eq!(moments, crashes(50, OVER, 42));
        assert_ne!(moments, crashes(50, OVER, 43));
    }

    #[test]
    fn the_node_that_most_requests_wait_for_is_the_one_and_where_nothing_waits_the_one_that_leads_most() {
        let leaders = [("p.0", "one"), ("p.1", "one"), ("p.2", "two"), ("dead", "three")];
        let leaders = leaders.map(|(queue, node)| (queue.to_owned(), node.to_owned())).into();
        let of = |depths: [u32; 3]| busiest(&leaders, ["p.0", "p.1", "p.2"].into_iter().zip(depths));
        for (depths, node) in [([10, 10, 21], "two"), ([11, 11, 21], "one"), ([0, 0, 0], "one")] {
            assert_eq!(of(depths).as_deref(), Some(node));
        }
        assert_eq!(busiest(&HashMap::new(), [("p.0", 1)].into_iter()), None);
    }
}
