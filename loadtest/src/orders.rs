//! What happens to orders after their verdicts, as the load generator plays it: buyers pay, cancel, or let their hold run
//! out; the functions release, payment and relay work; a payment gateway takes the money; a listener takes in the events.
//!
//! Whatever is chosen follows from the sale's seed.

pub mod demo;
pub mod events;
pub mod follow_ups;
pub mod listener;
pub mod plan;
pub mod report;

use crate::audit::database_state;
use crate::database::open as open_database;
use crate::failure::Failure;
use crate::schedule::Schedule;
use crate::servers::Endpoints;
use crate::workers::WorkerSpec;
use anyhow::Context;
use events::Events;
use futures_util::future::BoxFuture;
use listener::{Listener, Storage};
use plan::Plan;
use shared::devstack::Gateway;
use shared::devstack::gateway::{Behaviour, Ledger};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long, after their time, no hold may end while some are left: a payment may have prolonged it, or a crash held it up.
const HOLDS_TIMEOUT: Duration = Duration::from_secs(120);
/// How long nothing may be published of what is in the outbox.
const OUTBOX_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// The programs of the functions that orders meet.
#[derive(Debug, Clone)]
pub struct Functions {
    pub release: PathBuf,
    pub payment: PathBuf,
    pub relay: PathBuf,
}

/// How a sale goes on after its verdicts.
#[derive(Debug, Clone)]
pub struct Orders {
    pub plan: Plan,
    pub functions: Functions,
    pub storage: Storage,
}

pub(crate) struct RunningOrders {
    hold: Option<Duration>,
    gateway: Gateway,
    listener: Listener,
}

impl Functions {
    /// A payment gateway, and one process of each function.
    pub(crate) async fn start(self, behaviour: Behaviour) -> Result<(Gateway, Vec<WorkerSpec>), Failure> {
        let gateway = Gateway::open(behaviour).await.context("open the payment gateway on a loopback port")?;
        let to_gateway = [("GATEWAY", "http"), ("GATEWAY_URL", gateway.url())];
        let to_gateway = to_gateway.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let workers = vec![
            WorkerSpec::one("release", self.release, Vec::new()),
            WorkerSpec::one("payment", self.payment, to_gateway),
            WorkerSpec::one("relay", self.relay, Vec::new()),
        ];
        Ok((gateway, workers))
    }
}

impl Orders {
    /// Opens the gateway and listens; returns who is to work beside those who decide purchases. To be called on a broker
    /// that has the topology, before the items are on sale.
    pub(crate) async fn start(
        self,
        endpoints: &Endpoints,
        schedule: &Schedule,
    ) -> Result<(RunningOrders, Vec<WorkerSpec>), Failure> {
        let (gateway, workers) = self.functions.start(self.plan.gateway(self.plan.seed)).await?;
        let listener = Listener::open(&endpoints.amqp_url, &schedule.items_prefix, self.storage).await?;
        Ok((RunningOrders { hold: self.plan.hold(), gateway, listener }, workers))
    }
}

impl RunningOrders {
    /// Returns when every hold that can run out has, and everything that happened is published; or when either takes too
    /// long, which the audit then finds.
    ///
    /// Boxed: it is waited for among other things, by those who do not know what it is.
    pub(crate) fn until_over(
        &self,
        database_url: String,
        schedule: Arc<Schedule>,
    ) -> BoxFuture<'static, Result<(), Failure>> {
        let hold = self.hold;
        Box::pin(async move {
            let database = open_database(&database_url).await?;
            if let Some(hold) = hold {
                let held = || database_state::held(&database, &schedule);
                until(hold + HOLDS_TIMEOUT, held, |held| *held == 0).await;
            }
            // As far as the outbox goes now: whoever else uses this database goes on writing.
            let last = || database_state::last_unpublished(&database);
            if let Some(last) = until(OUTBOX_TIMEOUT, last, |_| true).await {
                let first = || database_state::first_unpublished(&database, last);
                until(OUTBOX_TIMEOUT, first, Option::is_none).await;
            }
            database.close().await;
            Ok(())
        })
    }

    /// Takes in the last events and closes the gateway. To be called when no worker is left.
    pub(crate) async fn finish(self) -> Result<(Ledger, Events), Failure> {
        let events = Events::read(&self.listener.close().await?);
        Ok((self.gateway.close().await, events))
    }
}

/// Asks until the answer is as it should be; `None` where it stays the same for too long. A database that is away says nothing
/// yet.
async fn until<T: PartialEq, Asked: Future<Output = sqlx::Result<T>>>(
    timeout: Duration,
    ask: impl Fn() -> Asked,
    is_so: impl Fn(&T) -> bool,
) -> Option<T> {
    let (mut known, mut since) = (None, Instant::now());
    while since.elapsed() < timeout {
        match ask().await {
            Ok(answer) if is_so(&answer) => return Some(answer),
            Ok(answer) if known.as_ref() != Some(&answer) => (known, since) = (Some(answer), Instant::now()),
            Ok(_) | Err(_) => {}
        }
        sleep(POLL_PAUSE).await;
    }
    None
}
