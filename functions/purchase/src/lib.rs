//! Decides purchase requests: the hot path.
//!
//! A batch of requests is read against the items' rows ([`read`]), decided without any I/O ([`decide`], by the items'
//! [`rules`]), and committed in one statement that checks the rows' versions ([`commit`]). That is one way to keep stock;
//! [`strategy`] has the others, and goes round until a batch is answered. [`contention`] tells how often it had to. Beside that,
//! verdicts past their time are deleted ([`keep`]).

pub mod commit;
pub mod contention;
pub mod decide;
pub mod keep;
pub mod read;
pub mod rules;
pub mod strategy;

use anyhow::Context;
use clap::Args;
use contention::{Contention, Log};
use futures_util::future::BoxFuture;
use keep::KeepPolicy;
use shared::{
    config::{StoreOptions, Unusable, WorkerOptions},
    db,
    error::Error,
    handler::{Answer, Handler},
    messages::PurchaseRequest,
    metrics::Registry,
    outbox::Notifier,
    retry::RetryPolicy,
};
use sqlx::PgPool;
use strategy::{Decider, StrategyOptions};

/// The purchase function's own options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
    /// How stock is kept.
    #[command(flatten)]
    pub strategy: StrategyOptions,
    /// How conflicting decisions are spaced.
    #[command(flatten)]
    pub retry: RetryPolicy,
    /// How long verdicts are kept.
    #[command(flatten)]
    pub keep: KeepPolicy,
}

/// The handler of purchase requests.
#[derive(Clone)]
pub struct Purchase {
    pool: PgPool,
    decider: Decider,
    contention: Contention,
    notifier: Notifier,
    keep: KeepPolicy,
}

impl Purchase {
    /// A handler on the database that the options name, its schema up to date.
    ///
    /// # Errors
    /// The database cannot be reached in time, or its schema does not fit.
    pub async fn connect(worker: WorkerOptions, options: Options) -> anyhow::Result<Self> {
        let (in_flight, connections_max) = (options.strategy.in_flight, options.store.database_connections_max);
        if u32::from(in_flight) > connections_max {
            let text =
                format!("--in-flight {in_flight} needs as many connections: --database-connections-max {in_flight}");
            return Err(Unusable(text).into());
        }
        let name = format!("turnstile-{} {}", Self::NAME, worker.worker_id);
        let pool = db::open(&options.store, &name, worker.startup_seconds_max).await?;
        let purchase = Self { keep: options.keep, ..Self::new(pool, options.strategy, options.retry)? };
        purchase.warm_up().await.context("the database's tables cannot be read")?;
        purchase.decider.reach_counter(worker.startup_seconds_max).await?;
        Ok(purchase)
    }

    /// A handler on a database whose schema is up to date; verdicts are kept as long as by default.
    ///
    /// # Errors
    /// What the strategy needs cannot be had with these options.
    pub fn new(pool: PgPool, strategy: StrategyOptions, retry: RetryPolicy) -> Result<Self, Unusable> {
        let contention = Contention::default();
        let decider = Decider::new(pool.clone(), strategy, retry, vec![Box::new(Log), Box::new(contention.clone())])?;
        Ok(Self { decider, contention, notifier: Notifier::start(&pool), pool, keep: KeepPolicy::default() })
    }

    /// Connects, and has the statements of a purchase parsed and planned, before the first buyer waits for it.
    ///
    /// As many connections as are in use at once, the notifier's among them: a new one connects and plans in mid-sale, and a
    /// sale of a thousand buyers is over in a tenth of a second.
    async fn warm_up(&self) -> Result<(), sqlx::Error> {
        let in_use = (u32::from(self.decider.connections()) + 1).min(self.pool.options().get_max_connections());
        let mut connections = Vec::new();
        for _ in 0..in_use {
            let mut connection = self.pool.acquire().await?;
            read::warm_up(&mut connection).await?;
            commit::warm_up(&mut connection).await?;
            self.decider.warm_up(&mut connection).await?;
            connections.push(connection);
        }
        Ok(())
    }
}

impl Handler for Purchase {
    type Request = PurchaseRequest;

    async fn handle(&self, requests: &[PurchaseRequest]) -> Result<Vec<Answer>, Error> {
        let answers = self.decider.answer(requests).await;
        self.notifier.notify();
        answers
    }

    fn register(&self, registry: &mut Registry) {
        self.contention.register(registry);
    }

    fn upkeep(&self) -> BoxFuture<'static, ()> {
        keep::upkeep(&self.pool, self.keep)
    }
}
