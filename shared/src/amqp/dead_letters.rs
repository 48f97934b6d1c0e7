//! The messages in `dead` and `dead.invalid`, for operators: taken in without being acknowledged, looked at, sent again, or dropped.
//!
//! What was taken and neither sent again nor dropped goes back to the queue when the connection ends, however it ends;
//! meanwhile nobody else sees it. Invariant: a message is acknowledged only after its copy is confirmed, so whatever
//! happens, it is in `dead` or in its queue; at worst in both, and then its request id has it decided once.

use super::connect::{Nodes, close, confirming_channel, connect, next};
use super::mark::MARK_QUEUE;
use super::properties::of_replay;
use super::publisher::{confirmed_in_time, publish_mandatory};
use super::topology::{DEAD_QUEUES, Topology, state};
use super::{ANSWER_SECONDS_MAX, DeadMessage, Error, answered};
use futures_util::future::BoxFuture;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use serde::Serialize;
use std::time::Duration;

/// The most of bodies that is taken at once, in bytes.
const TAKEN_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long to wait for a message that was counted, and may be somebody else's by now: as long as for any answer.
const QUIET_SECONDS_MAX: u64 = ANSWER_SECONDS_MAX;

/// What was taken out of `dead`, for a while.
#[derive(Debug)]
pub struct Taken {
    /// Longest there first; those of `dead` behind those of `dead.invalid`.
    pub messages: Vec<DeadMessage>,
    /// How many were counted behind them.
    pub behind: u32,
}

/// What became of a message that was to be sent again, or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadOutcome {
    /// It is with the function of its queue again, and in `dead` no more. Its reply goes where its sender waits, or waited.
    Replayed,
    /// The same, but its sender hears nothing: there was no reply address, or none that outlives its channel.
    ReplayedWithoutReply,
    Dropped,
    /// It does not say which of our queues it came from. It stays.
    KeptWithoutOrigin,
    /// The broker has no such queue. It stays.
    KeptWithoutQueue,
    /// It names a sender, by the word of somebody who may not. It stays.
    KeptWithoutSender,
}

impl DeadOutcome {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Replayed => "sent again",
            Self::ReplayedWithoutReply => "sent again; nobody waits for the reply",
            Self::Dropped => "dropped",
            Self::KeptWithoutOrigin => "kept: it does not say which queue it came from",
            Self::KeptWithoutQueue => "kept: there is no such queue",
            Self::KeptWithoutSender => "kept: who says who sent it is none of --worker-users",
        }
    }

    pub fn is_done(self) -> bool {
        match self {
            Self::Replayed | Self::ReplayedWithoutReply | Self::Dropped => true,
            Self::KeptWithoutOrigin | Self::KeptWithoutQueue | Self::KeptWithoutSender => false,
        }
    }
}

pub struct DeadLetterQueue {
    connection: Connection,
    channel: Channel,
    /// The broker's user that we are.
    user: String,
    /// Those that the workers are.
    workers: Vec<String>,
}

