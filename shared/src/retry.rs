//! How long to wait before trying again: the `backoff` crate's policy, and an attempt limit on top. Pure.
//!
//! Invariant: the waits of workers are *full jitter*, drawn uniformly from zero to the current ceiling, so that workers that
//! collided once spread over the whole interval and do not collide again in step
//! (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use std::time::Duration;

/// How to space attempts. `Default` suits version conflicts: a few milliseconds, over within a second.
#[derive(Debug, Clone, Copy, PartialEq, clap::Args, serde::Serialize, serde::Deserialize)]
pub struct RetryPolicy {
    /// The longest wait before the second attempt, in milliseconds; the wait is drawn from zero to here.
    #[arg(long = "retry-wait-ms", env = "RETRY_WAIT_MS", default_value_t = 4, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub wait_ms: u64,
    /// What the longest wait is multiplied by with each further attempt.
    #[arg(long = "retry-factor", env = "RETRY_FACTOR", default_value_t = 2.0, value_name = "FACTOR", value_parser = factor)]
    pub factor: f64,
    /// No wait is longer than this, in milliseconds.
    #[arg(long = "retry-wait-ms-max", env = "RETRY_WAIT_MS_MAX", default_value_t = 200, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub wait_ms_max: u64,
    /// Attempts in all, the first included; after the last one the decision is made under a row lock.
    #[arg(long = "retry-attempts-max", env = "RETRY_ATTEMPTS_MAX", default_value_t = 8, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts_max: u32,
}

impl RetryPolicy {
    /// For a server that is away: up to two seconds between attempts, and no end of them.
    pub const SERVER_AWAY: Self = Self { wait_ms: 100, factor: 2.0, wait_ms_max: 2_000, attempts_max: u32::MAX };

    /// The waits between the attempts: one fewer than there are attempts.
    pub fn waits(&self) -> Waits {
        // `backoff` draws from [0, 2 × interval] at a randomization factor of 1; half the interval makes it [0, wait].
        self.drawn(1.0, 500)
    }

    /// The next of these waits, where what failed had lasted so long: what had outlasted each of them begins them anew.
    pub fn wait_after(&self, lasted: Duration, waits: &mut Waits) -> Duration {
        if lasted > Duration::from_millis(self.wait_ms_max) {
            *waits = self.waits();
        }
        waits.next().unwrap_or_default()
    }

    /// The same waits without the draw, each as long as it could be: for whoever wants to see what jitter is for, and for
    /// no worker.
    pub fn waits_without_jitter(&self) -> Waits {
        self.drawn(0.0, 1_000)
    }

    /// Intervals of so many microseconds for each millisecond of a wait, each drawn from so much of itself around itself.
    fn drawn(&self, randomization_factor: f64, us_per_ms: u64) -> Waits {
        let interval = |ms: u64| Duration::from_micros(ms.saturating_mul(us_per_ms));
        let intervals = ExponentialBackoffBuilder::new()
            .with_initial_interval(interval(self.wait_ms.min(self.wait_ms_max)))
            .with_randomization_factor(randomization_factor)
            .with_multiplier(self.factor)
            .with_max_interval(interval(self.wait_ms_max))
            .with_max_elapsed_time(None)
            .build();
        Waits { intervals, left: self.attempts_max.saturating_sub(1) }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { wait_ms: 4, factor: 2.0, wait_ms_max: 200, attempts_max: 8 }
    }
}

#[derive(Debug)]
pub struct Waits {
    intervals: ExponentialBackoff,
    left: u32,
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        self.intervals.next_backoff()
    }
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if (1.0..=10.0).contains(&factor) => Ok(factor),
        Ok(_) | Err(_) => Err("the factor is a number from 1 to 10".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policies() -> impl Strategy<Value = RetryPolicy> {
        let policy =
            |(wait_ms, factor, wait_ms_max, attempts_max)| RetryPolicy { wait_ms, factor, wait_ms_max, attempts_max };
        (1_u64..1_000, 1.0_f64..10.0, 1_u64..5_000, 1_u32..20).prop_map(policy)
    }

    /// The longest that each wait may be, in milliseconds.
    fn ceilings_ms(policy: RetryPolicy) -> impl Iterator<Item = f64> {
        let most = policy.wait_ms_max as f64;
        std::iter::successors(Some((policy.wait_ms as f64).min(most)), move |ms| Some((ms * policy.factor).min(most)))
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_its_ceiling_and_without_jitter_each_is_its_ceiling(policy in policies()) {
            let (waits, unjittered): (Vec<_>, Vec<_>) = policy.waits().zip(policy.waits_without_jitter()).unzip();
            let counts = [waits.len(), policy.waits().count(), policy.waits_without_jitter().count()];
            prop_assert_eq!(counts, [policy.attempts_max as usize - 1; 3]);
            for ((wait, unjittered), ceiling_ms) in waits.iter().zip(unjittered).zip(ceilings_ms(policy)) {
                prop_assert!(wait.as_secs_f64() * 1e3 <= ceiling_ms + 0.01, "{wait:?} above {ceiling_ms} ms");
                let off = (unjittered.as_secs_f64() * 1e3 - ceiling_ms).abs();
                prop_assert!(off < 0.01, "{unjittered:?} is not {ceiling_ms} ms");
            }
        }
    }

    #[test]
    fn waits_are_full_jitter() {
        // 2,000 draws from [0, 100] ms: each tenth of the interval gets its share, the lowest and the highest too.
        let policy = RetryPolicy { wait_ms: 100, factor: 1.0, wait_ms_max: 100, attempts_max: 2_001 };
        let mut tenths = [0_u32; 10];
        for wait in policy.waits() {
            tenths[((wait.as_millis() / 10) as usize).min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (120..=280).contains(count)), "not uniform: {tenths:?}");
    }
}
