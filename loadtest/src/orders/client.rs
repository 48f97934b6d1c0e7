//! One client, who asks and waits for the verdict, and takes in the events of an item. Every wait has a limit.

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
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Client {
    connection: Connection,
    channel: Channel,
    reply_to: ShortString,
    replies: Consumer,
    events: Consumer,
}

impl Client {
    /// Misses nothing from then on that happens to orders of these items.
    pub(super) async fn connect(amqp_url: &str, items: &[&str]) -> Result<Self, Failure> {
        let connection = amqp::connect(&Nodes::read(amqp_url)?, "turnstile-loadtest client").await?;
        let prepared = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let (reply_to, replies) = queue(&channel).await?;
            let (queue, events) = queue(&channel).await?;
            for item in items {
                let key = ShortString::from(format!("order.*.{item}"));
                let options = QueueBindOptions::default();
                channel.queue_bind(queue.clone(), EVENTS_EXCHANGE.into(), key, options, FieldTable::default()).await?;
            }
            Ok::<_, lapin::Error>((channel, reply_to, replies, events))
        };
        let (channel, reply_to, replies, events) = prepared.await.map_err(amqp::Error::from)?;
        Ok(Self { connection, channel, reply_to, replies, events })
    }

    pub(super) async fn ask(
        &mut self,
        (exchange, routing_key): (&str, &str),
        request_id: &str,
        body: &[u8],
    ) -> Result<Verdict, Failure> {
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_reply_to(self.reply_to.clone())
            .with_correlation_id(request_id.into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published = async {
            self.channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await?.await
        };
        published.await.map_err(amqp::Error::from)?;
        loop {
            let reply = next(&mut self.replies, "no verdict").await?;
            // A verdict may come twice; the second one of the request before is none of ours.
            if reply.properties.correlation_id().as_ref().is_some_and(|id| id.as_str() == request_id) {
                let verdict = serde_json::from_slice(&reply.data).context("a reply is no verdict");
                return verdict.map_err(Failure::Broken);
            }
        }
    }

    /// Waits for the next event of this kind; others are passed over.
    pub(super) async fn event(&mut self, kind: EventKind) -> Result<Event, Failure> {
        loop {
            let message = next(&mut self.events, kind.as_str()).await?;
            let event = serde_json::from_slice(&message.data).context("an event cannot be read");
            let event: Event = event.map_err(Failure::Broken)?;
            if event.event == kind {
                return Ok(event);
            }
        }
    }

    /// A broker that is gone already needs no goodbye.
    pub(super) async fn close(self) {
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
    match timeout(TIMEOUT, consumer.next()).await {
        Ok(Some(delivery)) => Ok(delivery.map_err(amqp::Error::from)?),
        Ok(None) => Err(Failure::Unreachable(anyhow!("RabbitMQ ended a queue while somebody listened to it"))),
        Err(_) => Err(Failure::Broken(anyhow!("waited in vain for {} s: {what}", TIMEOUT.as_secs()))),
    }
}
