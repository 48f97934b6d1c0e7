//! Publishing what becomes of a batch: through every outage, and past whatever the broker does not take.
//!
//! A reply address can end the connection of whoever publishes to it (RabbitMQ before 4.2). So what goes by direct reply-to to a
//! node that is neither ours nor one that replies have reached goes out behind all others, on a connection of its own, and costs
//! nobody else a repeat. Invariant: what is given up, the broker has refused while it took others, or goes to such a node.

use super::{
    reply_address::{ReplyNode, ReplyNodes, reply_node},
    service::Service,
};
use crate::{
    amqp::{Error, Outgoing, Publisher},
    fail_point::pause_at,
    retry::RetryPolicy,
};
use std::{collections::BTreeMap, sync::Arc, time::Instant};
use tokio::sync::OwnedMutexGuard;

/// Attempts at one message that the broker refuses while it takes others, before it is given up: a reply's buyer can ask again.
/// A requeue is given back.
const ALONE_ATTEMPTS_MAX: u32 = 2;
/// How many connections may be lost to unknown nodes, before what is left of them is given up, too; and so is what comes for
/// a while after that ([`ReplyNodes`]).
const LOSSES_MAX: u32 = 4;

pub(super) struct Publishing {
    service: Service,
    known: Line,
    unknown: Line,
    nodes: OwnedMutexGuard<ReplyNodes>,
}

/// A connection, opened when it is needed.
struct Line {
    name: String,
    publisher: Option<Publisher>,
    /// The node at its other end, now or until it was lost.
    node: Option<ReplyNode>,
}

impl Publishing {
    /// `name` is what the broker's operators see.
    pub(super) async fn new(service: Service, name: &str) -> Self {
        let line = |name: String| Line { name, publisher: None, node: None };
        let (known, unknown) = (line(name.to_owned()), line(format!("{name} unknown nodes")));
        // The session before lets go of it when it ends.
        let nodes = Arc::clone(&service.reply_nodes).lock_owned().await;
        Self { service, known, unknown, nodes }
    }

