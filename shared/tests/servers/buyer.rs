//! Somebody who sends to workers, in a virtual host of the test's own, with a queue for the replies.

use clap::Parser;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use shared::amqp;
use shared::config::{CommandLine, WorkerOptions};
use shared::devstack::Fixture;
use shared::messages::{Code, Identity, Rejection, Request};
use std::time::Duration;
use uuid::Uuid;

/// Nothing here takes this long.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// A request that is its own id, with the message's, where it has one; `{` is none.
pub(crate) struct Text(pub(crate) String);

impl Request for Text {
    const FUNCTION: &'static str = "purchase";

    fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection> {
        match body {
            b"{" => Err(Rejection::new(Code::Malformed, "As the test wants it.")),
            body => Ok(Self(String::from_utf8_lossy(body).into_owned() + message_id.unwrap_or_default())),
        }
    }
}

impl Identity for Text {
    fn request_id(&self) -> &str {
        &self.0
    }

    fn fingerprint(&self) -> Uuid {
        unreachable!("these handlers record nothing")
    }
}

pub(crate) struct Buyer {
    pub(crate) amqp_url: String,
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
    queue: ShortString,
    replies: Consumer,
}

impl Buyer {
    /// With the topology declared.
    pub(crate) async fn new() -> Self {
        let amqp_url = Fixture::new().await.amqp_url;
        let connection = Connection::connect(&amqp_url, ConnectionProperties::default()).await.unwrap();
        let channel = confirming(&connection).await;
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap().name().clone();
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = channel.basic_consume(queue.clone(), "".into(), no_ack, FieldTable::default()).await.unwrap();
        let buyer = Self { amqp_url, connection, channel, queue, replies };
        buyer.declare().await;
        buyer
    }

    pub(crate) async fn declare(&self) {
        amqp::declare(&self.channel).await.unwrap();
    }

    /// Whether some queue took it.
    pub(crate) async fn send(&self, exchange: &str, key: &str, body: &str, properties: BasicProperties) -> bool {
        send(&self.channel, exchange, key, body, properties.with_reply_to(self.queue.clone())).await
    }

    pub(crate) async fn reply(&mut self) -> (String, BasicProperties) {
        let reply = tokio::time::timeout(WAIT_MAX, self.replies.next()).await.expect("a reply comes");
        let reply = reply.unwrap().unwrap();
        (String::from_utf8(reply.data).unwrap(), reply.properties)
    }

    /// How many messages wait in a queue; none where there is no such queue, which ends the channel that asks.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let channel = self.connection.create_channel().await.unwrap();
        match channel.queue_declare(queue.into(), passive, FieldTable::default()).await {
            Ok(queue) => {
                channel.close(200, "seen".into()).await.unwrap();
                queue.message_count()
            }
            Err(error) => {
                assert!(error.to_string().contains("NOT_FOUND"), "{error}");
                0
            }
        }
    }
}

pub(crate) async fn confirming(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

/// Whether some queue took it.
pub(crate) async fn send(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &str,
    properties: BasicProperties,
) -> bool {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let sent = channel.basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties).await;
    let sent = sent.unwrap().await;
    // A queue that is there and not ready yet refuses (`Nack`): that is not to be taken for sent.
    let is_taken = matches!(sent, Ok(Confirmation::Ack(None)));
    if !is_taken {
        eprintln!("{exchange}/{key} does not take it: {sent:?}");
    }
    is_taken
}

/// Those of a worker in this process.
pub(crate) fn options(worker_id: &str, amqp_url: &str) -> WorkerOptions {
    let line = ["test", "--amqp-url", amqp_url, "--worker-id", worker_id, "--batch-max", "100"];
    CommandLine::<()>::parse_from(line).worker
}

/// Looks again until it holds; there is no event to wait for.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, looking).await.unwrap_or_else(|_| panic!("waited too long until {what}"));
}
