//! What has arrived and is not taken yet: the subscriptions merged into one stream, cut into batches.
//!
//! Invariants: once a subscription is over, nothing more of it is handed out: what had arrived before is somebody else's. And a
//! partition's messages keep their order, but none waits for another partition's backlog: one with large arrays in front would
//! have it wait for as many decisions as a window of them has.

use super::{Delivery, Error};
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{FutureExt, StreamExt};
use std::collections::{BTreeMap, VecDeque};

/// Why a subscription has ended.
pub(super) enum End {
    /// The broker says that of this partition: its queue was deleted, or it does not want us any more.
    Cancelled(usize),
    Failed(Error),
}

#[derive(Default)]
pub(super) struct Incoming {
    streams: SelectAll<BoxStream<'static, Result<Delivery, End>>>,
    /// Of each partition that has some, in order.
    arrived: BTreeMap<usize, VecDeque<Delivery>>,
    /// Whose turn it is.
    first: usize,
    /// Partitions whose subscription was cancelled.
    ended: Vec<usize>,
    /// Why all of them are over.
    over: Option<Error>,
}

impl Incoming {
    pub(super) fn add(&mut self, stream: BoxStream<'static, Result<Delivery, End>>) {
        self.streams.push(stream);
    }

    /// Whether there is anything to wait for, or to be told: what was taken in of a stream that has ended is.
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.arrived.is_empty() && self.is_standing()
    }

    /// A batch without a timer: the first delivery is waited for, then whatever is there already joins it, of each partition in turn, up
    /// to so many messages and requests, or one message that has more. Batches form by themselves under load, and a lone request is
    /// never kept waiting for company. Empty where only subscriptions have [`ended`](Self::ended).
    ///
    /// Cancelling this loses nothing: what is taken off a stream is kept here.
    pub(super) async fn batch(&mut self, messages_max: usize, requests_max: usize) -> Result<Vec<Delivery>, Error> {
        self.take_in();
        if self.arrived.is_empty() && self.is_standing() {
            let next = self.streams.next().await;
            self.keep(next.unwrap_or_else(|| Err(End::Failed(Error::Lost("every subscription ended".to_owned())))));
            self.take_in();
        }
        match &self.over {
            Some(error) => Err(error.clone()),
            None => Ok(self.take(messages_max, requests_max)),
        }
    }

    /// A message of each partition in turn. Whoever finds no room is the first of the next batch.
    fn take(&mut self, messages_max: usize, requests_max: usize) -> Vec<Delivery> {
        let (mut batch, mut requests) = (Vec::new(), 0);
        let (before, after): (Vec<usize>, Vec<usize>) = self.arrived.keys().partition(|key| **key < self.first);
        let mut turns = VecDeque::from([after, before].concat());
        let mut without_room = None;
        while batch.len() < messages_max
            && let Some(partition) = turns.pop_front()
            && let Some(arrived) = self.arrived.get_mut(&partition)
        {
            let has_room = |next: &Delivery| batch.is_empty() || requests + next.requests <= requests_max;
            if !arrived.front().is_some_and(has_room) {
                without_room.get_or_insert(partition);
                continue;
            }
            batch.extend(arrived.pop_front().inspect(|next| requests += next.requests));
            if arrived.is_empty() {
                self.arrived.remove(&partition);
            } else {
                turns.push_back(partition);
            }
        }
        self.first = without_room.or(turns.front().copied()).unwrap_or_default();
        batch
    }

    /// The partitions whose subscription the broker has ended; each is named once.
    pub(super) fn ended(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.ended)
    }

    /// Whether every subscription still stands, as far as we have been told.
    pub(super) fn is_open(&mut self) -> bool {
        self.take_in();
        self.is_standing()
    }

    fn is_standing(&self) -> bool {
        self.over.is_none() && self.ended.is_empty()
    }

    /// Takes what is there off the streams: behind it is the word that a subscription is over.
    pub(super) fn take_in(&mut self) {
        while self.over.is_none()
            && let Some(Some(next)) = self.streams.next().now_or_never()
        {
            self.keep(next);
        }
    }

    fn keep(&mut self, next: Result<Delivery, End>) {
        match next {
            Ok(delivery) => self.arrived.entry(delivery.partition).or_default().push_back(delivery),
            Err(End::Cancelled(partition)) => {
                self.arrived.remove(&partition);
                if !self.ended.contains(&partition) {
                    self.ended.push(partition);
                }
            }
            Err(End::Failed(error)) => {
                self.arrived.clear();
                self.over = Some(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    /// With so many deliveries there, of two partitions in turn, and who could send more.
    fn incoming(count: usize) -> (Incoming, UnboundedSender<Result<Delivery, End>>) {
        let (sender, mut receiver) = unbounded_channel();
        for number in 0..count {
            assert!(sender.send(Ok(Delivery::of(number % 2, number as u64, 1))).is_ok(), "the receiver is there");
        }
        let mut incoming = Incoming::default();
        incoming.add(stream::poll_fn(move |context| receiver.poll_recv(context)).boxed());
        (incoming, sender)
    }

    async fn tags(incoming: &mut Incoming, max: usize) -> Vec<u64> {
        incoming.batch(max, max).await.unwrap().iter().map(|delivery| delivery.tag).collect()
    }

    #[tokio::test]
    async fn a_batch_takes_what_is_there_in_order_and_does_not_wait_for_more() {
        let (mut incoming, sender) = incoming(5);
        assert_eq!(tags(&mut incoming, 3).await, [0, 1, 2]);
        // The sender is still there, so the stream has not ended; whoever waited would hang here.
        assert_eq!(tags(&mut incoming, 3).await, [3, 4]);
        drop(sender);
        assert!(incoming.batch(3, 3).await.is_err());
    }

    #[tokio::test]
    async fn a_batch_has_as_many_requests_and_messages_as_it_may_or_one_message_that_has_more() {
        let mut incoming = Incoming::default();
        let requests = [2, 2, 1, 9, 1, 1, 1];
        let arrays = (0..).zip(requests).map(|(tag, requests)| Ok(Delivery::of(0, tag, requests)));
        incoming.add(stream::iter(arrays.collect::<Vec<_>>()).boxed());
        for expected in [&[0, 1][..], &[2], &[3], &[4, 5], &[6]] {
            let batch = incoming.batch(2, 4).await.unwrap();
            assert_eq!(batch.iter().map(|delivery| delivery.tag).collect::<Vec<_>>(), expected);
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_the_backlog_of_another_partition() {
        let mut incoming = Incoming::default();
        // Arrays of ten in two partitions, and three messages of one request behind them.
        let arrays = (0..8).map(|tag| Delivery::of(tag as usize % 2, tag, 10));
        let singles = (8..11).map(|tag| Delivery::of(2, tag, 1));
        incoming.add(stream::iter(arrays.chain(singles).map(Ok).collect::<Vec<_>>()).boxed());
        // Whoever found no room is the first of the next batch; what is larger than a batch is one by itself.
        for expected in [&[0, 1, 8, 9][..], &[2, 3, 10], &[4, 5], &[6, 7]] {
            let batch = incoming.batch(9, 22).await.unwrap();
            assert_eq!(batch.iter().map(|delivery| delivery.tag).collect::<Vec<_>>(), expected);
        }
    }

    #[tokio::test]
    async fn an_end_that_was_taken_in_is_told_also_when_no_stream_is_left() {
        let mut incoming = Incoming::default();
        incoming.add(stream::iter([Err(End::Cancelled(0))]).boxed());
        incoming.take_in();
        assert!(!incoming.is_empty() && incoming.batch(1, 1).await.unwrap().is_empty());
        assert!(incoming.ended() == [0] && incoming.is_empty());
    }

    #[tokio::test]
    async fn what_had_arrived_is_handed_out_no_more_once_its_subscription_is_over() {
        let (mut incoming, sender) = incoming(6);
        assert_eq!(tags(&mut incoming, 1).await, [0]);
        assert!(incoming.is_open());
        assert!(sender.send(Err(End::Cancelled(0))).is_ok());
        assert!(!incoming.is_open());
        assert_eq!(tags(&mut incoming, 2).await, [1, 3], "the other partition goes on");
        assert_eq!(incoming.ended(), [0]);
        assert!(incoming.is_open() && sender.send(Err(End::Failed(Error::Lost("cut".to_owned())))).is_ok());
        assert!(!incoming.is_open() && incoming.batch(1, 1).await.is_err() && incoming.batch(1, 1).await.is_err());
    }
}
