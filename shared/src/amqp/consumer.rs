//! Receiving: one channel for each partition, merged into one stream of deliveries, cut into batches.
//!
//! Invariant: deliveries of a partition come out in queue order, and are acknowledged in that order, so that one
//! acknowledgement settles a whole batch of a partition.

use super::{
    Error, answered,
    connect::{Nodes, Socket, close, connect_with_socket},
    membership::{Membership, PADDING_TYPE},
    properties::header,
    topology::state_or_none,
};
use crate::worker::rebalance::Place;
use futures_util::{
    FutureExt, Stream, StreamExt,
    future::{self, BoxFuture},
    stream::{self, BoxStream, SelectAll},
};
use lapin::{
    BasicProperties, Channel, Connection,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long a subscription that is over may take to say why.
const LAST_WORDS_SECONDS_MAX: u64 = 1;

#[derive(Debug)]
pub struct Delivery {
    /// Which of the consumer's queues it came from.
    pub partition: usize,
    /// Its number on that queue's channel.
    pub tag: u64,
    /// How often it had been delivered before, without having been settled.
    pub deliveries_before: u64,
    pub body: Vec<u8>,
    pub(super) properties: BasicProperties,
}

impl Delivery {
    pub fn reply_to(&self) -> Option<&str> {
        self.properties.reply_to().as_ref().map(ShortString::as_str)
    }

    pub fn correlation_id(&self) -> Option<&str> {
        self.properties.correlation_id().as_ref().map(ShortString::as_str)
    }

    pub fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(ShortString::as_str)
    }

    pub fn content_type(&self) -> Option<&str> {
        self.properties.content_type().as_ref().map(ShortString::as_str)
    }

    pub fn content_encoding(&self) -> Option<&str> {
        self.properties.content_encoding().as_ref().map(ShortString::as_str)
    }

    /// Whether it only fills a window, and asks for nothing.
    pub fn is_padding(&self) -> bool {
        self.body.is_empty() && self.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == PADDING_TYPE)
    }

    fn receive(delivery: lapin::message::Delivery, partition: usize) -> Self {
        // On a first delivery, the header would be the sender's own. Other widths are not sent by any broker that we know.
        let count = header(&delivery.properties, "x-delivery-count").filter(|_| delivery.redelivered);
        let deliveries_before = count.and_then(AMQPValue::as_long_long_int).and_then(|count| u64::try_from(count).ok());
        Self {
            partition,
            tag: delivery.delivery_tag,
            deliveries_before: deliveries_before.unwrap_or(0),
            body: delivery.data,
            properties: delivery.properties,
        }
    }
}

/// The subscription to a set of queues, on a connection of its own.
pub struct Consumer {
    connection: Connection,
    socket: Socket,
    name: String,
    queues: Vec<String>,
    channels: Vec<Channel>,
    /// Whether the end of each subscription is expected.
    leaving: Vec<Arc<AtomicBool>>,
    membership: Option<Membership>,
    deliveries: SelectAll<BoxStream<'static, Result<Delivery, End>>>,
    ended: Vec<usize>,
}

/// Why a subscription has ended.
enum End {
    /// The broker says that of this partition: its queue was deleted, or it does not want us any more.
    Cancelled(usize),
    Failed(Error),
}

