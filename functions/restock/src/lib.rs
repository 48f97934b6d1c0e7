//! Puts items on sale, and changes their stock, their sale window and their rules, by message.
//!
//! A batch is decided on the locked rows of its items ([`decide`], on what an [`item`] allows) and written in the same
//! transaction ([`store`]). A rule that looks at a buyer's earlier orders is set once all orders of the item can be found by
//! buyer ([`count`]). Its queue has one active consumer: stock movements are made in the order in which they were sent.

pub mod count;
pub mod decide;
pub mod item;
pub mod store;

use shared::config::{StoreOptions, WorkerOptions};
use shared::error::Error;
use shared::handler::{Answer, Handler};
use shared::isolation::{Decide, Isolation, Row};
use shared::messages::RestockRequest;
use shared::outbox::Notifier;
use shared::{db, transaction};
use sqlx::PgPool;
use std::process::ExitCode;

/// The whole program. Here and not in `main.rs`, which would compile much of it once more.
pub fn main() -> ExitCode {
    shared::worker::main(Restock::connect)
}

/// The handler of restock requests.
#[derive(Debug, Clone)]
pub struct Restock {
    isolation: Isolation,
    notifier: Notifier,
}

impl Restock {
    /// A handler on the database that the options name, its schema up to date.
    pub async fn connect(worker: WorkerOptions, options: StoreOptions) -> anyhow::Result<Self> {
        let name = worker.name(Self::NAME);
        Ok(Self::new(db::open(&options, &name, worker.startup_seconds_max, worker.migrate).await?))
    }

    /// A handler on a database whose schema is up to date.
    pub fn new(pool: PgPool) -> Self {
        Self { notifier: Notifier::start(&pool), isolation: Isolation::new(&pool) }
    }
}

impl Handler for Restock {
    type Request = RestockRequest;

    async fn handle(&self, requests: &[RestockRequest]) -> Result<Vec<Answer>, Error> {
        let answers = self.isolation.answer(self, requests).await;
        self.notifier.notify();
        answers
    }
}

impl Decide for Restock {
    type Request = RestockRequest;

    fn row(request: &RestockRequest) -> Row {
        Row::Item(request.item.clone())
    }

    async fn decide(&self, pool: &PgPool, requests: &[RestockRequest]) -> Result<Vec<Answer>, Error> {
        // One more item of the batch is counted each time, and stays so.
        for _ in 0..=requests.len() {
            match transaction::run(pool, &store::Change(requests)).await? {
                Ok(answers) => return Ok(answers),
                Err(uncounted) => count::count(pool, &uncounted).await?,
            }
        }
        Err(Error::Unfit("the database is not fit for use: orders were counted, and are not counted".to_owned()))
    }
}
