//! The world outside: takes in every event of the sale's items, in the order in which they arrive.
//!
//! Knows nothing of the database. Invariant: from [`Listener::open`] to [`Listener::close`] its queue misses nothing that
//! the broker was given; one that is [`Keeping::OnDisk`] also not while a node of the broker, or the listener, is away.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection};
use shared::amqp::{self, Nodes};
use shared::messages::EVENTS_EXCHANGE;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::failure::Failure;

/// Every event, of whatever kind and item: whose it is is told by its routing key.
const EVERYTHING: &str = "#";
/// The queue goes by itself when nobody has used it for so long, in milliseconds: a load generator that was killed leaves
/// nothing behind for ever.
const QUEUE_EXPIRES_MS: i32 = 3_600_000;
/// The most events on their way to us.
const PREFETCH: u16 = 1_024;
/// As many are acknowledged together; the last ones never are, as the queue goes with them.
const ACKNOWLEDGED_TOGETHER: usize = 128;
/// The correlation id of the message to ourselves that follows the last event.
const LAST: &str = "last";
/// How long that message may take.
const LAST_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often the broker may be lost.
const LOSSES_MAX: u32 = 100;
/// How often one reconnection is tried.
const ATTEMPTS_MAX: u32 = 300;
/// Between two of these attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(200);

/// Where the broker keeps events until they are taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// In memory, for as long as the listener is connected: costs the broker little, so a sale is hardly slower for being
    /// listened to.
    InMemory,
    /// On the disks of most of its nodes, for whoever outlives one.
    OnDisk,
}

/// An event as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// What it was published with.
    pub routing_key: String,
    /// Byte for byte.
    pub body: Vec<u8>,
    /// When it arrived, by our clock.
    pub at: OffsetDateTime,
    /// Whether the broker says that it may have brought it before: then a repeat is its own, and nobody else's.
    pub is_redelivered: bool,
}

/// Listens until it is told to stop.
pub struct Listener {
    nodes: Nodes,
    queue: ShortString,
    listening: JoinSet<Result<Vec<Heard>, Failure>>,
}

impl Listener {
    /// Listens to the events of all items whose ids begin with this. Afterwards nothing is missed.
    ///
    /// # Errors
    /// The broker cannot be reached, or has no exchange of events.
    pub async fn open(amqp_url: &str, items: &str, keeping: Keeping) -> Result<Self, Failure> {
        let nodes = Nodes::read(amqp_url)?;
        let connection = connect(&nodes).await?;
        let queue = ShortString::from(format!("events.loadtest.{items}"));
        let channel = connection.create_channel().await.map_err(amqp::Error::from)?;
        bind(&channel, &queue, keeping).await.map_err(amqp::Error::from)?;
        let mut listening = JoinSet::new();
        listening.spawn(listen(
            Nodes::read(amqp_url)?,
            connection,
            channel,
            queue.clone(),
            (format!(".{items}"), keeping),
        ));
        Ok(Self { nodes, queue, listening })
    }

    /// Takes in what is in the queue already, and closes. To be called when nobody publishes any more.
    ///
    /// # Errors
    /// The broker stays away.
    pub async fn close(mut self) -> Result<Vec<Heard>, Failure> {
        let connection = connect(&self.nodes).await?;
        let channel = connection.create_channel().await.map_err(amqp::Error::from)?;
        let told = async {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let properties = BasicProperties::default().with_correlation_id(LAST.into());
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), self.queue.clone(), options, b"", properties).await?.await
        };
        told.await.map_err(amqp::Error::from)?;
        let heard = match timeout(LAST_WAIT_MAX, self.listening.join_next()).await {
            Ok(Some(Ok(heard))) => heard?,
            Ok(Some(Err(_)) | None) | Err(_) => {
                return Err(Failure::Broken(anyhow::anyhow!("the events were not all taken in in time")));
            }
        };
        // One that is kept in memory has gone with the listener.
        drop(channel.queue_delete(self.queue, QueueDeleteOptions::default()).await);
        drop(connection.close(200, "done".into()).await);
        Ok(heard)
    }
}

async fn connect(nodes: &Nodes) -> Result<Connection, Failure> {
    Ok(amqp::connect(nodes, "turnstile-loadtest events").await?)
}

async fn bind(channel: &Channel, queue: &ShortString, keeping: Keeping) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    let options = match keeping {
        Keeping::InMemory => QueueDeclareOptions::exclusive(),
        Keeping::OnDisk => {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            arguments.insert("x-expires".into(), AMQPValue::LongInt(QUEUE_EXPIRES_MS));
            QueueDeclareOptions::durable()
        }
    };
    channel.queue_declare(queue.clone(), options, arguments).await?;
    let options = QueueBindOptions::default();
    channel.queue_bind(queue.clone(), EVENTS_EXCHANGE.into(), EVERYTHING.into(), options, FieldTable::default()).await
}

/// Takes in events until our own last message, through every loss of the broker that the queue outlives.
async fn listen(
    nodes: Nodes,
    mut connection: Connection,
    mut channel: Channel,
    queue: ShortString,
    (ours, keeping): (String, Keeping),
) -> Result<Vec<Heard>, Failure> {
    let (mut heard, mut losses) = (Vec::new(), 0);
    loop {
        match take_in(&channel, &queue, &ours, &mut heard).await {
            Ok(()) => {
                drop(connection.close(200, "done".into()).await);
                return Ok(heard);
            }
            Err(error) if keeping == Keeping::InMemory || losses == LOSSES_MAX => {
                let text =
                    anyhow::Error::new(error).context("RabbitMQ was lost, and with it events that nobody took in");
                return Err(Failure::Unreachable(text));
            }
            Err(error) => tracing::warn!(%error, "the broker went away; listening again"),
        }
        losses += 1;
        nodes.go_on();
        connection = reconnect(&nodes).await?;
        channel = connection.create_channel().await.map_err(amqp::Error::from)?;
    }
}

async fn reconnect(nodes: &Nodes) -> Result<Connection, Failure> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match connect(nodes).await {
            Err(Failure::Unreachable(_)) if attempts < ATTEMPTS_MAX => sleep(ATTEMPT_PAUSE).await,
            connected => return connected,
        }
    }
}

async fn take_in(channel: &Channel, queue: &ShortString, ours: &str, heard: &mut Vec<Heard>) -> lapin::Result<()> {
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut events = channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await?;
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
        if delivery.routing_key.as_str().contains(ours) {
            heard.push(Heard {
                routing_key: delivery.routing_key.to_string(),
                at: OffsetDateTime::now_utc(),
                is_redelivered: delivery.redelivered,
                body: delivery.data,
            });
        }
    }
    Err(lapin::Error::from(lapin::ErrorKind::InvalidChannelState(lapin::ChannelState::Closed, "the queue is gone")))
}
