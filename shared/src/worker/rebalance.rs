//! Rebalancing: who is there, in which order to subscribe to the partitions, and which of them to hand over. Pure; the
//! clock is an argument. Told as a whole in shared/README.md.
//!
//! Invariants: every partition is subscribed to in the end, exactly once; and at a steady number of workers, nobody above
//! the share is left, so nothing moves.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Between two heartbeats of a worker, where there are few.
const HEARTBEAT_MS: u64 = 500;
/// The most heartbeats that a worker hears in a second: where there are more workers, each sends fewer.
const HEARTBEATS_A_SECOND_MAX: u32 = 16;
/// Whoever was not heard for so many waits is gone. Counting somebody who is gone has partitions handed to and fro;
/// missing somebody for a moment leaves them where they are.
const WAITS_MAX: u32 = 3;
/// The most workers that are counted.
pub(crate) const WORKERS_MAX: usize = 1_000;
/// Steps before the first partition is taken, to hear who else is there.
const HEARING_STEPS: u32 = 4;
/// Steps between the last partition taken and the first line that is got into, for others to take theirs.
const GRACE_STEPS: u32 = 8;
/// A partition that delivered something this recently is one that we are active on.
const ACTIVE_SECONDS: u64 = 3;

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

/// Of whom a heartbeat is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Known,
    New,
    /// Of somebody new, who is not counted: there are too many.
    TooMany,
}

/// Who was heard, and when last.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// When, and whether it was still joining then.
    heard: HashMap<Vec<u8>, (Instant, bool)>,
}

impl Members {
    /// Notes a heartbeat.
    pub(crate) fn heard(&mut self, worker: Vec<u8>, is_joining: bool, now: Instant) -> Heard {
        if self.heard.len() >= WORKERS_MAX && !self.heard.contains_key(&worker) {
            return Heard::TooMany;
        }
        self.heard.insert(worker, (now, is_joining)).map_or(Heard::New, |_| Heard::Known)
    }

    /// Nobody can be heard at present: silence counts from now on.
    pub(crate) fn excuse(&mut self, now: Instant) {
        self.heard.values_mut().for_each(|(at, _)| *at = now);
    }

    /// Strikes whoever has been silent for too long.
    pub(crate) fn forget(&mut self, now: Instant) {
        let silence_max = self.wait() * WAITS_MAX;
        self.heard.retain(|_, (at, _)| now.duration_since(*at) <= silence_max);
    }

    pub(crate) fn place_of(&self, worker: &[u8]) -> Place {
        let rank = self.heard.keys().filter(|other| other.as_slice() < worker).count();
        let in_line = self.heard.values().filter(|(_, is_joining)| !is_joining).count().max(1);
        Place { workers: self.count(), rank, in_line }
    }

    /// Until the next heartbeat.
    pub(crate) fn wait(&self) -> Duration {
        let workers = u32::try_from(self.count()).unwrap_or(u32::MAX);
        Duration::from_millis(HEARTBEAT_MS).max(Duration::from_secs(1) * workers / HEARTBEATS_A_SECOND_MAX)
    }

    fn count(&self) -> usize {
        self.heard.len().max(1)
    }
}

/// What a worker on its way in does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Subscribe to it if nobody is active on it; then say so by [`Subscribing::took`].
    TakeIfFree(usize),
    Wait,
    /// Subscribe to it, whoever is active on it.
    GetInLine(usize),
}

/// A worker on its way in: first it takes partitions that nobody serves, up to its share, then it gets in line for the rest.
#[derive(Debug)]
pub(super) struct Subscribing {
    partitions: usize,
    /// Not yet looked at.
    unseen: VecDeque<usize>,
    /// Served by others, or beyond our share.
    rest: VecDeque<usize>,
    taken: usize,
    hearing: u32,
    grace: u32,
}

impl Subscribing {
    /// `seed` makes the order, so that workers do not stand in the same order in every line.
    pub(super) fn of(partitions: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..partitions).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        let (unseen, rest) = (order.into(), VecDeque::new());
        Self { partitions, unseen, rest, taken: 0, hearing: HEARING_STEPS, grace: GRACE_STEPS }
    }

    /// The next step of a worker at this place; `None`: all is done. Who has no place has nobody to share with.
    pub(super) fn step(&mut self, place: Option<Place>) -> Option<Step> {
        if place.is_some() && self.hearing > 0 {
            self.hearing -= 1;
            return Some(Step::Wait);
        }
        let Place { workers, rank, in_line: _ } = place.unwrap_or_default();
        // Beginning with those that fall to its place, so that workers that start together reach for different ones.
        let next = self.unseen.iter().position(|partition| partition % workers == rank).unwrap_or(0);
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

    /// There is no such partition for now.
    pub(super) fn left_out(&mut self, partition: usize) {
        self.rest.retain(|rest| *rest != partition);
    }

    pub(super) fn is_over(&self) -> bool {
        self.unseen.is_empty() && self.rest.is_empty()
    }
}

/// What a worker knows of its partitions, and which of them are more than its share.
#[derive(Debug)]
pub(super) struct Shares {
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
    /// Its messages come one at a time: it cannot be handed over by a full window.
    is_kept: bool,
    holding: Option<Holding>,
}

