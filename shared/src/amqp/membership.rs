//! The workers' membership, over AMQP: heartbeats to all of them, by which they count each other and choose what to hand
//! over ([`crate::worker::rebalance`]), and padding, which fills the windows that buyers leave open.
//!
//! On connections of their own: a broker short of memory blocks whoever has published. Invariants: whoever only looks on
//! sends no heartbeat, or partitions would be handed over to nobody; and a heartbeat's body is who the worker is and nothing
//! else, because workers of every version count each other by it. What else there is to say goes into headers. A heartbeat
//! names its user, as which the broker takes nobody else: those of other users than ours count for nothing.

use super::connect::{
    FEW, Nodes, channel, close, confirming_channel, connect, connect_with_socket, go_on_after, next, own_queue,
};
use super::properties::header;
use super::topology::state_or_none;
use super::{Error, answered};
use crate::messages::{Code, is_id};
use crate::retry::RetryPolicy;
use crate::worker::rebalance::{Heard, Members, Place, WORKERS_MAX};
use futures_util::future::{BoxFuture, try_join_all};
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use uuid::Uuid;

/// The type that tells padding from requests.
pub(super) const PADDING_TYPE: &str = "turnstile.filler";
/// How long the broker keeps a heartbeat that nobody has taken in, in milliseconds.
const HEARTBEAT_MS_MAX: &str = "1500";
/// The header that names the partitions on which the worker is active: their numbers, with spaces between them.
const ACTIVE_HEADER: &str = "active";
/// The header that says how many verdicts of each code the process has reached: word and count, with spaces between them.
const VERDICTS_HEADER: &str = "verdicts";
/// The header of a worker that is not in line for every partition yet.
const JOINING_HEADER: &str = "joining";
/// The most partitions that are believed of one heartbeat.
const PARTITIONS_MAX: usize = 1_024;
/// The same for codes: newer workers may have some that we do not know.
const CODES_MAX: usize = 100;
/// The longest heartbeat, in bytes: that of no worker is longer.
const BODY_BYTES_MAX: usize = 300;

/// Tells this process from all others, also from one of the same name: the same through every connection, or a worker that
/// comes back by another node would count twice for a while.
static PROCESS: LazyLock<Uuid> = LazyLock::new(Uuid::now_v7);
/// Of each code, in the order of [`Code::ALL`].
static VERDICTS: [AtomicU64; Code::ALL.len()] = [const { AtomicU64::new(0) }; Code::ALL.len()];

/// Notes a verdict of this process, for those who look on.
pub(crate) fn count_verdict(code: Code) {
    VERDICTS[code as usize].fetch_add(1, Ordering::Relaxed);
}

/// A worker's part in the membership; it sends no more heartbeats when this is dropped.
pub(super) struct Membership {
    place: watch::Receiver<Place>,
    /// The partitions that we are active on, as the next heartbeat says; `None`: we are still joining.
    active: watch::Sender<Option<Vec<usize>>>,
    beating: JoinHandle<()>,
}

impl Membership {
    /// Takes part, by the fanout exchange of this name, through every outage.
    pub(super) fn start(nodes: Nodes, name: String, exchange: String) -> Self {
        let (counted, place) = watch::channel(Place::default());
        let (active, to_say) = watch::channel(None);
        let beating = tokio::spawn(async move {
            let mut waits = RetryPolicy::SERVER_AWAY.waits();
            loop {
                let Err(error) = beat(&nodes, &name, &exchange, to_say.clone(), &counted).await;
                if nodes.learns_user(&error) {
                    let user = nodes.user();
                    tracing::info!(user, "the broker calls our user so, not as AMQP_URL does; heartbeats name it so");
                    continue;
                }
                nodes.go_on();
                let wait = waits.next().unwrap_or_default();
                tracing::warn!(%error, wait_ms = wait.as_millis(), "the workers are not counted; trying again");
                tokio::time::sleep(wait).await;
            }
        });
        Self { place, active, beating }
    }

    pub(super) fn place(&self) -> Place {
        *self.place.borrow()
    }