impl Consumer {
    /// Connects, to subscribe to `queues`; each will have up to `prefetch` messages under way to us. `workers` names the
    /// exchange by which the workers count each other; from here on, this one is counted.
    pub fn open<'a>(
        nodes: &'a Nodes,
        name: &'a str,
        queues: &'a [String],
        prefetch: u16,
        workers: Option<String>,
    ) -> BoxFuture<'a, Result<Self, Error>> {
        Box::pin(async move {
            let (connection, socket) = connect_with_socket(nodes, &format!("{name} consume")).await?;
            let channels = answered(async {
                let mut channels = Vec::new();
                for _ in queues {
                    let channel = connection.create_channel().await?;
                    channel.basic_qos(prefetch, BasicQosOptions { global: false }).await?;
                    channels.push(channel);
                }
                Ok(channels)
            })
            .await?;
            Ok(Self {
                connection,
                socket,
                name: name.to_owned(),
                queues: queues.to_vec(),
                leaving: channels.iter().map(|_| Arc::default()).collect(),
                channels,
                membership: workers.map(|exchange| Membership::start(nodes.clone(), name.to_owned(), exchange)),
                deliveries: SelectAll::new(),
                ended: Vec::new(),
            })
        })
    }

    /// Gets in line for a partition: active on it at once where nobody else is.
    pub fn subscribe(&mut self, partition: usize) -> BoxFuture<'_, Result<(), Error>> {
        answered(async move {
            let (queue, tag) = (self.queues[partition].as_str(), self.name.as_str());
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumer = self.channels[partition].basic_consume(queue.into(), tag.into(), options, none).await?;
            let leaving = Arc::new(AtomicBool::new(false));
            self.leaving[partition] = Arc::clone(&leaving);
            // A stream that ends would be merged away in silence, and its partition with it.
            let last = async move { (!leaving.load(Ordering::Relaxed)).then_some(Err(End::Cancelled(partition))) };
            let deliveries = consumer.map(move |delivery| match delivery {
                Ok(delivery) => Ok(Delivery::receive(delivery, partition)),
                Err(error) => Err(End::Failed(error.into())),
            });
            self.deliveries.push(deliveries.chain(stream::once(last).filter_map(future::ready)).boxed());
            Ok(())
        })
    }

    /// Whether there is anything to wait for.
    pub fn is_subscribed(&self) -> bool {
        !self.deliveries.is_empty()
    }

    /// Hands a partition over to the next worker in line, and goes to the end of the line.
    ///
    /// The order stays only if every delivery up to `tag` is decided and answered, none of a whole window is
    /// acknowledged yet, and nothing is under way: then the next worker starts exactly after it.
    pub fn hand_over(&mut self, partition: usize, tag: u64) -> BoxFuture<'_, Result<(), Error>> {
        answered(async move {
            self.leaving[partition].store(true, Ordering::Relaxed);
            let channel = &self.channels[partition];
            channel.basic_cancel(self.name.as_str().into(), BasicCancelOptions::default()).await?;
            channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
            self.subscribe(partition).await
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

    /// The next batch: what has arrived, up to `max`; empty where only subscriptions have [`ended`](Self::ended). After an
    /// error the subscription is over.
    pub async fn next_batch(&mut self, max: usize) -> Result<Vec<Delivery>, Error> {
        let arrivals = next_ready(&mut self.deliveries, max).await;
        if arrivals.is_empty() {
            return Err(Error::Lost("every subscription ended".to_owned()));
        }
        let mut batch = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            match arrival {
                Ok(delivery) => batch.push(delivery),
                Err(End::Cancelled(partition)) => self.ended.push(partition),
                Err(End::Failed(error)) => return Err(error),
            }
        }
        Ok(batch)
    }

    /// The partitions whose subscription the broker has ended; each is named once.
    pub fn ended(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.ended)
    }

    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger { channels: self.channels.clone() }
    }

    /// Ends the subscription to every queue; the broker sends nothing more, the next worker is activated.
    pub fn cancel(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        answered(async move {
            for channel in &self.channels {
                channel.basic_cancel(self.name.as_str().into(), BasicCancelOptions::default()).await?;
            }
            Ok(())
        })
    }

    /// Why the subscription ended, for who noticed it elsewhere: behind what was buffered, the stream says it.
    pub async fn failure(&mut self) -> Error {
        let last_words = async {
            loop {
                if let Err(error) = self.next_batch(usize::MAX).await {
                    return error;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(LAST_WORDS_SECONDS_MAX), last_words)
            .await
            .unwrap_or_else(|_| Error::Lost("acknowledgements are no longer taken".to_owned()))
    }

    /// Closes the connection in an orderly way, when nothing is left unsettled.
    pub fn close(self) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move { close(&self.connection).await })
    }
}

impl Drop for Consumer {
    /// What is not settled by now returns to its queue in order. The price is a line in the broker's log.
    fn drop(&mut self) {
        self.socket.cut();
    }
}

/// A batch without a timer: the first item is waited for, then whatever is there already joins it, up to `max`. Batches form
/// by themselves under load, and a lone request is never kept waiting for company. Empty: the stream has ended.
///
/// Cancelling this loses nothing: it only waits while it holds no item.
async fn next_ready<S: Stream + Unpin>(stream: &mut S, max: usize) -> Vec<S::Item> {
    let mut batch = Vec::from_iter(stream.next().await);
    while !batch.is_empty()
        && batch.len() < max
        && let Some(Some(item)) = stream.next().now_or_never()
    {
        batch.push(item);
    }
    batch
}

/// Acknowledges deliveries, whole batches at once. What it could not, comes again.
pub struct Acknowledger {
    channels: Vec<Channel>,
}

impl Acknowledger {
    /// Whether every subscription still stands.
    pub fn is_open(&self) -> bool {
        self.channels.iter().all(|channel| channel.status().connected())
    }

    /// Gives these (partition, tag) back to their queue, where each comes again, a delivery older.
    pub async fn give_back(&self, deliveries: &[(usize, u64)]) -> Result<(), Error> {
        answered(async {
            for (partition, tag) in deliveries {
                self.channels[*partition].basic_reject(*tag, BasicRejectOptions { requeue: true }).await?;
            }
            Ok(())
        })
        .await
    }

    /// Acknowledges these and, in each partition, all before them, but for what is not decided: that is not before them.
    /// `undecided` has the first of each partition; takes (partition, tag) in any order.
    pub async fn acknowledge(
        &self,
        settled: impl Iterator<Item = (usize, u64)>,
        undecided: &[(usize, u64)],
    ) -> Result<(), Error> {
        let (mut last_tags, mut behind) = (vec![0; self.channels.len()], Vec::new());
        for (partition, tag) in settled {
            if undecided.iter().any(|first| first.0 == partition && first.1 < tag) {
                behind.push((partition, tag));
            } else {
                last_tags[partition] = tag.max(last_tags[partition]);
            }
        }
        answered(async {
            for (partition, tag) in behind {
                self.channels[partition].basic_ack(tag, BasicAckOptions::default()).await?;
            }
            for (channel, tag) in self.channels.iter().zip(last_tags) {
                if tag > 0 {
                    channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
                }
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_takes_what_is_there_in_order_and_does_not_wait_for_more() {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        (0..5).for_each(|item| sender.send(item).expect("the receiver is there"));
        let mut stream = stream::poll_fn(|context| receiver.poll_recv(context));
        assert_eq!(next_ready(&mut stream, 3).await, [0, 1, 2]);
        // The sender is still there, so the stream has not ended; whoever waited would hang here.
        assert_eq!(next_ready(&mut stream, 3).await, [3, 4]);
        drop(sender);
        assert!(next_ready(&mut stream, 3).await.is_empty());
    }
}
