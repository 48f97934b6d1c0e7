//! What a server counts while it sells, and hands over as JSON. Only data.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What was counted. The keys are those that a door's outcome explains; times are in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::doors) struct Counts {
    /// Requests that are being decided: figures are final where there is none.
    pub(in crate::doors) in_flight: u64,
    pub(in crate::doors) attempts: u64,
    pub(in crate::doors) conflicts: u64,
    pub(in crate::doors) rollbacks: u64,
    pub(in crate::doors) pool_timeouts: u64,
    pub(in crate::doors) lock_timeouts: u64,
    pub(in crate::doors) pool_wait_us: u64,
    pub(in crate::doors) connection_us: u64,
    pub(in crate::doors) round_trips: u64,
}

/// The counts of a server that is at work.
#[derive(Debug, Default)]
pub(super) struct Counting(Mutex<Counts>);

impl Counting {
    /// To add to them; held for an addition, never across a wait.
    pub(super) fn now(&self) -> MutexGuard<'_, Counts> {
        // Nothing that holds the lock can leave them half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole microseconds.
pub(super) fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
