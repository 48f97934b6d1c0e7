//! From what the buyers saw, the server counted and the database holds to what happened.

use super::clients::{Ending, Visit};
use crate::bench::measure::Counted;
use crate::bench::row::{AtServer, Contender, Row};
use crate::stats::round;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use uuid::Uuid;

/// The system sends a dropped SYN again after this time.
const SYN_RESENT_AFTER: Duration = Duration::from_secs(1);

/// What happened; sold, refused and failed together are the buyers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BaselineResult {
    /// But for what the database counted.
    pub row: Row,
    /// Decisions that the server tried.
    pub attempts: u64,
    /// Attempts that found the version moved.
    pub conflicts: u64,
    /// Transactions that the server rolled back.
    pub rollbacks: u64,
    /// Buyers who were answered that they have a unit, and have no order: 0, or the server lies.
    pub sold_without_order: u64,
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
        let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
        for kind in visits.iter().filter_map(|visit| visit.ending.failure()) {
            *failures.entry(kind).or_default() += 1;
        }
        let no_less_than_0 = |units: i64| u64::try_from(units).unwrap_or(0);
        let (answers, buyers) = (answered.len() as f64, visits.len().max(1) as f64);
        let at_server = AtServer {
            pool_wait_ms_per_purchase: counts.pool_wait.as_secs_f64() * 1e3 / buyers,
            pool_timeouts: counts.pool_timeouts,
            lock_timeouts: counts.lock_timeouts,
            untold: served.difference(&told).count() as u64,
            zombie_units: no_less_than_0(stock - recorded.left - units),
            ..AtServer::default()
        };
        let stalled = answered.iter().filter(|visit| visit.connecting >= SYN_RESENT_AFTER).count() as u64;
        let row = Row {
            sold: told.len() as u64,
            refused: ended(Ending::SoldOut).count() as u64,
            stalled: Some(stalled),
            seconds: round(seconds, 1e6),
            latency_ms: answered.iter().map(|visit| visit.left.saturating_sub(visit.came)).collect(),
            oversold: no_less_than_0(units - stock),
            order_inversions: inversions(visits, &served),
            at_server: Some(at_server),
            ..Row::new(if seconds > 0.0 { round(answers / seconds, 1e1) } else { 0.0 }, failures)
        };
        let sold_without_order = told.difference(&served).count() as u64;
        let Counts { attempts, conflicts, rollbacks, .. } = *counts;
        Self { row, attempts, conflicts, rollbacks, sold_without_order }
    }

    /// As a row, with the promises that were broken. That buyers fail is a figure and no broken promise; that more is sold
    /// than there is, or that a buyer is not accounted for, is one.
    pub(in crate::bench) fn row(self, contender: &Contender, counted: Counted) -> (Row, Vec<String>) {
        let row = self.row.counted(contender, Some(counted), (self.attempts, self.conflicts));
        let (oversold, untrue) = (row.oversold, self.sold_without_order);
        let (accounted, buyers) = (row.sold + row.refused + row.failed, u64::from(contender.buyers));
        let promises = [
            (oversold > 0).then(|| format!("never_oversold: {oversold} units beyond the stock")),
            (untrue > 0).then(|| format!("every_buyer_told_the_truth: {untrue} sold, and no order")),
            (accounted != buyers).then(|| format!("every_buyer_accounted_for: {accounted} of {buyers}")),
        ];
        (row, promises.into_iter().flatten().collect())
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
    use crate::http::Unanswered;

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
            (4, 7_000, 10_004, Ending::Unanswered(Unanswered::TimedOut)),
        ];
        let row = result(&came, 1, &[0], 0).row;
        assert_eq!((row.sold, row.refused, row.failed), (1, 1, 3));
        assert_eq!(row.failures, ["timed_out", "conflict", "other"].map(|kind| (kind.to_owned(), 1)).into());
        assert_eq!(row.stalled, Some(1), "who was answered after a second of connecting");
        assert_eq!((row.seconds, row.purchases_per_second), (10.004, 0.3), "until the last one gave up");
        assert!(row.latency_ms.max < 1_030.0, "of answers alone: {:?}", row.latency_ms);
        assert_eq!(row.at_server.map(|server| server.pool_wait_ms_per_purchase), Some(3.0));
    }

    #[test]
    fn what_the_buyers_were_answered_is_held_against_the_orders() {
        let came =
            [(0, 0, 9, Ending::Sold), (1, 0, 9, Ending::Unanswered(Unanswered::TimedOut)), (2, 0, 9, Ending::Sold)];
        let held = |stock, served: &[u128], left| {
            let BaselineResult { row, sold_without_order, .. } = result(&came, stock, served, left);
            let AtServer { untold, zombie_units, .. } = row.at_server.unwrap();
            (untold, sold_without_order, zombie_units, row.oversold)
        };
        // The first is answered rightly, the second never knew, the third was lied to; and a unit has no owner.
        assert_eq!(held(5, &[0, 1], 2), (1, 1, 1, 0));
        assert_eq!(held(1, &[0, 2], 0), (0, 0, 0, 1), "more orders than stock");
    }

    #[test]
    fn whoever_is_served_after_somebody_who_is_not_jumped_the_queue() {
        // Not in the order in which they came, two of them in the same instant.
        let came = [3, 0, 1, 2, 1].map(|at| (at, 0, 9, Ending::Sold));
        let inversions = |served: &[u128]| result(&came, 4, served, 0).row.order_inversions;
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
