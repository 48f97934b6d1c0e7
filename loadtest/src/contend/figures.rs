//! From what a race's updates did to its figures, and to what must hold of them. Pure.
//!
//! Invariant: a race is sound where each success wrote a version that no other wrote, and the row moved by as many; on an
//! item that others update too, by as many at least.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::race::{Run, Update};
use crate::stats::round;

/// What came of a race.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Updates that were written.
    pub successes: u64,
    /// Updates whose attempts were used up. A worker would decide under a row lock now.
    pub given_up: u64,
    /// How far the item's version moved.
    pub version_increments: i64,
    /// Those that are not of this race.
    pub increments_of_others: i64,
    /// Attempts.
    pub attempts: u64,
    /// Attempts that found the version moved.
    pub conflicts: u64,
    /// How many updates took so many attempts.
    pub attempts_histogram: BTreeMap<u32, u64>,
    /// The waits between attempts.
    pub slept: SleptReport,
    /// From the moment when everybody began to the end of the last update.
    pub seconds: f64,
    /// Successes by seconds.
    pub updates_per_second: f64,
}

/// Waits as they really were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct SleptReport {
    /// How many.
    pub waits: u64,
    /// All together.
    pub sum_ms: f64,
    /// Half of them were no longer.
    pub median_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl SleptReport {
    fn of(slept: &[Duration]) -> Self {
        let mut slept = slept.to_vec();
        slept.sort_unstable();
        let ms = |time: Duration| round(time.as_secs_f64() * 1e3, 1e2);
        let middle = slept.len().saturating_sub(1) / 2;
        Self {
            waits: slept.len() as u64,
            sum_ms: ms(slept.iter().sum()),
            median_ms: slept.get(middle).copied().map_or(0.0, ms),
            max_ms: slept.last().copied().map_or(0.0, ms),
        }
    }
}

/// A race, and the item's version around it.
pub(super) struct Race {
    pub(super) run: Run,
    pub(super) before: i64,
    pub(super) after: i64,
    /// Whether others may have updated the item meanwhile.
    pub(super) is_shared: bool,
}

impl Race {
    fn written(&self) -> impl Iterator<Item = i64> {
        self.run.updates.iter().filter_map(|update| update.wrote)
    }

    fn increments_of_others(&self) -> i64 {
        self.after - self.before - i64::try_from(self.written().count()).unwrap_or(i64::MAX)
    }

    /// What came of it.
    pub(super) fn figures(&self) -> Figures {
        let updates = &self.run.updates;
        let (successes, attempts) = (self.written().count() as u64, attempts(updates));
        let mut attempts_histogram = BTreeMap::new();
        for update in updates {
            *attempts_histogram.entry(update.attempts).or_default() += 1;
        }
        let seconds = self.run.took.as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let per_second = if seconds > 0.0 { round(successes as f64 / seconds, 1e1) } else { 0.0 };
        Figures {
            successes,
            given_up: updates.len() as u64 - successes,
            version_increments: self.after - self.before,
            increments_of_others: self.increments_of_others(),
            attempts,
            conflicts: attempts - successes,
            attempts_histogram,
            slept: SleptReport::of(&self.run.slept),
            seconds: round(seconds, 1e6),
            updates_per_second: per_second,
        }
    }

    /// What does not hold, for people.
    pub(super) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let (successes, versions) = (self.written().count(), self.written().collect::<HashSet<_>>());
        if versions.len() < successes {
            broken.push(format!("{} updates wrote a version that another one wrote, too", successes - versions.len()));
        }
        if let Some(version) = versions.iter().find(|version| !(self.before + 1..=self.after).contains(*version)) {
            broken.push(format!("an update wrote version {version}, not between {} and {}", self.before, self.after));
        }
        let others = self.increments_of_others();
        if others < 0 || (others > 0 && !self.is_shared) {
            broken
                .push(format!("{successes} updates succeeded, and the version moved by {}", self.after - self.before));
        }
        broken
    }
}

fn attempts(updates: &[Update]) -> u64 {
    updates.iter().map(|update| u64::from(update.attempts)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn race(written: &[(u32, Option<i64>)], after: i64, is_shared: bool) -> Race {
        let updates = written.iter().map(|(attempts, wrote)| Update { attempts: *attempts, wrote: *wrote }).collect();
        let slept = [7, 1, 2, 30].map(Duration::from_millis).to_vec();
        Race { run: Run { updates, slept, took: Duration::from_secs(2) }, before: 10, after, is_shared }
    }

    #[test]
    fn every_update_is_a_success_or_given_up_and_every_other_attempt_a_conflict() {
        let figures = race(&[(1, Some(11)), (3, Some(12)), (3, None)], 12, false).figures();
        assert_eq!((figures.successes, figures.given_up, figures.version_increments), (2, 1, 2));
        assert_eq!((figures.attempts, figures.conflicts), (7, 5));
        assert_eq!(figures.attempts_histogram, BTreeMap::from([(1, 1), (3, 2)]));
        assert_eq!((figures.seconds, figures.updates_per_second), (2.0, 1.0));
        let slept = SleptReport { waits: 4, sum_ms: 40.0, median_ms: 2.0, max_ms: 30.0 };
        assert_eq!(figures.slept, slept);
    }

    #[test]
    fn a_race_is_sound_where_each_success_is_an_increment_of_its_own() {
        let sound = [(1, Some(11)), (2, Some(12)), (8, None)];
        assert_eq!(race(&sound, 12, false).broken(), Vec::<String>::new());
        // What others did beside it is theirs, where others may be.
        let beside = race(&[(1, Some(12))], 14, true);
        assert_eq!((beside.broken().len(), beside.figures().increments_of_others), (0, 3));
    }

    #[test]
    fn what_cannot_be_is_broken() {
        let lost = race(&[(1, Some(11)), (1, Some(11))], 11, true);
        assert!(lost.broken().concat().contains("wrote a version that another one wrote"), "{:?}", lost.broken());
        let too_few = race(&[(1, Some(11)), (1, Some(12))], 11, true).broken();
        assert!(too_few.concat().contains("2 updates succeeded, and the version moved by 1"), "{too_few:?}");
        let stranger = race(&[(1, Some(11))], 12, false).broken();
        assert!(stranger.concat().contains("1 updates succeeded, and the version moved by 2"), "{stranger:?}");
        let elsewhere = race(&[(1, Some(99))], 11, true).broken();
        assert!(elsewhere.concat().contains("version 99, not between 10 and 11"), "{elsewhere:?}");
    }

    #[test]
    fn without_a_conflict_nobody_slept() {
        assert_eq!(SleptReport::of(&[]), SleptReport::default());
    }
}
