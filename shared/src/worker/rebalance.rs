//! Fair share: which partitions a worker should hand over, so that all workers have work. Pure; the clock is an argument.
//!
//! RabbitMQ makes one worker active on each partition and keeps it, so the first worker would hold all of them for ever.
//! A worker that is active on more than its share hands the surplus over, and each handed-over partition goes to whoever
//! has waited longest. Invariant: at a steady number of workers, nobody above the share is left, so nothing moves.

use std::time::{Duration, Instant};

/// A partition that delivered something this recently is one that we are active on.
const ACTIVE_SECONDS: u64 = 3;

/// What a worker knows of its partitions.
#[derive(Debug)]
pub(super) struct Share {
    partitions: Vec<Partition>,
    /// Zero until they are counted.
    workers: usize,
}

#[derive(Debug, Default, Clone)]
struct Partition {
    /// Deliveries taken since the session began.
    taken: u64,
    last_tag: u64,
    last_taken: Option<Instant>,
    /// When it became ours, this time.
    active_since: Option<Instant>,
    holding: Option<Holding>,
}

#[derive(Debug, Clone, Copy)]
struct Holding {
    /// What was taken before; everything since is unacknowledged.
    taken_before: u64,
    filled: bool,
}

impl Share {
    pub(super) fn of(partitions: usize) -> Self {
        Self { partitions: vec![Partition::default(); partitions], workers: 0 }
    }

    /// Notes how many workers there are; true: the first time, and where they are more or fewer than before.
    pub(super) fn set_workers(&mut self, workers: usize) -> bool {
        let workers = workers.max(1);
        workers != std::mem::replace(&mut self.workers, workers)
    }

    /// Notes a delivery; true: it is the first of a partition that we were not active on.
    pub(super) fn took(&mut self, partition: usize, tag: u64, now: Instant) -> bool {
        let is_new = !self.is_active(partition, now);
        let partition = &mut self.partitions[partition];
        partition.taken += 1;
        partition.last_tag = tag;
        partition.last_taken = Some(now);
        if is_new {
            partition.active_since = Some(now);
        }
        is_new
    }

    /// The partitions to hand over: those that came to us last.
    pub(super) fn surplus(&self, now: Instant) -> Vec<usize> {
        let mut ours: Vec<usize> = (0..self.partitions.len())
            .filter(|partition| self.is_active(*partition, now) && self.partitions[*partition].holding.is_none())
            .collect();
        ours.sort_by_key(|partition| self.partitions[*partition].active_since);
        ours.split_off(ours.len().min(self.partitions.len().div_ceil(self.workers.max(1))))
    }

    /// The partitions that have delivered something to us since we got in line for them, the quiet ones, too: the broker
    /// keeps us active on them.
    pub(super) fn claimed(&self) -> Vec<usize> {
        (0..self.partitions.len()).filter(|partition| self.partitions[*partition].active_since.is_some()).collect()
    }

    /// From here on, what is taken from the partition is answered, but not acknowledged.
    pub(super) fn hold(&mut self, partition: usize) {
        let partition = &mut self.partitions[partition];
        partition.holding = Some(Holding { taken_before: partition.taken, filled: false });
    }

    /// The partitions that are being handed over.
    pub(super) fn held(&self) -> Vec<usize> {
        (0..self.partitions.len()).filter(|partition| self.partitions[*partition].holding.is_some()).collect()
    }

    /// Of each held partition, the last delivery's tag.
    pub(super) fn held_tags(&self) -> Vec<(usize, u64)> {
        self.held().into_iter().map(|partition| (partition, self.partitions[partition].last_tag)).collect()
    }

    /// The held partitions of which a whole window is taken, each with the last delivery's tag.
    pub(super) fn full(&self, window: u16) -> Vec<(usize, u64)> {
        let is_full = |partition: &Partition| {
            partition.holding.is_some_and(|holding| partition.taken - holding.taken_before >= u64::from(window))
        };
        let full = self.partitions.iter().enumerate().filter(|(_, partition)| is_full(partition));
        full.map(|(index, partition)| (index, partition.last_tag)).collect()
    }

