//! What every function stands on, with or without a queue: its options, the broker with the topology declared there and
//! looked after, and the word to stop.

use super::metrics::DeadMessages;
use super::readiness::{Outage, Readiness, Ready, notify};
use super::repair::{self, Missing};
use super::reply_address::ReplyNodes;
use crate::amqp::{self, Error, Nodes, Publisher};
use crate::config::WorkerOptions;
use crate::startup::wait_for_server;
use anyhow::Context;
use futures_util::future::BoxFuture;
use sd_notify::NotifyState;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

/// How long a drain may take before what is in hand is left to the next worker.
const DRAIN_SECONDS_MAX: u64 = 20;

/// What a program does until it is told to stop.
pub(super) type Serving = BoxFuture<'static, anyhow::Result<()>>;

#[derive(Debug, Clone)]
pub struct Service {
    pub worker: WorkerOptions,
    /// The broker, where the topology is declared.
    pub nodes: Nodes,
    /// Turns true once, when the process is told to stop.
    stop: watch::Receiver<bool>,
    readiness: Readiness,
    missing: watch::Receiver<Missing>,
    /// Has the topology looked at now.
    look: Arc<Notify>,
    pub(super) dead_messages: DeadMessages,
    pub(super) reply_nodes: Arc<Mutex<ReplyNodes>>,
}

impl Service {
    /// Declares the topology and tries our user's rights, waiting for a broker that is not there yet, for a limited time; then
    /// serves until `serve` returns, which has to be soon after `stop` turns true; else it is left as it is.
    pub(super) fn run(
        function: &'static str,
        worker: WorkerOptions,
        stop: watch::Receiver<bool>,
        serve: Box<dyn FnOnce(Self) -> Serving + Send>,
    ) -> Serving {
        Box::pin(async move {
            let readiness = Readiness::of(worker.ready_file.clone());
            let (found, missing) = watch::channel(Missing::new());
            let nodes = Nodes::of(&worker.broker)?;
            nodes.warn_of_plain();
            let look = Arc::default();
            let (dead_messages, reply_nodes) = (DeadMessages::default(), Arc::default());
            let service =
                Self { worker, nodes, stop: stop.clone(), readiness, missing, look, dead_messages, reply_nodes };
            let name = service.worker.name(function);
            tokio::select! {
                declared = service.declare(&name, function) => declared?,
                () = stopped(stop.clone()) => return Ok(()),
            }
            let (look, dead_messages) = (Arc::clone(&service.look), service.dead_messages.clone());
            let repairing = tokio::spawn(repair::run(service.nodes.clone(), name, look, found, dead_messages));
            let overdue = async {
                stopped(stop).await;
                tokio::time::sleep(Duration::from_secs(DRAIN_SECONDS_MAX)).await;
            };
            let served = tokio::select! {
                served = serve(service) => served.map(|()| tracing::info!("stopped")),
                () = overdue => {
                    tracing::warn!("a server did not let us finish in time; what was in hand comes back to the next worker");
                    Ok(())
                }
            };
            repairing.abort();
            served
        })
    }

    async fn declare(&self, name: &str, function: &str) -> Result<(), Error> {
        let name = format!("{name} declare");
        let away = |error: &Error| matches!(error, Error::Unreachable(_) | Error::Lost(_)).then(|| error.to_string());
        wait_for_server("the broker", self.worker.startup_seconds_max, away, || async {
            let publisher = Publisher::open(&self.nodes, &name, &self.worker.worker_id).await?;
            match amqp::declare(publisher.channel()).await {
                // Somebody else has declared it, it is to be hoped: what is missing is found and said later.
                Err(error @ Error::NotAllowed(_)) => {
                    tracing::info!(%error, "the topology is taken as it is");
                    self.look.notify_one();
                }
                declared => declared?,
            }
            publisher.close().await;
            amqp::try_rights(&self.nodes, &name, function).await
        })
        .await
    }

    /// Says that this function is at work, or could be at once, for as long as what is returned is kept.
    #[must_use]
    pub fn announce(&self) -> Ready {
        self.readiness.announce()
    }

    /// Whether it is, and nothing keeps it from it.
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// What would keep this function from its work; nothing does yet.
    pub fn outage(&self, what: &'static str) -> Outage {
        Outage::of(what, self.readiness.clone(), Arc::clone(&self.look))
    }

    /// Whether the broker is known to lack this queue.
    pub(super) fn lacks(&self, queue: &str) -> bool {
        self.missing.borrow().contains_key(queue)
    }

    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ends when the process is told to stop.
    pub async fn stopped(&self) {
        stopped(self.stop.clone()).await;
    }

    /// Waits this long, or until the process is told to stop.
    pub async fn wait(&self, wait: Duration) {
        drop(tokio::time::timeout(wait, self.stopped()).await);
    }
}

/// Turns true on SIGTERM and on Ctrl-C.
pub(super) fn listen_for_signals() -> anyhow::Result<watch::Receiver<bool>> {
    let (stopper, stop) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        tracing::info!("told to stop; finishing what is in hand");
        notify(NotifyState::Stopping);
        stopper.send_replace(true);
    });
    Ok(stop)
}

/// Ends when the process is told to stop.
pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that nobody can tell us any more, which is a reason to stop, too.
    drop(stop.wait_for(|stop| *stop).await);
}
