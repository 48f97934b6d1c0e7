//! From what the buyers saw, the server counted and the database holds to what happened.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::clients::{Ending, Visit};
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
    /// Buyers who were answered, but whose connection took a second or more to be made: a SYN was dropped.
    pub stalled: u64,
    /// From the first connection attempt until the last buyer left.
    pub seconds: f64,
    /// Answers (sold, sold out, 409, 503) by `seconds`.
    pub answers_per_second: f64,
    /// Of these answers, from the attempt to connect.
    pub latency_ms: Latency,
    /// The longest that something waited for the clients' own processes to get to it. Where this is much, the machine was
    /// too small for server and clients together.
    pub lag_ms: f64,
    /// Decisions that the server tried.
    pub attempts: u64,
    /// Attempts that found the version moved.
    pub conflicts: u64,
    /// Transactions that the server rolled back.
    pub rollbacks: u64,
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
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

/// What the server counts while it sells.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counts {
    /// Requests that are being decided: figures are final where there is none.
    pub(super) in_flight: u64,
    pub(super) attempts: u64,
    pub(super) conflicts: u64,
    pub(super) rollbacks: u64,
    pub(super) pool_timeouts: u64,
    pub(super) lock_timeouts: u64,
    pub(super) pool_wait: Duration,
}

/// What the database holds of the item in the end.
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
    pub(super) fn of(visits: &[Visit], counts: &Counts, recorded: &Recorded, stock: u64) -> Self {
        let served: HashSet<Uuid> = recorded.orders.iter().map(|(request_id, _)| *request_id).collect();
        let units: i64 = recorded.orders.iter().map(|(_, quantity)| quantity).sum();
        let stock = i64::try_from(stock).unwrap_or(i64::MAX);
        let ended = |ending| visits.iter().filter(move |visit| visit.ending == ending);
        let told: HashSet<Uuid> = ended(Ending::Sold).map(|visit| visit.request_id).collect();
        let answered: Vec<&Visit> = visits.iter().filter(|visit| visit.ending.is_answer()).collect();
        let first = visits.iter().map(|visit| visit.came).min().unwrap_or_default();
        let last = visits.iter().map(|visit| visit.left).max().unwrap_or_default();
        let seconds = last.saturating_sub(first).as_secs_f64();
        let mut failures = BTreeMap::new();
        for kind in visits.iter().filter_map(|visit| visit.ending.failure()) {
            *failures.entry(kind).or_default() += 1;
        }
        let no_less_than_0 = |units: i64| u64::try_from(units).unwrap_or(0);
        let (answers, buyers) = (answered.len() as f64, visits.len().max(1) as f64);
        Self {
            sold: told.len() as u64,
            sold_out: ended(Ending::SoldOut).count() as u64,
            failures,
            stalled: answered.iter().filter(|visit| visit.connecting >= SYN_RESENT_AFTER).count() as u64,
            seconds: round(seconds, 1e6),
            answers_per_second: if seconds > 0.0 { round(answers / seconds, 1e1) } else { 0.0 },
            latency_ms: answered.iter().map(|visit| visit.left.saturating_sub(visit.came)).collect(),
            attempts: counts.attempts,
            conflicts: counts.conflicts,
            rollbacks: counts.rollbacks,
            sold_without_order: told.difference(&served).count() as u64,
            oversold: no_less_than_0(units - stock),
            order_inversions: inversions(visits, &served),
            at_server: AtServer {
                pool_wait_ms_per_purchase: counts.pool_wait.as_secs_f64() * 1e3 / buyers,
                pool_timeouts: counts.pool_timeouts,
                lock_timeouts: counts.lock_timeouts,
                untold: served.difference(&told).count() as u64,
                zombie_units: no_less_than_0(stock - recorded.left - units),
                ..AtServer::default()
            },
            ..Self::default()
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

/// SYNs that were dropped, and that were sent again, so far: as the kernel counts them on all ports of this machine, or of
/// this network namespace. What it does not count is 0.
pub(super) fn syns() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    (counter(&text, "ListenDrops"), counter(&text, "TCPSynRetrans"))
}

/// Of two lines each, one has names and one has figures.
fn counter(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:")).map(str::split_whitespace);
    let (Some(names), Some(figures)) = (lines.next(), lines.next()) else { return 0 };
    names.zip(figures).find(|(known, _)| *known == name).and_then(|(_, figure)| figure.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each buyer came, how long connecting took, when they left (in milliseconds), and how it ended.
    type Came = (u64, u64, u64, Ending);

    /// The result, where these of the buyers have an order of one unit, and so many units of the stock are left.
    fn result(came: &[Came], stock: u64, served: &[u128], left: i64) -> BaselineResult {
        let (ms, id) = (Duration::from_millis, Uuid::from_u128);
        let visit = |(number, &(came, connecting, left, ending)): (u128, &Came)| Visit {
            request_id: id(number),
            came: ms(came),
            connecting: ms(connecting),
            left: ms(left),
            ending,
        };
        let visits: Vec<Visit> = (0..).zip(came).map(visit).collect();
        let recorded = Recorded { left, orders: served.iter().map(|number| (id(*number), 1)).collect() };
        BaselineResult::of(&visits, &Counts { pool_wait: ms(15), ..Counts::default() }, &recorded, stock)
    }

    #[test]
    fn every_buyer_is_counted_once_by_what_became_of_them() {
        let came = [
            (0, 0, 30, Ending::Sold),
            (1, 999, 1_020, Ending::SoldOut),
            (2, 1_001, 1_025, Ending::Conflict),
            (3, 0, 10, Ending::Other),
            (4, 7_000, 10_004, Ending::TimedOut),
        ];
        let result = result(&came, 1, &[0], 0);
        assert_eq!((result.sold, result.sold_out, result.failed()), (1, 1, 3));
        assert_eq!(result.failures, [("timed_out", 1), ("conflict", 1), ("other", 1)].into());
        assert_eq!(result.stalled, 1, "who was answered after a second of connecting");
        assert_eq!((result.seconds, result.answers_per_second), (10.004, 0.3), "until the last one gave up");
        assert!(result.latency_ms.max < 1_030.0, "of answers alone: {:?}", result.latency_ms);
        assert_eq!(result.at_server.pool_wait_ms_per_purchase, 3.0);
    }

    #[test]
    fn what_the_buyers_were_answered_is_held_against_the_orders() {
        let came = [(0, 0, 9, Ending::Sold), (1, 0, 9, Ending::TimedOut), (2, 0, 9, Ending::Sold)];
        let held = |stock, served: &[u128], left| {
            let result = result(&came, stock, served, left);
            (result.at_server.untold, result.sold_without_order, result.at_server.zombie_units, result.oversold)
        };
        // The first is answered rightly, the second never knew, the third was lied to; and a unit has no owner.
        assert_eq!(held(5, &[0, 1], 2), (1, 1, 1, 0));
        assert_eq!(held(1, &[0, 2], 0), (0, 0, 0, 1), "more orders than stock");
    }

    #[test]
    fn whoever_is_served_after_somebody_who_is_not_jumped_the_queue() {
        // Not in the order in which they came, two of them in the same instant.
        let came = [3, 0, 1, 2, 1].map(|at| (at, 0, 9, Ending::Sold));
        let inversions = |served: &[u128]| result(&came, 4, served, 0).order_inversions;
        assert_eq!((inversions(&[0, 1, 3, 4]), inversions(&[1, 4])), (2, 0));
    }

    #[test]
    fn counters_are_found_by_name_wherever_they_stand() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops Other TCPSynRetrans\n\
                    TcpExt: 1 20 30 4 50\nIpExt: ListenDrops\nIpExt: 9\n";
        assert_eq!(
            (counter(text, "ListenDrops"), counter(text, "TCPSynRetrans"), counter("", "ListenDrops")),
            (30, 50, 0)
        );
    }
}
