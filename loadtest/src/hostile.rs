//! A sender who means ill, beside the buyers: with the rights of a buyer, they send everything that we know to hurt, in turn.
//!
//! None of it is a request that could be granted: whatever arrives is refused. They come back when the broker does.

use crate::failure::Failure;
use crate::raw::{self, Property, RawSender};
use crate::schedule::Schedule;
use anyhow::Context;
use clap::ValueEnum;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

const EXCHANGE: &str = "purchase";
/// How often it is sent: then, as many as are due.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSES_PER_SECOND: u32 = 100;
/// The longest that the broker takes nothing, before they take it for lost.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// How often they try to come back to a broker that is away, and between two tries: as long as a restart takes, and longer.
const TRIES_MAX: u32 = 300;
const TRIES_PAUSE: Duration = Duration::from_millis(200);
/// A body that is no JSON, in bytes: nearly as large as a request may be.
const BODY_BYTES: usize = 60_000;
/// How deep headers are nested.
const DEPTH: usize = 1_000;
/// Not UTF-8.
const UNREADABLE: &[u8] = b"\xff\xfe";
/// An address for direct replies, as no broker makes one.
const FORGED_REPLY_TO: &[u8] = b"amq.rabbitmq.reply-to.AAAA.BBBB";
/// One of the form that brokers give it, of node 1, which is not there.
const UNKNOWN_NODE: &[u8] = b"amq.rabbitmq.reply-to.g1h2AAdyZXBseUAxAAAAAQAAAAAAAAAB.AAEC";
/// The queue that another user could have.
const OTHERS_REPLY_TO: &[u8] = b"reply.shop.1";

/// What they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostileKind {
    /// A correlation id that no client library reads
    Unreadable,
    /// A header that ends the dead-lettering of RabbitMQ 3.10, in a message that no client library reads
    ForgedDeath,
    /// The same header, in a message that expires where nobody takes it at once
    ExpiringDeath,
    /// A request by the line of another item
    AnotherLine,
    /// A request that a quorum queue of RabbitMQ 4 delivers before others
    Priority,
    /// A reply address that RabbitMQ has not made, and ends the connection which uses it
    ForgedReplyTo,
    /// One that it could have made, of a node that is not there
    UnknownNode,
    /// A buyer's request id as one's own, and the reply to somebody else's queue
    SomebodyElse,
    /// Headers that ask for copies in other queues
    Copies,
    /// Headers within headers
    Nested,
    /// Bodies of 60 kB that are no JSON
    Large,
    /// Requests in an array of which none is in order: one of another item, and what is no request
    Array,
}

/// They send from here on, until told to stop.
pub(crate) struct Hostile {
    stop: oneshot::Sender<()>,
    sending: JoinHandle<anyhow::Result<u64>>,
}

impl Hostile {
    /// So many messages a second of these kinds in turn, or of all where none is named.
    pub(crate) fn start(amqp_url: String, rate: u32, kinds: &[HostileKind], schedule: Arc<Schedule>) -> Self {
        let kinds = if kinds.is_empty() { HostileKind::value_variants() } else { kinds }.to_vec();
        let (stop, stopped) = oneshot::channel();
        Self { stop, sending: tokio::spawn(Sending { amqp_url, rate, kinds, schedule, sent: 0 }.run(stopped)) }
    }

    /// How many they have sent.
    pub(crate) async fn stop(self) -> Result<u64, Failure> {
        drop(self.stop);
        let sent = self.sending.await.unwrap_or_else(|error| Err(error.into()));
        sent.map_err(|error| Failure::Broken(error.context("the hostile sender is gone")))
    }
}

struct Sending {
    amqp_url: String,
    rate: u32,
    kinds: Vec<HostileKind>,
    schedule: Arc<Schedule>,
    sent: u64,
}

