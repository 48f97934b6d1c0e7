//! Publishing the replies of a batch: through every outage, and past whatever the broker does not take.
//!
//! A reply address can end the connection of whoever publishes to it (RabbitMQ before 4.2). So what goes by direct reply-to to a
//! node that is neither ours nor one that replies have reached goes out behind all others, on a connection of its own, and costs
//! nobody else a repeat. Invariant: what is given up, the broker has refused while it took others, or goes to such a node.

use super::{
    line::{Line, attempts_max, halves},
    reply_address::{ReplyNode, ReplyNodes, reply_node},
    service::Service,
};
use crate::{
    amqp::{Outgoing, Reply},
    fail_point::pause_at,
};
use std::{collections::BTreeMap, sync::Arc, time::Instant};
use tokio::sync::OwnedMutexGuard;

/// How many connections may be lost to unknown nodes, before what is left of them is given up, too; and so is what comes for
/// a while after that ([`ReplyNodes`]).
const LOSSES_MAX: u32 = 4;

pub(super) struct Publishing {
    service: Service,
    known: Line,
    unknown: Line,
    nodes: OwnedMutexGuard<ReplyNodes>,
}

impl Publishing {
    /// `name` is what the broker's operators see.
    pub(super) async fn new(service: Service, name: &str) -> Self {
        let (known, unknown) = (Line::that_asks_node(name), Line::named(format!("{name} unknown nodes")));
        // The session before lets go of it when it ends.
        let nodes = Arc::clone(&service.reply_nodes).lock_owned().await;
        Self { service, known, unknown, nodes }
    }

    /// Publishes until the broker has confirmed it all, on a new connection where the old one fails. It goes on for
    /// as long as the session lives: giving up would only have the same deliveries come back, each a delivery older.
    pub(super) async fn publish(&mut self, replies: Vec<Reply<'_>>) {
        // Only who is connected knows which node is ours. What fails here fails again below, and is said there.
        drop(self.known.connected(&self.service).await);
        // What the broker does not take is found by halves, the first of them on top.
        let (mut parts, mut unknown) = (vec![replies], Vec::new());
        while let Some(mut part) = parts.pop() {
            if part.iter().any(|reply| self.is_unknown(reply)) {
                let (of_unknown, known) = part.into_iter().partition(|reply| self.is_unknown(reply));
                unknown.push(of_unknown);
                part = known;
            }
            let (outgoing, attempts_max) = (Outgoing::Replies(&part), attempts_max(part.len()));
            let Err(error) = self.known.publish(&self.service, outgoing, attempts_max).await else { continue };
            // One of them may be gone.
            self.nodes.forget(part.iter().filter_map(node_of));
            match part.as_slice() {
                [] => (),
                [reply] => {
                    let reply_to = reply.to.reply_to();
                    tracing::error!(%error, reply_to, "a reply cannot be delivered; its verdict is on record");
                }
                [_, _, ..] => parts.extend(halves(part)),
            }
        }
        self.try_out(unknown.into_iter().flatten().collect()).await;
    }

    /// Says goodbye: whatever was published is confirmed.
    pub(super) async fn close(self) {
        self.known.close().await;
        self.unknown.close().await;
    }

    /// Whether it goes by direct reply-to, and may end the connection.
    fn is_unknown(&self, reply: &Reply<'_>) -> bool {
        node_of(reply)
            .is_some_and(|node| !self.nodes.has(node) && !self.known.node.is_some_and(|ours| ours.takes(node)))
    }

    /// Publishes replies to nodes that may not be there: all of them together; if that fails, node by node, beginning with those that
    /// most replies go to; and then by halves.
    async fn try_out(&mut self, replies: Vec<Reply<'_>>) {
        if replies.is_empty() {
            return;
        }
        pause_at("trying nodes out").await;
        let (mut parts, mut losses, mut given_up) = (vec![replies], 0, 0);
        let is_paused = self.nodes.is_paused(Instant::now());
        while let Some(part) = parts.pop() {
            if is_paused || losses >= LOSSES_MAX {
                given_up += part.len();
            } else if self.unknown.publish(&self.service, Outgoing::Replies(&part), 1).await.is_ok() {
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
    halves(replies).into()
}
