//! A sender who means ill, beside the buyers: with the rights of a buyer, they send everything that we know to hurt, in turn.
//!
//! None of it is a request that could be granted, so whatever arrives is refused, and kept in `dead.invalid`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::failure::Failure;
use crate::raw::{self, Property, RawSender};
use crate::schedule::Schedule;

const EXCHANGE: &str = "purchase";
/// How often it is sent: then, as many as are due.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSES_PER_SECOND: u32 = 100;
/// A body that is no JSON, in bytes: nearly as large as a request may be.
const BODY_BYTES: usize = 60_000;
/// How deep headers are nested.
const DEPTH: usize = 1_000;
/// Not UTF-8.
const UNREADABLE: &[u8] = b"\xff\xfe";
/// An address for direct replies, as no broker makes one.
const FORGED_REPLY_TO: &[u8] = b"amq.rabbitmq.reply-to.AAAA.BBBB";

/// What they do, in turn.
#[derive(Debug, Clone, Copy)]
enum Attempt {
    /// A correlation id that no client library reads.
    Unreadable,
    /// A header that ends the dead-lettering of RabbitMQ 3.10, in a message that no client library reads.
    ForgedDeath,
    /// A request by the line of another item.
    AnotherLine,
    /// A request that a quorum queue of RabbitMQ 4 delivers before others.
    Priority,
    /// A reply address that ends the connection which uses it.
    ForgedReplyTo,
    /// Headers within headers.
    Nested,
    Large,
    /// Requests in an array of which none is in order: one of another item, and what is no request.
    Array,
}

const ATTEMPTS: [Attempt; 8] = [
    Attempt::Unreadable,
    Attempt::ForgedDeath,
    Attempt::AnotherLine,
    Attempt::Priority,
    Attempt::ForgedReplyTo,
    Attempt::Nested,
    Attempt::Large,
    Attempt::Array,
];

/// They send from here on, until told to stop.
pub(crate) struct Hostile {
    stop: oneshot::Sender<()>,
    sending: JoinHandle<anyhow::Result<u64>>,
}

impl Hostile {
    /// So many messages a second.
    pub(crate) fn start(amqp_url: String, rate: u32, schedule: Arc<Schedule>) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, sending: tokio::spawn(send(amqp_url, rate, schedule, stopped)) }
    }

    /// How many the broker has taken.
    pub(crate) async fn stop(self) -> Result<u64, Failure> {
        drop(self.stop);
        let sent = self.sending.await.unwrap_or_else(|error| Err(error.into()));
        sent.map_err(|error| Failure::Broken(error.context("the hostile sender is gone")))
    }
}

async fn send(
    amqp_url: String,
    rate: u32,
    schedule: Arc<Schedule>,
    mut stopped: oneshot::Receiver<()>,
) -> anyhow::Result<u64> {
    let mut sender = RawSender::connect(&amqp_url).await?;
    let mut pauses = interval(PAUSE);
    pauses.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut sent, mut due) = (0, 0);
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = pauses.tick() => due += u64::from(rate),
        }
        while sent < due / u64::from(PAUSES_PER_SECOND) {
            let item = &schedule.items[usize::try_from(sent)? % schedule.items.len()].id;
            let attempt = ATTEMPTS[usize::try_from(sent)? % ATTEMPTS.len()];
            let (routing_key, properties, body) = attempt.message(sent, item);
            sender.publish(EXCHANGE, &routing_key, &properties, &body).await?;
            sent += 1;
        }
    }
    sender.close().await?;
    Ok(sent)
}

impl Attempt {
    /// Routing key, properties and body.
    fn message(self, number: u64, item: &str) -> (String, Vec<u8>, Vec<u8>) {
        let id = format!("hostile-{number}");
        let of = |item: &str| json!({"request_id": id, "item": item, "buyer": "hostile", "quantity": 1});
        let request = of(item).to_string();
        let of_item = |properties: Vec<u8>, body: &[u8]| (item.to_owned(), properties, body.to_vec());
        match self {
            Self::Unreadable => of_item(raw::properties(&[(Property::CorrelationId, UNREADABLE)]), request.as_bytes()),
            Self::ForgedDeath => of_item(raw::forged_death(UNREADABLE), b"{}"),
            Self::AnotherLine => (format!("k{number}"), raw::properties(&[]), request.into_bytes()),
            Self::Priority => of_item(raw::properties(&[(Property::Priority, &[9])]), request.as_bytes()),
            Self::ForgedReplyTo => {
                of_item(raw::properties(&[(Property::ReplyTo, FORGED_REPLY_TO)]), request.as_bytes())
            }
            Self::Nested => of_item(raw::nested_headers(DEPTH), b"{}"),
            Self::Large => of_item(raw::properties(&[]), &vec![b'['; BODY_BYTES]),
            Self::Array => {
                let body = json!([of("another"), {}, null, "text", 7, {"request_id": [id]}]);
                of_item(raw::properties(&[]), body.to_string().as_bytes())
            }
        }
    }
}