impl Sending {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> anyhow::Result<u64> {
        let mut tries = 0;
        loop {
            let sent_before = self.sent;
            let Err(lost) = self.session(&mut stopped).await else { return Ok(self.sent) };
            tries = if self.sent > sent_before { 1 } else { tries + 1 };
            if tries > TRIES_MAX {
                return Err(lost.context(format!("the broker is away, {TRIES_MAX} times in a row")));
            }
            tracing::debug!(error = %lost, "the hostile sender lost the broker, and comes again");
            tokio::select! {
                _ = &mut stopped => return Ok(self.sent),
                () = sleep(TRIES_PAUSE) => (),
            }
        }
    }

    /// Sends until told to stop. What was due before it is connected is not made up for.
    async fn session(&mut self, stopped: &mut oneshot::Receiver<()>) -> anyhow::Result<()> {
        let mut sender = in_time(RawSender::connect(&self.amqp_url)).await?;
        let mut pauses = interval(PAUSE);
        pauses.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (sent_before, mut due) = (self.sent, 0);
        loop {
            tokio::select! {
                _ = &mut *stopped => return in_time(sender.close()).await,
                _ = pauses.tick() => due += u64::from(self.rate),
            }
            while self.sent - sent_before < due / u64::from(PAUSES_PER_SECOND) {
                let (routing_key, properties, body) = self.next()?;
                in_time(sender.publish(EXCHANGE, &routing_key, &properties, &body)).await?;
                self.sent += 1;
            }
        }
    }

    fn next(&self) -> anyhow::Result<(String, Vec<u8>, Vec<u8>)> {
        let number = usize::try_from(self.sent)?;
        let item = &self.schedule.items[number % self.schedule.items.len()].id;
        let buyers = &self.schedule.requests[number % self.schedule.requests.len()].request_id;
        Ok(self.kinds[number % self.kinds.len()].message(self.sent, item, &buyers.to_string()))
    }
}

async fn in_time<T>(done: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(WRITE_MAX, done).await.context("the broker takes nothing")?
}

impl HostileKind {
    /// Routing key, properties and body. `somebodys` is a request id of a buyer's.
    pub fn message(self, number: u64, item: &str, somebodys: &str) -> (String, Vec<u8>, Vec<u8>) {
        let id = format!("hostile-{number}");
        let of = |id: &str, item: &str, quantity: u32| json!({"request_id": id, "item": item, "buyer": "hostile", "quantity": quantity});
        let (request, nothing) = (of(&id, item, 1).to_string(), of(&id, item, 0).to_string());
        let of_item = |properties: Vec<u8>, body: &[u8]| (item.to_owned(), properties, body.to_vec());
        match self {
            Self::Unreadable => of_item(raw::properties(&[(Property::CorrelationId, UNREADABLE)]), request.as_bytes()),
            Self::ForgedDeath => of_item(raw::forged_death(UNREADABLE), b"{}"),
            Self::ExpiringDeath => of_item(raw::expiring_death(), b"{}"),
            Self::AnotherLine => (format!("k{number}"), raw::properties(&[]), request.into_bytes()),
            Self::Priority => of_item(raw::properties(&[(Property::Priority, &[9])]), request.as_bytes()),
            Self::ForgedReplyTo => {
                of_item(raw::properties(&[(Property::ReplyTo, FORGED_REPLY_TO)]), request.as_bytes())
            }
            Self::UnknownNode => of_item(raw::properties(&[(Property::ReplyTo, UNKNOWN_NODE)]), nothing.as_bytes()),
            Self::SomebodyElse => {
                let properties = raw::addressed(somebodys.as_bytes(), OTHERS_REPLY_TO);
                of_item(properties, of(somebodys, item, 0).to_string().as_bytes())
            }
            Self::Copies => of_item(raw::copies(&["purchase.0", "purchase.1", "another"]), nothing.as_bytes()),
            Self::Nested => of_item(raw::nested_headers(DEPTH), b"{}"),
            Self::Large => of_item(raw::properties(&[]), &vec![b'['; BODY_BYTES]),
            Self::Array => {
                let body = json!([of(&id, "another", 1), {}, null, "text", 7, {"request_id": [id]}]);
                of_item(raw::properties(&[]), body.to_string().as_bytes())
            }
        }
    }
}
