//! The messages in `dead`, for operators: taken in without being acknowledged, looked at, sent again, or dropped.
//!
//! What was taken and neither sent again nor dropped goes back to the queue when the connection ends, however it ends;
//! meanwhile nobody else sees it. Invariant: a message is acknowledged only after its copy is confirmed, so whatever
//! happens, it is in `dead` or in its queue; at worst in both, and then its request id has it decided once.

use super::{
    Error, Nodes, answered, connect,
    publisher::{PERSISTENT, ROUTING_HEADERS, carried_over, confirmed_in_time},
};
use crate::topology::Topology;
use futures_util::{StreamExt, future::BoxFuture};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use std::time::Duration;

mod message;

pub use message::DeadMessage;

/// The queue of what could not be handled.
const DEAD_QUEUE: &str = "dead";
/// The most of bodies that is taken at once, in bytes.
const TAKEN_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long to wait for a message that was counted, and may be somebody else's by now.
const QUIET_SECONDS_MAX: u64 = 3;
/// What a client writes to be answered on its own channel. The broker puts the channel's address in its place; the bare
/// word could only be published by a channel that waits for the reply.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// What was taken out of `dead`, for a while.
#[derive(Debug)]
pub struct Taken {
    /// The messages, longest there first.
    pub letters: Vec<DeadMessage>,
    /// How many were counted behind them.
    pub behind: u32,
    /// Why the message behind them could not be read, where that is so: the connection ended with it, and all of them are
    /// back in the queue.
    pub unreadable: Option<String>,
}

/// What became of a message that was to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// It is in this queue again, and in `dead` no more.
    Sent {
        /// The queue.
        queue: String,
        /// Whether its reply goes where its sender waits, or waited.
        keeps_reply_to: bool,
    },
    /// It does not say which of our queues it came from. It stays.
    NoOrigin,
    /// The broker has no such queue. It stays.
    NoQueue(String),
}

/// A connection to `dead`.
pub struct DeadLetterQueue {
    connection: Connection,
    channel: Channel,
}

impl DeadLetterQueue {
    /// Connects.
    ///
    /// # Errors
    /// Those of [`connect`].
    pub fn open<'a>(nodes: &'a Nodes, name: &'a str) -> BoxFuture<'a, Result<Self, Error>> {
        Box::pin(async move {
            let connection = connect(nodes, name).await?;
            let channel = answered(async {
                let channel = connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                Ok(channel)
            })
            .await?;
            Ok(Self { connection, channel })
        })
    }

    /// Takes up to `max` messages, those that are there longest; once.
    ///
    /// # Errors
    /// [`Error::Lost`]; [`Error::Unreadable`] where not even the first can be read.
    pub fn take(&self, max: u16) -> BoxFuture<'_, Result<Taken, Error>> {
        Box::pin(async move {
            // By a subscription, not one by one: a message that cannot be read ends a subscription with an error, and a
            // single get without a word. And it is faster.
            let (mut messages, there) = answered(async {
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let queue = self.channel.queue_declare(DEAD_QUEUE.into(), passive, FieldTable::default()).await?;
                self.channel.basic_qos(max, BasicQosOptions { global: false }).await?;
                let options = BasicConsumeOptions { no_ack: false, ..BasicConsumeOptions::default() };
                let messages = self.channel.basic_consume(DEAD_QUEUE.into(), "".into(), options, FieldTable::default());
                Ok((messages.await?, queue.message_count()))
            })
            .await?;
            let queues = origins();
            let wanted = there.min(u32::from(max));
            let mut taken = Taken { letters: Vec::new(), behind: there, unreadable: None };
            let mut bytes = 0;
            while taken.letters.len() < usize::try_from(wanted).unwrap_or(usize::MAX) && bytes < TAKEN_BYTES_MAX {
                let quiet = Duration::from_secs(QUIET_SECONDS_MAX);
                // Fewer than were counted: somebody else has taken some.
                let Ok(next) = tokio::time::timeout(quiet, messages.next()).await else { break };
                let next = next.ok_or_else(|| Error::Lost("the broker ended the subscription".to_owned()))?;
                match next.map_err(Error::from) {
                    Ok(message) => {
                        bytes += message.data.len();
                        taken.behind -= 1;
                        taken.letters.push(DeadMessage::read(message, &queues));
                    }
                    Err(Error::Unreadable(reason)) if !taken.letters.is_empty() => {
                        taken.unreadable = Some(reason);
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(taken)
        })
    }

    /// Sends a message to the queue that it came from, as it came: with its body, its ids and its reply address, without
    /// what it got on its way here.
    ///
    /// # Errors
    /// [`Error::Lost`]: it may be in its queue; it is in `dead`, too, then.
    pub fn replay<'a>(&'a self, letter: &'a DeadMessage) -> BoxFuture<'a, Result<Replayed, Error>> {
        Box::pin(async move {
            let Some(queue) = &letter.queue else { return Ok(Replayed::NoOrigin) };
            let (properties, keeps_reply_to) = replay_properties(&letter.raw);
            let confirmation = confirmed_in_time(async {
                let options = BasicPublishOptions { mandatory: true, immediate: false };
                let to = queue.as_str().into();
                Ok(self.channel.basic_publish("".into(), to, options, &letter.body, properties).await?.await?)
            });
            match confirmation.await? {
                Confirmation::Ack(None) => {}
                Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                    return Ok(Replayed::NoQueue(queue.clone()));
                }
                Confirmation::Nack(None) | Confirmation::NotRequested => {
                    return Err(Error::Lost(format!("the broker did not take a message for {queue}")));
                }
            }
            self.acknowledge(letter).await?;
            Ok(Replayed::Sent { queue: queue.clone(), keeps_reply_to })
        })
    }

    /// Removes a message for good.
    ///
    /// # Errors
    /// [`Error::Lost`]: it stays.
    pub fn discard<'a>(&'a self, letter: &'a DeadMessage) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.acknowledge(letter))
    }

