//! Puts items on sale, and changes their stock, their sale window and their rules, by message.
//!
//! A batch is decided on the locked rows of its items ([`decide`], on what an [`item`] allows) and written in the same
//! transaction ([`change`]). A rule that looks at a buyer's earlier orders is set once all orders of the item can be found by
//! buyer ([`count`]). Its queue has one active consumer: stock movements are made in the order in which they were sent.
//!
//! Who waits for whom: items are locked in the order of their ids, then new ones are inserted in that order, and a request
//! id is recorded last. Purchases and releases lock items in the same order, and the orders that they lock before them;
//! here, orders are locked by a transaction of their own, in the order of their ids. So nobody waits in a circle.

pub mod change;
pub mod count;
pub mod decide;
pub mod item;
mod race;

use clap::Args;
use shared::{
    config::{StoreOptions, WorkerOptions},
    db,
    error::Error,
    handler::{Answer, Handler},
    messages::RestockRequest,
    outbox::Notifier,
};
use sqlx::PgPool;

/// The restock function's own options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
}

/// The handler of restock requests.
#[derive(Debug, Clone)]
pub struct Restock {
    pool: PgPool,
    notifier: Notifier,
}

impl Restock {
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

impl Handler for Restock {
    type Request = RestockRequest;

    async fn handle(&self, requests: &[RestockRequest]) -> Result<Vec<Answer>, Error> {
        let answers = change::restock(&self.pool, requests).await;
        self.notifier.notify();
        answers
    }
}
