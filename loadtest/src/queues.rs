//! What the broker says of its queues, by passive declare, and its version. Asking changes nothing.

use crate::answers::Answers;
use crate::failure::Failure;
use crate::schedule::Schedule;
use anyhow::anyhow;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Queue};
use serde::Serialize;
use shared::amqp::{self, Nodes};
use shared::tls::{Tls, over};
use shared::topology::Topology;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

const FUNCTION: &str = "purchase";
const DEAD: &str = "dead";
/// What opens an AMQP 0-9-1 connection; the broker answers with its properties, the version among them.
const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// The key of the version in those properties, a short string, and the type of its value, a long string.
const VERSION_KEY: &[u8] = b"\x07versionS";
/// The largest first frame that is read; RabbitMQ's has about 500 bytes.
const FIRST_FRAME_BYTES_MAX: u64 = 4_096;
const VERSION_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a goodbye may take. The client library waits for ever where the connection ends at that moment.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often a sale may lose the broker ...
pub(crate) const LOSSES_MAX: u32 = 100;
/// ... and how often is tried to come back: with the pauses, it may be away for a minute and more.
const ATTEMPTS_MAX: u32 = 300;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(200);
const GONE_WAIT_MAX: Duration = Duration::from_secs(60);
const GONE_POLL: Duration = Duration::from_millis(20);
/// Between samples while the sale is young: a sale of a thousand buyers is over in a fraction of a second.
const PAUSE_FIRST: Duration = Duration::from_millis(15);
/// How much longer each pause is than the one before (in 1/16ths): few samples for long sales, enough for short ones.
const PAUSE_GROWTH_SIXTEENTHS: u32 = 17;
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// A connection of its own for asking, so that answers do not wait behind a sale's messages.
pub(crate) struct Probe {
    connection: Connection,
    channel: Channel,
}

impl Probe {
    pub(crate) async fn connect(amqp_url: &str) -> Result<Self, Failure> {
        let connection = amqp::connect(&Nodes::read(amqp_url)?, "turnstile-loadtest probe").await?;
        let channel = connection.create_channel().await?;
        Ok(Self { connection, channel })
    }

    /// Makes sure of the exchanges and queues of `rabbitmq/definitions.json`.
    pub(crate) async fn declare_topology(&self) -> Result<(), Failure> {
        Ok(amqp::declare(&self.channel).await?)
    }

    /// Of consumers 3.10 counts only the active one of several single active ones, 4.0 to 4.2 count unsettled messages
    /// instead (pull request 16185 of rabbitmq-server): zero does not prove that there is none.
    pub(crate) async fn partitions(&self) -> Result<Vec<Queue>, Failure> {
        let mut partitions = Vec::new();
        for name in Topology::read().queues_of(FUNCTION) {
            partitions.push(self.ask(&name).await?);
        }
        Ok(partitions)
    }

    /// How many messages are dead through nobody's fault. (What is a sender's, they were told: the replies say it.)
    pub(crate) async fn dead(&self) -> Result<i64, Failure> {
        Ok(self.ask(DEAD).await?.message_count().into())
    }

    /// A broker that is gone already needs no goodbye.
    pub(crate) async fn close(self) {
        close(&self.connection).await;
    }

    async fn ask(&self, queue: &str) -> Result<Queue, Failure> {
        let passive = QueueDeclareOptions::durable().passive();
        Ok(self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await?)
    }
}

/// Makes sure that nobody else uses the queues: the ceiling's workers would answer real requests.
pub(crate) async fn refuse_queues_in_use(amqp_url: &str) -> Result<(), Failure> {
    let probe = Probe::connect(amqp_url).await?;
    probe.declare_topology().await?;
    let partitions = probe.partitions().await?;
    probe.close().await;
    if partitions.iter().all(|queue| queue.consumer_count() == 0 && queue.message_count() == 0) {
        return Ok(());
    }
    Err(Failure::Configuration(anyhow!(
        "the queues of this broker are in use, and the ceiling's workers would answer real requests; \
         give the ceiling a virtual host of its own"
    )))
}

