//! The life beside a sale: the functions that live it, the gateway that is paid, the listener that is told; and its end.
//!
//! Invariant: what is read of it is read when every hold that could run out has, and when everything that happened is told,
//! or when either has taken too long, which the audit then finds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use crate::database;
use crate::failure::Failure;
use crate::life::events::Events;
use crate::life::facts;
use crate::life::gateway::{Gateway, GatewayOptions};
use crate::life::ledger::Ledger;
use crate::life::listener::{Keeping, Listener};
use crate::life::plan::Plan;
use crate::schedule::Schedule;
use crate::servers::Endpoints;
use crate::workers::WorkerSpec;

/// How long, after its time, the last hold may take to end: a payment may have prolonged it, or a crash held it up.
const HOLDS_WAIT_MAX: Duration = Duration::from_secs(120);
/// How long the outbox may take to be told.
const TELLING_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks at the database.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// What the relay logs once it is ready; it consumes no queue.
const RELAY_READY_LOGGED: &str = "telling what happened";

/// The programs that live an order's life.
#[derive(Debug, Clone)]
pub struct Functions {
    /// Has holds run out, and cancels.
    pub release: PathBuf,
    /// Pays.
    pub payment: PathBuf,
    /// Tells the world.
    pub relay: PathBuf,
}

impl Functions {
    /// One process of each, whose payments go to this gateway.
    #[must_use]
    pub fn workers(&self, gateway: &Gateway) -> Vec<WorkerSpec> {
        let to_gateway = [("GATEWAY", "http".to_owned()), ("GATEWAY_URL", gateway.url())];
        let to_gateway = to_gateway.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let relay = WorkerSpec::one("relay", self.relay.clone(), Vec::new());
        vec![
            WorkerSpec::one("release", self.release.clone(), Vec::new()),
            WorkerSpec::one("payment", self.payment.clone(), to_gateway),
            WorkerSpec { ready_logged: RELAY_READY_LOGGED, ..relay },
        ]
    }
}

/// What a sale needs to have a life.
#[derive(Debug, Clone)]
pub struct Life {
    /// What buyers do with their units.
    pub plan: Plan,
    /// How the gateway behaves.
    pub gateway: GatewayOptions,
    /// Who lives it.
    pub functions: Functions,
    /// Where events are kept until they are taken in; what dies with the broker is missed.
    pub keeping: Keeping,
}

/// A life under way.
pub(crate) struct Living {
    plan: Plan,
    options: GatewayOptions,
    gateway: Gateway,
    listener: Listener,
}

/// A life that is over.
#[derive(Debug)]
pub(crate) struct Lived {
    pub(crate) plan: Plan,
    pub(crate) options: GatewayOptions,
    pub(crate) ledger: Ledger,
    pub(crate) events: Events,
}

impl Life {
    /// Opens the gateway, and says who works beside those who decide purchases.
    ///
    /// # Errors
    /// There is no port for it.
    pub(crate) async fn open(&self) -> Result<(Gateway, Vec<WorkerSpec>), Failure> {
        let gateway = Gateway::open(self.gateway).await?;
        let workers = self.functions.workers(&gateway);
        Ok((gateway, workers))
    }

    /// Begins to listen: to be called before the items are on sale, on a broker that has the topology.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub(crate) async fn begin(
        self,
        gateway: Gateway,
        endpoints: &Endpoints,
        schedule: &Schedule,
    ) -> Result<Living, Failure> {
        let listener = Listener::open(&endpoints.amqp_url, &schedule.items_prefix, self.keeping).await?;
        Ok(Living { plan: self.plan, options: self.gateway, gateway, listener })
    }
}

impl Living {
    /// Returns when every hold that can run out has, and everything that happened is told; or when that takes too long.
    ///
    /// Boxed: it is waited for among other things, by those who do not know what it is.
    pub(crate) fn rest(
        &self,
        database_url: String,
        schedule: Arc<Schedule>,
    ) -> BoxFuture<'static, Result<(), Failure>> {
        let hold = self.plan.hold;
        Box::pin(async move {
            let database = database::open(&database_url).await?;
            if let Some(hold) = hold {
                until_ended(&database, &schedule, hold + HOLDS_WAIT_MAX).await;
            }
            until_told(&database).await;
            database.close().await;
            Ok(())
        })
    }

    /// Takes in the last events and closes the gateway's books. To be called when nobody works any more.
    ///
    /// # Errors
    /// The broker stays away.
    pub(crate) async fn end(self) -> Result<Lived, Failure> {
        let heard = self.listener.close().await?;
        let (ledger, events) = (self.gateway.close().await, Events::read(&heard));
        Ok(Lived { plan: self.plan, options: self.options, ledger, events })
    }
}

/// Returns when nothing of the sale is held any more, or when this time has passed. Where the database is away, that says
/// nothing yet.
async fn until_ended(database: &PgPool, schedule: &Schedule, wait_max: Duration) {
    let items: Vec<String> = schedule.items.iter().map(|item| item.id.clone()).collect();
    let started = Instant::now();
    while started.elapsed() < wait_max && !matches!(facts::held(database, &items).await, Ok(0)) {
        sleep(LOOK_PAUSE).await;
    }
}

/// Returns when the outbox is told as far as it goes now: whoever else uses this database goes on writing.
async fn until_told(database: &PgPool) {
    let started = Instant::now();
    let mut last = facts::last_untold(database).await;
    while started.elapsed() < TELLING_WAIT_MAX {
        match last {
            Ok(None) => return,
            Ok(Some(up_to)) if matches!(facts::is_untold(database, up_to).await, Ok(false)) => return,
            Ok(Some(_)) => {}
            Err(_away) => last = facts::last_untold(database).await,
        }
        sleep(LOOK_PAUSE).await;
    }
}
