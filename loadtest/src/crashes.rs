//! Crashes: `kill -9` of workers of any function, chosen by the seed, at moments chosen by the seed; each is replaced at
//! once.
//!
//! Invariant: equal seed, equal moments and equal choices among equally many workers; a run is not over before all of its
//! crashes have been.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::failure::Failure;
use crate::outcome::{CrashReport, round};
use crate::random::Random;
use crate::workers::Staff;

/// Keeps the choice of moments apart from other choices of the same seed.
const MOMENTS: u64 = 4;

/// The crashes of one run: those to come, in order, and those that were.
#[derive(Debug, Default)]
pub struct Crashes {
    to_come: VecDeque<Crash>,
    done: Vec<CrashReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Crash {
    /// From the start of the sale.
    at: Duration,
    /// Chooses among the workers that are there then.
    pick: u64,
}

impl Crashes {
    /// So many crashes, at moments spread uniformly over this time.
    #[must_use]
    pub fn plan(count: u32, over: Duration, seed: u64) -> Self {
        let mut random = Random::of(seed, MOMENTS, u64::from(count));
        let mut to_come: Vec<Crash> =
            (0..count).map(|_| Crash { at: over.mul_f64(random.unit()), pick: random.next() }).collect();
        to_come.sort_unstable();
        Self { to_come: to_come.into(), done: Vec::new() }
    }

    /// Returns when [`Crashes::act`] has something to do; never, when all is over. May be dropped.
    pub(crate) async fn due(&self, opened: Instant) {
        match self.to_come.front() {
            Some(crash) => sleep_until(opened + crash.at).await,
            None => std::future::pending().await,
        }
    }

    /// Has the next crash happen.
    ///
    /// # Errors
    /// A worker cannot be killed or started.
    pub(crate) async fn act(&mut self, opened: Instant, staff: &mut Staff) -> Result<(), Failure> {
        let Some(crash) = self.to_come.pop_front() else { return Ok(()) };
        let seconds = round(opened.elapsed().as_secs_f64(), 1e3);
        if let Some(worker) = staff.crash(crash.pick).await? {
            tracing::info!(worker, seconds, "killed");
            self.done.push(CrashReport { worker, seconds });
        }
        Ok(())
    }

    /// Whether all have been.
    pub(crate) fn are_over(&self) -> bool {
        self.to_come.is_empty()
    }

    /// Those that were.
    pub(crate) fn done(self) -> Vec<CrashReport> {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Duration = Duration::from_secs(20);

    #[test]
    fn the_moments_are_in_order_within_the_time_and_follow_from_the_seed() {
        let crashes = Crashes::plan(50, OVER, 42).to_come;
        assert_eq!(crashes.len(), 50);
        assert!(crashes.iter().is_sorted() && crashes.iter().all(|crash| crash.at <= OVER));
        let late = crashes.iter().filter(|crash| crash.at > OVER / 2).count();
        assert!((10..=40).contains(&late), "they are spread: {late}");
        assert_eq!(crashes, Crashes::plan(50, OVER, 42).to_come);
        assert_ne!(crashes, Crashes::plan(50, OVER, 43).to_come);
    }

    #[test]
    fn without_crashes_all_is_over_at_once() {
        assert!(Crashes::default().are_over() && !Crashes::plan(1, OVER, 1).are_over());
    }
}
