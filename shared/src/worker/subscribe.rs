//! Joining: in which order, and how fast, a worker subscribes to the partitions. Pure.
//!
//! RabbitMQ makes the first subscriber active, so a worker that subscribed to everything at once would have all, and the
//! shares would have to be put right later. So workers first take partitions that nobody serves, one at a time and each up
//! to its share, beginning with those that fall to its place among them, so that workers that start together do not
//! reach for the same ones; then they get in line for the rest, in an order of their own, so that they do not stand in the
//! same order in every line.
//!
//! Invariant: every partition is subscribed to in the end, exactly once.

use crate::amqp::Place;
use std::collections::VecDeque;

/// Steps before the first partition is taken, to hear who else is there.
const HEARING_STEPS: u32 = 4;
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
    hearing: u32,
    grace: u32,
}

impl Joining {
    /// Nothing subscribed yet; `seed` makes the order.
    pub(super) fn of(partitions: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..partitions).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        Self {
            partitions,
            unseen: order.into(),
            rest: VecDeque::new(),
            taken: 0,
            hearing: HEARING_STEPS,
            grace: GRACE_STEPS,
        }
    }

    /// The next step of a worker at this place; `None`: all is done. Who has no place has nobody to share with.
    pub(super) fn step(&mut self, place: Option<Place>) -> Option<Step> {
        if place.is_some() && self.hearing > 0 {
            self.hearing -= 1;
            return Some(Step::Wait);
        }
        let Place { workers, rank, in_line: _ } = place.unwrap_or_default();
        let falls_to_us = |partition: &usize| partition % workers == rank;
        let next = self.unseen.iter().position(falls_to_us).unwrap_or(0);
        if self.taken < self.partitions.div_ceil(workers)
            && let Some(partition) = self.unseen.remove(next)
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
    fn join(seed: u64, place: Option<Place>, is_free: impl Fn(usize) -> bool) -> (Vec<usize>, Vec<usize>) {
        let (mut taken, mut in_line) = (Vec::new(), Vec::new());
        let mut joining = Joining::of(8, seed);
        while let Some(step) = joining.step(place) {
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
        let (taken, in_line) = join(1, None, |_| true);
        assert_eq!((taken.len(), in_line.len()), (8, 0));
    }

    #[test]
    fn every_partition_is_subscribed_to_once_whatever_others_have() {
        for seed in 0..100 {
            for (workers, free) in [(1, 8), (2, 8), (2, 3), (3, 8), (9, 8), (8, 0)] {
                let place = Place { workers, rank: workers - 1, in_line: 1 };
                let (taken, in_line) = join(seed, Some(place), |partition| partition < free);
                assert_eq!(taken.len(), free.min(8_usize.div_ceil(workers)), "its share of what is free, no more");
                let mut all = [taken, in_line].concat();
                all.sort_unstable();
                assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7]);
            }
        }
    }

    #[test]
    fn workers_that_know_of_each_other_take_different_partitions() {
        for workers in [2, 3, 4, 8] {
            let taken = |rank| join(rank as u64, Some(Place { workers, rank, in_line: 1 }), |_| true).0;
            let firsts: Vec<usize> = (0..workers).flat_map(|rank| taken(rank)[..8 / workers].to_vec()).collect();
            let different: std::collections::HashSet<usize> = firsts.iter().copied().collect();
            assert_eq!(different.len(), firsts.len(), "{workers}: {firsts:?}");
        }
    }

    #[test]
    fn in_line_each_stands_where_chance_puts_it() {
        let place = Some(Place { workers: 8, rank: 0, in_line: 1 });
        let firsts: std::collections::HashSet<usize> = (0..100).map(|seed| join(seed, place, |_| true).1[0]).collect();
        assert!(firsts.len() > 1);
    }
}
