//! Does to workers and servers what a sale's [`Faults`] say, when it is due.
//!
//! Whoever was frozen is woken, and whatever was disturbed is at peace, at the latest by [`Injector::finish`]; no event
//! chooses a worker that is frozen, was asked to stop, or has ended.

use super::network::some_time;
use super::{
    Action, CrashReport, Draw, Event, EventReport, FaultKind, Faults, Happened, Network, PrivateBroker,
    until_next_verdict,
};
use crate::answers::Answers;
use crate::failure::Failure;
use crate::queues::Probe;
use crate::random::Random;
use crate::schedule::Schedule;
use crate::servers::Endpoints;
use crate::stats::round;
use crate::workers::Workers;
use anyhow::Context;
use futures_util::future::BoxFuture;
use shared::devstack::{Postgres, Signal};
use sqlx::{Connection, PgConnection};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a row is locked, and the broker short of memory.
const LASTING: Duration = Duration::from_secs(1);
/// A fault waits so long that finds its server starting, or nobody.
const PAUSE: Duration = Duration::from_secs(1);
/// After the last moment that was drawn, for how long a fault waits for somebody whom it can befall.
const NOBODY_MAX: Duration = Duration::from_secs(30);
const LOCK: &str = "SELECT 1 FROM items WHERE id = $1 FOR UPDATE";

pub(crate) struct Injector<'a> {
    pub(crate) faults: Faults<'a>,
    endpoints: Endpoints,
    schedule: Arc<Schedule>,
    /// Between workers and servers, where connections are to be disturbed.
    network: Option<Network>,
    /// By the queue's name, the broker's node that leads it.
    leaders: HashMap<String, String>,
    opened: Instant,
    /// Each with the number of verdicts that it is due at.
    events: VecDeque<(usize, Event)>,
    /// What is due at a moment from the start of the sale.
    timed: BTreeSet<(Duration, Timed)>,
    /// A fault that finds nobody waits until then.
    nobody_until: Duration,
    /// What is being done to a server: never two things at once.
    under_way: Option<BoxFuture<'a, Done<'a>>>,
    /// Who holds an item's row.
    locks: JoinSet<sqlx::Result<()>>,
    happened: Happened,
}

/// The servers come back from what was done to one of them.
type Done<'a> = (Option<PrivateBroker<'a>>, Option<&'a mut Postgres>, anyhow::Result<()>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timed {
    /// Who is frozen, by index.
    Wake(usize),
    /// The number chooses among what is there then.
    Fault(FaultKind, u64),
}

impl<'a> Injector<'a> {
    /// The faults of a sale, of which those that are drawn are spread over this time. Asks who leads which queue, as that
    /// takes seconds, and leaders do not move before a node dies.
    pub(crate) async fn of(
        faults: Faults<'a>,
        endpoints: &Endpoints,
        network: Option<Network>,
        schedule: Arc<Schedule>,
        (over, seed): (Duration, u64),
    ) -> Result<Self, Failure> {
        let kills_node = faults.events.iter().any(|event| event.action == Action::KillBroker);
        let leaders = match &faults.broker {
            Some(broker) if kills_node => broker.rabbitmq.leaders(broker.vhost).await?,
            Some(_) | None => HashMap::new(),
        };
        let mut events = faults.events.clone();
        events.sort_by_key(|event| (event.at.percent(), event.action));
        let buyers = schedule.requests.len();
        let drawn = Draw::all(&faults.draws, over, seed);
        Ok(Self {
            events: events.into_iter().map(|event| (event.answered(buyers), event)).collect(),
            timed: drawn.map(|(at, kind, pick)| (at, Timed::Fault(kind, pick))).collect(),
            nobody_until: over + NOBODY_MAX,
            faults,
            endpoints: endpoints.clone(),
            schedule,
            network,
            leaders,
            opened: Instant::now(),
            under_way: None,
            locks: JoinSet::new(),
            happened: Happened::default(),
        })
    }

    /// Whether a door is still to come.
    pub(crate) fn opens_doors(&self) -> bool {
        self.events.iter().any(|(_, event)| event.action == Action::AddDoor)
    }

