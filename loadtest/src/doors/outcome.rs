//! What happened at a door. Only data, in the keys that results have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stats::Latency;

/// Why a buyer went away without a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Nobody listens (ECONNREFUSED).
    Refused,
    /// The connection was closed, or reset, before the answer.
    Reset,
    /// No answer within the buyer's time.
    TimedOut,
    /// 409: the server lost the race for the row until its attempts were used up.
    Conflict,
    /// 503: the server had no connection to the database in time, or waited too long for a lock.
    Unavailable,
    /// Whatever else: another status, no free port, no free file descriptor.
    Other,
}

impl FailureKind {
    /// As it is written in results.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Other => "other",
        }
    }
}

/// What happened at a door: `sold`, `sold_out` and `failures` together are the buyers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DoorOutcome {
    /// Buyers who were told that they have their unit.
    pub sold: u64,
    /// Buyers who were told that nothing is left.
    pub sold_out: u64,
    /// Everybody else, by what became of them; kinds of which there is one at least.
    pub failures: BTreeMap<FailureKind, u64>,
    /// What the first failure of the kind `other` said.
    pub first_other: Option<String>,
    /// Buyers who got an answer, of whatever kind, but whose connection took a second or more to be made: longer than the
    /// second after which the system sends a dropped SYN again.
    pub stalled: u64,
    /// From the first connection attempt to the last answer, or to the end of the last buyer's patience.
    pub seconds: f64,
    /// Answers (sold, sold out, 409, 503) by `seconds`.
    pub answers_per_second: f64,
    /// Of these answers, from the attempt to connect.
    pub latency_ms: Latency,
    /// The longest that something waited for the crowd's own process to get to it, in milliseconds: where this is much, the
    /// machine was too small for door and crowd together, and the latencies, and who timed out, are partly the crowd's doing.
    pub crowd_lag_ms: f64,
    /// Decisions that the server tried.
    pub attempts: u64,
    /// Attempts that found the version moved.
    pub conflicts: u64,
    /// Transactions that were rolled back, for whatever reason.
    pub rollbacks: u64,
    /// Requests that got no connection from the pool in time.
    pub pool_timeouts: u64,
    /// Requests that waited too long for a row's lock.
    pub lock_timeouts: u64,
    /// Milliseconds that requests waited for a connection from the pool, all together.
    pub pool_wait_ms: f64,
    /// Milliseconds that requests held a connection, all together.
    pub connection_ms: f64,
    /// Statements sent to the database, BEGIN, COMMIT and ROLLBACK among them.
    pub round_trips: u64,
    /// Orders in the database.
    pub orders: u64,
    /// Orders whose buyer was not told: he had gone by then, and does not know that he bought.
    pub untold: u64,
    /// Buyers who were told that they have a unit, and have no order: 0, or the door lies.
    pub sold_without_order: u64,
    /// Units that were taken off the item without an order in the end.
    pub zombie_units: u64,
    /// Units in orders beyond the stock.
    pub oversold: u64,
    /// Buyers with an order who came after somebody who has none. Who came first is who began to connect first.
    pub order_inversions: u64,
    /// Connection attempts that this machine dropped meanwhile because a queue of connections was full (ListenDrops).
    pub syn_drops: u64,
    /// How often a queue of established connections overflowed meanwhile (ListenOverflows).
    pub listen_overflows: u64,
    /// SYNs that were sent again meanwhile (TCPSynRetrans).
    pub syn_retransmits: u64,
}

impl DoorOutcome {
    /// Buyers who went away without a verdict.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}
