//! Runs a handler on its queues: consume → validate → process → settle, until it is told to stop.
//!
//! A function that takes requests off no queue starts and stops the same way, as a [`Service`].
//!
//! Invariants: a message is acknowledged only after its reply, and its copy in `dead`, are confirmed; batches are decided one
//! after another, in the order of their queues; and an outage burns no message: what was delivered is held until it can be
//! decided, or comes back in order when the connection ends.

mod copies;
mod line;
mod metrics;
mod outcome;
mod process;
mod publish;
mod read;
mod readiness;
pub(crate) mod rebalance;
mod repair;
mod reply_address;
mod service;
mod session;
mod settle;
mod start;
mod validate;

use crate::amqp::{self, Error};
use crate::retry::RetryPolicy;
use futures_util::future::BoxFuture;
use metrics::WorkerMetrics;
use process::Process;
pub use readiness::{Outage, Ready};
pub use service::Service;
pub use start::{Program, main, main_of_service, serve};
use std::time::Instant;

/// How many batches may be decided, or wait, while one is answered. One overlaps the database's work with the broker's;
/// more would only make the batches smaller.
const BATCHES_ANSWERING_MAX: usize = 1;
/// How many that are answered may wait until copies of messages before them are kept, and for their acknowledgement. What is not
/// acknowledged is bounded by the windows; this is only more than those ever are.
const BATCHES_ANSWERED_MAX: usize = 10_000;
/// How many of those are finished at once, where they wait: the broker writes their copies to its disk together.
const BATCHES_FINISHED_MAX: usize = 256;

/// A handler and all that it takes to run it. Whatever its requests are, the loop around it is compiled once, here, and
/// not in every function.
struct Function {
    handler: Box<dyn Process>,
    service: Service,
    metrics: WorkerMetrics,
}

enum Ended {
    /// We were told to stop, and have settled what was in hand.
    Stopped,
    /// A message of a partition that is consumed without care was delivered suspiciously often.
    Suspect,
}

impl Function {
    /// Consumes these queues until told to stop, through every outage; fails where the broker refuses it from the start.
    ///
    /// Each time that a message ends the process, every message that was under way counts one delivery more. So a partition
    /// with a message that came often is consumed with care: one at a time, until one comes that was never delivered before.
    /// With a window of one, it is the culprit alone that dies with its worker, and not its neighbours: what comes alone at the
    /// delivery limit is put into `dead`. Its neighbours even overtake it: a quorum queue puts what is returned to it behind
    /// what was returned before. For that reason nothing is consumed with care before it must be: windows that come back as
    /// a whole keep the order.
    fn run<'a>(&'a self, queues: &'a [String], workers: Option<String>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut waits = RetryPolicy::SERVER_AWAY.waits();
            let (mut with_care, mut has_consumed) = (vec![false; queues.len()], false);
            let mut outage = self.service.outage("requests cannot be consumed");
            loop {
                let started = Instant::now();
                match self.session(queues, workers.clone(), &mut with_care, (&mut outage, &mut has_consumed)).await {
                    Ok(Ended::Stopped) => return Ok(()),
                    Ok(Ended::Suspect) => (),
                    Err(error) => {
                        self.service.nodes.go_on();
                        let error = amqp::explain_grant(error, &self.service.nodes, self.handler.name());
                        if !has_consumed && amqp::is_lacking_right(&error) {
                            return Err(error);
                        }
                        outage.goes_on(error);
                        let wait = RetryPolicy::SERVER_AWAY.wait_after(started.elapsed(), &mut waits);
                        self.service.wait(wait).await;
                        if self.service.is_stopped() {
                            return Ok(());
                        }
                    }
                }
            }
        })
    }
}