/// On its way out: what is taken since then is answered, but not acknowledged.
#[derive(Debug, Clone, Copy)]
struct Holding {
    taken_before: u64,
    tag_before: u64,
    filled: bool,
}

impl Shares {
    pub(super) fn of(partitions: usize) -> Self {
        Self { partitions: vec![Partition::default(); partitions], workers: 0 }
    }

    /// Notes how many workers there are; true: the first time, and where they are more or fewer than before.
    pub(super) fn set_workers(&mut self, workers: usize) -> bool {
        let workers = workers.max(1);
        workers != std::mem::replace(&mut self.workers, workers)
    }

    /// Notes a delivery; true: it is the first of a partition that we were not active on.
    pub(super) fn took(&mut self, partition: usize, tag: u64, is_kept: bool, now: Instant) -> bool {
        let partition = &mut self.partitions[partition];
        let is_new = !partition.is_active(now);
        partition.taken += 1;
        partition.last_tag = tag.max(partition.last_tag);
        partition.last_taken = Some(now);
        partition.is_kept = is_kept;
        if is_new {
            partition.active_since = Some(now);
        }
        is_new
    }

    /// The partitions to hand over: those that came to us last.
    pub(super) fn surplus(&self, now: Instant) -> Vec<usize> {
        let may_leave = |partition: &Partition| !partition.is_kept && partition.holding.is_none();
        let mut ours = self.those(|partition| partition.is_active(now) && may_leave(partition));
        ours.sort_by_key(|partition| self.partitions[*partition].active_since);
        ours.split_off(ours.len().min(self.partitions.len().div_ceil(self.workers.max(1))))
    }

    /// The partitions that have delivered something to us since we got in line for them, the quiet ones, too: the broker
    /// keeps us active on them.
    pub(super) fn claimed(&self) -> Vec<usize> {
        self.those(|partition| partition.active_since.is_some())
    }

    /// From here on, what is taken from the partition is answered, but not acknowledged.
    pub(super) fn hold(&mut self, partition: usize) {
        let partition = &mut self.partitions[partition];
        let (taken_before, tag_before) = (partition.taken, partition.last_tag);
        partition.holding = Some(Holding { taken_before, tag_before, filled: false });
    }

    pub(super) fn held(&self) -> Vec<usize> {
        self.those(|partition| partition.holding.is_some())
    }

    /// What was taken from held partitions since then, as (partition, tag). Of what came before there is none: it is acknowledged,
    /// and the broker closes the channel of who does it twice.
    pub(super) fn held_tags(&self) -> impl Iterator<Item = (usize, u64)> {
        self.partitions.iter().enumerate().flat_map(|(index, partition)| {
            let before = partition.holding.map_or(partition.last_tag, |holding| holding.tag_before);
            (before + 1..=partition.last_tag).map(move |tag| (index, tag))
        })
    }

    /// A held partition stays ours for now.
    pub(super) fn keep(&mut self, partition: usize) {
        self.partitions[partition].holding = None;
    }

    /// The held partitions of which a whole window is taken, each with the last delivery's tag.
    pub(super) fn full(&self, window: u16) -> Vec<(usize, u64)> {
        let is_full = |partition: &Partition| partition.missing(window) == Some(0);
        self.with_tags(self.those(is_full))
    }

    /// The held partitions whose windows buyers do not fill, each with what is missing, and one more: the next worker's
    /// first delivery, by which it knows that it is active there, and may have too many in its turn. Named once.
    pub(super) fn unfilled(&mut self, window: u16) -> Vec<(usize, u64)> {
        let mut to_fill = Vec::new();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            let missing = partition.missing(window);
            if let Some(holding) = partition.holding.as_mut().filter(|holding| !holding.filled) {
                holding.filled = true;
                to_fill.push((index, missing.unwrap_or_default() + 1));
            }
        }
        to_fill
    }

    /// What was to fill windows did not come: it is asked for again.
    pub(super) fn not_filled(&mut self) {
        self.partitions
            .iter_mut()
            .flat_map(|partition| &mut partition.holding)
            .for_each(|holding| holding.filled = false);
    }

    pub(super) fn handed_over(&mut self, partition: usize) {
        let partition = &mut self.partitions[partition];
        (partition.holding, partition.last_taken, partition.active_since) = (None, None, None);
    }

    fn those(&self, are_meant: impl Fn(&Partition) -> bool) -> Vec<usize> {
        (0..self.partitions.len()).filter(|partition| are_meant(&self.partitions[*partition])).collect()
    }

    fn with_tags(&self, partitions: Vec<usize>) -> Vec<(usize, u64)> {
        partitions.into_iter().map(|partition| (partition, self.partitions[partition].last_tag)).collect()
    }
}

impl Partition {
    fn is_active(&self, now: Instant) -> bool {
        self.last_taken.is_some_and(|taken| now.duration_since(taken) < Duration::from_secs(ACTIVE_SECONDS))
    }

    /// What its window lacks since it is held.
    fn missing(&self, window: u16) -> Option<u64> {
        self.holding.map(|holding| u64::from(window).saturating_sub(self.taken - holding.taken_before))
    }
}

#[cfg(test)]
mod tests;
