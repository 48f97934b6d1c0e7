//! From what the buyers saw, the server counted and the database holds to what happened. Pure, but for the kernel's counters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Sub;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::clients::{Ending, Visit, Visits};
use super::server::Counts;
use crate::stats::{Latency, round};

/// The system sends a dropped SYN again after this time.
const SYN_RESENT_AFTER: Duration = Duration::from_secs(1);

/// What happened: `sold`, `sold_out` and `failures` together are the buyers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BaselineResult {
    /// Buyers who were answered that they have their unit.
    pub sold: u64,
    /// Buyers who were answered that nothing is left.
    pub sold_out: u64,
    /// Everybody else, by kind: refused, reset, timed_out, conflict (409), unavailable (503), other.
    pub failures: BTreeMap<&'static str, u64>,
    /// What the first failure of the kind `other` said.
    pub first_other: Option<String>,
    /// Buyers who were answered, but whose connection took a second or more to be made: a SYN was dropped.
    pub stalled: u64,
    /// From the first connection attempt until the last buyer left.
    pub seconds: f64,
    /// Answers (sold, sold out, 409, 503) by `seconds`.
    pub answers_per_second: f64,
    /// Of these answers, from the attempt to connect.
    pub latency_ms: Latency,
    /// The longest that something waited for the clients' own process to get to it. Where this is much, the machine was too
    /// small for server and clients together.
    pub lag_ms: f64,
    /// Decisions that the server tried.
    pub attempts: u64,
    /// Attempts that found the version moved.
    pub conflicts: u64,
    /// Transactions that the server rolled back.
    pub rollbacks: u64,
    /// Orders in the database.
    pub orders: u64,
    /// Buyers who were answered that they have a unit, and have no order: 0, or the server lies.
    pub sold_without_order: u64,
    /// Units in orders beyond the stock.
    pub oversold: u64,
    /// Buyers with an order who began to connect after somebody who has none.
    pub order_inversions: u64,
    /// What only an HTTP server can say.
    pub at_server: AtServer,
}

/// Where buyers waited at an HTTP server, and what became of some of them. In the keys that results have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct AtServer {
    /// How long requests waited for a connection from the pool, by buyers.
    pub pool_wait_ms_per_purchase: f64,
    /// Requests that got no connection in time.
    pub pool_timeouts: u64,
    /// Requests that waited too long for the row's lock.
    pub lock_timeouts: u64,
    /// Buyers who have an order and do not know it: they had gone when it was made.
    pub untold: u64,
    /// Units that were taken off the item without an order in the end.
    pub zombie_units: u64,
    /// SYNs that this machine dropped meanwhile, as a queue of connections was full (ListenDrops).
    pub syn_drops: u64,
    /// SYNs that were sent again meanwhile (TCPSynRetrans).
    pub syn_retransmits: u64,
}

/// What the database holds of the item in the end.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) left: i64,
    /// Each order's request and units.
    pub(super) orders: Vec<(Uuid, i64)>,
}

