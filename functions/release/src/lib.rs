//! Gives stock back, once: on request, and when a hold runs out ([`expire`]).
//!
//! Both move an order on from `reserved` and its units from held to available in one transaction ([`store`]);
//! [`shared::order`] says what may become of an order.

pub mod decide;
pub mod expire;
pub mod store;

use futures_util::future::BoxFuture;
use shared::config::{StoreOptions, WorkerOptions};
use shared::error::Error;
use shared::handler::{Answer, Handler};
use shared::isolation::{Decide, Isolation, Row};
use shared::messages::ReleaseRequest;
use shared::outbox::Notifier;
use shared::upkeep::Upkeep;
use shared::{db, transaction};
use sqlx::PgPool;
use std::process::ExitCode;
use tokio::sync::watch;

/// The whole program. Here and not in `main.rs`, which would compile much of it once more.
pub fn main() -> ExitCode {
    shared::worker::main(Release::connect)
}

/// The handler of release requests; beside that, holds run out.
#[derive(Debug, Clone)]
pub struct Release {
    pool: PgPool,
    isolation: Isolation,
    notifier: Notifier,
}

impl Release {
    /// A handler on the database that the options name, its schema up to date.
    pub async fn connect(worker: WorkerOptions, options: StoreOptions) -> anyhow::Result<Self> {
        let name = worker.name(Self::NAME);
        Ok(Self::new(db::open(&options, &name, worker.startup_seconds_max, worker.migrate).await?))
    }

    /// A handler on a database whose schema is up to date.
    pub fn new(pool: PgPool) -> Self {
        Self { notifier: Notifier::start(&pool), isolation: Isolation::new(&pool), pool }
    }
}

impl Handler for Release {
    type Request = ReleaseRequest;

    async fn handle(&self, requests: &[ReleaseRequest]) -> Result<Vec<Answer>, Error> {
        let answers = self.isolation.answer(self, requests).await;
        self.notifier.notify();
        answers
    }

    fn upkeep(&self, failing: watch::Sender<Option<String>>) -> BoxFuture<'static, ()> {
        expire::Expirer::new(&self.pool, self.isolation.clone(), self.notifier.clone()).keep_looking(failing)
    }
}

impl Decide for Release {
    type Request = ReleaseRequest;

    fn row(request: &ReleaseRequest) -> Row {
        Row::Order(request.order_id)
    }

    async fn decide(&self, pool: &PgPool, requests: &[ReleaseRequest]) -> Result<Vec<Answer>, Error> {
        transaction::run(pool, &store::Cancel(requests)).await
    }
}