    /// Notes that this worker is in line for every partition, and on which it is active: the others hear it at once.
    pub(super) fn claim(&self, partitions: Vec<usize>) {
        self.active.send_if_modified(|said| said.replace(partitions) != *said);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

async fn beat(
    nodes: &Nodes,
    name: &str,
    exchange: &str,
    mut active: watch::Receiver<Option<Vec<usize>>>,
    counted: &watch::Sender<Place>,
) -> Result<Infallible, Error> {
    let (connection, channel, mut heartbeats) = subscribe(nodes, &format!("{name} count"), exchange).await?;
    let (ourselves, user) = (body(name, *PROCESS), nodes.user());
    let mut members = Members::default();
    let (mut due, mut is_said) = (Instant::now(), false);
    loop {
        tokio::select! {
            heartbeat = next(&mut heartbeats) => {
                let heartbeat = heartbeat?;
                go_on_after(&heartbeat).await?;
                // Whatever else there is must cost no more than to look at it.
                let named = heartbeat.properties.user_id().as_ref().map(ShortString::as_str);
                if named != Some(user) || read(&heartbeat, exchange).is_none() {
                    continue;
                }
                let is_joining = is_joining(&heartbeat.properties);
                match members.heard(heartbeat.data, is_joining, Instant::now()) {
                    Heard::Known => (),
                    // A newcomer has not heard us yet, and wants to know its share.
                    Heard::New => due = Instant::now(),
                    Heard::TooMany if is_said => (),
                    Heard::TooMany => {
                        tracing::error!(WORKERS_MAX, "there are more workers than are counted: partitions are not shared out evenly");
                        is_said = true;
                    }
                }
            },
            Ok(()) = active.changed() => due = Instant::now(),
            () = sleep_until(due.into()) => {
                due = Instant::now() + members.wait();
                // A broker that is short of memory or disk reads nothing from who has published, no goodbye either: to connect anew
                // would leave a connection there, and a thread here, for each try.
                if connection.status().blocked() {
                    members.excuse(Instant::now());
                    continue;
                }
                let properties = properties(active.borrow_and_update().as_deref()).with_user_id(user.into());
                let (options, heartbeat) = (BasicPublishOptions::default(), ourselves.as_bytes());
                let published = channel.basic_publish(exchange.into(), "".into(), options, heartbeat, properties);
                match answered(async { Ok(published.await?) }).await {
                    Err(error) if !connection.status().blocked() => return Err(error),
                    Ok(_) | Err(_) => (),
                }
            }
        }
        members.forget(Instant::now());
        counted.send_replace(members.place_of(ourselves.as_bytes()));
    }
}

pub(super) async fn subscribe(
    nodes: &Nodes,
    name: &str,
    exchange: &str,
) -> Result<(Connection, Channel, Consumer), Error> {
    let connection = connect(nodes, name).await?;
    let channel = channel(&connection).await?;
    let (_, heartbeats) = own_queue(&channel, "", FEW, Some(exchange)).await?;
    Ok((connection, channel, heartbeats))
}

/// A worker, as its heartbeat has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worker {
    /// Such as `turnstile-purchase worker-1`.
    pub name: String,
    /// Tells it from others of the same name.
    pub process: String,
    /// The user of the broker that says so; `None`: anybody, or a worker of an older version, which does not say it.
    pub user: Option<String>,
    /// The partitions that have delivered something to it and that it has not handed over since: the broker keeps it
    /// active there. `None`: it is still joining, or of a version that does not say so.
    pub active: Option<Vec<usize>>,
    /// How many verdicts of each code there were since it started; none where its version does not say so.
    pub verdicts: BTreeMap<String, u64>,
}

/// Puts padding into each queue until so much waits there: messages that mean nothing, and show who is active on a partition that
/// is idle. What waits already does it as well: workers that come and go must not pile up padding that buyers wait behind.
///
/// Confirmed, because the client library sends what is to be published behind everything else, its goodbye included: without
/// waiting for the confirms, the last ones are lost now and then, and a window that lacks one message is never full.
pub fn fill<'a>(nodes: &'a Nodes, name: &'a str, queues: &'a [(String, u64)]) -> BoxFuture<'a, Result<(), Error>> {
    Box::pin(async move {
        let (connection, socket) = connect_with_socket(nodes, &format!("{name} fill")).await?;
        let channel = confirming_channel(&connection).await?;
        match fill_each(&connection, &channel, queues).await {
            Ok(()) => close(&connection).await,
            // It may not read a goodbye.
            Err(error) => {
                socket.cut();
                Err(error)
            }
        }
    })
}

async fn fill_each(connection: &Connection, channel: &Channel, queues: &[(String, u64)]) -> Result<(), Error> {
    for (queue, count) in queues {
        let state = answered(state_or_none(connection, queue)).await?;
        let waiting = state.map_or(0, |state| u64::from(state.waiting));
        let publishing = (waiting..*count).map(|_| async {
            let properties = BasicProperties::default().with_type(PADDING_TYPE.into());
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), queue.as_str().into(), options, b"", properties).await?.await
        });
        answered(async { Ok(try_join_all(publishing).await?) }).await?;
    }
    Ok(())
}

fn body(name: &str, process: Uuid) -> String {
    format!("{name} {process}")
}

/// The properties of a heartbeat; `None`: of a worker that is still joining.
fn properties(active: Option<&[usize]>) -> BasicProperties {
    let (name, value) = match active {
        Some(active) => {
            let numbers: Vec<String> = active.iter().map(ToString::to_string).collect();
            (ACTIVE_HEADER, AMQPValue::LongString(numbers.join(" ").into()))
        }
        None => (JOINING_HEADER, AMQPValue::Boolean(true)),
    };
    let mut headers = FieldTable::default();
    headers.insert(name.into(), value);
    headers.insert(VERDICTS_HEADER.into(), AMQPValue::LongString(verdicts().into()));
    BasicProperties::default().with_expiration(HEARTBEAT_MS_MAX.into()).with_headers(headers)
}

