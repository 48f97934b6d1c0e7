//! What the broker says of its queues: depth and consumers, by passive declare, and its version.
//!
//! Never publishes and never consumes. Invariant: asking changes nothing, whatever is there.

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Queue};
use shared::amqp::{self, Nodes};
use shared::topology::Topology;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::failure::Failure;

/// The function whose queues a sale uses.
const FUNCTION: &str = "purchase";
/// The queue of what could not be handled.
const DEAD: &str = "dead";
/// What opens an AMQP 0-9-1 connection; the broker answers with its properties, the version among them.
const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// The key of the version in those properties, a short string, and the type of its value, a long string.
const VERSION_KEY: &[u8] = b"\x07versionS";
/// The largest first frame that is read; RabbitMQ's has about 500 bytes.
const FIRST_FRAME_BYTES_MAX: u64 = 4_096;
/// How long the broker may take to say its version.
const VERSION_WAIT_MAX: Duration = Duration::from_secs(5);

/// A connection of its own for asking, so that answers do not wait behind a sale's messages.
pub struct Probe {
    connection: Connection,
    channel: Channel,
    partitions: Vec<String>,
}

impl Probe {
    /// Connects.
    ///
    /// # Errors
    /// The broker cannot be reached, or refuses.
    pub async fn connect(amqp_url: &str) -> Result<Self, Failure> {
        let connection = amqp::connect(&Nodes::read(amqp_url)?, "turnstile-loadtest probe").await?;
        let channel = connection.create_channel().await.map_err(unreachable)?;
        Ok(Self { connection, channel, partitions: Topology::read().queues_of(FUNCTION) })
    }

    /// Makes sure of the exchanges and queues of `rabbitmq/definitions.json`.
    ///
    /// # Errors
    /// The broker has something else of that name, or lacks the plugin; the text says what to do.
    pub async fn declare_topology(&self) -> Result<(), Failure> {
        Ok(amqp::declare(&self.channel, &Topology::read()).await?)
    }

    /// Messages ready in all partitions together.
    ///
    /// # Errors
    /// The broker went away, or a queue is missing.
    pub async fn depth(&self) -> Result<u64, Failure> {
        Ok(self.depths().await?.iter().map(|(_, messages)| messages).sum())
    }

    /// Messages ready in each partition.
    ///
    /// # Errors
    /// As [`Probe::depth`].
    pub async fn depths(&self) -> Result<Vec<(String, u64)>, Failure> {
        let mut depths = Vec::with_capacity(self.partitions.len());
        for partition in &self.partitions {
            depths.push((partition.clone(), u64::from(self.ask(partition).await?.message_count())));
        }
        Ok(depths)
    }

    /// The most consumers that a partition has, as far as the broker says: 3.10 counts only the active one of several
    /// single active consumers, 4.0 to 4.2 count unsettled messages instead (pull request 16185 of rabbitmq-server).
    /// Zero therefore does not prove that there is none.
    ///
    /// # Errors
    /// As [`Probe::depth`].
    pub async fn consumers(&self) -> Result<u32, Failure> {
        let mut most = 0;
        for partition in &self.partitions {
            most = self.ask(partition).await?.consumer_count().max(most);
        }
        Ok(most)
    }

    /// Messages in the queue `dead`.
    ///
    /// # Errors
    /// As [`Probe::depth`].
    pub async fn dead(&self) -> Result<i64, Failure> {
        Ok(i64::from(self.ask(DEAD).await?.message_count()))
    }

    /// Says goodbye; a broker that is gone already needs none.
    pub async fn close(self) {
        drop(self.connection.close(200, "done".into()).await);
    }

    async fn ask(&self, queue: &str) -> Result<Queue, Failure> {
        let passive = QueueDeclareOptions::durable().passive();
        self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await.map_err(unreachable)
    }
}

/// The broker's version, such as `3.10.8`, from the first frame that one of its nodes sends; `unknown` where it does not
/// say.
///
/// # Errors
/// No node answers.
pub async fn broker_version(amqp_url: &str) -> Result<String, Failure> {
    let mut reasons = Vec::new();
    for (host, port) in Nodes::read(amqp_url)?.hosts() {
        match tokio::time::timeout(VERSION_WAIT_MAX, greeting((host, port))).await {
            Ok(Ok(bytes)) => return Ok(version_in(&bytes).unwrap_or_else(|| "unknown".to_owned())),
            Ok(Err(error)) => reasons.push(format!("{host}:{port}: {error}")),
            Err(_) => reasons.push(format!("{host}:{port}: no answer within {} s", VERSION_WAIT_MAX.as_secs())),
        }
    }
    Err(amqp::Error::Unreachable(reasons.join("; ")).into())
}

async fn greeting(host: (&str, u16)) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(PROTOCOL_HEADER).await?;
    let mut bytes = Vec::new();
    let mut limited = stream.take(FIRST_FRAME_BYTES_MAX);
    while version_in(&bytes).is_none() && limited.read_buf(&mut bytes).await? > 0 {}
    Ok(bytes)
}

fn version_in(bytes: &[u8]) -> Option<String> {
    let start = bytes.windows(VERSION_KEY.len()).position(|window| window == VERSION_KEY)? + VERSION_KEY.len();
    let (length, rest) = bytes.get(start..)?.split_first_chunk::<4>()?;
    let version = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    String::from_utf8(version.to_vec()).ok()
}

fn unreachable(error: lapin::Error) -> Failure {
    Failure::Unreachable(anyhow::Error::new(error).context("RabbitMQ went away, or a queue is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_greeting() {
        let greeting = b"\x01\0\0...\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.10.8...";
        assert_eq!(version_in(greeting).as_deref(), Some("3.10.8"));
    }

    #[test]
    fn half_a_greeting_says_nothing_yet() {
        assert_eq!(version_in(b"\x07versionS\0\0\0\x063.1"), None);
        assert_eq!(version_in(b"\x07versionS\0\0"), None);
        assert_eq!(version_in(b""), None);
    }
}
