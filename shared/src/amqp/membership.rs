//! Counting the workers: each says hello to all of them, over and over, and counts whom it has heard lately.
//!
//! Why not ask the broker? A classic queue's consumers cannot be counted while its node is away; of a quorum queue's, the
//! broker counts those of a dead node on (3.10), only the active one of single active consumers (3.10), or unsettled
//! messages instead (4.0 to 4.2). What was heard is right on all of them, and a worker that stands still is not counted.
//!
//! On a connection of its own: a broker short of memory blocks whoever publishes. Invariant: a worker counts itself, and
//! hears no more than [`HELLOS_A_SECOND_MAX`]; whoever is counted was heard a few waits ago at most.

use super::{Error, Nodes, answered, connect, heartbeat};
use crate::retry::RetryPolicy;
use futures_util::StreamExt;
use lapin::{
    options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use std::{
    collections::HashMap,
    sync::LazyLock,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle, time::sleep_until};
use uuid::Uuid;

/// Between two hellos of a worker, where there are few.
const HELLO_MS: u64 = 500;
/// The most hellos that a worker hears in a second: where there are more workers, each says it less often.
const HELLOS_A_SECOND_MAX: u32 = 16;
/// Whoever was not heard for so many waits is gone. Counting somebody who is gone has partitions handed to and fro;
/// missing somebody for a moment leaves them where they are.
const WAITS_MAX: u32 = 3;

/// Tells this process from all others, also from one of the same name: the same through every connection, or a worker that
/// comes back by another node would count twice for a while.
static PROCESS: LazyLock<Uuid> = LazyLock::new(Uuid::now_v7);

/// Where a worker stands among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// How many workers there are, this one included.
    pub workers: usize,
    /// How many of them come before this one, in an order that is the same for all who have heard the same.
    pub rank: usize,
    /// How many of them are in line for every partition, and can be handed one; one at least.
    pub in_line: usize,
}

impl Default for Place {
    /// Nobody else was heard yet.
    fn default() -> Self {
        Self { workers: 1, rank: 0, in_line: 1 }
    }
}

/// A worker's part in the roll call; it says no more when this is dropped.
pub(super) struct Membership {
    place: watch::Receiver<Place>,
    /// The partitions that we are active on, as the next hello says; `None`: we are still joining.
    active: watch::Sender<Option<Vec<usize>>>,
    calling: JoinHandle<()>,
}

impl Membership {
    /// Takes part, by the fanout exchange of this name, through every outage.
    pub(super) fn start(nodes: Nodes, name: String, exchange: String) -> Self {
        let (told, place) = watch::channel(Place::default());
        let (active, to_say) = watch::channel(None);
        let calling = tokio::spawn(async move {
            let mut waits = RetryPolicy::SERVER_AWAY.waits();
            loop {
                let Err(error) = call(&nodes, &name, &exchange, &to_say, &told).await;
                nodes.go_on();
                let wait = waits.next().unwrap_or_default();
                tracing::warn!(%error, wait_ms = wait.as_millis(), "the workers are not counted; trying again");
                tokio::time::sleep(wait).await;
            }
        });
        Self { place, active, calling }
    }

    /// Where this worker stands.
    pub(super) fn place(&self) -> Place {
        *self.place.borrow()
    }

    /// Notes that this worker is in line for every partition, and on which it is active: the others hear it at once.
    pub(super) fn claim(&self, partitions: Vec<usize>) {
        self.active.send_if_modified(|said| {
            let is_new = said.as_ref() != Some(&partitions);
            *said = Some(partitions);
            is_new
        });
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.calling.abort();
    }
}

