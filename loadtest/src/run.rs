//! One sale: workers, buyers, faults, and the audit of both sides. `run` is all of it; `start` hands over its steps
//! to whoever measures, or interferes, between them.
//!
//! Whatever the audit reads, it reads from the database after the last worker has ended, on a connection of its own. The
//! ceiling is a sale whose workers have no strategy: then no database takes part, and the replies alone are judged.

mod drained;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use shared::devstack::redis;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use uuid::Uuid;

use crate::audit::database_state::{self, DatabaseState};
use crate::audit::{Evidence, Scope};
use crate::buyers::Buyers;
use crate::database;
use crate::failure::Failure;
use crate::faults::{Faults, Injector};
use crate::orders::{Orders, RunningOrders};
use crate::progress::Progress;
use crate::queues::{DepthSample, Probe, broker_version, sample_depth};
use crate::result::{Outcome, ScenarioReport, ServersReport};
use crate::schedule::{Scenario, Schedule};
use crate::servers::Endpoints;
use crate::strategy::Strategy;
use crate::workers::{WorkerSpec, Workers};
pub use drained::Drained;

const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// How long crashes go on after the last request where no hold runs out.
const CRASHES_GO_ON: Duration = Duration::from_secs(1);

/// All that a sale is.
pub struct Sale<'a> {
    pub scenario: Scenario,
    /// Who decides; without a strategy it is the ceiling.
    pub workers: WorkerSpec,
    /// The longest that the buyers wait, from the first request.
    pub timeout: Duration,
    /// What happens to the orders after their verdict.
    pub orders: Option<Orders>,
    pub faults: Faults<'a>,
}

impl Sale<'_> {
    /// An undisturbed one, in which nothing happens to the orders.
    pub fn of(scenario: Scenario, workers: WorkerSpec, timeout: Duration) -> Self {
        Self { scenario, workers, timeout, orders: None, faults: Faults::default() }
    }
}

/// Runs a sale from beginning to end; `what` is said of it meanwhile.
pub(crate) async fn run(
    endpoints: &Endpoints,
    sale: Sale<'_>,
    (progress, what): (&Progress, impl Into<Cow<'static, str>>),
) -> Result<Outcome, Failure> {
    drained(endpoints, sale, (progress, what)).await?.audit().await
}

/// The same, up to the audit.
pub(crate) async fn drained(
    endpoints: &Endpoints,
    sale: Sale<'_>,
    (progress, what): (&Progress, impl Into<Cow<'static, str>>),
) -> Result<Drained, Failure> {
    progress.stage("starting the workers");
    let (buyers, workers) = (sale.scenario.buyers, sale.workers.count);
    let mut running = start(endpoints, sale).await?;
    let following = progress.follow(what, running.answered(), buyers);
    running.open();
    tracing::info!(buyers, workers, "the sale is open");
    let drained = running.drain().await?;
    drop(following);
    Ok(drained)
}

/// A sale that is ready for its first buyer, or under way.
pub struct Running<'a> {
    /// Their processes, for whoever interferes.
    pub workers: Workers,
    endpoints: Endpoints,
    schedule: Arc<Schedule>,
    answered: watch::Receiver<usize>,
    opening: Option<oneshot::Sender<()>>,
    /// The buyers are in its only task, and end when this is dropped.
    buying: JoinSet<Bought>,
    injector: Injector<'a>,
    orders: Option<RunningOrders>,
    dead_before: i64,
    scenario: ScenarioReport,
    servers: ServersReport,
}

struct Bought {
    buyers: Buyers,
    result: Result<(), Failure>,
    depth: Vec<DepthSample>,
}

/// Makes topology and schema, starts the workers, puts the items on sale and connects the buyers.
pub async fn start<'a>(endpoints: &Endpoints, sale: Sale<'a>) -> Result<Running<'a>, Failure> {
    let Sale { scenario, workers: spec, timeout: time_max, orders, faults } = sale;
    // Keeps the ids of this run apart from those of any other.
    let salt = Uuid::now_v7().simple().to_string();
    let schedule = Arc::new(Schedule::new(&scenario, &salt));
    let servers = versions(endpoints, spec.strategy).await?;
    let report = drained::scenario(&scenario, &spec);
    let has_database = spec.strategy.is_some();
    let hold = orders.as_ref().and_then(|orders| orders.plan.hold());

    let probe = Probe::connect(&endpoints.amqp_url).await?;
    probe.declare_topology().await?;
    let dead_before = probe.dead().await?;
    let plan = orders.as_ref().map(|orders| orders.plan);
    let (mut specs, mut running_orders) = (vec![spec], None);
    if let Some(orders) = orders {
        let (running, others) = orders.start(endpoints, &schedule).await?;
        specs.extend(others);
        running_orders = Some(running);
    }
    let workers = Workers::start(specs, endpoints).await?;
    let buyers = Buyers::connect(&endpoints.amqp_url, Arc::clone(&schedule), plan).await?;
    if has_database {
        let database = database::open(&endpoints.database_url).await?;
        database_state::put_on_sale(&database, &schedule.items, hold).await.map_err(database::failed)?;
        database.close().await;
    }
    let last = schedule.requests.last().map_or(Duration::ZERO, |due| due.at);
    let crashes_over = last + hold.unwrap_or(CRASHES_GO_ON);
    let (buyer_count, amqp_url) = (schedule.requests.len(), endpoints.amqp_url.clone());
    let injector = Injector::of(faults, &amqp_url, buyer_count, crashes_over, scenario.seed).await?;

    let answered = buyers.answered();
    let (opening, buying) = at_the_opening(buyers, probe, amqp_url, time_max);
    Ok(Running {
        workers,
        endpoints: endpoints.clone(),
        schedule,
        answered,
        opening: Some(opening),
        buying,
        injector,
        orders: running_orders,
        dead_before,
        scenario: report,
        servers,
    })
}

