//! One buyer at a time, who asks and waits for the verdict, and hears what happens to an item.
//!
//! Invariant: every wait has a limit.

use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use shared::amqp::{self, Nodes};
use shared::messages::{CONTENT_TYPE, EVENTS_EXCHANGE, Event, EventKind, Verdict};
use tokio::time::timeout;

use crate::failure::Failure;

/// How long a verdict or an event may take.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The buyer's connection.
pub(crate) struct Patron {
    connection: Connection,
    channel: Channel,
    reply_to: ShortString,
    replies: Consumer,
    events: Consumer,
}

impl Patron {
    /// Connects, and hears from then on of everything that happens to orders of these items.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub(crate) async fn connect(amqp_url: &str, items: &[&str]) -> Result<Self, Failure> {
        let connection = amqp::connect(&Nodes::read(amqp_url)?, "turnstile-loadtest patron").await?;
        let prepared = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let (reply_to, replies) = queue(&channel).await?;
            let (told, events) = queue(&channel).await?;
            for item in items {
                let key = ShortString::from(format!("order.*.{item}"));
                let options = QueueBindOptions::default();
                channel.queue_bind(told.clone(), EVENTS_EXCHANGE.into(), key, options, FieldTable::default()).await?;
            }
            Ok::<_, lapin::Error>((channel, reply_to, replies, events))
        };
        let (channel, reply_to, replies, events) = prepared.await.map_err(amqp::Error::from)?;
        Ok(Self { connection, channel, reply_to, replies, events })
    }

    /// Asks, and returns the verdict.
    ///
    /// # Errors
    /// The broker went away, or no verdict came in time.
    pub(crate) async fn ask(
        &mut self,
        exchange: &str,
        routing_key: &str,
        request_id: &str,
        body: &[u8],
    ) -> Result<Verdict, Failure> {
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_reply_to(self.reply_to.clone())
            .with_correlation_id(ShortString::from(request_id));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (ShortString::from(exchange), ShortString::from(routing_key));
        let sent = async { self.channel.basic_publish(exchange, key, options, body, properties).await?.await };
        sent.await.map_err(amqp::Error::from)?;
        loop {
            let reply = next(&mut self.replies, "no verdict").await?;
            // A verdict may come twice; the second one of the request before is none of ours.
            if reply.properties.correlation_id().as_ref().is_some_and(|id| id.as_str() == request_id) {
                let verdict = serde_json::from_slice(&reply.data).context("a reply is no verdict");
                return verdict.map_err(Failure::Broken);
            }
        }
    }

    /// The next event of this kind; others are passed over.
    ///
    /// # Errors
    /// The broker went away, or it did not come in time.
    pub(crate) async fn hear(&mut self, kind: EventKind) -> Result<Event, Failure> {
        loop {
            let told = next(&mut self.events, kind.as_str()).await?;
            let event: Event =
                serde_json::from_slice(&told.data).context("an event cannot be read").map_err(Failure::Broken)?;
            if event.event == kind {
                return Ok(event);
            }
        }
    }

    /// Says goodbye; a broker that is gone already needs none.
    pub(crate) async fn leave(self) {
        drop(self.connection.close(200, "done".into()).await);
    }
}

async fn queue(channel: &Channel) -> lapin::Result<(ShortString, Consumer)> {
    let queue = channel.queue_declare("".into(), QueueDeclareOptions::exclusive(), FieldTable::default()).await?;
    let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
    let name = queue.name().clone();
    Ok((name.clone(), channel.basic_consume(name, "".into(), options, FieldTable::default()).await?))
}

async fn next(consumer: &mut Consumer, what: &str) -> Result<Delivery, Failure> {
    match timeout(WAIT_MAX, consumer.next()).await {
        Ok(Some(delivery)) => Ok(delivery.map_err(amqp::Error::from)?),
        Ok(None) => Err(Failure::Unreachable(anyhow!("RabbitMQ ended a queue while somebody listened to it"))),
        Err(_) => Err(Failure::Broken(anyhow!("waited in vain for {} s: {what}", WAIT_MAX.as_secs()))),
    }
}