    /// The held partitions whose windows buyers do not fill, each with what is missing, and one more: the next worker's
    /// first delivery, by which it knows that it is active there, and may have too many in its turn. Named once.
    pub(super) fn unfilled(&mut self, window: u16) -> Vec<(usize, u64)> {
        let mut to_fill = Vec::new();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            if let Some(holding) = partition.holding.as_mut().filter(|holding| !holding.filled) {
                holding.filled = true;
                to_fill.push((index, u64::from(window).saturating_sub(partition.taken - holding.taken_before) + 1));
            }
        }
        to_fill
    }

    /// The partition is somebody else's now.
    pub(super) fn handed_over(&mut self, partition: usize) {
        let partition = &mut self.partitions[partition];
        (partition.holding, partition.last_taken, partition.active_since) = (None, None, None);
    }

    fn is_active(&self, partition: usize, now: Instant) -> bool {
        let last_taken = self.partitions[partition].last_taken;
        last_taken.is_some_and(|taken| now.duration_since(taken) < Duration::from_secs(ACTIVE_SECONDS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_worker_keeps_everything() {
        let now = Instant::now();
        let mut share = Share::of(8);
        (0..8).for_each(|partition| assert!(share.took(partition, 1, now)));
        assert!(share.surplus(now).is_empty());
    }

    #[test]
    fn what_came_last_goes_first_and_only_down_to_the_share() {
        let start = Instant::now();
        let mut share = Share::of(8);
        for partition in 0..8 {
            assert!(share.took(partition, 1, start + Duration::from_millis(partition as u64)), "it is new to us");
        }
        let now = start + Duration::from_secs(1);
        assert!(share.set_workers(3));
        assert_eq!(share.surplus(now), [3, 4, 5, 6, 7], "eight partitions, three workers: three each at most");
        share.surplus(now).into_iter().for_each(|partition| share.hold(partition));
        assert!(share.surplus(now).is_empty(), "what is on its way out is counted out");
        assert!(share.set_workers(8));
        assert_eq!(share.surplus(now), [1, 2]);
        assert!(share.set_workers(0), "the others left");
        assert!(share.surplus(now).is_empty(), "there is always one worker: we");
        assert!(!share.set_workers(1), "as before");
    }

    #[test]
    fn a_quiet_partition_is_not_ours() {
        let now = Instant::now();
        let mut share = Share::of(2);
        assert!(share.set_workers(1), "we are counted for the first time");
        assert!(share.set_workers(2) && !share.set_workers(2), "more, and as many");
        share.took(0, 1, now);
        share.took(1, 1, now);
        assert_eq!(share.surplus(now).len(), 1);
        assert!(share.surplus(now + Duration::from_secs(ACTIVE_SECONDS)).is_empty());
    }

    #[test]
    fn a_partition_is_claimed_from_its_first_delivery_until_it_is_handed_over_however_quiet_it_is() {
        let now = Instant::now();
        let mut share = Share::of(3);
        assert!(share.claimed().is_empty());
        share.took(2, 1, now);
        share.took(0, 1, now);
        assert_eq!(share.claimed(), [0, 2]);
        share.hold(2);
        assert_eq!(share.claimed(), [0, 2], "it is ours until it is handed over");
        share.handed_over(2);
        assert_eq!(share.claimed(), [0]);
        share.took(2, 2, now);
        assert_eq!(share.claimed(), [0, 2], "it came back to us");
    }

    #[test]
    fn a_partition_is_handed_over_after_a_whole_window_since_it_was_held() {
        let now = Instant::now();
        let mut share = Share::of(1);
        (1..=5).for_each(|tag| assert_eq!(share.took(0, tag, now), tag == 1));
        share.hold(0);
        (6..=8).for_each(|tag| assert!(!share.took(0, tag, now)));
        assert!(share.full(4).is_empty());
        assert_eq!(share.unfilled(4), [(0, 2)]);
        assert!(share.unfilled(4).is_empty(), "once is enough");
        share.took(0, 9, now);
        assert_eq!(share.full(4), [(0, 9)]);
        share.handed_over(0);
        assert!(share.held().is_empty() && share.full(4).is_empty());
    }
}