async fn call(
    nodes: &Nodes,
    name: &str,
    exchange: &str,
    active: &watch::Receiver<Option<Vec<usize>>>,
    told: &watch::Sender<Place>,
) -> Result<std::convert::Infallible, Error> {
    let connection = connect(nodes, &format!("{name} count")).await?;
    let (channel, mut hellos) = answered(async {
        let channel = connection.create_channel().await?;
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?.name().clone();
        let bind = QueueBindOptions::default();
        channel.queue_bind(queue.clone(), exchange.into(), "".into(), bind, FieldTable::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let hellos = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        Ok((channel, hellos))
    })
    .await?;
    let ourselves = heartbeat::body(name, *PROCESS);
    let mut roll = Roll::default();
    let mut active = active.clone();
    let mut due = Instant::now();
    loop {
        tokio::select! {
            hello = hellos.next() => match hello {
                Some(hello) => {
                    let (hello, now) = (hello?, Instant::now());
                    let is_joining = heartbeat::is_joining(&hello.properties);
                    if roll.heard(hello.data, is_joining, now) {
                        // A newcomer has not heard us yet, and wants to know its share.
                        due = now;
                    }
                }
                None => return Err(Error::Lost("the broker ended the subscription".to_owned())),
            },
            Ok(()) = active.changed() => due = Instant::now(),
            () = sleep_until(due.into()) => {
                let properties = heartbeat::properties(active.borrow_and_update().as_deref());
                let (options, hello) = (BasicPublishOptions::default(), ourselves.as_bytes());
                answered(async {
                    drop(channel.basic_publish(exchange.into(), "".into(), options, hello, properties).await?);
                    Ok(())
                })
                .await?;
                due = Instant::now() + roll.wait();
            }
        }
        roll.forget(Instant::now());
        told.send_replace(roll.place_of(ourselves.as_bytes()));
    }
}

/// Who was heard, and when last.
#[derive(Debug, Default)]
struct Roll {
    heard: HashMap<Vec<u8>, Heard>,
}

/// A worker's last hello.
#[derive(Debug)]
struct Heard {
    at: Instant,
    is_joining: bool,
}

impl Roll {
    /// Notes a hello; true: of somebody new.
    fn heard(&mut self, worker: Vec<u8>, is_joining: bool, now: Instant) -> bool {
        self.heard.insert(worker, Heard { at: now, is_joining }).is_none()
    }

    /// Strikes whoever has been silent for too long.
    fn forget(&mut self, now: Instant) {
        let silence_max = self.wait() * WAITS_MAX;
        self.heard.retain(|_, last| now.duration_since(last.at) <= silence_max);
    }

    fn count(&self) -> usize {
        self.heard.len().max(1)
    }

    fn place_of(&self, worker: &[u8]) -> Place {
        let rank = self.heard.keys().filter(|other| other.as_slice() < worker).count();
        let in_line = self.heard.values().filter(|last| !last.is_joining).count().max(1);
        Place { workers: self.count(), rank, in_line }
    }

    /// Until the next hello.
    fn wait(&self) -> Duration {
        let workers = u32::try_from(self.count()).unwrap_or(u32::MAX);
        Duration::from_millis(HELLO_MS).max(Duration::from_secs(1) * workers / HELLOS_A_SECOND_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_heard_lately_is_counted_once_and_who_is_silent_no_more() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut roll = Roll::default();
        assert_eq!(roll.count(), 1, "there is always one worker: we");
        for (worker, ms) in [("a", 0), ("b", 100), ("a", 500), ("a", 1_000)] {
            roll.heard(worker.into(), worker == "b", at(ms));
        }
        roll.forget(at(1_600));
        assert_eq!(roll.place_of(b"a"), Place { workers: 2, rank: 0, in_line: 1 }, "b is still joining");
        roll.heard("b".into(), false, at(1_600));
        assert_eq!(roll.place_of(b"b"), Place { workers: 2, rank: 1, in_line: 2 });
        roll.forget(at(2_501));
        assert_eq!(roll.count(), 1, "a was silent for three waits and more");
        roll.forget(at(60_000));
        assert_eq!(roll.count(), 1);
    }

    #[test]
    fn many_workers_say_it_less_often() {
        let mut roll = Roll::default();
        for worker in 0..64_u8 {
            assert!(roll.heard(vec![worker], false, Instant::now()), "it is new");
        }
        assert_eq!(roll.wait(), Duration::from_secs(4));
        assert!(f64::from(64) / roll.wait().as_secs_f64() <= f64::from(HELLOS_A_SECOND_MAX));
    }
}
