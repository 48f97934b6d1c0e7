//! Takes in every event of the sale's items, in the order in which they arrive.
//!
//! From [`Listener::open`] to [`Listener::close`] its queue misses nothing that the broker was given; one that is
//! [`Storage::Disk`] also not while a node of the broker, or the listener, is away.

use super::events::Received;
use crate::failure::Failure;
use crate::queues::{LOSSES_MAX, close, once_back};
use anyhow::{Context, anyhow};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection};
use shared::amqp::{self, Nodes};
use shared::messages::EVENTS_EXCHANGE;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

/// Every event, of whatever kind and item: whose it is follows from its routing key.
const EVERYTHING: &str = "#";
/// The queue goes by itself when nobody has used it for so long: a load generator that was killed leaves nothing behind
/// for ever.
const QUEUE_EXPIRES_MS: i32 = 3_600_000;
const PREFETCH: u16 = 1_024;
/// The last ones never are, as the queue goes with them.
const ACKNOWLEDGED_TOGETHER: usize = 128;
/// The correlation id of the message to ourselves that follows the last event.
const LAST: &str = "last";
const LAST_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the broker keeps events until they are taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// For as long as the listener is connected: costs the broker little, so a sale is hardly slower for it.
    Memory,
    /// On most of its nodes, for whoever outlives one.
    Disk,
}

/// Listens until it is closed.
pub struct Listener {
    subscription: Arc<Subscription>,
    received: UnboundedReceiver<Received>,
    listening: JoinSet<Result<(), Failure>>,
}

struct Subscription {
    nodes: Nodes,
    queue: ShortString,
    /// What the routing keys of our items have in them.
    items: String,
    storage: Storage,
}

impl Listener {
    /// Listens to the events of all items whose ids begin with this. Afterwards nothing is missed.
    pub async fn open(amqp_url: &str, items: &str, storage: Storage) -> Result<Self, Failure> {
        let queue = ShortString::from(format!("events.loadtest.{}", Uuid::now_v7()));
        let subscription = Subscription { nodes: Nodes::read(amqp_url)?, queue, items: format!(".{items}"), storage };
        let connection = connect(&subscription.nodes).await?;
        let channel = connection.create_channel().await.map_err(amqp::Error::from)?;
        subscription.bind(&channel).await.map_err(amqp::Error::from)?;
        let (subscription, mut listening) = (Arc::new(subscription), JoinSet::new());
        let (sender, received) = unbounded_channel();
        listening.spawn(listen(Arc::clone(&subscription), connection, channel, sender));
        Ok(Self { subscription, received, listening })
    }

    pub async fn next(&mut self) -> Result<Received, Failure> {
        let gone = || Failure::Unreachable(anyhow!("RabbitMQ ended the queue of the events"));
        self.received.recv().await.ok_or_else(gone)
    }

    /// Takes in what is in the queue already, and closes; returns what [`Self::next`] has not. To be called when nobody
    /// publishes any more.
    pub async fn close(mut self) -> Result<Vec<Received>, Failure> {
        let queue = &self.subscription.queue;
        let connection = connect(&self.subscription.nodes).await?;
        let channel = connection.create_channel().await.map_err(amqp::Error::from)?;
        let published = async {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let properties = BasicProperties::default().with_correlation_id(LAST.into());
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), queue.clone(), options, b"", properties).await?.await
        };
        published.await.map_err(amqp::Error::from)?;
        let ended = timeout(LAST_TIMEOUT, self.listening.join_next()).await.ok().flatten().and_then(Result::ok);
        ended.context("the events were not all taken in in time")??;
        // One that is kept in memory has gone with the listener.
        drop(channel.queue_delete(queue.clone(), QueueDeleteOptions::default()).await);
        close(&connection).await;
        Ok(std::iter::from_fn(|| self.received.try_recv().ok()).collect())
    }
}

impl Subscription {
    async fn bind(&self, channel: &Channel) -> lapin::Result<()> {
        let mut arguments = FieldTable::default();
        let options = match self.storage {
            Storage::Memory => QueueDeclareOptions::exclusive(),
            Storage::Disk => {
                arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
                arguments.insert("x-expires".into(), AMQPValue::LongInt(QUEUE_EXPIRES_MS));
                QueueDeclareOptions::durable()
            }
        };
        let queue = self.queue.clone();
        channel.queue_declare(queue.clone(), options, arguments).await?;
        let options = QueueBindOptions::default();
        channel.queue_bind(queue, EVENTS_EXCHANGE.into(), EVERYTHING.into(), options, FieldTable::default()).await
    }

    /// Until our own last message.
    async fn take_in(&self, channel: &Channel, received: &UnboundedSender<Received>) -> lapin::Result<()> {
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut events = channel.basic_consume(self.queue.clone(), "".into(), options, FieldTable::default()).await?;
        let mut unacknowledged = 0;
        while let Some(delivery) = events.next().await {
            let delivery = delivery?;
            let correlation_id = delivery.properties.correlation_id().as_ref().map(ShortString::as_str);
            if correlation_id == Some(LAST) && delivery.exchange.as_str().is_empty() {
                return Ok(());
            }
            unacknowledged += 1;
            if unacknowledged == ACKNOWLEDGED_TOGETHER {
                delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
                unacknowledged = 0;
            }
            if delivery.routing_key.as_str().contains(&self.items) {
                // Whoever takes it out ends with us.
                let _ = received.send(Received {
                    routing_key: delivery.routing_key.to_string(),
                    at: OffsetDateTime::now_utc(),
                    is_redelivered: delivery.redelivered,
                    body: delivery.data,
                });
            }
        }
        Err(lapin::ErrorKind::InvalidChannelState(lapin::ChannelState::Closed, "the queue is gone").into())
    }
}

async fn connect(nodes: &Nodes) -> Result<Connection, Failure> {
    Ok(amqp::connect(nodes, "turnstile-loadtest events").await?)
}

/// Takes in events through every loss of the broker that the queue outlives.
async fn listen(
    subscription: Arc<Subscription>,
    mut connection: Connection,
    mut channel: Channel,
    received: UnboundedSender<Received>,
) -> Result<(), Failure> {
    let mut losses = 0;
    while let Err(error) = subscription.take_in(&channel, &received).await {
        if subscription.storage == Storage::Memory || losses == LOSSES_MAX {
            let error = anyhow::Error::new(error);
            return Err(Failure::Unreachable(
                error.context("RabbitMQ was lost, and with it events that nobody took in"),
            ));
        }
        tracing::warn!(%error, "the broker went away; listening again");
        losses += 1;
        subscription.nodes.go_on();
        connection = once_back(|| connect(&subscription.nodes)).await?;
        channel = connection.create_channel().await.map_err(amqp::Error::from)?;
    }
    close(&connection).await;
    Ok(())
}
