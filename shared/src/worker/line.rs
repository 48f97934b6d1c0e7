//! A connection that publishes, opened when it is needed, and anew after each outage.

use super::readiness::Outage;
use super::reply_address::{ReplyNode, reply_node};
use super::service::Service;
use crate::amqp::{Error, Outgoing, Publisher};
use crate::retry::RetryPolicy;

/// Attempts at one message that the broker refuses while it takes others, before it is taken for refused.
const ALONE_ATTEMPTS_MAX: u32 = 2;

pub(super) struct Line {
    name: String,
    publisher: Option<Publisher>,
    /// Whether to ask for the node at its other end, and which that is, now or until it was lost.
    asks_node: bool,
    pub(super) node: Option<ReplyNode>,
}

impl Line {
    /// `name` is what the broker's operators see.
    pub(super) fn named(name: String) -> Self {
        Self { name, publisher: None, asks_node: false, node: None }
    }

    /// One that knows the node at its other end.
    pub(super) fn that_asks_node(name: &str) -> Self {
        Self { asks_node: true, ..Self::named(name.to_owned()) }
    }

    /// Publishes these, through every outage. An error is their own: the broker has refused them in so many attempts, and
    /// takes others.
    pub(super) async fn publish(
        &mut self,
        service: &Service,
        outgoing: Outgoing<'_>,
        attempts_max: u32,
    ) -> Result<(), Error> {
        let (messages, trouble) = match outgoing {
            Outgoing::Replies(replies) => (replies.len(), "replies cannot be published"),
            Outgoing::Copies(copies) => {
                (copies.len(), "messages for `dead`, or for their queue again, cannot be published")
            }
        };
        if messages == 0 {
            return Ok(());
        }
        let mut outage = service.outage(trouble);
        let (mut attempts, mut waits) = (0, RetryPolicy::SERVER_AWAY.waits());
        loop {
            let error = match self.connected(service).await {
                Ok(connected) => match published(connected, outgoing, &mut outage).await {
                    Ok(()) => {
                        outage.is_over();
                        return Ok(());
                    }
                    Err(error) => {
                        service.nodes.go_on();
                        self.publisher = None;
                        if self.takes_others(service).await {
                            outage.is_over();
                            attempts += 1;
                        } else {
                            outage.goes_on(&error);
                        }
                        error
                    }
                },
                Err(error) => {
                    outage.goes_on(&error);
                    error
                }
            };
            if attempts == attempts_max {
                return Err(error);
            }
            let wait = waits.next().unwrap_or_default();
            tracing::debug!(%error, wait_ms = wait.as_millis(), messages, "not published; trying again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether the broker takes a reply of ours to somebody else, on a new connection. If not, it is nobody's own fault.
    async fn takes_others(&mut self, service: &Service) -> bool {
        let is_taken = match self.connected(service).await {
            Ok(connected) => connected.reply_to_nobody().await.is_ok(),
            Err(_) => false,
        };
        if !is_taken {
            self.publisher = None;
        }
        is_taken
    }

    /// Says goodbye: whatever was published is confirmed.
    pub(super) async fn close(self) {
        if let Some(publisher) = self.publisher {
            publisher.close().await;
        }
    }

    pub(super) async fn connected(&mut self, service: &Service) -> Result<&Publisher, Error> {
        if self.publisher.is_none() {
            let publisher = Publisher::open(&service.nodes, &self.name, &service.worker.worker_id).await?;
            if self.asks_node {
                let node = publisher.reply_address().await.and_then(|address| reply_node(&address)?.ok());
                // A broker that has not said so in time is most likely the one that it was.
                self.node = node.or(self.node);
            }
            self.publisher = Some(publisher);
        }
        Ok(self.publisher.as_ref().expect("it was just opened"))
    }
}

/// Says it while the broker takes nothing.
async fn published(publisher: &Publisher, outgoing: Outgoing<'_>, outage: &mut Outage) -> Result<(), Error> {
    let mut publishing = publisher.publish(outgoing);
    tokio::select! {
        published = &mut publishing => return published,
        // Once: it has the topology looked at, by a broker in need.
        () = publisher.blocked() => outage.goes_on("the broker is short of memory or disk"),
    }
    publishing.await
}

/// Attempts at so many messages at once that the broker refuses while it takes others: of several, it may be one alone.
pub(super) fn attempts_max(messages: usize) -> u32 {
    if messages > 1 { 1 } else { ALONE_ATTEMPTS_MAX }
}

/// The first half last, as on a stack.
pub(super) fn halves<T>(mut part: Vec<T>) -> Vec<Vec<T>> {
    let rest = part.split_off(part.len() / 2);
    vec![rest, part]
}

/// What goes out together, until what the broker refuses is found. What is refused is split into smaller parts, of which the last is
/// the next: by halves, or else. Pure.
pub(super) struct Parts<T> {
    waiting: Vec<Vec<T>>,
    split: fn(Vec<T>) -> Vec<Vec<T>>,
}

impl<T> Parts<T> {
    pub(super) fn of(all: Vec<T>, split: fn(Vec<T>) -> Vec<Vec<T>>) -> Self {
        Self { waiting: vec![all], split }
    }

    pub(super) fn next(&mut self) -> Option<Vec<T>> {
        self.waiting.pop()
    }

    /// Takes back what was refused. One that was alone is found, and returned.
    pub(super) fn refused(&mut self, mut part: Vec<T>) -> Option<T> {
        if part.len() > 1 {
            self.waiting.extend((self.split)(part));
            return None;
        }
        part.pop()
    }

    /// This one is next, alone.
    pub(super) fn again(&mut self, one: T) {
        self.waiting.push(vec![one]);
    }
}

#[cfg(test)]
mod tests {
    use super::{Parts, halves};

    #[test]
    fn one_of_256_that_is_refused_is_found_by_halves_and_all_others_go_out_once() {
        for bad in 0..256 {
            let (mut parts, mut attempts, mut found, mut taken) =
                (Parts::of((0..256).collect(), halves), 0, Vec::new(), Vec::new());
            while let Some(part) = parts.next() {
                attempts += 1;
                if part.contains(&bad) {
                    found.extend(parts.refused(part));
                } else {
                    taken.extend(part);
                }
            }
            assert_eq!((attempts, found), (1 + 2 * 8, vec![bad]));
            assert!(taken.into_iter().eq((0..256).filter(|one| *one != bad)), "in their order");
        }
    }
}