    /// Publishes until the broker has confirmed it all, on a new connection where the old one fails. It goes on for
    /// as long as the session lives: giving up would only have the same deliveries come back, each a delivery older.
    ///
    /// Returns the requeues (partition, tag) that their queue has no room for: those are to come back, at the price of a
    /// delivery. To wait for room here would be to wait for ourselves.
    pub(super) async fn publish(&mut self, outgoing: Vec<Outgoing<'_>>) -> Vec<(usize, u64)> {
        let mut outage = self.service.outage("messages that cannot be handled cannot be kept in `dead`");
        let (mut returned, mut waits) = (Vec::new(), RetryPolicy::SERVER_AWAY.waits());
        // Only who is connected knows which node is ours. What fails here fails again below, and is said there.
        drop(self.known.connected(&self.service).await);
        // What the broker does not take is found by halves, the first of them on top.
        let (mut parts, mut unknown) = (vec![outgoing], Vec::new());
        while let Some(mut part) = parts.pop() {
            if part.iter().any(|message| self.is_unknown(message)) {
                let (of_unknown, known) = part.into_iter().partition(|message| self.is_unknown(message));
                unknown.push(of_unknown);
                part = known;
            }
            let attempts_max = if part.len() > 1 { 1 } else { ALONE_ATTEMPTS_MAX };
            let Err(error) = self.known.publish(&self.service, &part, attempts_max).await else {
                outage.is_over();
                continue;
            };
            // One of them may be gone.
            self.nodes.forget(part.iter().filter_map(node_of));
            match part.as_slice() {
                [] => (),
                [Outgoing::Requeue { of, .. }] => returned.push((of.partition, of.tag)),
                [Outgoing::Reply { to, .. }] => {
                    let reply_to = to.reply_to();
                    tracing::error!(%error, reply_to, "a reply cannot be delivered; its verdict is on record");
                }
                // Not to be given up: this copy is all that will be left of the message.
                [Outgoing::DeadLetter { .. }] => {
                    outage.goes_on(error);
                    tokio::time::sleep(waits.next().unwrap_or_default()).await;
                    parts.push(part);
                }
                [_, _, ..] => {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
            }
        }
        self.try_out(unknown.into_iter().flatten().collect()).await;
        returned
    }

    /// Says goodbye: whatever was published is confirmed.
    pub(super) async fn close(self) {
        for publisher in [self.known.publisher, self.unknown.publisher].into_iter().flatten() {
            publisher.close().await;
        }
    }

    /// Whether it goes by direct reply-to, and may end the connection.
    fn is_unknown(&self, message: &Outgoing<'_>) -> bool {
        node_of(message)
            .is_some_and(|node| !self.nodes.has(node) && !self.known.node.is_some_and(|ours| ours.takes(node)))
    }

    /// Publishes replies to nodes that may not be there: all of them together; if that fails, node by node, beginning with those that
    /// most replies go to; and then by halves.
    async fn try_out(&mut self, replies: Vec<Outgoing<'_>>) {
        if replies.is_empty() {
            return;
        }
        pause_at("trying nodes out").await;
        let (mut parts, mut losses, mut given_up) = (vec![replies], 0, 0);
        let is_paused = self.nodes.is_paused(Instant::now());
        while let Some(part) = parts.pop() {
            if is_paused || losses >= LOSSES_MAX {
                given_up += part.len();
            } else if self.unknown.publish(&self.service, &part, 1).await.is_ok() {
                self.nodes.reached(part.iter().filter_map(node_of));
            } else {
                losses += 1;
                if part.len() == 1 {
                    given_up += 1;
                } else {
                    parts.extend(apart(part));
                }
            }
        }
        if !is_paused {
            self.nodes.tried_out(losses, Instant::now());
        }
        if given_up > 0 {
            tracing::error!(replies = given_up, "direct replies cannot be delivered; their verdicts are on record");
        }
    }
}

fn node_of(message: &Outgoing<'_>) -> Option<ReplyNode> {
    match message {
        Outgoing::Reply { to, .. } => reply_node(to.reply_to()?)?.ok(),
        Outgoing::Requeue { .. } | Outgoing::DeadLetter { .. } => None,
    }
}

/// By their nodes, the most replies last; those of one node by halves.
fn apart(mut replies: Vec<Outgoing<'_>>) -> Vec<Vec<Outgoing<'_>>> {
    let mut nodes = BTreeMap::<_, Vec<_>>::new();
    if replies.iter().any(|reply| node_of(reply) != node_of(&replies[0])) {
        replies.into_iter().for_each(|reply| nodes.entry(node_of(&reply)).or_default().push(reply));
        let mut nodes: Vec<_> = nodes.into_values().collect();
        nodes.sort_by_key(Vec::len);
        return nodes;
    }
    let rest = replies.split_off(replies.len() / 2);
    vec![rest, replies]
}

impl Line {
    /// Publishes these, through every outage. An error is their own: the broker has refused them in so many attempts, and
    /// takes others.
    async fn publish(&mut self, service: &Service, outgoing: &[Outgoing<'_>], attempts_max: u32) -> Result<(), Error> {
        if outgoing.is_empty() {
            return Ok(());
        }
        let mut outage = service.outage("replies cannot be published");
        let (mut attempts, mut waits) = (0, RetryPolicy::SERVER_AWAY.waits());
        loop {
            let error = match self.connected(service).await {
                Ok(connected) => match connected.publish(outgoing).await {
                    Ok(()) => {
                        outage.is_over();
                        return Ok(());
                    }
                    Err(error) => {
                        let is_blocked = connected.is_blocked();
                        service.nodes.go_on();
                        self.publisher = None;
                        if !is_blocked && self.takes_others(service).await {
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
            let (wait, messages) = (waits.next().unwrap_or_default(), outgoing.len());
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

    async fn connected(&mut self, service: &Service) -> Result<&Publisher, Error> {
        if self.publisher.is_none() {
            let publisher = Publisher::open(&service.nodes, &self.name, &service.worker.worker_id).await?;
            self.node = publisher.reply_address().await.and_then(|address| reply_node(&address)?.ok());
            self.publisher = Some(publisher);
        }
        Ok(self.publisher.as_ref().expect("it was just opened"))
    }
}