    async fn acknowledge(&self, letter: &DeadMessage) -> Result<(), Error> {
        let acknowledge = self.channel.basic_ack(letter.tag, BasicAckOptions { multiple: false });
        answered(async { Ok(acknowledge.await?) }).await
    }

    /// Gives back what was taken and is still ours. Returns when the broker has heard it.
    ///
    /// # Errors
    /// [`Error::Lost`]: what was acknowledged last may be in `dead` still.
    pub fn close(self) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            let Self { connection, channel } = &self;
            // The broker answers after all that was sent before: the acknowledgements are in.
            answered(async {
                channel.close(200, "done".into()).await?;
                Ok(connection.close(200, "done".into()).await?)
            })
            .await
        })
    }
}

/// The queues that a message can have come from: only these are sent anything, whatever a message's headers say.
fn origins() -> Vec<String> {
    let queues = Topology::read().queues.into_iter().map(|queue| queue.name);
    queues.filter(|name| name != DEAD_QUEUE).collect()
}

/// The message's own properties, less what the transport wrote into them. The flag: whether the reply address is among
/// them.
fn replay_properties(original: &BasicProperties) -> (BasicProperties, bool) {
    let mut headers = FieldTable::default();
    for (name, value) in original.headers().iter().flat_map(|headers| headers.inner()) {
        if !is_of_the_transport(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    let mut properties = carried_over(original).with_delivery_mode(PERSISTENT);
    if !headers.inner().is_empty() {
        properties = properties.with_headers(headers);
    }
    if let Some(value) = original.kind() {
        properties = properties.with_type(value.clone());
    }
    if let Some(value) = original.timestamp() {
        properties = properties.with_timestamp(*value);
    }
    if let Some(value) = original.priority() {
        properties = properties.with_priority(*value);
    }
    let Some(reply_to) = original.reply_to().clone().filter(|queue| queue.as_str() != DIRECT_REPLY_TO) else {
        return (properties, false);
    };
    (properties.with_reply_to(reply_to), true)
}

/// Headers that say how a message came to `dead`, or that have the broker route it elsewhere as well.
fn is_of_the_transport(name: &str) -> bool {
    let of_the_way = ["x-dead-", "x-death", "x-first-death-", "x-last-death-"];
    of_the_way.iter().any(|prefix| name.starts_with(prefix))
        || ["x-delivery-count", "x-acquired-count"].contains(&name)
        || ROUTING_HEADERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::AMQPValue;

    #[test]
    fn what_is_sent_again_has_all_of_its_own_and_nothing_of_the_way() {
        let mut headers = FieldTable::default();
        for name in ["x-dead-reason", "x-death", "x-first-death-queue", "x-last-death-queue", "x-delivery-count", "BCC"]
        {
            headers.insert(name.into(), AMQPValue::Boolean(true));
        }
        headers.insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
        let of_its_own = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_correlation_id("c".into())
            .with_message_id("m".into())
            .with_reply_to("amq.rabbitmq.reply-to.g1hkAB".into())
            .with_timestamp(7)
            .with_type("t".into());
        let dead = of_its_own.clone().with_headers(headers).with_expiration("1".into()).with_user_id("u".into());
        let mut kept = FieldTable::default();
        kept.insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
        let expected = of_its_own.with_headers(kept).with_delivery_mode(PERSISTENT);
        assert_eq!(replay_properties(&dead), (expected, true));
    }

    #[test]
    fn an_address_that_only_its_own_channel_could_use_is_taken_off() {
        let bare = BasicProperties::default().with_reply_to(DIRECT_REPLY_TO.into());
        let (properties, keeps_reply_to) = replay_properties(&bare);
        assert_eq!((properties.reply_to(), keeps_reply_to), (&None, false));
        assert!(!replay_properties(&BasicProperties::default()).1, "there was none");
    }

    #[test]
    fn only_queues_of_ours_are_sent_anything() {
        let origins = origins();
        assert!(origins.contains(&"purchase.0".to_owned()) && origins.contains(&"restock".to_owned()));
        assert!(!origins.contains(&DEAD_QUEUE.to_owned()), "or it would never come to an end");
    }
}
