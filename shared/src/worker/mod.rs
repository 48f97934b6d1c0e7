//! Runs a handler on its queues: receive → decode → handle → reply → settle, until it is told to stop.
//!
//! A function that takes requests off no queue starts and stops the same way, as a [`Service`].
//!
//! Never sees the database. Invariants: a message is acknowledged only after its reply, or its copy in `dead`, is
//! confirmed; batches are decided one after another, in the order of their queues; and an outage burns no message:
//! what was delivered is held until it can be decided, or comes back in order when the connection ends.
//!
//! The prefetch arithmetic: one batch is decided while the one before it is settled (`BATCHES_SETTLING_MAX`); a window
//! of `WINDOW_BATCHES` batches has the next ones arrive meanwhile, and bounds memory: 8 partitions × 2,000 messages of
//! some 300 bytes are 5 MB. (Of 64 KiB, the largest allowed, they would be 1 GB.)

mod metrics;
mod process;
mod ready;
mod rebalance;
mod service;
mod session;
mod settle;
mod start;
mod subscribe;
mod validate;

pub use ready::Ready;
pub use service::{Program, Service, main_of_service};
pub use start::{main, serve, with_deep_stacks};

use crate::{
    amqp::{Error, Nodes},
    handler::Handler,
    retry::{RetryPolicy, Waits},
};
use metrics::WorkerMetrics;
use settle::Settled;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How many batches may be decided, or wait, while one is settled. One overlaps the database's work with the broker's;
/// more would only make the batches smaller.
const BATCHES_SETTLING_MAX: usize = 1;

/// A handler and all that it takes to run it.
struct Function<H> {
    handler: H,
    nodes: Nodes,
    worker_id: String,
    batch_max: usize,
    /// The exchange by which the workers count each other, where there is one.
    workers: Option<String>,
    ready_file: Option<PathBuf>,
    metrics: WorkerMetrics,
    /// Turns true once, when the process is told to stop.
    stop: watch::Receiver<bool>,
}

/// How a queue is consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// A whole window at a time.
    None,
    /// One message at a time.
    OneByOne,
}

/// How a session with the broker ended.
enum Ended {
    /// We were told to stop, and have settled what was in hand.
    Stopped,
    /// A message was delivered suspiciously often.
    Suspect,
    /// A careful session has come through to messages that nothing is known against.
    Clear,
}

impl<H: Handler> Function<H> {
    /// Consumes `queues` until told to stop, through every outage.
    async fn run(&self, queues: &[String]) {
        let mut waits = RetryPolicy::SERVER_AWAY.waits();
        loop {
            let started = Instant::now();
            match self.session(queues, Care::None).await {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Suspect | Ended::Clear) => {
                    return self.run_with_care(queues, "a message came too often").await;
                }
                Err(Error::Unreadable(reason)) => return self.run_with_care(queues, &reason).await,
                Err(error) => {
                    if !self.wait_after(&error, started, &mut waits).await {
                        return;
                    }
                }
            }
        }
    }

    /// Consumes each queue on a connection of its own, at first one message at a time.
    ///
    /// Each time that a message ends the connection (the client library gives up on what it cannot parse) or the
    /// process, every message that was under way counts one delivery more. With a window of one, that is the culprit
    /// alone: the broker moves it to `dead` when it reaches the queue's delivery limit, and not its neighbours. Those
    /// even overtake it: a quorum queue puts what is returned to it behind what was returned before.
    async fn run_with_care(&self, queues: &[String], reason: &str) {
        tracing::error!(reason, "a message may be harmful; going on with care, each queue by itself");
        futures_util::future::join_all(queues.iter().map(|queue| self.run_one_with_care(queue))).await;
    }

    async fn run_one_with_care(&self, queue: &String) {
        let mut waits = RetryPolicy::SERVER_AWAY.waits();
        let mut care = Care::OneByOne;
        loop {
            let started = Instant::now();
            match self.session(std::slice::from_ref(queue), care).await {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Clear) => care = Care::None,
                Ok(Ended::Suspect) => care = Care::OneByOne,
                Err(Error::Unreadable(reason)) => {
                    tracing::warn!(reason, queue, "a message cannot be read");
                    care = Care::OneByOne;
                }
                Err(error) => {
                    if !self.wait_after(&error, started, &mut waits).await {
                        return;
                    }
                }
            }
        }
    }

    /// Logs why a session ended and waits before the next; false: told to stop.
    async fn wait_after(&self, error: &Error, started: Instant, waits: &mut Waits) -> bool {
        if started.elapsed() > Duration::from_millis(RetryPolicy::SERVER_AWAY.wait_ms_max) {
            *waits = RetryPolicy::SERVER_AWAY.waits();
        }
        self.nodes.go_on();
        let wait = waits.next().unwrap_or_default();
        tracing::warn!(%error, wait_ms = wait.as_millis(), "the broker is away; connecting again");
        !self.stopped_within(wait).await
    }

    /// Waits, and says whether the process was told to stop meanwhile.
    async fn stopped_within(&self, wait: Duration) -> bool {
        let mut stop = self.stop.clone();
        // Bound to a name of its own: the guard that wait_for returns must not live across the select.
        let stopped = tokio::time::timeout(wait, async { stop.wait_for(|stop| *stop).await.is_ok() }).await;
        matches!(stopped, Ok(true))
    }
}
