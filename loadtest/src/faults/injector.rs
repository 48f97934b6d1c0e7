//! Does to workers and servers what a sale's [`Faults`] say, when it is due.
//!
//! Whoever was frozen is woken, at the latest by [`Injector::finish`]; no event chooses a worker that is frozen, was asked
//! to stop, or has ended.

use std::collections::{HashMap, VecDeque};
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
    events: VecDeque<(usize, Event)>,
    crashes: VecDeque<Crash>,
    /// Who is frozen, by index, and when to wake it; the first to be woken comes first.
    frozen: VecDeque<(usize, Instant)>,
    /// Each with its moment, from the start of the sale.
    done: Vec<(Duration, EventReport)>,
    crashed: Vec<CrashReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Crash {
    /// From the start of the sale.
    at: Duration,
    /// Chooses among the workers that are there then.
    pick: u64,
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
            Some(broker) => broker.rabbitmq.leaders(broker.vhost).await.map_err(Failure::Broken)?,
            None => HashMap::new(),
        };
        let mut events = faults.events.clone();
        events.sort_by_key(|event| (event.at.percent(), event.action));
        Ok(Self {
            events: events.into_iter().map(|event| (event.answered(buyers), event)).collect(),
            crashes: crashes(faults.crashes, crashes_over, seed),
            faults,
            amqp_url: amqp_url.to_owned(),
            leaders,
            opened: Instant::now(),
            frozen: VecDeque::new(),
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
            let Some(&(due, _)) = self.events.front() else { return std::future::pending().await };
            // Once the buyers have left, nothing more is answered.
            if answered.wait_for(|answered| *answered >= due).await.is_err() {
                std::future::pending().await
            }
        };
        let crash = self.crashes.front().map(|crash| self.opened + crash.at);
        let wake = self.frozen.front().map(|&(_, at)| at);
        tokio::select! {
            () = event => (),
            () = at(crash) => (),
            () = at(wake) => (),
        }
    }

    /// Wakes whoever has been frozen for long enough, and does whatever is due when so many are answered.
    pub(crate) async fn act(&mut self, answered: usize, workers: &mut Workers) -> Result<(), Failure> {
        while let Some((index, _)) = self.frozen.pop_front_if(|(_, at)| *at <= Instant::now()) {
            workers.signal(index, Signal::Continue)?;
        }
        while let Some((_, event)) = self.events.pop_front_if(|(due, _)| *due <= answered) {
            self.inject(event, workers).await?;
        }
        while let Some(crash) = self.crashes.pop_front_if(|crash| self.opened + crash.at <= Instant::now()) {
            let seconds = seconds(self.opened.elapsed());
            if let Some(worker) = workers.crash(crash.pick).await? {
                tracing::info!(worker, seconds, "killed");
                self.crashed.push(CrashReport { worker, seconds });
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
        while !self.crashes.is_empty() {
            self.due(answered).await;
            let answered = *answered.borrow();
            self.act(answered, workers).await?;
        }
        let answered = *answered.borrow();
        self.act(answered, workers).await?;
        for (index, _) in self.frozen.drain(..) {
            workers.signal(index, Signal::Continue)?;
        }
        workers.all_ready().await
    }

    /// What came to pass, and what it meant for the buyers.
    pub(crate) fn reports(self, schedule: &Schedule, answers: &Answers) -> (Vec<EventReport>, Vec<CrashReport>) {
        let report = |(at, report): (Duration, EventReport)| {
            let next = |worker: &String| until_next_verdict(schedule, answers, report.event, worker, at);
            EventReport { next_verdict_seconds: report.worker.as_ref().and_then(next).map(seconds), ..report }
        };
        (self.done.into_iter().map(report).collect(), self.crashed)
    }

    async fn inject(&mut self, event: Event, workers: &mut Workers) -> Result<(), Failure> {
        let at = self.opened.elapsed();
        let mut broker_node = None;
        let index = match event.action {
            Action::Add => Some(workers.count()),
            Action::Stop | Action::Kill | Action::Freeze => workers.first_at_work(),
            Action::KillBroker | Action::KillRedis => None,
        };
        match (event.action, index) {
            (Action::Add, _) => workers.start_another().await?,
            (Action::Stop, Some(index)) => {
                // Before it is ready, SIGTERM would end it like any program, and not make it drain.
                workers.ready(index).await?;
                workers.signal(index, Signal::Terminate)?;
            }
            (Action::Kill, Some(index)) => workers.kill(index).await?,
            (Action::Freeze, Some(index)) => {
                self.frozen.push_back((index, Instant::now() + self.faults.freeze));
                workers.signal(index, Signal::Stop)?;
            }
            (Action::Stop | Action::Kill | Action::Freeze, None) => {}
            (Action::KillBroker, _) => broker_node = self.kill_node().await?,
            (Action::KillRedis, _) => {
                if let Some(redis) = &mut self.faults.redis {
                    let killed = redis.kill_and_restart().await.context("kill Redis and start it again");
                    killed.map_err(Failure::Broken)?;
                }
            }
        }
        let worker = index.and_then(|index| workers.id(index));
        tracing::info!(at = %event.at, worker, broker_node, "{}", event.action.past());
        let (seconds, next_verdict_seconds) = (seconds(at), None);
        let report =
            EventReport { at: event.at, event: event.action, worker, seconds, next_verdict_seconds, broker_node };
        self.done.push((at, report));
        Ok(())
    }

    /// Kills the node that leads what most requests wait in, and returns its name.
    async fn kill_node(&mut self) -> Result<Option<String>, Failure> {
        let Some(broker) = &mut self.faults.broker else { return Ok(None) };
        let probe = Probe::connect(&self.amqp_url).await?;
        let depths = probe.depths().await?;
        probe.close().await;
        let node = busiest(&self.leaders, &depths).context("no node leads a partition").map_err(Failure::Broken)?;
        broker.rabbitmq.kill_node(&node).await.map_err(Failure::Broken)?;
        Ok(Some(node))
    }
}

/// Moments spread uniformly over this time, in order: equal seed, equal moments, and equal choices among equally many
/// workers.
fn crashes(count: u32, over: Duration, seed: u64) -> VecDeque<Crash> {
    let mut random = Random::of(seed, MOMENTS, u64::from(count));
    let crash = |_| Crash { at: over.mul_f64(random.unit()), pick: random.next() };
    let mut crashes: Vec<Crash> = (0..count).map(crash).collect();
    crashes.sort_unstable();
    crashes.into()
}

/// The node that leads the partitions in which most requests wait; of several such, the one that leads more of them.
fn busiest(leaders: &HashMap<String, String>, depths: &[(String, u64)]) -> Option<String> {
    let mut loads: HashMap<&str, (u64, usize)> = HashMap::new();
    for (partition, depth) in depths {
        if let Some(leader) = leaders.get(partition) {
            let load = loads.entry(leader).or_default();
            *load = (load.0 + depth, load.1 + 1);
        }
    }
    let busiest = loads.into_iter().max_by_key(|(node, load)| (*load, *node));
    busiest.map(|(node, _)| node.to_owned())
}

/// Never, where there is no moment.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn seconds(duration: Duration) -> f64 {
    round(duration.as_secs_f64(), 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Duration = Duration::from_secs(20);

    #[test]
    fn the_moments_are_in_order_within_the_time_and_follow_from_the_seed() {
        let moments = crashes(50, OVER, 42);
        assert_eq!(moments.len(), 50);
        assert!(moments.iter().is_sorted() && moments.iter().all(|crash| crash.at <= OVER));
        let late = moments.iter().filter(|crash| crash.at > OVER / 2).count();
        assert!((10..=40).contains(&late), "they are spread: {late}");
        assert_eq!(moments, crashes(50, OVER, 42));
        assert_ne!(moments, crashes(50, OVER, 43));
        assert!(crashes(0, OVER, 42).is_empty());
    }

    fn busiest_of(leaders: &[(&str, &str)], depths: &[(&str, u64)]) -> Option<String> {
        let leaders = leaders.iter().map(|(queue, node)| ((*queue).to_owned(), (*node).to_owned())).collect();
        let depths: Vec<_> = depths.iter().map(|(queue, depth)| ((*queue).to_owned(), *depth)).collect();
        busiest(&leaders, &depths)
    }

    #[test]
    fn the_node_that_most_requests_wait_for_is_the_one() {
        let leaders = [("p.0", "one"), ("p.1", "one"), ("p.2", "two"), ("dead", "three")];
        assert_eq!(busiest_of(&leaders, &[("p.0", 10), ("p.1", 10), ("p.2", 21)]).as_deref(), Some("two"));
        assert_eq!(busiest_of(&leaders, &[("p.0", 11), ("p.1", 11), ("p.2", 21)]).as_deref(), Some("one"));
    }

    #[test]
    fn where_nothing_waits_it_is_the_node_that_leads_most() {
        let leaders = [("p.0", "one"), ("p.1", "one"), ("p.2", "two")];
        assert_eq!(busiest_of(&leaders, &[("p.2", 0), ("p.1", 0), ("p.0", 0)]).as_deref(), Some("one"));
        assert_eq!(busiest_of(&[], &[("p.0", 1)]), None);
    }
}
