//! Publishing: replies to buyers, copies to `dead` and messages that come again, each confirmed by the broker.
//!
//! Invariant: one task publishes on one channel, because two could mix up the numbers that confirms refer to; and
//! [`Publisher::publish`] returns only when the broker has taken responsibility for every message.

use super::{Delivery, Error, Nodes, answered, connect};
use crate::messages::{CONTENT_TYPE, Rejection};
use futures_util::future::{BoxFuture, try_join_all};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use std::{future::Future, time::Duration};

/// How long the broker may take to confirm before we connect anew. A broker that is short of memory or disk confirms
/// nothing for as long as it lasts; then this is how often we try.
const CONFIRM_SECONDS_MAX: u64 = 30;
/// Delivery mode 2: written to disk where the queue is durable.
pub(super) const PERSISTENT: u8 = 2;
/// The exchange of what could not be handled.
const DEAD_EXCHANGE: &str = "dead";
/// Headers that are carried from a request to its reply (<https://www.w3.org/TR/trace-context/>).
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];
/// The longest trace header that is carried on, in bytes; the standard asks for 512 at least.
const TRACE_BYTES_MAX: usize = 1_024;
/// The most of a message's own headers that its copy in `dead` keeps, in bytes of JSON: half of the broker's frame.
const DEAD_HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Headers by which a message chooses queues of its own (sender-selected distribution): never copied.
pub(super) const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];
/// Where the broker writes down that it moved a message to `dead`. A copy never has it: by that, the two are told apart.
pub(super) const DEATH_HEADER: &str = "x-death";

/// Headers by which a quorum queue tells how often it has delivered a message.
const COUNT_HEADERS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];

/// A message on its way out.
pub enum Message<'a> {
    /// A verdict, to the buyer.
    Reply(Reply<'a>),
    /// A copy for `dead`.
    Dead(DeadCopy<'a>),
    /// A message that goes to the end of its queue.
    Again(Again<'a>),
}

/// A verdict on its way to the buyer.
pub struct Reply<'a> {
    /// The request's delivery.
    pub to: &'a Delivery,
    /// The reply's body.
    pub body: &'a str,
    /// Stands in for a correlation id that the sender did not give.
    pub request_id: Option<&'a str>,
}

/// A copy of a message for `dead`, with its reason.
pub struct DeadCopy<'a> {
    /// The message.
    pub of: &'a Delivery,
    /// The queue it came from.
    pub queue: &'a str,
    /// Why it could not be handled.
    pub reason: &'a Rejection,
}

/// A message that goes to the end of the queue that it came from.
pub struct Again<'a> {
    /// The message.
    pub of: &'a Delivery,
    /// The queue.
    pub queue: &'a str,
}

/// A connection to publish on.
pub struct Publisher {
    connection: Connection,
    pub(super) channel: Channel,
    pub(super) worker_id: String,
}

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    /// Those of [`connect`].
    pub fn open<'a>(nodes: &'a Nodes, name: &'a str, worker_id: &'a str) -> BoxFuture<'a, Result<Self, Error>> {
        Box::pin(async move {
            let connection = connect(nodes, &format!("{name} publish")).await?;
            let channel = answered(async {
                let channel = connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                Ok(channel)
            })
            .await?;
            Ok(Self { connection, channel, worker_id: worker_id.to_owned() })
        })
    }

    /// The channel, to declare on.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether the broker takes nothing at present, being short of memory or disk.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        let status = self.connection.status();
        status.connected() && status.blocked()
    }

    /// Publishes all of them, and returns when each is confirmed.
    ///
    /// # Errors
    /// [`Error::Lost`]: some may have been published, so publish all of them again on a new connection.
    pub fn publish<'a>(&'a self, messages: &'a [Message<'a>]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            // Polled in order, each future puts its message on the wire before the first confirm is waited for.
            let replies = messages.iter().filter_map(|message| match message {
                Message::Reply(reply) => Some(self.reply(reply)),
                Message::Dead(_) | Message::Again(_) => None,
            });
            let taken = confirmed_in_time(try_join_all(replies)).await?;
            // A reply queue that takes nothing more (its node died, or it has a length limit) is its owner's affair: the
            // verdict is on record.
            let refused = taken.iter().filter(|taken| !**taken).count();
            if refused > 0 {
                tracing::warn!(replies = refused, "the buyers' reply queues did not take some replies");
            }
            // All at once: should one be returned, whichever it is taken for, all are published again.
            let agains = messages.iter().filter_map(|message| match message {
                Message::Again(again) => Some(self.put_again(again)),
                Message::Reply(_) | Message::Dead(_) => None,
            });
            confirmed_in_time(try_join_all(agains)).await?;
            // One at a time: a message that is returned could else be taken for its neighbour's.
            for message in messages {
                if let Message::Dead(copy) = message {
                    confirmed_in_time(self.bury(copy)).await?;
                }
            }
            Ok(())
        })
    }

    /// Closes the connection. A goodbye that fails changes nothing: what was published is confirmed.
    pub fn close(self) -> BoxFuture<'static, ()> {
        // All of `self` moves into the future: a channel that is dropped here would say goodbye at the same time.
        Box::pin(async move {
            let Self { connection, channel, worker_id: _ } = &self;
            drop(answered(async { Ok(connection.close(200, "done".into()).await?) }).await);
            debug_assert!(!channel.status().connected(), "it ended with its connection");
        })
    }

    /// Whether the reply queue took it. A reply is not `mandatory`: a buyer who is gone has the verdict on record and may
    /// ask again.
    async fn reply(&self, reply: &Reply<'_>) -> Result<bool, Error> {
        let Some(queue) = reply.to.properties.reply_to() else { return Ok(true) };
        let mut properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_app_id(self.worker_id.as_str().into());
        let headers = trace_headers(reply.to);
        if !headers.inner().is_empty() {
            properties = properties.with_headers(headers);
        }
        let correlation_id = reply.to.properties.correlation_id().clone();
        if let Some(id) = correlation_id.or_else(|| reply.request_id.map(ShortString::from)) {
            properties = properties.with_correlation_id(id);
        }
        let options = BasicPublishOptions { mandatory: false, immediate: false };
        let confirm =
            self.channel.basic_publish("".into(), queue.clone(), options, reply.body.as_bytes(), properties).await?;
        Ok(!matches!(confirm.await?, Confirmation::Nack(_)))
    }

    async fn bury(&self, copy: &DeadCopy<'_>) -> Result<(), Error> {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let confirm = self
            .channel
            .basic_publish(DEAD_EXCHANGE.into(), copy.queue.into(), options, &copy.of.body, dead_properties(copy))
            .await?;
        confirmed(confirm.await?)
    }

    async fn put_again(&self, again: &Again<'_>) -> Result<(), Error> {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let properties = properties_again(&again.of.properties);
        let confirm =
            self.channel.basic_publish("".into(), again.queue.into(), options, &again.of.body, properties).await?;
        confirmed(confirm.await?)
    }
}

