//! Gives stock back, once: on request ([`cancel`]), and when a hold runs out ([`expire`]).
//!
//! Both move an order on from `reserved` and its units from held to available ([`stock`]) in one transaction, with a
//! row of history; [`shared::order`] says what may become of an order. Who waits for whom: an order's row is locked
//! before an item's, items in the order of their ids, and a request id is recorded last. Purchases keep to the same
//! order, so nobody waits in a circle.

pub mod cancel;
pub mod decide;
pub mod expire;
pub mod stock;

use clap::Args;
use futures_util::future::BoxFuture;
use shared::{
    config::{StoreOptions, WorkerOptions},
    db,
    error::Error,
    handler::{Answer, Handler},
    messages::ReleaseRequest,
    outbox::Notifier,
};
use sqlx::PgPool;

/// The release function's own options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
}

/// The handler of release requests; beside that, holds run out.
#[derive(Debug, Clone)]
pub struct Release {
    pool: PgPool,
    notifier: Notifier,
}

impl Release {
    /// A handler on the database that the options name, its schema up to date.
    ///
    /// # Errors
    /// The database cannot be reached in time, or its schema does not fit.
    pub async fn connect(worker: WorkerOptions, options: Options) -> anyhow::Result<Self> {
        let name = format!("turnstile-{} {}", Self::NAME, worker.worker_id);
        Ok(Self::new(db::open(&options.store, &name, worker.startup_seconds_max).await?))
    }

    /// A handler on a database whose schema is up to date.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { notifier: Notifier::start(&pool), pool }
    }
}

impl Handler for Release {
    type Request = ReleaseRequest;

    async fn handle(&self, requests: &[ReleaseRequest]) -> Result<Vec<Answer>, Error> {
        let answers = cancel::cancel(&self.pool, requests).await;
        self.notifier.notify();
        answers
    }

    fn upkeep(&self) -> BoxFuture<'static, ()> {
        expire::upkeep(&self.pool, self.notifier.clone())
    }
}
