//! Runs a handler on its queues: consume → validate → process → settle, until it is told to stop.
//!
//! A function that takes requests off no queue starts and stops the same way, as a [`Service`].
//!
//! Invariants: a message is acknowledged only after its reply, or its copy in `dead`, is confirmed; batches are decided one
//! after another, in the order of their queues; and an outage burns no message: what was delivered is held until it can be
//! decided, or comes back in order when the connection ends.

mod metrics;
mod process;
mod readiness;
pub(crate) mod rebalance;
mod repair;
mod service;
mod session;
mod settle;
mod start;
mod validate;

pub use readiness::{Outage, Ready};
pub use service::Service;
pub use start::{Program, main, main_of_service, serve, with_deep_stacks};

use crate::{
    amqp::Error,
    retry::{RetryPolicy, Waits},
};
use futures_util::future::BoxFuture;
use metrics::WorkerMetrics;
use process::Process;
use std::time::{Duration, Instant};

/// How many batches may be decided, or wait, while one is settled. One overlaps the database's work with the broker's;
/// more would only make the batches smaller.
const BATCHES_SETTLING_MAX: usize = 1;

/// A handler and all that it takes to run it. Whatever its requests are, the loop around it is compiled once, here, and
/// not in every function.
struct Function {
    handler: Box<dyn Process>,
    service: Service,
    metrics: WorkerMetrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// A whole window at a time.
    None,
    /// One message at a time.
    OneByOne,
}

enum Ended {
    /// We were told to stop, and have settled what was in hand.
    Stopped,
    /// A message was delivered suspiciously often.
    Suspect,
    /// A careful session has come through to messages that nothing is known against.
    Clear,
}

impl Function {
    /// Consumes these queues until told to stop, through every outage.
    ///
    /// Each time that a message ends the connection (the client library gives up on what it cannot parse) or the
    /// process, every message that was under way counts one delivery more. So each queue is consumed by itself then, at
    /// first one message at a time. With a window of one, that is the culprit alone: the broker moves it to `dead` when it
    /// reaches the queue's delivery limit, and not its neighbours. Those even overtake it: a quorum queue puts what is
    /// returned to it behind what was returned before.
    fn run<'a>(&'a self, queues: &'a [String], workers: Option<String>, mut care: Care) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut waits = RetryPolicy::SERVER_AWAY.waits();
            loop {
                let started = Instant::now();
                let reason = match self.session(queues, workers.clone(), care).await {
                    Ok(Ended::Stopped) => return,
                    Ok(Ended::Clear) => {
                        care = Care::None;
                        continue;
                    }
                    Ok(Ended::Suspect) => "a message came too often".to_owned(),
                    Err(Error::Unreadable(reason)) => reason,
                    Err(error) => {
                        if !self.wait_after(&error, started, &mut waits).await {
                            return;
                        }
                        continue;
                    }
                };
                tracing::error!(reason, ?queues, "a message may be harmful; going on with care, each queue by itself");
                if let [_, _, ..] = queues {
                    // The worker is counted by none of these sessions, and shares nothing.
                    let each = |queue| self.run(std::slice::from_ref(queue), None, Care::OneByOne);
                    futures_util::future::join_all(queues.iter().map(each)).await;
                    return;
                }
                care = Care::OneByOne;
            }
        })
    }

    /// Logs why a session ended and waits before the next; false: told to stop.
    async fn wait_after(&self, error: &Error, started: Instant, waits: &mut Waits) -> bool {
        if started.elapsed() > Duration::from_millis(RetryPolicy::SERVER_AWAY.wait_ms_max) {
            *waits = RetryPolicy::SERVER_AWAY.waits();
        }
        self.service.nodes.go_on();
        let wait = waits.next().unwrap_or_default();
        tracing::warn!(%error, wait_ms = wait.as_millis(), "the broker is away; connecting again");
        self.service.wait(wait).await;
        !self.service.is_stopped()
    }
}