/// Waits until nobody consumes any partition: workers are gone before the broker knows.
pub(crate) async fn await_no_consumers(amqp_url: &str) -> Result<(), Failure> {
    let probe = Probe::connect(amqp_url).await?;
    let started = Instant::now();
    while probe.partitions().await?.iter().any(|queue| queue.consumer_count() > 0) {
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
pub(crate) async fn broker_version(amqp_url: &str) -> Result<String, Failure> {
    for (host, port, tls) in Nodes::read(amqp_url)?.hosts() {
        if let Ok(Ok(bytes)) = timeout(VERSION_WAIT_MAX, greeting((host, port), tls)).await {
            return Ok(version_in(&bytes).unwrap_or_else(|| "unknown".to_owned()));
        }
    }
    // Connecting says why none of them does.
    Probe::connect(amqp_url).await?.close().await;
    Ok("unknown".to_owned())
}

async fn greeting(host: (&str, u16), tls: Option<&Tls>) -> std::io::Result<Vec<u8>> {
    let mut stream = over(TcpStream::connect(host).await?, tls).await?;
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

/// When, from the start of the sale, how many messages were ready in all partitions together.
pub(crate) type Depth = (Duration, u64);

/// Samples until `stopped`; a broker that is away leaves a gap.
pub(crate) async fn sample_depth(probe: Probe, amqp_url: String, mut stopped: oneshot::Receiver<()>) -> Vec<Depth> {
    let start = Instant::now();
    let (mut samples, mut probe, mut pause, mut is_over) = (Vec::new(), Some(probe), PAUSE_FIRST, false);
    while !is_over {
        // There is a last sample, which shows the end.
        is_over = timeout(pause, &mut stopped).await.is_ok();
        pause = (pause * PAUSE_GROWTH_SIXTEENTHS / 16).min(PAUSE_MAX);
        if probe.is_none() && !is_over {
            probe = Probe::connect(&amqp_url).await.ok();
        }
        let Some(connected) = &probe else { continue };
        match connected.partitions().await {
            Ok(queues) => {
                let messages = queues.iter().map(|queue| u64::from(queue.message_count())).sum();
                samples.push((start.elapsed(), messages));
            }
            Err(_gone) => probe = None,
        }
    }
    if let Some(probe) = probe {
        probe.close().await;
    }
    samples
}

/// The depth of all partitions together, and who waits, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DepthSample {
    /// From the start of the sale.
    pub at_ms: u64,
    pub messages: u64,
    /// Buyers whose time has come and who have no verdict: also those whose message is with a worker.
    pub waiting: u64,
    /// Buyers who had been told by then that they got their units.
    pub sold: u64,
}

impl DepthSample {
    /// What was sampled, with what the answers say of each moment.
    pub(crate) fn all(sampled: &[Depth], schedule: &Schedule, answers: &Answers, sold_at: &[Duration]) -> Vec<Self> {
        let answered = answers.answers.iter().filter(|answer| answer.body.is_some());
        let mut answered_at: Vec<Duration> = answered.map(|answer| answer.at).collect();
        answered_at.sort_unstable();
        let mut sold_at = sold_at.to_vec();
        sold_at.sort_unstable();
        let sample = |&(at, messages): &Depth| {
            let until = |moments: &[Duration]| moments.partition_point(|moment| *moment <= at) as u64;
            let due = schedule.requests.partition_point(|due| due.at <= at) as u64;
            let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            let waiting = due.saturating_sub(until(&answered_at));
            Self { at_ms, messages, waiting, sold: until(&sold_at) }
        };
        sampled.iter().map(sample).collect()
    }
}

/// Tries until the broker, which went away, is back.
pub(crate) async fn once_back<T, Opening: Future<Output = Result<T, Failure>>>(
    open: impl Fn() -> Opening,
) -> Result<T, Failure> {
    let mut attempts = 1;
    loop {
        match open().await {
            Err(Failure::Unreachable(_)) if attempts < ATTEMPTS_MAX => sleep(ATTEMPT_PAUSE).await,
            opened => return opened,
        }
        attempts += 1;
    }
}

/// Says goodbye. Whether it is heard is no matter: nothing is under way.
pub(crate) async fn close(connection: &Connection) {
    drop(timeout(CLOSE_WAIT_MAX, connection.close(200, "done".into())).await);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Scenario;

    #[test]
    fn the_version_is_read_from_the_greeting_and_half_a_greeting_says_nothing_yet() {
        let greeting = b"\x01\0\0...\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.10.8...";
        assert_eq!(version_in(greeting).as_deref(), Some("3.10.8"));
        for half in [&b"\x07versionS\0\0\0\x063.1"[..], b"\x07versionS\0\0", b""] {
            assert_eq!(version_in(half), None);
        }
    }

    #[test]
    fn a_sample_counts_who_waited_and_what_was_sold_then() {
        let mut schedule = Schedule::new(&Scenario { buyers: 3, ..Scenario::default() }, "t");
        schedule.requests[2].at = Duration::from_millis(12);
        let mut answers = Answers::to(&schedule.requests);
        for (due, ms) in schedule.requests.iter().zip([15, 10, 30]) {
            answers.record(&due.request_id.to_string(), "w", &[], Duration::from_millis(ms));
        }
        let sampled = [5, 10, 20, 30].map(|ms| (Duration::from_millis(ms), 0));
        let sold_at = [15, 10].map(Duration::from_millis);
        let samples = DepthSample::all(&sampled, &schedule, &answers, &sold_at);
        let counts: Vec<_> = samples.iter().map(|sample| (sample.waiting, sample.sold)).collect();
        assert_eq!(counts, [(2, 0), (1, 1), (1, 2), (0, 2)]);
    }
}