    pub(crate) fn open(&mut self) {
        self.opened = Instant::now();
    }

    /// Returns when [`Injector::act`] has something to do; never, when there is nothing to come. May be dropped.
    pub(crate) async fn due(&mut self, answered: &mut watch::Receiver<usize>) -> Result<(), Failure> {
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
        let under_way = &mut self.under_way;
        let done = async {
            match under_way {
                Some(under_way) => under_way.await,
                None => pending().await,
            }
        };
        let (broker, postgres, result) = tokio::select! {
            () = event => return Ok(()),
            () = timed => return Ok(()),
            done = done => done,
        };
        (self.under_way, self.faults.broker, self.faults.postgres) = (None, broker, postgres);
        Ok(result.context("do something to a server")?)
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
                Timed::Wake(index) => workers.signal(index, Signal::SIGCONT)?,
                Timed::Fault(kind, pick) if kind.befalls_a_server() && self.under_way.is_some() => {
                    self.timed.insert((self.opened.elapsed() + PAUSE, Timed::Fault(kind, pick)));
                }
                Timed::Fault(kind, pick) => {
                    let whom = self.strike(kind, pick, workers).await?;
                    let seconds = seconds(self.opened.elapsed());
                    tracing::info!(?kind, whom, seconds, "a fault");
                    let Some(worker) = whom else {
                        if self.network.is_some() && at < self.nobody_until {
                            self.timed.insert((self.opened.elapsed() + PAUSE, Timed::Fault(kind, pick)));
                        }
                        continue;
                    };
                    *self.happened.faults.entry(kind).or_default() += 1;
                    if kind == FaultKind::Kill {
                        self.happened.crashes.push(CrashReport { worker, seconds });
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the last fault, does what is still due, and leaves every server at work, and every worker awake and ready
    /// to drain.
    pub(crate) async fn finish(
        &mut self,
        answered: &mut watch::Receiver<usize>,
        workers: &mut Workers,
    ) -> Result<(), Failure> {
        let is_fault = |(_, timed): &(Duration, Timed)| matches!(timed, Timed::Fault(..));
        while self.timed.iter().any(is_fault) || self.under_way.is_some() {
            self.due(answered).await?;
            let answered = *answered.borrow();
            self.act(answered, workers).await?;
        }
        let answered = *answered.borrow();
        self.act(answered, workers).await?;
        for (_, timed) in std::mem::take(&mut self.timed) {
            if let Timed::Wake(index) = timed {
                workers.signal(index, Signal::SIGCONT)?;
            }
        }
        self.locks.shutdown().await;
        if let Some(network) = &self.network {
            network.calm();
        }
        workers.all_ready().await
    }

    /// What came to pass, and what it meant for the buyers.
    pub(crate) fn reports(mut self, schedule: &Schedule, answers: &Answers) -> Happened {
        for event in &mut self.happened.events {
            let at = Duration::from_secs_f64(event.seconds);
            let next = |worker: &String| until_next_verdict(schedule, answers, event.event, worker, at);
            event.next_verdict_seconds = event.worker.as_ref().and_then(next).map(seconds);
        }
        self.happened
    }

    /// Does it, and returns to whom; `None` where there was nobody to do it to.
    async fn strike(&mut self, kind: FaultKind, pick: u64, workers: &mut Workers) -> Result<Option<String>, Failure> {
        let mut random = Random::new(pick);
        match kind {
            FaultKind::Kill => workers.crash(pick).await,
            FaultKind::Freeze => {
                let Some(index) = workers.any_at_work(pick) else { return Ok(None) };
                workers.signal(index, Signal::SIGSTOP)?;
                self.timed.insert((self.opened.elapsed() + some_time(&mut random), Timed::Wake(index)));
                Ok(workers.id(index))
            }
            FaultKind::Cut | FaultKind::HalfOpen | FaultKind::InDoubt | FaultKind::Delay | FaultKind::MidFrame => {
                Ok(self.network.as_ref().and_then(|network| network.disturb(kind, &mut random)).map(str::to_owned))
            }
            FaultKind::LockedRow => {
                let items = &self.schedule.items;
                let item = items[random.below(items.len().try_into().unwrap_or(u32::MAX)) as usize].id.clone();
                while self.locks.try_join_next().is_some() {}
                self.locks.spawn(lock(self.endpoints.database_url.clone(), item.clone()));
                Ok(Some(item))
            }
            FaultKind::BrokerRestart | FaultKind::DatabaseRestart | FaultKind::MemoryAlarm => {
                Ok(self.disturb_server(kind, random.below(2) == 0))
            }
        }
    }

    /// Begins to do something to a server, which goes on while others do theirs. A restart is an orderly one or not.
    fn disturb_server(&mut self, kind: FaultKind, is_orderly: bool) -> Option<String> {
        let (mut broker, mut postgres) = (self.faults.broker.take(), self.faults.postgres.take());
        let whom = if kind == FaultKind::DatabaseRestart {
            postgres.as_ref().map(|_| "the database")
        } else {
            broker.as_ref().map(|_| "the broker")
        };
        self.under_way = Some(Box::pin(async move {
            let done = match (kind, &mut broker, &mut postgres) {
                (FaultKind::BrokerRestart, Some(broker), _) if is_orderly => broker.rabbitmq.restart().await,
                (FaultKind::BrokerRestart, Some(broker), _) => broker.rabbitmq.kill_and_restart().await,
                (FaultKind::MemoryAlarm, Some(broker), _) => broker.rabbitmq.memory_alarm(LASTING).await,
                (FaultKind::DatabaseRestart, _, Some(postgres)) if is_orderly => postgres.restart().await,
                (FaultKind::DatabaseRestart, _, Some(postgres)) => postgres.kill_and_restart().await,
                _ => Ok(()),
            };
            (broker, postgres, done)
        }));
        whom.map(str::to_owned)
    }

    async fn inject(&mut self, event: Event, workers: &mut Workers) -> Result<(), Failure> {
        let at = self.opened.elapsed();
        let mut broker_node = None;
        let index = match event.action {
            Action::Add => Some(workers.start_another().await?),
            Action::AddDoor => Some(workers.open_another().await?),
            Action::Stop | Action::Kill | Action::Freeze => workers.first_at_work(),
            Action::KillDoor => workers.first_open(),
            Action::KillBroker | Action::KillRedis => None,
        };
        match (event.action, index) {
            (Action::Add | Action::AddDoor, _) => {}
            (Action::Stop | Action::Kill | Action::Freeze | Action::KillDoor, None) => {}
            (Action::Stop, Some(index)) => {
                // Before it is ready, SIGTERM would end it like any program, and not make it drain.
                workers.ready(index).await?;
                workers.signal(index, Signal::SIGTERM)?;
            }
            (Action::Kill | Action::KillDoor, Some(index)) => workers.kill(index).await?,
            (Action::Freeze, Some(index)) => {
                self.timed.insert((at + self.faults.freeze, Timed::Wake(index)));
                workers.signal(index, Signal::SIGSTOP)?;
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
        self.happened.events.push(EventReport { at, event, worker, seconds, next_verdict_seconds: None, broker_node });
        Ok(())
    }

    /// Kills the node that leads what most requests wait in, and returns its name.
    async fn kill_node(&mut self) -> Result<Option<String>, Failure> {
        let Some(broker) = &mut self.faults.broker else { return Ok(None) };
        let probe = Probe::connect(&self.endpoints.amqp_url).await?;
        let partitions = probe.partitions().await?;
        probe.close().await;
        let depths = partitions.iter().map(|queue| (queue.name().as_str(), queue.message_count()));
        let node = busiest(&self.leaders, depths).context("no node leads a partition")?;
        broker.rabbitmq.kill_node(&node).await?;
        Ok(Some(node))
    }
}

/// Is somebody who has an item's row for a while. Where the database goes away, so does the lock.
async fn lock(database_url: String, item: String) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(&database_url).await?;
    let mut transaction = connection.begin().await?;
    sqlx::query(LOCK).bind(item).execute(&mut *transaction).await?;
    sleep(LASTING).await;
    transaction.rollback().await
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
mod tests;
