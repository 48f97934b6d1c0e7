//! What happens to orders after their verdicts, as the load generator plays it: buyers pay, cancel, or let their hold run
//! out; the functions release, payment and relay work; a payment gateway takes the money; a listener takes in the events.
//!
//! Whatever is chosen follows from the sale's seed.

mod client;
pub mod demo;
pub mod events;
pub mod follow_ups;
pub mod listener;
pub mod plan;
pub mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use shared::devstack::Gateway;
use shared::devstack::gateway::{Behaviour, Ledger};
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use crate::audit::database_state;
use crate::database::open as open_database;
use crate::failure::Failure;
use crate::schedule::Schedule;
use crate::servers::Endpoints;
use crate::workers::WorkerSpec;
use events::Events;
use listener::{Listener, Storage};
use plan::Plan;

/// How long, after its time, the last hold may take to end: a payment may have prolonged it, or a crash held it up.
const HOLDS_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take to publish what is in the outbox.
const OUTBOX_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// What the relay logs once it is ready; it consumes no queue.
const RELAY_READY_LOGGED: &str = "telling what happened";

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
    plan: Plan,
    gateway: Gateway,
    listener: Listener,
}

#[derive(Debug)]
pub(crate) struct FinishedOrders {
    pub(crate) plan: Plan,
    pub(crate) ledger: Ledger,
    pub(crate) events: Events,
}

impl Functions {
    /// One process of each, whose payments go to this gateway.
    pub(crate) fn workers(&self, gateway: &Gateway) -> Vec<WorkerSpec> {
        let to_gateway = [("GATEWAY", "http"), ("GATEWAY_URL", gateway.url())];
        let to_gateway = to_gateway.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let relay = WorkerSpec::one("relay", self.relay.clone(), Vec::new());
        vec![
            WorkerSpec::one("release", self.release.clone(), Vec::new()),
            WorkerSpec::one("payment", self.payment.clone(), to_gateway),
            WorkerSpec { ready_logged: RELAY_READY_LOGGED, ..relay },
        ]
    }
}

pub(crate) async fn open_gateway(behaviour: Behaviour) -> Result<Gateway, Failure> {
    let opened = Gateway::open(behaviour).await.context("open the payment gateway on a loopback port");
    opened.map_err(Failure::Broken)
}

impl Orders {
    /// Opens the gateway and listens; returns who is to work beside those who decide purchases. To be called on a broker
    /// that has the topology, before the items are on sale.
    pub(crate) async fn start(
        self,
        endpoints: &Endpoints,
        schedule: &Schedule,
    ) -> Result<(RunningOrders, Vec<WorkerSpec>), Failure> {
        let gateway = open_gateway(self.plan.gateway()).await?;
        let workers = self.functions.workers(&gateway);
        let listener = Listener::open(&endpoints.amqp_url, &schedule.items_prefix, self.storage).await?;
        Ok((RunningOrders { plan: self.plan, gateway, listener }, workers))
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
        let hold = self.plan.hold;
        Box::pin(async move {
            let database = open_database(&database_url).await?;
            if let Some(hold) = hold {
                until_nothing_is_held(&database, &schedule, hold + HOLDS_TIMEOUT).await;
            }
            until_all_is_published(&database).await;
            database.close().await;
            Ok(())
        })
    }

    /// Takes in the last events and closes the gateway. To be called when no worker is left.
    pub(crate) async fn finish(self) -> Result<FinishedOrders, Failure> {
        let events = Events::read(&self.listener.close().await?);
        let ledger = self.gateway.close().await;
        Ok(FinishedOrders { plan: self.plan, ledger, events })
    }
}

/// A database that is away says nothing yet.
async fn until_nothing_is_held(database: &PgPool, schedule: &Schedule, timeout: Duration) {
    let started = Instant::now();
    while started.elapsed() < timeout && !matches!(database_state::held(database, schedule).await, Ok(0)) {
        sleep(POLL_PAUSE).await;
    }
}

/// As far as the outbox goes now: whoever else uses this database goes on writing.
async fn until_all_is_published(database: &PgPool) {
    let started = Instant::now();
    let mut last = database_state::last_unpublished(database).await;
    while started.elapsed() < OUTBOX_TIMEOUT {
        match last {
            Ok(None) => return,
            Ok(Some(up_to)) if matches!(database_state::is_unpublished(database, up_to).await, Ok(false)) => return,
            Ok(Some(_)) => {}
            Err(_away) => last = database_state::last_unpublished(database).await,
        }
        sleep(POLL_PAUSE).await;
    }
}
