//! One sale: items put into the database, a round of buyers, and the audit of both sides.
//!
//! Invariant: what the audit reads, it reads from the database after the last worker has ended, on a connection of
//! its own.

mod ceiling;
mod drained;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use shared::config::StoreOptions;
use shared::db;
use shared::devstack::{Redis, redis};
use sqlx::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::audit::Audit;
use crate::audit::database_state;
use crate::cluster::Cluster;
use crate::crashes::Crashes;
use crate::events::Event;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::orders::{Orders, RunningOrders};
use crate::outcome::{DepthSample, Outcome, ScenarioReport, ServersReport};
use crate::probe::{Probe, broker_version};
use crate::round::{Beside, Round, Tally};
use crate::scenario::{Scenario, Schedule};
use crate::strategy::Strategy;
use crate::unrest::Unrest;
use crate::workers::{Crew, Endpoints, Workers};
pub use ceiling::Ceiling;
pub use drained::Drained;

/// What decides in a round without a database.
const STRATEGY_OF_CEILING: &str = "none";
/// How long to wait for a database that is away.
const DATABASE_WAIT_SECONDS_MAX: u64 = 30;

/// A sale, ready or open.
pub struct Sale<'a> {
    round: Round<'a>,
    schedule: Arc<Schedule>,
    database_url: String,
    report: ScenarioReport,
    servers: ServersReport,
    orders: Option<RunningOrders>,
}

impl<'a> Sale<'a> {
    /// Makes topology and schema, starts the workers, puts the items on sale and connects the buyers.
    ///
    /// # Errors
    /// A server is away or not as it should be; a worker does not start.
    pub async fn prepare(endpoints: &Endpoints, scenario: &Scenario, crew: Crew) -> Result<Self, Failure> {
        Self::prepare_to_live(endpoints, scenario, crew, None).await
    }

    /// The same, and makes everything ready for the orders' life after their verdicts.
    ///
    /// # Errors
    /// As [`Sale::prepare`].
    pub async fn prepare_to_live(
        endpoints: &Endpoints,
        scenario: &Scenario,
        crew: Crew,
        orders: Option<Orders>,
    ) -> Result<Self, Failure> {
        let rabbitmq = broker_version(&endpoints.amqp_url).await?;
        let schedule = Arc::new(Schedule::new(scenario, &salt()));
        let database = open_database(&endpoints.database_url).await?;
        let postgresql = Some(database_state::server_version(&database).await.map_err(database_failed)?);
        let redis = redis_version(endpoints, crew.strategy).await?;
        let report = ScenarioReport::new(scenario, &crew);
        let hold = orders.as_ref().and_then(|orders| orders.plan.hold);
        let (round, orders) = match orders {
            None => (Round::prepare(endpoints, Arc::clone(&schedule), crew, None).await?, None),
            Some(orders) => {
                let probe = Probe::connect(&endpoints.amqp_url).await?;
                probe.declare_topology().await?;
                probe.close().await;
                let plan = orders.plan;
                let (running, crews) = orders.start(endpoints, &schedule).await?;
                let beside = Some(Beside { plan, crews });
                (Round::prepare(endpoints, Arc::clone(&schedule), crew, beside).await?, Some(running))
            }
        };
        database_state::put_on_sale(&database, &schedule.items, hold).await.map_err(database_failed)?;
        database.close().await;
        let database_url = endpoints.database_url.clone();
        let servers = ServersReport { rabbitmq, postgresql, redis };
        Ok(Self { round, schedule, database_url, report, servers, orders })
    }

    /// Lets the buyers in; they wait for their verdicts no longer than `patience`.
    #[must_use]
    pub fn open(self, patience: Duration) -> Self {
        Self { round: self.round.open(patience), ..self }
    }

    /// Has the events of this [`crate::events::plan`] happen while the buyers are at work; who is frozen stays so for
    /// `freeze`, or until the last verdict. `cluster` is the broker, where one of its nodes is to be killed.
    #[must_use]
    pub fn disturbed(self, plan: Vec<(usize, Event)>, freeze: Duration, cluster: Option<Cluster<'a>>) -> Self {
        Self { round: self.round.with_unrest(Unrest::new(plan, freeze, cluster)), ..self }
    }

    /// Gives the events of [`Sale::disturbed`] the Redis that they kill.
    #[must_use]
    pub fn with_redis(self, redis: Option<&'a mut Redis>) -> Self {
        Self { round: self.round.with_redis(redis), ..self }
    }