impl DeadLetterQueue {
    /// `workers` are the broker's users by whose word, and our own, it is known who sent a message.
    pub fn open<'a>(nodes: &'a Nodes, name: &'a str, workers: &'a [String]) -> BoxFuture<'a, Result<Self, Error>> {
        Box::pin(async move {
            let connection = connect(nodes, name).await?;
            let channel = confirming_channel(&connection).await?;
            Ok(Self { connection, channel, user: nodes.user().to_owned(), workers: workers.to_vec() })
        })
    }

    /// Takes up to `max` messages, those that are there longest, and those of `dead` before others; once.
    pub fn take(&self, max: u16) -> BoxFuture<'_, Result<Taken, Error>> {
        Box::pin(async move {
            let (origins, mut bytes) = (origins(), 0);
            let mut taken = Taken { messages: Vec::new(), behind: 0 };
            for queue in DEAD_QUEUES {
                let mut room = max - u16::try_from(taken.messages.len()).unwrap_or(max);
                // By a subscription, which is faster than one by one.
                let (mut messages, mut there) = answered(async {
                    let there = state(&self.channel, queue).await?.waiting;
                    // Zero would be no limit.
                    self.channel.basic_qos(room.max(1), BasicQosOptions { global: false }).await?;
                    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
                    Ok((self.channel.basic_consume(queue.into(), "".into(), options, none).await?, there))
                })
                .await?;
                let mut found = Vec::new();
                while room > 0 && there > 0 && bytes < TAKEN_BYTES_MAX {
                    let quiet = Duration::from_secs(QUIET_SECONDS_MAX);
                    // Fewer than were counted: somebody else has taken some.
                    let Ok(next) = tokio::time::timeout(quiet, next(&mut messages)).await else { break };
                    let message = next?;
                    bytes += message.data.len();
                    (room, there) = (room - 1, there - 1);
                    found.push(DeadMessage::read(message, &origins));
                }
                taken.behind += there;
                taken.messages.splice(0..0, found);
            }
            Ok(taken)
        })
    }

    /// Sends a message to the function that it came from, and a purchase into the line of its item: with its body, its ids and its reply address, without
    /// what it got on its way here. After an error it is in `dead`, and may be in its queue, too.
    pub fn replay<'a>(&'a self, message: &'a DeadMessage) -> BoxFuture<'a, Result<DeadOutcome, Error>> {
        Box::pin(async move {
            let Some(queue) = &message.queue else { return Ok(DeadOutcome::KeptWithoutOrigin) };
            let Some((properties, keeps_reply_to)) = of_replay(&message.raw, &self.user, &self.workers) else {
                return Ok(DeadOutcome::KeptWithoutSender);
            };
            let (exchange, key) = message.way_back(queue);
            let published = publish_mandatory(&self.channel, exchange, &key, &message.body, properties);
            if !confirmed_in_time(published).await? {
                return Ok(DeadOutcome::KeptWithoutQueue);
            }
            self.discard(message).await?;
            Ok(if keeps_reply_to { DeadOutcome::Replayed } else { DeadOutcome::ReplayedWithoutReply })
        })
    }

    /// Removes a message for good.
    pub fn discard<'a>(&'a self, message: &'a DeadMessage) -> BoxFuture<'a, Result<DeadOutcome, Error>> {
        let acknowledge = self.channel.basic_ack(message.tag, BasicAckOptions { multiple: false });
        answered(async { Ok(acknowledge.await.map(|()| DeadOutcome::Dropped)?) })
    }

    /// Gives back what was taken and is still ours. Returns when the broker has heard it; after an error, what was
    /// acknowledged last may be in `dead` still.
    pub fn close(self) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            // The broker answers after all that was sent before: the acknowledgements are in.
            answered(async { Ok(self.channel.close(200, "done".into()).await?) }).await?;
            close(&self.connection).await
        })
    }
}

/// The queues that a message can have come from: only these are sent anything, whatever a message's headers say. Never `dead`
/// itself, or it would not come to an end; nor what no request comes from.
fn origins() -> Vec<String> {
    let queues = Topology::read().queues.iter().map(|queue| queue.name.clone());
    queues.filter(|name| !DEAD_QUEUES.contains(&name.as_str()) && name != MARK_QUEUE).collect()
}

#[cfg(test)]
mod tests {
    use crate::amqp::topology::exchange_into;

    #[test]
    fn only_queues_of_ours_are_sent_anything() {
        let origins = super::origins();
        let has = |name: &str| origins.iter().any(|origin| origin == name);
        assert!(has("purchase.0") && has("restock") && !has("dead") && !has("dead.invalid") && !has("events.mark"));
        let exchanges = &super::Topology::read().exchanges;
        let is_ours = |origin: &String| exchanges.iter().any(|exchange| exchange.name == exchange_into(origin));
        assert!(origins.iter().all(is_ours), "by exchanges of ours");
    }
}
