//! Handing over: what is more than our share of the workers is held, until a whole window of it is decided and answered.
//! Told as a whole in shared/README.md.

use super::{Session, is_among, taking_in, undecided};
use crate::amqp::{self, Delivery, Error};
use crate::fail_point::pause_at;
use crate::worker::rebalance::Place;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

impl Session<'_> {
    /// Says what is ours, holds what is more than our share of the workers, and has the windows filled that buyers leave open.
    pub(super) fn compare_shares(&mut self) {
        self.consumer.claim(self.shares.claimed());
        // Those who are still joining get nothing yet: handed over, a partition would come straight back to us.
        let Some(Place { in_line, .. }) = self.consumer.place() else { return };
        let is_again = self.is_not_filled.swap(false, Ordering::Relaxed);
        if is_again {
            self.shares.not_filled();
        }
        if self.shares.set_workers(in_line) || is_again {
            // We came, or somebody else did or left. What we are active on is known only by what is delivered, so this
            // shares what is idle, too, and has whoever looks on told of it.
            self.fill((0..self.queues.len()).map(|partition| (partition, 1)));
        }
        let to_fill = self.shares.unfilled(self.window);
        self.fill(to_fill.into_iter());
        self.hold_surplus();
    }

    /// Has so much padding put into these partitions.
    pub(super) fn fill(&self, partitions: impl Iterator<Item = (usize, u64)>) {
        let queues: Vec<_> = partitions.map(|(partition, count)| (self.queues[partition].clone(), count)).collect();
        if queues.is_empty() {
            return;
        }
        let (nodes, name) = (self.function.service.nodes.clone(), self.name.clone());
        let is_not_filled = Arc::clone(&self.is_not_filled);
        tokio::spawn(async move {
            if queues.iter().any(|(_, count)| *count > 1) {
                pause_at("filling a window").await;
            }
            if let Err(error) = amqp::fill(&nodes, &name, &queues).await {
                tracing::warn!(%error, "messages that mean nothing were not sent; handing over takes longer");
                is_not_filled.store(true, Ordering::Relaxed);
            }
        });
    }

    pub(super) fn note(&mut self, taken: &[Taken]) {
        let now = Instant::now();
        let news =
            taken.iter().filter(|taken| self.shares.took(taken.partition, taken.tag, taken.is_kept, now)).count();
        if news > 0 {
            self.hold_surplus();
        }
    }

    fn hold_surplus(&mut self) {
        for partition in self.shares.surplus(Instant::now()) {
            // Its window would not fill, and what is behind would stand still.
            if self.waits(partition) {
                continue;
            }
            tracing::info!(partition, "handing a partition over");
            self.shares.hold(partition);
        }
    }

    /// Whether something of the partition is delivered and not decided.
    pub(super) fn waits(&self, partition: usize) -> bool {
        self.later.iter().any(|delivery| delivery.partition == partition)
    }

    /// Gives up handing over a partition in which something began to wait: nothing behind it would come any more.
    pub(super) async fn keep_what_waits(&mut self) -> Result<(), Error> {
        for partition in self.shares.held().into_iter().filter(|partition| self.waits(*partition)).collect::<Vec<_>>() {
            taking_in(&Mutex::new(&mut self.consumer), self.settling.settled(self.pushed)).await?;
            let is_answered = |tag: &(usize, u64)| tag.0 == partition && !is_among(*tag, &self.later);
            let held = self.shares.held_tags().filter(is_answered);
            self.consumer.acknowledger().acknowledge(held, &undecided(&self.later)).await?;
            self.shares.keep(partition);
            tracing::info!(partition, "not handed over: something in it waits for a row");
        }
        Ok(())
    }

    /// Hands over each partition of which a whole window is decided and answered.
    pub(super) async fn hand_over(&mut self) -> Result<(), Error> {
        for (partition, last_tag) in self.shares.full(self.window) {
            taking_in(&Mutex::new(&mut self.consumer), self.settling.settled(self.pushed)).await?;
            self.consumer.hand_over(partition, last_tag).await?;
            self.shares.handed_over(partition);
            tracing::info!(partition, "handed a partition over");
        }
        Ok(())
    }
}

/// What is noted of a delivery.
pub(super) struct Taken {
    partition: usize,
    tag: u64,
    /// Whether its partition cannot be handed over: with one message at a time, no window is ever full.
    is_kept: bool,
}

impl Taken {
    pub(super) fn of(delivery: &Delivery) -> Self {
        Self { partition: delivery.partition, tag: delivery.tag, is_kept: delivery.is_alone }
    }
}