    /// Has these workers killed, and replaced, from its opening on.
    #[must_use]
    pub fn crashing(self, crashes: Crashes) -> Self {
        Self { round: self.round.with_crashes(crashes), ..self }
    }

    /// How many requests have a verdict, as it grows.
    #[must_use]
    pub fn answered(&self) -> watch::Receiver<usize> {
        self.round.answered()
    }

    /// The worker processes, for tests that disturb them.
    pub fn workers(&mut self) -> &mut Workers {
        self.round.workers()
    }

    /// What is on sale, and who asks for it.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Waits for every verdict, drains the workers, audits.
    ///
    /// # Errors
    /// A server stays away, or the workers are gone.
    pub async fn finish(self) -> Result<Outcome, Failure> {
        self.drain().await?.audit().await
    }

    /// Waits for every verdict, and for the end of the orders' lives, and drains the workers.
    ///
    /// # Errors
    /// The broker stays away, or the workers are gone.
    pub async fn drain(self) -> Result<Drained, Failure> {
        let Self { round, schedule, database_url, report, servers, orders } = self;
        let (tally, orders) = match orders {
            None => (round.finish(std::future::ready(Ok(()))).await?, None),
            Some(orders) => {
                let over = orders.until_over(database_url.clone(), Arc::clone(&schedule));
                (round.finish(over).await?, Some(orders.finish().await?))
            }
        };
        Ok(Drained { tally, orders, schedule, database_url, report, servers })
    }
}

/// Of what counts, where the strategy needs it.
pub(crate) async fn redis_version(
    endpoints: &Endpoints,
    strategy: Option<Strategy>,
) -> Result<Option<String>, Failure> {
    let (Some(Strategy::Redis), Some(url)) = (strategy, &endpoints.redis_url) else { return Ok(None) };
    let version = redis::version(url).await.context("Redis cannot be used; does REDIS_URL name it?");
    version.map(Some).map_err(Failure::Unreachable)
}

impl ScenarioReport {
    fn new(scenario: &Scenario, crew: &Crew) -> Self {
        Self {
            buyers: scenario.buyers,
            stock: scenario.stock,
            items: scenario.items,
            workers: crew.count,
            strategy: crew.strategy.map_or(STRATEGY_OF_CEILING, Strategy::as_str),
            batch_max: crew.batch_max,
            rate: scenario.rate,
            seed: scenario.seed,
        }
    }
}

fn outcome(scenario: ScenarioReport, servers: ServersReport, audit: Audit, tally: Tally) -> Outcome {
    let passed = audit.passed();
    Outcome {
        scenario,
        servers,
        machine: Machine::here(),
        verdicts: audit.verdicts,
        lost: audit.lost,
        duplicate_replies: audit.duplicate_replies,
        conflicting_replies: audit.conflicting_replies,
        oversold: audit.oversold,
        order_inversions: audit.order_inversions,
        seconds: tally.timing.seconds,
        purchases_per_second: tally.timing.purchases_per_second,
        latency_ms: tally.timing.latency_ms,
        latency_curve: tally.timing.latency_curve,
        attempts: 0,
        conflicts: 0,
        queue_depth_peak: tally.depth.iter().map(|sample| sample.messages).max().unwrap_or(0),
        events: tally.events,
        crashes: tally.crashes,
        workers: tally.workers,
        ceiling: None,
        life: None,
        shown: None,
        invariants: audit.invariants,
        passed,
        waiting_peak: tally.depth.iter().map(|sample| sample.waiting).max().unwrap_or(0),
        queue_depth: DepthSample::with_sold(tally.depth, audit.sold_at),
        reconnects: tally.reconnects,
    }
}

/// Keeps the ids of this run apart from those of any other.
fn salt() -> String {
    Uuid::now_v7().simple().to_string()
}

pub(crate) async fn open_database(url: &str) -> Result<PgPool, Failure> {
    let options = StoreOptions { database_url: url.to_owned(), database_connections_max: 1 };
    Ok(db::open(&options, "turnstile-loadtest", DATABASE_WAIT_SECONDS_MAX).await?)
}

pub(crate) fn database_failed(error: sqlx::Error) -> Failure {
    Failure::Unreachable(anyhow::Error::new(error).context("PostgreSQL went away, or refuses"))
}
