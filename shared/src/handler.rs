//! What a function implements: how to answer a batch of requests.
//!
//! Functions never acknowledge, requeue or publish; `worker` does, by what they return.

use crate::error::Error;
use crate::messages::{Rejection, Request};
use crate::metrics::Registry;
use futures_util::future::BoxFuture;
use std::future::Future;
use tokio::sync::watch;

/// A function on the queues named after it.
pub trait Handler: Send + Sync + Sized + 'static {
    type Request: Request;
    /// The function's name. It consumes the queue of this name, or its partitions `NAME.0`, `NAME.1`, ….
    const NAME: &'static str = <Self::Request as Request>::FUNCTION;

    /// Answers a batch, in order: exactly one answer for each request. What it answers is durable by then. A panic costs the
    /// message that causes it and no other.
    fn handle(&self, requests: &[Self::Request]) -> impl Future<Output = Result<Vec<Answer>, Error>> + Send;

    /// Adds the function's own metrics to what is shown at `--metrics-address`: none, unless it says otherwise.
    fn register(&self, registry: &mut Registry) {
        let _ = registry;
    }

    /// What the function does besides, on its own, for as long as it serves: nothing, unless it says otherwise. Dropped at
    /// any of its awaits, as soon as the process is told to stop; whatever becomes of it, messages are handled.
    /// `failing` says why it makes no progress, for as long as it makes none.
    fn upkeep(&self, failing: watch::Sender<Option<String>>) -> BoxFuture<'static, ()> {
        drop(failing);
        Box::pin(std::future::ready(()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The body of the reply, as it is recorded.
    Verdict(String),
    /// The request cannot be decided; it is answered with this, and kept in `dead`.
    Rejected(Rejection),
    /// Not decided yet: the message goes to the end of its queue, as it is, and comes again; nothing is replied, and it
    /// does not count as a delivery that failed. For what hangs on a third party; it gives up the order of the queue.
    Requeue,
    /// Not decided yet, and kept: it comes again soon, before all that was sent after it. For what hangs on a row.
    Later,
}
