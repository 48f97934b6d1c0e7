//! Faults that a seed draws: of which kinds, and at which moments. Pure.

use crate::random::Random;
use clap::ValueEnum;
use serde::Serialize;
use std::time::Duration;

/// Keep the choices of moments and kinds apart from other choices of the same seed.
const MOMENTS: u64 = 4;
const KINDS: u64 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// SIGKILL: a worker of any function, and another is started at once
    Kill,
    /// SIGSTOP: a worker of any function stands still for a while
    Freeze,
    /// Connections of workers to a server end
    Cut,
    /// They stand still for a while, then end
    HalfOpen,
    /// They end when the server has what is sent next, and nobody hears its answer
    InDoubt,
    /// They are slow for a while
    Delay,
    /// They end in the middle of what is sent next
    MidFrame,
    /// The broker is stopped, or killed, and started again
    BrokerRestart,
    /// The same, of the database
    DatabaseRestart,
    /// Somebody else has an item's row for a second
    LockedRow,
    /// The broker is short of memory for a second, and takes nothing in
    MemoryAlarm,
}

/// Of a thousand faults of all kinds. A restart costs everybody seconds, and an alarm the start of a tool.
const WEIGHTS: [(FaultKind, u32); 11] = [
    (FaultKind::Kill, 230),
    (FaultKind::Freeze, 130),
    (FaultKind::Cut, 150),
    (FaultKind::HalfOpen, 80),
    (FaultKind::InDoubt, 170),
    (FaultKind::Delay, 80),
    (FaultKind::MidFrame, 110),
    (FaultKind::BrokerRestart, 3),
    (FaultKind::DatabaseRestart, 4),
    (FaultKind::LockedRow, 40),
    (FaultKind::MemoryAlarm, 3),
];

impl FaultKind {
    /// Whether it befalls a server, or a connection to one, and not a worker.
    pub(crate) fn is_of_servers(self) -> bool {
        !matches!(self, Self::Kill | Self::Freeze)
    }

    /// Whether it needs a server that is there.
    pub(super) fn befalls_a_server(self) -> bool {
        matches!(self, Self::BrokerRestart | Self::DatabaseRestart | Self::LockedRow | Self::MemoryAlarm)
    }
}

/// So many faults of these kinds, or of all where none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draw {
    pub count: u32,
    pub kinds: Vec<FaultKind>,
}

impl Draw {
    /// What may come of it.
    pub fn kinds(&self) -> impl Iterator<Item = FaultKind> + Clone {
        self.weights().map(|(kind, _)| kind)
    }

    fn weights(&self) -> impl Iterator<Item = (FaultKind, u32)> + Clone {
        let is_drawn = |kind| self.count > 0 && (self.kinds.is_empty() || self.kinds.contains(&kind));
        WEIGHTS.into_iter().filter(move |(kind, _)| is_drawn(*kind))
    }

    /// The faults of all of them; two of equally many are not drawn alike.
    pub(super) fn all(draws: &[Self], over: Duration, seed: u64) -> impl Iterator<Item = (Duration, FaultKind, u64)> {
        let of_any = draws.iter().filter(|draw| draw.count > 0);
        of_any.zip(0..).flat_map(move |(draw, place)| draw.faults(over, seed.wrapping_add(place)))
    }

    /// Each with its moment, uniform over this time, and a number for whatever else is chosen when it is due: equal seed,
    /// equal faults, and equal choices among equally many.
    fn faults(&self, over: Duration, seed: u64) -> impl Iterator<Item = (Duration, FaultKind, u64)> {
        let mut random = Random::of(seed, MOMENTS, u64::from(self.count));
        let sum = self.weights().map(|(_, weight)| weight).sum();
        (0..self.count).filter_map(move |_| {
            let (at, pick) = (over.mul_f64(random.unit()), random.next());
            let mut drawn = Random::of(pick, KINDS, 0).below(sum);
            let kind = self.weights().find_map(|(kind, weight)| match drawn.checked_sub(weight) {
                Some(rest) => {
                    drawn = rest;
                    None
                }
                None => Some(kind),
            });
            Some((at, kind?, pick))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const OVER: Duration = Duration::from_secs(20);

    fn drawn(count: u32, kinds: &[FaultKind], seed: u64) -> Vec<(Duration, FaultKind, u64)> {
        Draw { count, kinds: kinds.to_vec() }.faults(OVER, seed).collect()
    }

    #[test]
    fn two_draws_of_equally_many_are_twice_as_many() {
        let draw = Draw { count: 20, kinds: vec![FaultKind::Kill] };
        let short_for = Draw::all(&[Draw::default(), draw.clone()], OVER, 42).collect::<Vec<_>>();
        let none_besides = Draw::all(&[draw.clone(), Draw::default()], OVER, 42).collect::<Vec<_>>();
        assert_eq!(short_for, none_besides, "one option is short for another");
        let all: BTreeSet<_> = Draw::all(&[draw.clone(), draw], OVER, 42).collect();
        assert_eq!(all.len(), 40);
    }

    #[test]
    fn moments_and_kinds_are_spread_over_the_time_and_follow_from_the_seed() {
        let faults = drawn(50, &[], 42);
        assert!(faults.len() == 50 && faults.iter().all(|(at, ..)| *at <= OVER));
        let late = faults.iter().filter(|(at, ..)| *at > OVER / 2).count();
        assert!((10..=40).contains(&late), "they are spread: {late}");
        assert_eq!(faults, drawn(50, &[], 42));
        assert_ne!(faults, drawn(50, &[], 43));
    }

    #[test]
    fn every_kind_is_drawn_by_its_weight_and_only_those_that_are_named() {
        assert_eq!(WEIGHTS.map(|(kind, _)| kind).as_slice(), FaultKind::value_variants());
        assert_eq!(WEIGHTS.map(|(_, weight)| weight).iter().sum::<u32>(), 1_000);
        let faults = drawn(10_000, &[], 42);
        for (kind, weight) in WEIGHTS {
            let count = faults.iter().filter(|(_, drawn, _)| *drawn == kind).count();
            let expected = weight as usize * 10;
            assert!((expected / 2..=expected * 2).contains(&count), "{kind:?}: {count}");
        }
        let two = [FaultKind::MemoryAlarm, FaultKind::BrokerRestart];
        let faults = drawn(100, &two, 42);
        assert!(faults.len() == 100 && faults.iter().all(|(_, kind, _)| two.contains(kind)));
        assert_eq!(drawn(0, &two, 42), []);
    }
}