impl BaselineResult {
    /// Buyers who went away without a verdict.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// A buyer counts as served where the database has their order, whatever they were answered.
    pub(super) fn of(all: &Visits, counts: &Counts, recorded: &Recorded, kernel: KernelCounters, stock: u64) -> Self {
        let Visits { visits, lag } = all;
        let served: HashSet<Uuid> = recorded.orders.iter().map(|(request_id, _)| *request_id).collect();
        let units: i64 = recorded.orders.iter().map(|(_, quantity)| quantity).sum();
        let (stock, buyers) = (i64::try_from(stock).unwrap_or(i64::MAX), visits.len());
        let answered_sold: HashSet<Uuid> =
            visits.iter().filter(|visit| visit.ending == Ending::Sold).map(|visit| visit.request_id).collect();
        let answered: Vec<&Visit> = visits.iter().filter(|visit| visit.ending.is_answer()).collect();
        let is_stalled = |visit: &&&Visit| visit.connecting.is_some_and(|took| took >= SYN_RESENT_AFTER);
        let first = visits.iter().map(|visit| visit.came).min().unwrap_or_default();
        let last = visits.iter().map(|visit| visit.left).max().unwrap_or_default();
        let seconds = last.saturating_sub(first).as_secs_f64();
        let mut failures = BTreeMap::new();
        for kind in visits.iter().filter_map(|visit| visit.ending.failure()) {
            *failures.entry(kind).or_default() += 1;
        }
        let first_other = visits.iter().find_map(|visit| match &visit.ending {
            Ending::Other(text) => Some(text.clone()),
            Ending::Sold | Ending::SoldOut | Ending::Conflict | Ending::Unavailable => None,
            Ending::Refused | Ending::Reset | Ending::TimedOut => None,
        });
        let no_less_than_0 = |units: i64| u64::try_from(units).unwrap_or(0);
        #[allow(clippy::cast_precision_loss)]
        let (answers, each) = (answered.len() as f64, 1e3 / buyers.max(1) as f64);
        Self {
            sold: answered_sold.len() as u64,
            sold_out: visits.iter().filter(|visit| visit.ending == Ending::SoldOut).count() as u64,
            failures,
            first_other,
            stalled: answered.iter().filter(is_stalled).count() as u64,
            seconds: round(seconds, 1e6),
            answers_per_second: if seconds > 0.0 { round(answers / seconds, 1e1) } else { 0.0 },
            latency_ms: answered.iter().map(|visit| visit.left.saturating_sub(visit.came)).collect(),
            lag_ms: round(lag.as_secs_f64() * 1e3, 1e1),
            attempts: counts.attempts,
            conflicts: counts.conflicts,
            rollbacks: counts.rollbacks,
            orders: served.len() as u64,
            sold_without_order: answered_sold.difference(&served).count() as u64,
            oversold: no_less_than_0(units - stock),
            order_inversions: inversions(visits, &served),
            at_server: AtServer {
                pool_wait_ms_per_purchase: counts.pool_wait.as_secs_f64() * each,
                pool_timeouts: counts.pool_timeouts,
                lock_timeouts: counts.lock_timeouts,
                untold: served.difference(&answered_sold).count() as u64,
                zombie_units: no_less_than_0(stock - recorded.left - units),
                syn_drops: kernel.syn_drops,
                syn_retransmits: kernel.syn_retransmits,
            },
        }
    }
}

/// Everybody asks for one unit of the same item, so nobody should be served after somebody who is not.
fn inversions(visits: &[Visit], served: &HashSet<Uuid>) -> u64 {
    let mut came: Vec<(Duration, bool)> =
        visits.iter().map(|visit| (visit.came, served.contains(&visit.request_id))).collect();
    // Who came in the same instant is given the benefit of the doubt: the served first.
    came.sort_by_key(|(came, is_served)| (*came, !is_served));
    let after_somebody_unserved = came.iter().skip_while(|(_, is_served)| *is_served);
    after_somebody_unserved.filter(|(_, is_served)| *is_served).count() as u64
}

impl Ending {
    /// Whether the server answered with a verdict, or why there is none.
    fn is_answer(&self) -> bool {
        matches!(self, Self::Sold | Self::SoldOut | Self::Conflict | Self::Unavailable)
    }

    /// The kind, as results have it; `None` for a verdict.
    fn failure(&self) -> Option<&'static str> {
        match self {
            Self::Sold | Self::SoldOut => None,
            Self::Conflict => Some("conflict"),
            Self::Unavailable => Some("unavailable"),
            Self::Refused => Some("refused"),
            Self::Reset => Some("reset"),
            Self::TimedOut => Some("timed_out"),
            Self::Other(_) => Some("other"),
        }
    }
}

/// What the kernel has counted on all ports of this machine, or of this network namespace. What it does not count is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KernelCounters {
    syn_drops: u64,
    syn_retransmits: u64,
}

impl KernelCounters {
    pub(super) fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/net/netstat").unwrap_or_default())
    }

    /// Of two lines each, one has names and one has figures.
    fn parse(text: &str) -> Self {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
        let (names, figures) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let counters: HashMap<&str, &str> = names.split_whitespace().zip(figures.split_whitespace()).collect();
        let of = |name: &str| counters.get(name).and_then(|figure| figure.parse().ok()).unwrap_or(0);
        Self { syn_drops: of("ListenDrops"), syn_retransmits: of("TCPSynRetrans") }
    }
}

impl Sub for KernelCounters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            syn_drops: self.syn_drops.saturating_sub(before.syn_drops),
            syn_retransmits: self.syn_retransmits.saturating_sub(before.syn_retransmits),
        }
    }
}

#[cfg(test)]
mod tests;
