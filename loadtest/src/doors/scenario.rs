//! What comes to a door, and how the door decides. Only data.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::retry::RetryPolicy;

/// How long the simulated payment takes, where the original had it.
const PAYMENT: Duration = Duration::from_millis(20);
/// How long a buyer waits: for the connection and for the answer together.
const TIME_OUT: Duration = Duration::from_secs(10);

/// How a door decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DoorStrategy {
    /// JPA's `@Version`, TypeORM's version column: read, pay, write where the version is still the same, all in one
    /// transaction; a conflict rolls it back, and it is tried again after a wait with full jitter.
    Optimistic,
    /// `SELECT … FOR UPDATE`, pay, write, commit.
    Pessimistic,
    /// `UPDATE … SET quantity = quantity - n WHERE quantity >= n`, then pay, then write the order: no transaction around it.
    Atomic,
}

impl DoorStrategy {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Optimistic, Self::Pessimistic, Self::Atomic];

    /// As it is written in results and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Optimistic => "optimistic",
            Self::Pessimistic => "pessimistic",
            Self::Atomic => "atomic",
        }
    }
}

/// A crowd at a door: everybody comes at once, on a connection of his own, for one unit of the same item.
#[derive(Debug, Clone, PartialEq)]
pub struct DoorScenario {
    /// How the door decides.
    pub strategy: DoorStrategy,
    /// Buyers; each sends one request.
    pub buyers: u32,
    /// Units on sale, of one item.
    pub stock: u64,
    /// How long the simulated payment takes.
    pub payment: Duration,
    /// How long a buyer waits, for the connection and for the answer together.
    pub time_out: Duration,
    /// How the optimistic door spaces its attempts, and when it gives up (409).
    pub retry: RetryPolicy,
    /// The request ids follow from it.
    pub seed: u64,
}

impl DoorScenario {
    /// What the originals did: a payment of 20 ms, clients that wait for 10 s, and five attempts where there is a version
    /// to check, the first wait drawn from up to 50 ms, then twice that each time.
    #[must_use]
    pub fn new(strategy: DoorStrategy, buyers: u32, stock: u64, seed: u64) -> Self {
        let retry = RetryPolicy { wait_ms: 50, factor: 2.0, wait_ms_max: 1_000, attempts_max: 5 };
        Self { strategy, buyers, stock, payment: PAYMENT, time_out: TIME_OUT, retry, seed }
    }
}
