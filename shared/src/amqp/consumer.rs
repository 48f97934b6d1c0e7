//! Receiving: one channel for each partition, merged into one stream of deliveries.
//!
//! Invariants: deliveries of a partition come out in queue order, and are acknowledged in that order, so that one
//! acknowledgement settles a whole batch of a partition.

use super::body::Spool;
use super::connect::{Nodes, connect_with_socket};
use super::incoming::{End, Incoming};
use super::membership::Membership;
use super::socket::Socket;
use super::topology::{Topology, state_or_none};
use super::{Acknowledger, Delivery, Error, answered};
use crate::worker::rebalance::Place;
use futures_util::future::{self, BoxFuture};
use futures_util::{StreamExt, stream};
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a subscription that is over may take to say why.
const LAST_WORDS_SECONDS_MAX: u64 = 1;
/// How long a worker may hold what was delivered to it, in milliseconds: a day, as in `rabbitmq/rabbitmq.conf`. It goes along
/// because managed brokers do not read that file, and from 4.3 on they take timed-out messages from a worker out of order.
const HOLD_MS_MAX: i64 = 86_400_000;

/// Which of a worker's two subscriptions to a partition.
#[derive(Debug, Clone, Copy)]
enum Window {
    /// One message at a time.
    One,
    /// As many as may be under way.
    Whole,
}

/// The subscription to a set of queues, on a connection of its own.
pub struct Consumer {
    connection: Connection,
    socket: Socket,
    name: String,
    queues: Vec<String>,
    /// Whether a queue has one active consumer, and the others in line.
    has_line: Vec<bool>,
    /// The most messages under way from a queue.
    prefetch: u16,
    /// Users of the broker whose word on who sent a message is taken.
    replayers: Arc<[String]>,
    channels: Vec<Channel>,
    /// How often the queue of each partition was gone. What its subscriptions are called tells them apart: an acknowledgement of
    /// what came before would be taken for one of what came after.
    generations: Vec<u32>,
    /// For each partition: which windows it has, and whether the end of each is expected.
    leaving: Vec<[Arc<AtomicBool>; 2]>,
    membership: Option<Membership>,
    incoming: Incoming,
}

