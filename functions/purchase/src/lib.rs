//! Decides purchase requests: the hot path.
//!
//! A batch of requests is read against the items' rows ([`read`]), decided without any I/O ([`decide`], by the items'
//! [`rules`]), and committed in one statement that checks the rows' versions ([`commit`]); [`optimistic`] goes round until
//! it holds. Beside that, verdicts past their time are deleted ([`keep`]).

pub mod commit;
pub mod decide;
pub mod keep;
pub mod optimistic;
pub mod read;
pub mod rules;
pub mod strategy;

use anyhow::Context;
use clap::Args;
use futures_util::future::BoxFuture;
use keep::KeepPolicy;
use shared::{
    config::{StoreOptions, WorkerOptions},
    contract::{PurchaseRequest, Rejection},
    error::Error,
    handler::{Answer, Handler},
    outbox::Bell,
    retry::RetryPolicy,
    store,
};
use sqlx::PgPool;

/// The purchase function's own options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
    /// How conflicting decisions are spaced.
    #[command(flatten)]
    pub retry: RetryPolicy,
    /// How long verdicts are kept.
    #[command(flatten)]
    pub keep: KeepPolicy,
}

/// The handler of purchase requests.
#[derive(Debug, Clone)]
pub struct Purchase {
    pool: PgPool,
    bell: Bell,
    retry: RetryPolicy,
    keep: KeepPolicy,
}

impl Purchase {
    /// A handler on the database that the options name, its schema up to date.
    ///
    /// # Errors
    /// The database cannot be reached in time, or its schema does not fit.
    pub async fn connect(worker: WorkerOptions, options: Options) -> anyhow::Result<Self> {
        let name = format!("turnstile-{} {}", Self::NAME, worker.worker_id);
        let pool = store::open(&options.store, &name, worker.startup_seconds_max).await?;
        warm_up(&pool).await.context("the database's tables cannot be read")?;
        Ok(Self { keep: options.keep, ..Self::new(pool, options.retry) })
    }

    /// A handler on a database whose schema is up to date; verdicts are kept as long as by default.
    #[must_use]
    pub fn new(pool: PgPool, retry: RetryPolicy) -> Self {
        Self { bell: Bell::hang(&pool), pool, retry, keep: KeepPolicy::default() }
    }
}

/// Connects, and has the statements of a purchase parsed and planned, before the first buyer waits for it.
async fn warm_up(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    read::warm_up(&mut connection).await?;
    commit::prepare(&mut connection).await
}

impl Handler for Purchase {
    const NAME: &'static str = "purchase";
    type Request = PurchaseRequest;

    fn decode(body: &[u8], message_id: Option<&str>) -> Result<PurchaseRequest, Rejection> {
        PurchaseRequest::decode(body, message_id)
    }

    fn request_id(request: &PurchaseRequest) -> &str {
        &request.request_id
    }

    async fn handle(&self, requests: &[PurchaseRequest]) -> Result<Vec<Answer>, Error> {
        let answers = optimistic::purchase(&self.pool, &self.retry, requests).await;
        self.bell.ring();
        answers
    }

    fn upkeep(&self) -> BoxFuture<'static, ()> {
        keep::upkeep(&self.pool, self.keep)
    }
}