/// Waits for confirms, but not for ever.
pub(super) async fn confirmed_in_time<T>(confirms: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(Duration::from_secs(CONFIRM_SECONDS_MAX), confirms)
        .await
        .unwrap_or_else(|_| Err(Error::Lost(format!("no confirm within {CONFIRM_SECONDS_MAX} s"))))
}

/// What is carried from the request to its reply, where it is of a size that a trace context has.
fn trace_headers(delivery: &Delivery) -> FieldTable {
    let mut headers = FieldTable::default();
    for name in TRACE_HEADERS {
        if let Some(AMQPValue::LongString(value)) = delivery.header(name)
            && value.len() <= TRACE_BYTES_MAX
        {
            headers.insert(name.into(), AMQPValue::LongString(value.clone()));
        }
    }
    headers
}

/// The message's own properties, less what would make the broker refuse, drop or reroute the copy, and less what would have
/// it taken for one that the broker moved.
fn dead_properties(copy: &DeadCopy<'_>) -> BasicProperties {
    let original = &copy.of.properties;
    let mut headers = FieldTable::default();
    for (name, value) in original.headers().iter().flat_map(|headers| headers.inner()) {
        if !ROUTING_HEADERS.contains(&name.as_str()) && name.as_str() != DEATH_HEADER {
            headers.insert(name.clone(), value.clone());
        }
    }
    // Headers travel in one frame, whose size the broker limits: with ours on top, the copy could not be published.
    if serde_json::to_vec(&headers).map_or(true, |bytes| bytes.len() > DEAD_HEADERS_BYTES_MAX) {
        headers = FieldTable::default();
        headers.insert("x-dead-headers".into(), AMQPValue::LongString("too large to keep".into()));
    }
    for (name, value) in [
        ("x-dead-reason", copy.reason.code.as_str()),
        ("x-dead-message", &copy.reason.message),
        ("x-dead-queue", copy.queue),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    carried(original).with_headers(headers)
}

/// What says whose message it is, and what is in it.
fn carried(original: &BasicProperties) -> BasicProperties {
    let properties = carried_over(original).with_delivery_mode(PERSISTENT);
    match original.reply_to() {
        Some(value) => properties.with_reply_to(value.clone()),
        None => properties,
    }
}

/// The same without the reply address. `expiration` would let the copy vanish, and `user_id` must be the publisher's own.
pub(super) fn carried_over(original: &BasicProperties) -> BasicProperties {
    let mut properties = BasicProperties::default();
    if let Some(value) = original.content_type() {
        properties = properties.with_content_type(value.clone());
    }
    if let Some(value) = original.content_encoding() {
        properties = properties.with_content_encoding(value.clone());
    }
    if let Some(value) = original.correlation_id() {
        properties = properties.with_correlation_id(value.clone());
    }
    if let Some(value) = original.message_id() {
        properties = properties.with_message_id(value.clone());
    }
    if let Some(value) = original.app_id() {
        properties = properties.with_app_id(value.clone());
    }
    properties
}

/// The message's own properties and headers, less those that would send copies elsewhere, and less the broker's own count
/// of deliveries, which begins anew.
fn properties_again(original: &BasicProperties) -> BasicProperties {
    let mut properties = carried(original);
    if let Some(sent) = original.headers() {
        let mut headers = FieldTable::default();
        for (name, value) in sent.inner() {
            if !ROUTING_HEADERS.contains(&name.as_str()) && !COUNT_HEADERS.contains(&name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
        properties = properties.with_headers(headers);
    }
    if let Some(value) = original.kind() {
        properties = properties.with_type(value.clone());
    }
    if let Some(value) = original.priority() {
        properties = properties.with_priority(*value);
    }
    if let Some(value) = original.expiration() {
        properties = properties.with_expiration(value.clone());
    }
    if let Some(value) = original.timestamp() {
        properties = properties.with_timestamp(*value);
    }
    properties
}

fn confirmed(confirmation: Confirmation) -> Result<(), Error> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            Err(Error::Lost(format!("a message was returned: {}", returned.reply_text)))
        }
        Confirmation::Nack(None) => Err(Error::Lost("the broker could not take a message".to_owned())),
        Confirmation::NotRequested => Err(Error::Lost("the channel does not confirm".to_owned())),
    }
}
