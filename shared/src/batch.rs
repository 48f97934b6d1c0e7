//! Batches without a timer: the first item is waited for, then whatever is there already joins it.
//!
//! Batches form by themselves under load, and a lone request is never kept waiting for company. Invariant: items come out
//! in the order of the stream, each exactly once, whatever is cancelled.

use futures_util::{FutureExt, Stream, StreamExt};

#[derive(Debug)]
pub struct Batches<S: Stream> {
    stream: S,
    /// Read ahead, but to be the first of the next batch.
    held: Option<S::Item>,
}

impl<S: Stream + Unpin> Batches<S> {
    pub fn of(stream: S) -> Self {
        Self { stream, held: None }
    }

    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The next one to `max` items; an item that must be `alone` is a batch of its own. Empty: the stream has ended.
    ///
    /// Cancelling this future loses nothing: it only waits while it holds no item.
    pub async fn next(&mut self, max: usize, alone: impl Fn(&S::Item) -> bool) -> Vec<S::Item> {
        let first = match self.held.take() {
            Some(item) => item,
            None => match self.stream.next().await {
                Some(item) => item,
                None => return Vec::new(),
            },
        };
        let first_is_alone = alone(&first);
        let mut batch = vec![first];
        while !first_is_alone && batch.len() < max {
            match self.stream.next().now_or_never().flatten() {
                None => break,
                Some(item) if alone(&item) => {
                    self.held = Some(item);
                    break;
                }
                Some(item) => batch.push(item),
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_item_comes_once_in_order_and_alone_where_it_must(items in prop::collection::vec((0_u32..100, any::<bool>()), 0..200), max in 1_usize..20) {
            let mut batches = Batches::of(stream::iter(items.clone()));
            let mut seen = Vec::new();
            loop {
                let batch = block_on(batches.next(max, |(_, alone)| *alone));
                if batch.is_empty() { break; }
                prop_assert!(batch.len() <= max);
                prop_assert!(batch.len() == 1 || batch.iter().all(|(_, alone)| !alone));
                seen.extend(batch);
            }
            prop_assert_eq!(seen, items);
        }
    }

    #[test]
    fn a_batch_takes_what_is_there_and_does_not_wait_for_more() {
        let (sender, receiver) = channel();
        for item in 0..3 {
            sender.send(item).expect("the receiver is there");
        }
        let mut batches = Batches::of(receiver);
        // The sender is still there, so the stream has not ended; a batcher that waited would hang here.
        assert_eq!(block_on(batches.next(10, |_| false)), [0, 1, 2]);
        drop(sender);
        assert!(block_on(batches.next(10, |_| false)).is_empty());
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn channel() -> (tokio::sync::mpsc::UnboundedSender<u32>, impl Stream<Item = u32> + Unpin) {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let stream = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        (sender, Box::pin(stream))
    }
}
