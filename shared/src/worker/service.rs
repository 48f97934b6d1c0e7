//! What every function stands on, with or without a queue: its options, the broker with the topology declared there, and
//! the word to stop. And readiness: systemd learns by a datagram, a probe by a file, whether this process is at work.
//!
//! Invariant: the ready file is there while every partition is subscribed to (of a function without a queue: while its
//! servers answer), and at no other time but after a `kill -9`, until the next start.

use crate::{
    amqp::{self, Error, Nodes, Publisher, topology::Topology},
    config::WorkerOptions,
    startup::wait_for_server,
};
use anyhow::Context;
use futures_util::future::BoxFuture;
use sd_notify::NotifyState;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How long a drain may take before what is in hand is left to the next worker.
const DRAIN_SECONDS_MAX: u64 = 20;

/// What a program does until it is told to stop.
pub(super) type Serving = BoxFuture<'static, anyhow::Result<()>>;

#[derive(Debug)]
pub struct Service {
    pub worker: WorkerOptions,
    /// The broker, where the topology is declared.
    pub nodes: Nodes,
    /// Turns true once, when the process is told to stop.
    stop: watch::Receiver<bool>,
}

impl Service {
    /// Declares the topology, waiting for a broker that is not there yet, for a limited time; then serves until `serve`
    /// returns, which has to be soon after `stop` turns true; else it is left as it is.
    pub(super) fn run(
        name: &'static str,
        worker: WorkerOptions,
        stop: watch::Receiver<bool>,
        serve: Box<dyn FnOnce(Self) -> Serving + Send>,
    ) -> Serving {
        Box::pin(async move {
            clear(worker.ready_file.as_deref());
            let service = Self { nodes: Nodes::read(&worker.amqp_url)?, worker, stop: stop.clone() };
            tokio::select! {
                declared = service.declare(name) => declared?,
                () = stopped(stop.clone()) => return Ok(()),
            }
            let overdue = async {
                stopped(stop).await;
                tokio::time::sleep(Duration::from_secs(DRAIN_SECONDS_MAX)).await;
            };
            tokio::select! {
                served = serve(service) => {
                    served?;
                    tracing::info!("stopped");
                }
                () = overdue => {
                    tracing::warn!("a server did not let us finish in time; what was in hand comes back to the next worker");
                }
            }
            Ok(())
        })
    }

    async fn declare(&self, name: &str) -> Result<(), Error> {
        let name = format!("turnstile-{name} {} declare", self.worker.worker_id);
        let away = |error: &Error| matches!(error, Error::Unreachable(_) | Error::Lost(_)).then(|| error.to_string());
        wait_for_server("the broker", self.worker.startup_seconds_max, away, || async {
            let publisher = Publisher::open(&self.nodes, &name, &self.worker.worker_id).await?;
            amqp::declare(publisher.channel(), &Topology::read()).await?;
            publisher.close().await;
            Ok(())
        })
        .await
    }

    /// Says that this function is at work, or could be at once, for as long as what is returned is kept.
    #[must_use]
    pub fn announce(&self) -> Ready {
        notify(NotifyState::Ready);
        let file = self.worker.ready_file.clone();
        if let Some(file) = &file
            && let Err(error) = fs::write(file, "")
        {
            tracing::warn!(%error, file = %file.display(), "the ready file cannot be written; probes will not see it");
        }
        Ready(file)
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

/// Stands for being ready; dropped, this worker is not.
#[derive(Debug)]
pub struct Ready(Option<PathBuf>);

impl Drop for Ready {
    fn drop(&mut self) {
        clear(self.0.as_deref());
    }
}

/// Removes the ready file, also one that an earlier process may have left.
fn clear(file: Option<&Path>) {
    if let Some(file) = file
        && let Err(error) = fs::remove_file(file)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %file.display(), "the ready file cannot be removed");
    }
}

/// `NOTIFY_SOCKET` names who listens, systemd's `Type=notify` among others; without it, nobody does.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager could not be told");
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