impl Consumer {
    /// Connects, to subscribe to `queues`; each will have up to `prefetch` messages under way to us. `workers` names the
    /// exchange by which the workers count each other; from here on, this one is counted. `replayers`, and our own user, may
    /// publish for others.
    pub fn open<'a>(
        nodes: &'a Nodes,
        name: &'a str,
        queues: &'a [String],
        prefetch: u16,
        workers: Option<String>,
        replayers: &'a [String],
    ) -> BoxFuture<'a, Result<Self, Error>> {
        Box::pin(async move {
            let (connection, socket) = connect_with_socket(nodes, &format!("{name} consume")).await?;
            let channels = answered(async {
                let mut channels = Vec::new();
                for _ in queues {
                    channels.push(connection.create_channel().await?);
                }
                Ok(channels)
            })
            .await?;
            let topology = Topology::read();
            Ok(Self {
                connection,
                socket,
                name: name.to_owned(),
                queues: queues.to_vec(),
                has_line: queues.iter().map(|queue| topology.has_single_active_consumer(queue)).collect(),
                prefetch,
                replayers: replayers.iter().cloned().chain([nodes.user().to_owned()]).collect(),
                generations: vec![0; queues.len()],
                leaving: channels.iter().map(|_| Default::default()).collect(),
                channels,
                membership: workers.map(|exchange| Membership::start(nodes.clone(), name.to_owned(), exchange)),
                incoming: Incoming::default(),
            })
        })
    }

    /// Gets in line for a partition: active on it at once where nobody else is. With care, its messages come one at a time,
    /// until [`Consumer::widen`].
    pub fn subscribe(&mut self, partition: usize, with_care: bool) -> BoxFuture<'_, Result<(), Error>> {
        answered(async move {
            if with_care {
                self.consume(partition, Window::One).await?;
            }
            if !with_care || self.has_line[partition] {
                // Next in line, so that the partition stays ours when the first is cancelled.
                self.consume(partition, Window::Whole).await?;
            }
            Ok(())
        })
    }

    /// Has messages of this partition come a whole window at a time from here on. What came alone must not be acknowledged yet:
    /// else the broker sends more of them.
    pub fn widen(&mut self, partition: usize) -> BoxFuture<'_, Result<(), Error>> {
        answered(async move {
            self.cancel(partition, Window::One).await?;
            if !self.has_line[partition] {
                self.consume(partition, Window::Whole).await?;
            }
            Ok(())
        })
    }

    async fn consume(&mut self, partition: usize, window: Window) -> Result<(), Error> {
        let (queue, has_line) = (self.queues[partition].as_str(), self.has_line[partition]);
        let channel = &self.channels[partition];
        let prefetch = if let Window::One = window { 1 } else { self.prefetch };
        channel.basic_qos(prefetch, BasicQosOptions { global: false }).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(HOLD_MS_MAX));
        let (tag, options) = (self.tag(partition, window), BasicConsumeOptions::default());
        let consumer = channel.basic_consume(queue.into(), tag, options, arguments).await?;
        let leaving = Arc::new(AtomicBool::new(false));
        self.leaving[partition][window as usize] = Arc::clone(&leaving);
        // A stream that ends would be merged away in silence, and its partition with it.
        let last = async move { (!leaving.load(Ordering::Relaxed)).then_some(Err(End::Cancelled(partition))) };
        let (is_alone, mut spool) = (matches!(window, Window::One), Spool::default());
        let replayers = Arc::clone(&self.replayers);
        let deliveries = consumer.map(move |delivery| match delivery {
            Ok(delivery) => Ok(Delivery::receive(delivery, (partition, has_line), is_alone, &mut spool, &replayers)),
            Err(error) => Err(End::Failed(error.into())),
        });
        self.incoming.add(deliveries.chain(stream::once(last).filter_map(future::ready)).boxed());
        Ok(())
    }

    async fn cancel(&mut self, partition: usize, window: Window) -> Result<(), Error> {
        self.leaving[partition][window as usize].store(true, Ordering::Relaxed);
        let tag = self.tag(partition, window);
        Ok(self.channels[partition].basic_cancel(tag, BasicCancelOptions::default()).await?)
    }

    /// What the broker's operators see.
    fn tag(&self, partition: usize, window: Window) -> ShortString {
        let again = match self.generations[partition] {
            0 => String::new(),
            times => format!(" again {times}"),
        };
        match window {
            // The broker returns what a connection leaves unsettled consumer by consumer, in the order of their tags: what came
            // alone came first.
            Window::One => format!("first {}{again}", self.name).into(),
            Window::Whole => format!("{}{again}", self.name).into(),
        }
    }

    /// Gets in line again for a partition whose queue was gone.
    pub fn subscribe_again(&mut self, partition: usize) -> BoxFuture<'_, Result<(), Error>> {
        self.generations[partition] += 1;
        self.subscribe(partition, false)
    }

    /// Whether there is anything to wait for.
    pub fn is_subscribed(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Hands a partition over to the next worker in line, and goes to the end of the line.
    ///
    /// The order stays only if every delivery up to `tag` is decided and answered, none of a whole window is
    /// acknowledged yet, and nothing is under way: then the next worker starts exactly after it.
    pub fn hand_over(&mut self, partition: usize, tag: u64) -> BoxFuture<'_, Result<(), Error>> {
        answered(async move {
            self.cancel(partition, Window::Whole).await?;
            self.channels[partition].basic_ack(tag, BasicAckOptions { multiple: true }).await?;
            self.subscribe(partition, false).await
        })
    }

    /// Where this worker stands among all; `None` where they are not counted.
    pub fn place(&self) -> Option<Place> {
        self.membership.as_ref().map(Membership::place)
    }

    /// Notes that this worker is in line for every partition, and on which it is active: others count on it.
    pub fn claim(&self, partitions: Vec<usize>) {
        if let Some(membership) = &self.membership {
            membership.claim(partitions);
        }
    }

    /// Whether some worker is active on this partition; `None`: its queue is gone.
    pub fn is_served(&mut self, partition: usize) -> BoxFuture<'_, Result<Option<bool>, Error>> {
        // Of consumers that wait in line we may not be told, but of the active one we are.
        answered(async move {
            let state = state_or_none(&self.connection, &self.queues[partition]).await?;
            Ok(state.map(|state| state.consumers > 0))
        })
    }

    /// The next batch: what has arrived, up to so many messages and requests; empty where only subscriptions have [`ended`](Self::ended). After an
    /// error the subscription is over.
    pub async fn next_batch(&mut self, messages_max: usize, requests_max: usize) -> Result<Vec<Delivery>, Error> {
        self.incoming.batch(messages_max, requests_max).await
    }

    /// The partitions whose subscription the broker has ended; each is named once.
    pub fn ended(&mut self) -> Vec<usize> {
        self.incoming.ended()
    }

    /// Takes in what has arrived: until then, large messages are in memory.
    pub fn take_in(&mut self) {
        self.incoming.take_in();
    }

    /// Whether every subscription still stands. One that the broker has cancelled has an open channel.
    pub fn is_open(&mut self) -> bool {
        self.channels.iter().all(|channel| channel.status().connected()) && self.incoming.is_open()
    }

    /// That the broker has ended the subscription to a partition's queue, which is there.
    pub fn cancelled(&self, partition: usize) -> Error {
        Error::Lost(format!("the broker ended the subscription to {}", self.queues[partition]))
    }

    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger { channels: self.channels.clone() }
    }

    /// Why the subscription ended, for who noticed it elsewhere: behind what was buffered, the stream says it.
    pub async fn failure(&mut self) -> Error {
        let last_words = async {
            loop {
                if let Err(error) = self.next_batch(usize::MAX, usize::MAX).await {
                    return error;
                }
                // Until it is asked for, what comes next is not waited for.
                if let Some(partition) = self.ended().first() {
                    return self.cancelled(*partition);
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(LAST_WORDS_SECONDS_MAX), last_words)
            .await
            .unwrap_or_else(|_| Error::Lost("acknowledgements are no longer taken".to_owned()))
    }
}

impl Drop for Consumer {
    /// What is not settled by now returns to its queue in order. The price is a line in the broker's log.
    fn drop(&mut self) {
        self.socket.cut();
    }
}
