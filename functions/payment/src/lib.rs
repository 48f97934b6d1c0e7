//! Pays for held orders through a payment gateway: at most one charge for each order, and each charge a paid order.
//!
//! The [`processor`] marks an order as being paid for, which keeps its units; asks the [`gateway`] under a key that is the
//! order's id for ever, for as long as it takes (`pending.rs`); and commits what it says ([`decide`], [`store`]).
//! [`recovery`] ends payments whose messages are gone.

pub mod decide;
pub mod gateway;
mod pending;
pub mod processor;
pub mod recovery;
pub mod store;

use clap::{Args, ValueEnum};
use futures_util::future::BoxFuture;
use gateway::{Gateway, Http, HttpOptions, Simulated, SimulatedOptions};
use pending::Pending;
use shared::{
    config::{StoreOptions, Unusable, WorkerOptions},
    db,
    error::Error,
    handler::{Answer, Handler},
    isolation::{Decide, Isolation, Row},
    messages::PaymentRequest,
    outbox::Notifier,
    upkeep::Upkeep,
};
use sqlx::PgPool;
use std::sync::Arc;
use tokio::sync::watch;

/// The payment function's own options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    store: StoreOptions,
    /// Which payment gateway to ask. There is no default: a forgotten setting must not give goods away.
    #[arg(long = "gateway", env = "GATEWAY", value_enum, value_name = "KIND")]
    kind: Option<GatewayKind>,
    #[command(flatten)]
    http: HttpOptions,
    #[command(flatten)]
    simulated: SimulatedOptions,
    /// A payment that nobody has asked the gateway about for so long has lost its message (its queue was purged, say), and
    /// is taken up again, in seconds. Longer than a message waits in its queue.
    #[arg(long = "payment-lost-seconds", env = "PAYMENT_LOST_SECONDS", default_value_t = 300, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    lost_seconds: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GatewayKind {
    /// Moves no money: for demos, tests and measurements
    Simulated,
    /// The one at --gateway-url
    Http,
}

impl Options {
    fn gateway(&self) -> Result<Arc<dyn Gateway>, Unusable> {
        match self.kind {
            None => Err(Unusable(
                "no payment gateway is chosen: set GATEWAY=http and GATEWAY_URL, or GATEWAY=simulated to move no money"
                    .to_owned(),
            )),
            Some(GatewayKind::Http) => Ok(Arc::new(Http::new(&self.http)?)),
            Some(GatewayKind::Simulated) => {
                tracing::warn!("the payment gateway is simulated: orders become paid, and no money moves");
                Ok(Arc::new(Simulated(self.simulated)))
            }
        }
    }
}

/// The handler of payment requests; beside that, lost payments are taken up again.
#[derive(Clone)]
pub struct Payment {
    pool: PgPool,
    isolation: Isolation,
    pending: Arc<Pending>,
    notifier: Notifier,
    lost_seconds: u32,
}

impl Payment {
    /// A handler on the database and the gateway that the options name, the database's schema up to date.
    pub async fn connect(worker: WorkerOptions, options: Options) -> anyhow::Result<Self> {
        let gateway = options.gateway()?;
        let name = format!("turnstile-{} {}", Self::NAME, worker.worker_id);
        let pool = db::open(&options.store, &name, worker.startup_seconds_max).await?;
        Ok(Self::new(pool, gateway, options.lost_seconds))
    }

    /// A handler on a database whose schema is up to date. A payment that nobody has asked about for `lost_seconds` is lost.
    pub fn new(pool: PgPool, gateway: Arc<dyn Gateway>, lost_seconds: u32) -> Self {
        let (notifier, isolation) = (Notifier::start(&pool), Isolation::new(&pool));
        Self { notifier, isolation, pending: Arc::new(Pending::at(gateway)), pool, lost_seconds }
    }
}

impl Handler for Payment {
    type Request = PaymentRequest;

    async fn handle(&self, requests: &[PaymentRequest]) -> Result<Vec<Answer>, Error> {
        self.isolation.answer(self, requests).await
    }

    fn upkeep(&self, _: watch::Sender<Option<String>>) -> BoxFuture<'static, ()> {
        self.clone().keep_looking()
    }
}

impl Decide for Payment {
    type Request = PaymentRequest;

    fn row(request: &PaymentRequest) -> Row<'_> {
        Row::Order(request.order_id)
    }

    async fn decide(&self, pool: &PgPool, requests: &[PaymentRequest]) -> Result<Vec<Answer>, Error> {
        Self { pool: pool.clone(), ..self.clone() }.pay(requests, processor::TIMEOUT).await
    }
}
