//! Publishing what takes the place of a message: its copy in `dead` or `dead.invalid`, or at the end of its queue.
//!
//! Each waits for the disk of a quorum queue. So they go out behind the replies of their batch, on a connection of their own, and
//! the replies of the next batches do not wait for them; their acknowledgements do. Invariant: no copy in `dead` is given up, because it is all that is left of its message.

use super::line::{Line, Parts, attempts_max, halves};
use super::service::Service;
use crate::amqp::{Copied, Outgoing};
use crate::fail_point::pause_at;
use crate::retry::RetryPolicy;

pub(super) struct Copies {
    service: Service,
    line: Line,
}

impl Copies {
    /// `name` is what the broker's operators see.
    pub(super) fn new(service: Service, name: &str) -> Self {
        Self { service, line: Line::named(format!("{name} copies")) }
    }

    /// Publishes until the broker has confirmed them all, as replies are.
    ///
    /// Returns the requeues (partition, tag) that their queue has no room for: those are to come back, at the price of a
    /// delivery. To wait for room here would be to wait for ourselves.
    pub(super) async fn publish(&mut self, copies: Vec<Copied<'_>>) -> Vec<(usize, u64)> {
        if copies.is_empty() {
            return Vec::new();
        }
        pause_at("copying").await;
        let mut outage = self.service.outage("messages that cannot be handled cannot be kept in `dead`");
        let (mut returned, mut waits) = (Vec::new(), RetryPolicy::SERVER_AWAY.waits());
        let mut parts = Parts::of(copies, halves);
        while let Some(part) = parts.next() {
            let (outgoing, attempts_max) = (Outgoing::Copies(&part), attempts_max(part.len()));
            let Err(error) = self.line.publish(&self.service, outgoing, attempts_max).await else {
                outage.is_over();
                continue;
            };
            match parts.refused(part) {
                None => (),
                Some(Copied::Requeue { of, .. }) => returned.push((of.partition, of.tag)),
                Some(copy @ Copied::DeadLetter { .. }) => {
                    outage.goes_on(error);
                    tokio::time::sleep(waits.next().unwrap_or_default()).await;
                    parts.again(copy);
                }
            }
        }
        returned
    }

    pub(super) async fn close(self) {
        self.line.close().await;
    }
}
