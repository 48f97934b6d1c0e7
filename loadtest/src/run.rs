//! One sale: workers, buyers, faults, and the audit of both sides. `run` is all of it; `start` hands over its steps
//! to whoever measures, or interferes, between them.
//!
//! Whatever the audit reads, it reads from the database after the last worker has ended, on a connection of its own. The
//! ceiling is a sale whose workers have no strategy: then no database takes part, and the replies alone are judged.

mod doors;
mod drained;
mod jump;

use crate::audit::{Evidence, Jumper, Scope, database_state};
use crate::buyers::{Buyers, Left};
use crate::database;
use crate::failure::Failure;
use crate::faults::{Action, Draw, EventReport, FaultKind, Faults, Happened, Injector, Network};
use crate::hostile::Hostile;
use crate::machine::Machine;
use crate::orders::{Orders, RunningOrders};
use crate::progress::Progress;
use crate::queues::{Depth, Probe, broker_version, sample_depth};
use crate::result::{Outcome, ScenarioReport, ServersReport};
use crate::schedule::{Scenario, Schedule};
use crate::servers::Endpoints;
use crate::strategy::Strategy;
use crate::workers::{WorkerSpec, Workers};
use anyhow::{Context, anyhow};
use doors::Open;
pub use doors::{ByHttp, To};
pub use drained::Drained;
use shared::devstack::redis;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use uuid::Uuid;

const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// How long faults go on after the last request where no hold runs out.
const FAULTS_GO_ON: Duration = Duration::from_secs(1);
/// What decides in a sale without a database.
const STRATEGY_OF_CEILING: &str = "none";

/// All that a sale is.
pub struct Sale<'a> {
    pub scenario: Scenario,
    /// Who decides; without a strategy it is the ceiling.
    pub workers: WorkerSpec,
    /// The longest that the buyers wait, from when the last request is due.
    pub timeout: Duration,
    /// What happens to the orders after their verdict.
    pub orders: Option<Orders>,
    /// `None`: buyers send their requests to the queue themselves.
    pub by_http: Option<ByHttp>,
    pub faults: Faults<'a>,
}

impl Sale<'_> {
    /// An undisturbed one, in which nothing happens to the orders.
    pub fn of(scenario: Scenario, workers: WorkerSpec, timeout: Duration) -> Self {
        Self { scenario, workers, timeout, orders: None, by_http: None, faults: Faults::default() }
    }
}

/// Runs a sale from beginning to end; `what` is said of it meanwhile.
pub(crate) async fn run(
    endpoints: &Endpoints,
    sale: Sale<'_>,
    (progress, what): (&Progress, &'static str),
) -> Result<Outcome, Failure> {
    progress.stage("starting the workers");
    let buyers = sale.scenario.buyers;
    let mut running = start(endpoints, sale).await?;
    let following = progress.follow(what, running.answered(), buyers);
    running.open();
    let drained = running.drain().await?;
    drop(following);
    drained.audit().await
}

/// A sale that is ready for its first buyer, or under way.
pub struct Running<'a> {
    /// Their processes, for whoever interferes.
    pub workers: Workers,
    endpoints: Endpoints,
    schedule: Arc<Schedule>,
    answered: watch::Receiver<usize>,
    /// Who buys and who watches the queues, until the sale is opened.
    ready: Option<(Buyers, Probe)>,
    time_max: Duration,
    /// The buyers are in its only task, and end when this is dropped.
    buying: JoinSet<Bought>,
    injector: Injector<'a>,
    orders: Option<RunningOrders>,
    /// Where buyers come by HTTP.
    doors: Option<Open>,
    /// From when the sale is open.
    hostile: Option<Hostile>,
    dead_before: i64,
    /// As far as it is known.
    outcome: Outcome,
}

type Bought = (Buyers, Result<(), Failure>, Vec<Depth>);