fn verdicts() -> String {
    let counted = Code::ALL.iter().zip(&VERDICTS).map(|((.., word), count)| (word, count.load(Ordering::Relaxed)));
    let said = counted.filter(|(_, count)| *count > 0).map(|(word, count)| format!("{word} {count}"));
    said.collect::<Vec<_>>().join(" ")
}

/// Whether it is of a worker that is still joining. Older ones do not say so.
fn is_joining(properties: &BasicProperties) -> bool {
    header(properties, JOINING_HEADER).and_then(AMQPValue::as_bool) == Some(true)
}

/// Reads a heartbeat; `None`: it is not one, nor is a reply to somebody who gave our queue as theirs.
pub(super) fn read(heartbeat: &Delivery, exchange: &str) -> Option<Worker> {
    let (body, properties) = (&heartbeat.data, &heartbeat.properties);
    if heartbeat.exchange.as_str() != exchange || body.len() > BODY_BYTES_MAX {
        return None;
    }
    let (name, process) = std::str::from_utf8(body).ok()?.rsplit_once(' ')?;
    if !name.split(' ').all(is_id) || Uuid::parse_str(process).is_err() {
        return None;
    }
    let user = properties.user_id().as_ref().map(ToString::to_string);
    // No worker of ours writes anything but a long string, and older ones write nothing.
    let said = |name| header(properties, name).and_then(AMQPValue::as_long_string).map(ToString::to_string);
    let active = said(ACTIVE_HEADER).map(|numbers| {
        numbers.split_whitespace().take(PARTITIONS_MAX).filter_map(|number| number.parse().ok()).collect()
    });
    let (verdicts, mut words) = (said(VERDICTS_HEADER).unwrap_or_default(), BTreeMap::new());
    let mut parts = verdicts.split_whitespace().take(2 * CODES_MAX);
    while let (Some(word), Some(count)) = (parts.next(), parts.next()) {
        count.parse().ok().filter(|_| is_id(word)).map(|count| words.insert(word.to_owned(), count));
    }
    Some(Worker { name: name.to_owned(), process: process.to_owned(), user, active, verdicts: words })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCHANGE: &str = "purchase.workers";

    fn heard(exchange: &str, body: &[u8], properties: &BasicProperties) -> Option<Worker> {
        let (exchange, key) = (exchange.into(), "".into());
        let mut delivery = Delivery::mock(1, exchange, key, false, body.to_vec());
        delivery.properties = properties.clone();
        read(&delivery, EXCHANGE)
    }

    #[test]
    fn a_heartbeat_is_read_as_it_is_written_and_what_is_none_is_nobody() {
        let process = Uuid::now_v7().to_string();
        let ours = body("turnstile-purchase w-1", process.parse().unwrap());
        // The last is of an older worker, which says nothing of its partitions.
        for (properties, active, joins) in [
            (properties(Some(&[])), Some(vec![]), false),
            (properties(Some(&[0, 7, 12])), Some(vec![0, 7, 12]), false),
            (properties(None), None, true),
            (BasicProperties::default(), None, false),
        ] {
            let name = "turnstile-purchase w-1".to_owned();
            let process = process.clone();
            let expected = Worker { name, process, user: Some("u".to_owned()), active, verdicts: BTreeMap::new() };
            let heard = heard(EXCHANGE, ours.as_bytes(), &properties.clone().with_user_id("u".into())).unwrap();
            assert_eq!(Worker { verdicts: BTreeMap::new(), ..heard }, expected);
            assert_eq!(is_joining(&properties), joins);
        }
        assert_eq!(heard("", ours.as_bytes(), &BasicProperties::default()), None, "a reply");
        let long = format!("turnstile-purchase {} {process}", "w".repeat(BODY_BYTES_MAX));
        let named = |name: &str| format!("{name} {process}");
        for noise in
            ["", "one-word", "a b", "turnstile-purchase w-1", &long, &named(""), &named("a  b"), &named("\u{1b}[2J")]
        {
            assert_eq!(heard(EXCHANGE, noise.as_bytes(), &BasicProperties::default()), None, "{noise:?}");
        }
        assert_eq!(heard(EXCHANGE, b"\xff \xfe", &BasicProperties::default()), None);
    }

    #[test]
    fn what_a_worker_has_decided_is_read_as_it_is_written() {
        // No other test has these.
        [Code::StockLimit, Code::NoPayment, Code::StockLimit].into_iter().for_each(count_verdict);
        let ours = body("turnstile-restock w-1", Uuid::now_v7());
        let decided = heard(EXCHANGE, ours.as_bytes(), &properties(Some(&[0]))).unwrap().verdicts;
        assert_eq!((decided["no_payment"], decided["stock_limit"]), (1, 2));
    }
}
