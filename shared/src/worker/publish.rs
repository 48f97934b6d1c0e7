//! Publishing the replies of a batch: through every outage, and past whatever the broker does not take.
//!
//! A reply address can end the connection of whoever publishes to it (RabbitMQ before 4.2). So what goes by direct reply-to to a
//! node that is neither ours nor one that replies have reached goes out apart, on a connection of its own, and nobody else's reply
//! waits for it. Invariant: what is given up, the broker has refused while it took others, or goes to such a node.

use super::line::{Line, Parts, attempts_max, halves};
use super::reply_address::{ReplyNode, ReplyNodes, reply_node};
use super::service::Service;
use crate::amqp::{Delivery, Outgoing, Reply};
use crate::fail_point::pause_at;
use std::collections::{BTreeMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

/// How many connections may be lost to unknown nodes, before what is left of them is given up, too; and so is what comes for
/// a while after that ([`ReplyNodes`]).
const LOSSES_MAX: u32 = 4;

pub(super) struct Publishing {
    service: Service,
    line: Line,
}

/// Messages whose replies may end the connection, by (partition, tag): they are to be tried out.
#[derive(Default)]
pub(super) struct Unknown(HashSet<(usize, u64)>);

impl Unknown {
    pub(super) fn has(&self, message: &Delivery) -> bool {
        self.0.contains(&(message.partition, message.tag))
    }
}

/// Where replies go that may end the connection: behind all others, in the background.
pub(super) struct TryingOut {
    service: Service,
    line: Line,
    /// Replies since that was last said: a sender who means ill makes hundreds a second.
    given_up: usize,
}

impl Publishing {
    /// `name` is what the broker's operators see.
    pub(super) fn new(service: Service, name: &str) -> Self {
        Self { service, line: Line::that_asks_node(name) }
    }

    /// Publishes until the broker has confirmed it all, on a new connection where the old one fails. It goes on for
    /// as long as the session lives: giving up would only have the same deliveries come back, each a delivery older.
    ///
    /// Returns whose replies were left out.
    pub(super) async fn publish(&mut self, replies: Vec<Reply<'_>>) -> Unknown {
        // Only who is connected knows which node is ours. What fails here fails again below, and is said there.
        drop(self.line.connected(&self.service).await);
        let (mut parts, mut unknown) = (Parts::of(replies, halves), Unknown::default());
        while let Some(mut part) = parts.next() {
            part.retain(|reply| {
                let is_unknown = self.is_unknown(reply);
                if is_unknown {
                    unknown.0.insert((reply.to.partition, reply.to.tag));
                }
                !is_unknown
            });
            let (outgoing, attempts_max) = (Outgoing::Replies(&part), attempts_max(part.len()));
            let Err(error) = self.line.publish(&self.service, outgoing, attempts_max).await else { continue };
            // One of them may be gone.
            nodes_of(&self.service).forget(part.iter().filter_map(node_of));
            if let Some(reply) = parts.refused(part) {
                let reply_to = reply.to.reply_to();
                tracing::error!(%error, reply_to, "a reply cannot be delivered; its verdict is on record");
            }
        }
        unknown
    }

    /// Says goodbye: whatever was published is confirmed.
    pub(super) async fn close(self) {
        self.line.close().await;
    }

    /// Whether it goes by direct reply-to, and may end the connection.
    fn is_unknown(&self, reply: &Reply<'_>) -> bool {
        node_of(reply).is_some_and(|node| {
            !self.line.node.is_some_and(|ours| ours.takes(node)) && !nodes_of(&self.service).has(node)
        })
    }
}

impl TryingOut {
    /// `name` is what the broker's operators see.
    pub(super) fn new(service: Service, name: &str) -> Self {
        Self { service, line: Line::named(format!("{name} unknown nodes")), given_up: 0 }
    }

    /// Publishes replies to nodes that may not be there: all of them together; if that fails, node by node, beginning with those that
    /// most replies go to; and then by halves.
    pub(super) async fn publish(&mut self, replies: Vec<Reply<'_>>) {
        if replies.is_empty() {
            return;
        }
        pause_at("trying nodes out").await;
        let (mut parts, mut losses) = (Parts::of(replies, apart), 0);
        let is_paused = nodes_of(&self.service).is_paused(Instant::now());
        while let Some(part) = parts.next() {
            if is_paused || losses >= LOSSES_MAX {
                self.given_up += part.len();
            } else if self.line.publish(&self.service, Outgoing::Replies(&part), 1).await.is_ok() {
                nodes_of(&self.service).reached(part.iter().filter_map(node_of));
            } else {
                losses += 1;
                self.given_up += parts.refused(part).iter().len();
            }
        }
        if !is_paused {
            nodes_of(&self.service).tried_out(losses, Instant::now());
            self.say_what_is_given_up(losses);
        }
    }

    pub(super) async fn close(mut self) {
        self.say_what_is_given_up(0);
        self.line.close().await;
    }

    fn say_what_is_given_up(&mut self, losses: u32) {
        let replies = std::mem::take(&mut self.given_up);
        if replies > 0 {
            tracing::error!(replies, losses, "direct replies cannot be delivered; their verdicts are on record");
        }
    }
}

/// For a moment: what replies are published to meanwhile is known and unknown at once.
fn nodes_of(service: &Service) -> MutexGuard<'_, ReplyNodes> {
    service.reply_nodes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn node_of(reply: &Reply<'_>) -> Option<ReplyNode> {
    reply_node(reply.to.reply_to()?)?.ok()
}

/// By their nodes, the most replies last; those of one node by halves.
fn apart(replies: Vec<Reply<'_>>) -> Vec<Vec<Reply<'_>>> {
    let mut nodes = BTreeMap::<_, Vec<_>>::new();
    if replies.iter().any(|reply| node_of(reply) != node_of(&replies[0])) {
        replies.into_iter().for_each(|reply| nodes.entry(node_of(&reply)).or_default().push(reply));
        let mut nodes: Vec<_> = nodes.into_values().collect();
        nodes.sort_by_key(Vec::len);
        return nodes;
    }
    halves(replies)
}
