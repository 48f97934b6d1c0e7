//! Joining: in which order, and how fast, a worker subscribes to the partitions. Pure.
//!
//! RabbitMQ makes the first subscriber active, so a worker that subscribed to everything at once would have all, and the
//! shares would have to be put right later. So workers first take partitions that nobody serves, one at a time and each up
//! to its share; then they get in line for the rest. Both in an order of their own, so that workers that start together
//! do not reach for the same ones, nor stand in the same order in every line.
//!
//! Invariant: every partition is subscribed to in the end, exactly once.

use std::collections::VecDeque;

/// Steps between the last partition taken and the first line that is got into, for others to take theirs.
const GRACE_STEPS: u32 = 8;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Subscribe to it if nobody is active on it; then say so by [`Joining::took`].
    TakeIfFree(usize),
    /// Nothing, this time.
    Wait,
    /// Subscribe to it, whoever is active on it.
    GetInLine(usize),
}

/// A worker that is on its way in.
#[derive(Debug)]
pub(super) struct Joining {
    partitions: usize,
    /// Not yet looked at.
    unseen: VecDeque<usize>,
    /// Served by others, or beyond our share.
    rest: VecDeque<usize>,
    taken: usize,
    grace: u32,
}

impl Joining {
    /// Nothing subscribed yet; `seed` makes the order.
    pub(super) fn of(partitions: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..partitions).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        Self { partitions, unseen: order.into(), rest: VecDeque::new(), taken: 0, grace: GRACE_STEPS }
    }

    /// The next step, with so many workers counted; `None`: all is done.
    pub(super) fn step(&mut self, workers: usize) -> Option<Step> {
        if self.taken < self.partitions.div_ceil(workers.max(1))
            && let Some(partition) = self.unseen.pop_front()
        {
            self.rest.push_back(partition);
            return Some(Step::TakeIfFree(partition));
        }
        self.rest.append(&mut self.unseen);
        if !self.rest.is_empty() && self.grace > 0 {
            self.grace -= 1;
            return Some(Step::Wait);
        }
        self.rest.pop_front().map(Step::GetInLine)
    }

    /// The partition was free, and is ours.
    pub(super) fn took(&mut self, partition: usize) {
        self.rest.retain(|rest| *rest != partition);
        self.taken += 1;
    }

    /// Whether every partition is subscribed to.
    pub(super) fn is_over(&self) -> bool {
        self.unseen.is_empty() && self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what is free, up to the end; (taken, got in line for).
    fn join(seed: u64, workers: usize, is_free: impl Fn(usize) -> bool) -> (Vec<usize>, Vec<usize>) {
        let (mut taken, mut in_line) = (Vec::new(), Vec::new());
        let mut joining = Joining::of(8, seed);
        while let Some(step) = joining.step(workers) {
            match step {
                Step::TakeIfFree(partition) if is_free(partition) => {
                    joining.took(partition);
                    taken.push(partition);
                }
                Step::TakeIfFree(_) | Step::Wait => (),
                Step::GetInLine(partition) => in_line.push(partition),
            }
        }
        assert!(joining.is_over());
        (taken, in_line)
    }

    #[test]
    fn a_lone_worker_takes_everything() {
        let (taken, in_line) = join(1, 1, |_| true);
        assert_eq!((taken.len(), in_line.len()), (8, 0));
    }

    #[test]
    fn every_partition_is_subscribed_to_once_whatever_others_have() {
        for seed in 0..100 {
            for (workers, free) in [(1, 8), (2, 8), (2, 3), (3, 8), (9, 8), (8, 0)] {
                let (taken, in_line) = join(seed, workers, |partition| partition < free);
                assert_eq!(taken.len(), free.min(8_usize.div_ceil(workers)), "its share of what is free, no more");
                let mut all = [taken, in_line].concat();
                all.sort_unstable();
                assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7]);
            }
        }
    }

    #[test]
    fn workers_that_start_together_reach_for_different_partitions() {
        let firsts: std::collections::HashSet<usize> = (0..100).map(|seed| join(seed, 8, |_| true).0[0]).collect();
        assert_eq!(firsts.len(), 8);
    }
}