/// Makes topology and schema, starts the workers, puts the items on sale and connects the buyers.
pub async fn start<'a>(endpoints: &Endpoints, sale: Sale<'a>) -> Result<Running<'a>, Failure> {
    let Sale { scenario, workers: spec, timeout: time_max, orders, by_http, faults } = sale;
    // Keeps the ids of this run apart from those of any other.
    let salt = Uuid::now_v7().simple().to_string();
    let schedule = Arc::new(Schedule::new(&scenario, &salt));
    let (plan, strategy) = (orders.as_ref().map(|orders| orders.plan), spec.strategy);
    let hold = plan.and_then(|plan| plan.hold());
    let servers = versions(endpoints, strategy).await?;
    let scenario = ScenarioReport {
        sale: scenario,
        workers: spec.count,
        strategy: strategy.map_or(STRATEGY_OF_CEILING, Strategy::as_str),
        batch_max: spec.batch_max,
    };

    let probe = Probe::connect(&endpoints.amqp_url).await?;
    probe.declare_topology().await?;
    let dead_before = probe.dead().await?;
    let (mut specs, mut running_orders) = (vec![spec], None);
    if let Some(orders) = orders {
        let (running, others) = orders.start(endpoints, &schedule).await?;
        specs.extend(others);
        running_orders = Some(running);
    }
    specs.extend(by_http.as_ref().and_then(ByHttp::workers));
    let disturbs = faults.draws.iter().flat_map(Draw::kinds).any(FaultKind::is_of_servers);
    let network = if disturbs { Some(Network::before(endpoints).await?) } else { None };
    let mut workers = Workers::start(specs, network.as_ref().map_or(endpoints, |network| &network.endpoints)).await?;
    let doors = by_http.map(|by_http| Open::of(by_http, &mut workers));
    let buyers = match &doors {
        Some(doors) => Buyers::by_http(doors.to_buyers(), Arc::clone(&schedule), plan),
        None => Buyers::connect(&endpoints.amqp_url, Arc::clone(&schedule), plan).await?,
    };
    if strategy.is_some() {
        let database = database::open(&endpoints.database_url).await?;
        database_state::put_on_sale(&database, &schedule.items, hold).await?;
        database.close().await;
    }
    let last = schedule.last();
    let drawn = (last + hold.unwrap_or(FAULTS_GO_ON), scenario.sale.seed);
    let injector = Injector::of(faults, endpoints, network, Arc::clone(&schedule), drawn).await?;
    Ok(Running {
        workers,
        endpoints: endpoints.clone(),
        schedule,
        answered: buyers.answered(),
        ready: Some((buyers, probe)),
        time_max: last + time_max,
        buying: JoinSet::new(),
        injector,
        orders: running_orders,
        doors,
        hostile: None,
        dead_before,
        outcome: Outcome { scenario, servers, machine: Machine::here(), ..Outcome::default() },
    })
}

/// The versions of what takes part where purchases are decided in this way.
pub(crate) async fn versions(endpoints: &Endpoints, strategy: Option<Strategy>) -> Result<ServersReport, Failure> {
    let mut servers =
        ServersReport { rabbitmq: broker_version(&endpoints.amqp_url).await?, ..ServersReport::default() };
    if strategy.is_some() {
        let database = database::open(&endpoints.database_url).await?;
        servers.postgresql = Some(database_state::server_version(&database).await?);
        database.close().await;
    }
    if let (Some(Strategy::Redis), Some(url)) = (strategy, &endpoints.redis_url) {
        let version = redis::version(url).await.context("Redis cannot be used; does REDIS_URL name it?");
        servers.redis = Some(version.map_err(Failure::Unreachable)?);
    }
    Ok(servers)
}

async fn buy(mut buyers: Buyers, probe: Probe, amqp_url: String, time_max: Duration) -> Bought {
    let (stop, stopped) = oneshot::channel();
    let mut sampling = JoinSet::new();
    sampling.spawn(sample_depth(probe, amqp_url, stopped));
    // Running out of time is no failure: the audit names whoever got no verdict.
    let result = timeout(time_max, buyers.buy()).await.unwrap_or(Ok(()));
    drop(stop);
    let depth = sampling.join_next().await.and_then(Result::ok).unwrap_or_default();
    (buyers, result, depth)
}

