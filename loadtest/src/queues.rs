//! What the broker says of its queues: depth and consumers, by passive declare, and its version. Asking changes nothing.

use std::time::Duration;

use anyhow::anyhow;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Queue};
use serde::Serialize;
use shared::amqp::{self, Nodes};
use shared::topology::Topology;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

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
/// How long the workers before may take to be gone.
const GONE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks while waiting for that.
const GONE_POLL: Duration = Duration::from_millis(20);
/// Between samples while the sale is young: a sale of a thousand buyers is over in a fraction of a second.
const PAUSE_FIRST: Duration = Duration::from_millis(15);
/// How much longer each pause is than the one before (in 1/16ths): few samples for long sales, enough for short ones.
const PAUSE_GROWTH_SIXTEENTHS: u32 = 17;
/// The longest pause between samples.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// A connection of its own for asking, so that answers do not wait behind a sale's messages.
pub struct Probe {
    connection: Connection,
    channel: Channel,
    partitions: Vec<String>,
}

impl Probe {
    pub async fn connect(amqp_url: &str) -> Result<Self, Failure> {
        let connection = amqp::connect(&Nodes::read(amqp_url)?, "turnstile-loadtest probe").await?;
        let channel = connection.create_channel().await.map_err(unreachable)?;
        Ok(Self { connection, channel, partitions: Topology::read().queues_of(FUNCTION) })
    }

    /// Makes sure of the exchanges and queues of `rabbitmq/definitions.json`.
    pub async fn declare_topology(&self) -> Result<(), Failure> {
        Ok(amqp::declare(&self.channel, &Topology::read()).await?)
    }

    /// Messages ready in all partitions together.
    pub async fn depth(&self) -> Result<u64, Failure> {
        Ok(self.depths().await?.iter().map(|(_, messages)| messages).sum())
    }

    /// Messages ready in each partition.
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
    pub async fn consumers(&self) -> Result<u32, Failure> {
        let mut most = 0;
        for partition in &self.partitions {
            most = self.ask(partition).await?.consumer_count().max(most);
        }
        Ok(most)
    }

    /// Messages in the queue `dead`.
    pub async fn dead(&self) -> Result<i64, Failure> {
        Ok(i64::from(self.ask(DEAD).await?.message_count()))
    }

    /// A broker that is gone already needs no goodbye.
    pub async fn close(self) {
        drop(self.connection.close(200, "done".into()).await);
    }

    async fn ask(&self, queue: &str) -> Result<Queue, Failure> {
        let passive = QueueDeclareOptions::durable().passive();
        self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await.map_err(unreachable)
    }
}

/// Makes sure that nobody else uses the queues: the ceiling's workers would answer real requests.
pub(crate) async fn refuse_queues_in_use(amqp_url: &str) -> Result<(), Failure> {
    let probe = Probe::connect(amqp_url).await?;
    probe.declare_topology().await?;
    if probe.consumers().await? > 0 || probe.depth().await? > 0 {
        return Err(Failure::Configuration(anyhow!(
            "the queues of this broker are in use, and the ceiling's workers would answer real requests; \
             give the ceiling a virtual host of its own"
        )));
    }
    probe.close().await;
    Ok(())
}

/// Waits until nobody consumes any partition: workers are gone before the broker knows.
pub(crate) async fn await_no_consumers(amqp_url: &str) -> Result<(), Failure> {
    let probe = Probe::connect(amqp_url).await?;
    let started = Instant::now();
    while probe.consumers().await? > 0 {
        if started.elapsed() > GONE_WAIT_MAX {
            return Err(Failure::Broken(anyhow!("somebody still consumes after the workers have ended")));
        }
        sleep(GONE_POLL).await;
    }
    probe.close().await;
    Ok(())
}

/// The broker's version, such as `3.10.8`, from the first frame that one of its nodes sends; `unknown` where it does not
/// say.
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

/// The depth of all partitions together, and who waits, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DepthSample {
    /// From the start of the sale.
    pub at_ms: u64,
    /// Messages ready.
    pub messages: u64,
    /// Buyers who have sent their request and have no verdict: also those whose message is with a worker.
    pub waiting: u64,
    /// Buyers who had been told by then that they got their units.
    pub sold: u64,
}

impl DepthSample {
    /// The samples, with what was sold until each: one moment for every request that was, in any order.
    pub(crate) fn with_sold(mut samples: Vec<Self>, mut sold_at: Vec<Duration>) -> Vec<Self> {
        sold_at.sort_unstable();
        for sample in &mut samples {
            let until = Duration::from_millis(sample.at_ms);
            sample.sold = sold_at.partition_point(|at| *at <= until) as u64;
        }
        samples
    }
}

/// Samples until `stopped`, on a connection of its own; a broker that is away leaves a gap.
pub(crate) async fn sample_depth(
    probe: Probe,
    amqp_url: String,
    waiting: impl Fn() -> u64 + Send,
    mut stopped: oneshot::Receiver<()>,
) -> Vec<DepthSample> {
    let start = Instant::now();
    let mut samples = Vec::new();
    let mut probe = Some(probe);
    let mut pause = PAUSE_FIRST;
    let mut is_over = false;
    while !is_over {
        tokio::select! {
            () = sleep(pause) => {}
            // There is a last sample, which shows the end.
            _ = &mut stopped => is_over = true,
        }
        pause = (pause * PAUSE_GROWTH_SIXTEENTHS / 16).min(PAUSE_MAX);
        let Some(connected) = &probe else {
            if !is_over {
                probe = Probe::connect(&amqp_url).await.ok();
            }
            continue;
        };
        match connected.depth().await {
            Ok(messages) => {
                let at_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                // What is sold is known when the answers are read.
                samples.push(DepthSample { at_ms, messages, waiting: waiting(), sold: 0 });
            }
            Err(_gone) => probe = None,
        }
    }
    if let Some(probe) = probe {
        probe.close().await;
    }
    samples
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

    #[test]
    fn a_sample_counts_what_was_sold_until_then() {
        let sample = |at_ms| DepthSample { at_ms, messages: 0, waiting: 0, sold: 0 };
        let sold_at = [15, 10, 30].map(Duration::from_millis).to_vec();
        let samples = DepthSample::with_sold(vec![sample(5), sample(10), sample(20)], sold_at);
        assert_eq!(samples.iter().map(|sample| sample.sold).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
