//! Pays for held orders through a payment gateway: at most one charge for each order, and each charge a paid order.
//!
//! [`pay`] marks an order as being paid for, which keeps its units, asks the gateway ([`gateway`], [`asks`]) under a key
//! that is the order's id for ever, and commits what it says ([`decide`], [`rows`]); [`lost`] ends payments whose messages
//! are gone. Who waits for whom: an order's row is locked before an item's, items in the order of their ids, and a request
//! id is recorded last; as in the other functions, so nobody waits in a circle.

pub mod asks;
pub mod decide;
pub mod gateway;
pub mod lost;
mod options;
pub mod pay;
pub mod rows;

pub use options::{GatewayKind, Options};

use asks::Asks;
use futures_util::future::BoxFuture;
use gateway::Gateway;
use pay::Till;
use shared::{
    config::WorkerOptions,
    db,
    error::Error,
    handler::{Answer, Handler},
    messages::PaymentRequest,
    outbox::Notifier,
};
use sqlx::PgPool;
use std::sync::Arc;

/// The handler of payment requests; beside that, lost payments are taken up again.
#[derive(Debug, Clone)]
pub struct Payment {
    till: Arc<Till>,
    lost_seconds: u32,
}

impl Payment {
    /// A handler on the database and the gateway that the options name, the database's schema up to date.
    ///
    /// # Errors
    /// No gateway that can be used is named; the database cannot be reached in time, or its schema does not fit.
    pub async fn connect(worker: WorkerOptions, options: Options) -> anyhow::Result<Self> {
        let gateway = options.gateway()?;
        let name = format!("turnstile-{} {}", Self::NAME, worker.worker_id);
        let pool = db::open(&options.store, &name, worker.startup_seconds_max).await?;
        Ok(Self::new(pool, gateway, options.lost_seconds))
    }

    /// A handler on a database whose schema is up to date. A payment that nobody has asked about for `lost_seconds` is lost.
    #[must_use]
    pub fn new(pool: PgPool, gateway: Arc<dyn Gateway>, lost_seconds: u32) -> Self {
        let till = Till { notifier: Notifier::start(&pool), asks: Asks::of(gateway), pool };
        Self { till: Arc::new(till), lost_seconds }
    }
}

impl Handler for Payment {
    type Request = PaymentRequest;

    async fn handle(&self, requests: &[PaymentRequest]) -> Result<Vec<Answer>, Error> {
        self.till.pay(requests, pay::PATIENCE).await
    }

    fn upkeep(&self) -> BoxFuture<'static, ()> {
        let (till, lost_seconds) = (self.till.clone(), self.lost_seconds);
        Box::pin(async move { lost::upkeep(&till, lost_seconds).await })
    }
}