impl Running<'_> {
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    pub fn answered(&self) -> watch::Receiver<usize> {
        self.answered.clone()
    }

    /// Lets the buyers in, unless they are.
    pub fn open(&mut self) {
        if let Some((buyers, probe)) = self.ready.take() {
            self.injector.open();
            let Faults { hostile_rate, hostile_kinds, .. } = &self.injector.faults;
            self.hostile = (*hostile_rate > 0).then(|| {
                let (url, schedule) = (self.endpoints.of_user("buyer"), Arc::clone(&self.schedule));
                Hostile::start(url, *hostile_rate, hostile_kinds, schedule)
            });
            self.buying.spawn(buy(buyers, probe, self.endpoints.amqp_url.clone(), self.time_max));
            tracing::info!(buyers = self.schedule.requests.len(), "the sale is open");
        }
    }

    pub async fn finish(self) -> Result<Outcome, Failure> {
        self.drain().await?.audit().await
    }

    /// Waits for every verdict (or the end of the time, or of the last worker) and for what happens to the orders, and
    /// drains the workers. Faults happen while this is waited for.
    pub async fn drain(mut self) -> Result<Drained, Failure> {
        self.open();
        let mut buying = std::mem::take(&mut self.buying);
        let bought = self.meanwhile(buying.join_next()).await?.context("the buyers are gone")?;
        let (buyers, result, depth) = bought.context("the buyers are gone")?;
        result?;
        if let Some(orders) = &self.orders {
            let rest = orders.until_over(self.endpoints.database_url.clone(), Arc::clone(&self.schedule));
            self.meanwhile(rest).await??;
        }
        let hostile_messages = match self.hostile.take() {
            Some(hostile) => hostile.stop().await?,
            None => 0,
        };
        let Self { mut workers, endpoints, schedule, mut answered, mut injector, orders, .. } = self;
        injector.finish(&mut answered, &mut workers).await?;
        workers.sample_memory();
        let memory = workers.memory();
        let jumper =
            if workers.all_ended() { Jumper::NotTried } else { jump::jump(&endpoints.amqp_url, &schedule).await? };
        let endings = workers.drain().await;
        let Left { answers, follow_ups, doors, reconnects } = buyers.leave().await;
        let probe = Probe::connect(&endpoints.amqp_url).await?;
        let dead_growth = probe.dead().await? - self.dead_before;
        probe.close().await;
        let scope = match (&orders, &self.outcome.servers.postgresql) {
            (Some(_), _) => Scope::Orders,
            (None, Some(_)) => Scope::Records,
            (None, None) => Scope::Replies,
        };
        let (ledger, events) = match orders {
            Some(orders) => orders.finish().await?,
            None => Default::default(),
        };
        let follow_ups = follow_ups.unwrap_or_default();
        let Happened { events: happened, crashes, faults } = injector.reports(&schedule, &answers);
        let workers = drained::shares(&answers, memory);
        let outcome = Outcome { messages: answers.messages(), workers, reconnects, doors, ..self.outcome };
        let outcome = Outcome { events: happened, crashes, faults, hostile_messages, ..outcome };
        // Where servers and doors die, requests may fail. Workers come and go behind the queue.
        let hurts =
            |event: &EventReport| matches!(event.event, Action::KillDoor | Action::KillBroker | Action::KillRedis);
        let is_quiet = !outcome.events.iter().any(hurts) && outcome.faults.is_empty() && hostile_messages == 0;
        let doors = outcome.doors.clone().filter(|_| is_quiet);
        let told = Evidence { scope, schedule, answers, dead_growth, endings, jumper, doors, ..Evidence::default() };
        let evidence = Evidence { follow_ups, ledger, events, ..told };
        Ok(Drained { evidence, database_url: endpoints.database_url, depth, outcome })
    }

    /// Waits, and has faults happen, and watches the workers.
    async fn meanwhile<T>(&mut self, waiting: impl Future<Output = T>) -> Result<T, Failure> {
        let Self { injector, workers, answered, schedule, doors, .. } = self;
        let mut waiting = std::pin::pin!(waiting);
        let mut watch = interval(WATCH_PAUSE);
        let mut looked = answered.clone();
        loop {
            tokio::select! {
                done = &mut waiting => return Ok(done),
                due = injector.due(answered) => {
                    due?;
                    let answered = *answered.borrow();
                    injector.act(answered, workers).await?;
                }
                _ = watch.tick() => {
                    workers.sample_memory();
                    if let Some(doors) = doors {
                        doors.look(workers);
                    }
                    // After the last verdict nobody needs them, and an event may have ended them all.
                    if *looked.borrow_and_update() < schedule.requests.len() {
                        if workers.all_ended() {
                            return Err(workers.all_gone());
                        }
                        if workers.all_closed() && !injector.opens_doors() {
                            return Err(Failure::Broken(anyhow!("every door has ended, and none is to come")));
                        }
                    }
                }
            }
        }
    }
}