/// Has the buyers buy, and the queues watched, once the sale is opened.
fn at_the_opening(
    mut buyers: Buyers,
    probe: Probe,
    amqp_url: String,
    time_max: Duration,
) -> (oneshot::Sender<()>, JoinSet<Bought>) {
    let (opening, opened) = oneshot::channel::<()>();
    let mut buying = JoinSet::new();
    buying.spawn(async move {
        // An error says that the sale was given up: then this task is, too.
        drop(opened.await);
        let (stop, stopped) = oneshot::channel();
        let mut sampling = JoinSet::new();
        sampling.spawn(sample_depth(probe, amqp_url, buyers.waiting(), stopped));
        // Running out of time is no failure: the audit names whoever got no verdict.
        let result = timeout(time_max, buyers.buy()).await.unwrap_or(Ok(()));
        drop(stop);
        let depth = sampling.join_next().await.and_then(Result::ok).unwrap_or_default();
        Bought { buyers, result, depth }
    });
    (opening, buying)
}

/// The versions of what takes part where purchases are decided in this way.
pub(crate) async fn versions(endpoints: &Endpoints, strategy: Option<Strategy>) -> Result<ServersReport, Failure> {
    let rabbitmq = broker_version(&endpoints.amqp_url).await?;
    let Some(strategy) = strategy else { return Ok(ServersReport { rabbitmq, postgresql: None, redis: None }) };
    let database = database::open(&endpoints.database_url).await?;
    let postgresql = Some(database_state::server_version(&database).await.map_err(database::failed)?);
    database.close().await;
    let redis = match (strategy, &endpoints.redis_url) {
        (Strategy::Redis, Some(url)) => {
            let version = redis::version(url).await.context("Redis cannot be used; does REDIS_URL name it?");
            Some(version.map_err(Failure::Unreachable)?)
        }
        (Strategy::Redis, None) | (Strategy::Optimistic | Strategy::Pessimistic | Strategy::Atomic, _) => None,
    };
    Ok(ServersReport { rabbitmq, postgresql, redis })
}

impl Running<'_> {
    /// What is on sale, and who asks for it.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// How many requests have a verdict, as it grows.
    pub fn answered(&self) -> watch::Receiver<usize> {
        self.answered.clone()
    }

    /// Lets the buyers in, unless they are.
    pub fn open(&mut self) {
        if let Some(opening) = self.opening.take() {
            self.injector.open();
            // An error says that the buyers are gone, which is seen when they are waited for.
            let _ = opening.send(());
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
        let bought = self.meanwhile(async { buying.join_next().await }).await?;
        let bought = bought.context("the buyers are gone").map_err(Failure::Broken)?;
        let Bought { buyers, result, depth } = bought.map_err(|error| Failure::Broken(error.into()))?;
        result?;
        if let Some(orders) = &self.orders {
            let rest = orders.until_over(self.endpoints.database_url.clone(), Arc::clone(&self.schedule));
            self.meanwhile(rest).await??;
        }
        let Self { mut workers, endpoints, schedule, mut answered, mut injector, orders, .. } = self;
        injector.finish(&mut answered, &mut workers).await?;
        workers.sample_memory();
        let memory = workers.memory();
        let endings = workers.drain().await;
        let (answers, follow_ups, reconnects) = buyers.leave().await;
        let probe = Probe::connect(&endpoints.amqp_url).await?;
        let dead_growth = probe.dead().await? - self.dead_before;
        probe.close().await;
        let scope = match (&orders, &self.servers.postgresql) {
            (Some(_), _) => Scope::Orders,
            (None, Some(_)) => Scope::Records,
            (None, None) => Scope::Replies,
        };
        let (ledger, events) = match orders {
            Some(orders) => orders.finish().await?,
            None => Default::default(),
        };
        let follow_ups = follow_ups.unwrap_or_default();
        let (happened, crashes) = injector.reports(&schedule, &answers);
        Ok(Drained {
            database_url: endpoints.database_url,
            scenario: self.scenario,
            servers: self.servers,
            workers: drained::shares(&answers, memory),
            evidence: Evidence {
                scope,
                schedule,
                answers,
                dead_growth,
                endings,
                database: DatabaseState::default(),
                follow_ups,
                ledger,
                events,
            },
            depth,
            events: happened,
            crashes,
            reconnects,
        })
    }

    /// Waits, and has faults happen, and watches the workers.
    async fn meanwhile<T>(&mut self, waiting: impl Future<Output = T>) -> Result<T, Failure> {
        let Self { injector, workers, answered, schedule, .. } = self;
        let mut waiting = std::pin::pin!(waiting);
        let mut watch = interval(WATCH_PAUSE);
        let mut looked = answered.clone();
        loop {
            tokio::select! {
                done = &mut waiting => return Ok(done),
                () = injector.due(answered) => {
                    let answered = *answered.borrow();
                    injector.act(answered, workers).await?;
                }
                _ = watch.tick() => {
                    workers.sample_memory();
                    // After the last verdict nobody needs them, and an event may have ended them all.
                    if *looked.borrow_and_update() < schedule.requests.len() && workers.all_ended() {
                        return Err(workers.all_gone());
                    }
                }
            }
        }
    }
}
