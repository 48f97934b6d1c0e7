//! Decides purchase requests: the hot path.
//!
//! A batch is read ([`store`]), decided by the items' [`rules`] without any I/O ([`decide`]), and committed in one statement
//! that checks whether the decisions are still right. [`strategy`] has the ways to do that, and tries again until a batch is
//! answered. Beside that, verdicts and orders past their time are deleted ([`retention`]).

pub mod decide;
mod metrics;
pub mod retention;
pub mod rules;
pub mod store;
pub mod strategy;

use anyhow::Context;
use clap::Args;
use futures_util::future::BoxFuture;
use retention::{KEEP_VERDICTS_DAYS, Kept, Walker};
use shared::config::{StoreOptions, Unusable, WorkerOptions};
use shared::db;
use shared::error::Error;
use shared::handler::{Answer, Handler};
use shared::isolation::Isolation;
use shared::messages::PurchaseRequest;
use shared::metrics::Registry;
use shared::outbox::Notifier;
use shared::retry::RetryPolicy;
use shared::startup::wait_for_server;
use shared::upkeep::Upkeep;
use sqlx::PgPool;
use std::process::ExitCode;
use strategy::{Decider, StrategyOptions};
use tokio::sync::watch;

/// The whole program. Here and not in `main.rs`, which would compile much of it once more.
pub fn main() -> ExitCode {
    shared::worker::main(Purchase::connect)
}

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub store: StoreOptions,
    #[command(flatten)]
    pub strategy: StrategyOptions,
    #[command(flatten)]
    pub retry: RetryPolicy,
    /// How long a request id gets its verdict again, in days; then the verdict is deleted, within about a day more, and
    /// the id is as new. Longer than any message can wait in a queue or come again; the same for all workers.
    #[arg(long, env = "KEEP_VERDICTS_DAYS", default_value_t = KEEP_VERDICTS_DAYS, value_name = "DAYS")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=3_650))]
    pub keep_verdicts_days: u16,
    /// How long an order that is over is kept behind the time of its hold, or when it ended later, in days; then it is deleted,
    /// with its history and its payment, within about a day more. Paid orders of items with limits stay. No less than verdicts;
    /// the same for all workers. Without it, orders are kept for ever.
    #[arg(long, env = "KEEP_ORDERS_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=3_650))]
    pub keep_orders_days: Option<u16>,
}

#[derive(Clone)]
pub struct Purchase {
    decider: Decider,
    isolation: Isolation,
    notifier: Notifier,
    kept: Vec<(Kept, u16)>,
}

impl Purchase {
    /// A handler on the database that the options name, once it is there and its schema up to date.
    pub async fn connect(worker: WorkerOptions, options: Options) -> anyhow::Result<Self> {
        let (in_flight, connections_max) = (options.strategy.in_flight, options.store.database_connections_max);
        if u32::from(in_flight) > connections_max {
            let text =
                format!("--in-flight {in_flight} needs as many connections: --database-connections-max {in_flight}");
            return Err(Unusable(text).into());
        }
        let mut kept = vec![(Kept::Verdicts, options.keep_verdicts_days)];
        if let Some(days) = options.keep_orders_days {
            if days < options.keep_verdicts_days {
                let text = "--keep-orders-days is less than --keep-verdicts-days: a verdict would be repeated of an order that is gone";
                return Err(Unusable(text.to_owned()).into());
            }
            kept.push((Kept::Orders, days));
        }
        let name = worker.name(Self::NAME);
        let pool = db::open(&options.store, &name, worker.startup_seconds_max, worker.migrate).await?;
        let purchase = Self { kept, ..Self::new(pool, options.strategy, options.retry)? };
        let seconds_max = worker.startup_seconds_max;
        let away = |error: &Error| (!matches!(error, Error::Unfit(_))).then(|| error.to_string());
        let warm = wait_for_server("the database", seconds_max, away, async || Ok(purchase.warm_up().await?)).await;
        warm.context("the database's tables cannot be read")?;
        purchase.decider.reach_counter(seconds_max).await?;
        Ok(purchase)
    }

    /// A handler on a database whose schema is up to date; verdicts are kept as long as by default.
    pub fn new(pool: PgPool, strategy: StrategyOptions, retry: RetryPolicy) -> Result<Self, Unusable> {
        let (notifier, isolation) = (Notifier::start(&pool), Isolation::new(&pool));
        let decider = Decider::new(pool, strategy, retry)?;
        Ok(Self { decider, isolation, notifier, kept: vec![(Kept::Verdicts, KEEP_VERDICTS_DAYS)] })
    }

    /// Connects, and has the statements of a purchase parsed and planned, before the first buyer waits for it.
    ///
    /// As many connections as are in use at once, the notifier's among them: a new one connects and plans in mid-sale, and a
    /// sale of a thousand buyers is over in a tenth of a second.
    async fn warm_up(&self) -> Result<(), sqlx::Error> {
        let in_use = (u32::from(self.decider.in_flight) + 1).min(self.decider.pool.options().get_max_connections());
        let mut connections = Vec::new();
        for _ in 0..in_use {
            let mut connection = db::acquire(&self.decider.pool).await?;
            db::answered(store::warm_up(&mut connection)).await?;
            connections.push(connection);
        }
        Ok(())
    }
}

impl Handler for Purchase {
    type Request = PurchaseRequest;

    async fn handle(&self, requests: &[PurchaseRequest]) -> Result<Vec<Answer>, Error> {
        let answers = self.isolation.answer(&self.decider, requests).await;
        self.notifier.notify();
        answers
    }

    fn register(&self, registry: &mut Registry) {
        self.decider.metrics.register(registry);
    }

    fn upkeep(&self, failing: watch::Sender<Option<String>>) -> BoxFuture<'static, ()> {
        Walker::new(&self.decider.pool, self.kept.clone()).keep_looking(failing)
    }
}
