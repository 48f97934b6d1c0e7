//! From what the buyers saw, the server counted and the database holds to what happened at the door. Pure.
//!
//! Invariant: a buyer counts as served where the database has his order, whatever he was told; the other way round shows as
//! [`DoorOutcome::sold_without_order`].

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use super::crowd::{End, Visit};
use super::kernel::Counters;
use super::schema::Truth;
use super::server::Counts;
use super::{DoorOutcome, FailureKind};
use crate::schedule::Schedule;
use crate::stats::round;

/// The system sends a dropped SYN again after this time.
const SYN_RESENT_AFTER: Duration = Duration::from_secs(1);
/// Microseconds in a millisecond.
const US_PER_MS: f64 = 1e3;

/// Everything that is known of a run.
pub(super) struct Known<'a> {
    pub(super) schedule: &'a Schedule,
    /// In the schedule's order.
    pub(super) visits: &'a [Visit],
    pub(super) lag: Duration,
    pub(super) counts: Counts,
    pub(super) truth: &'a Truth,
    pub(super) kernel: Counters,
}

impl Known<'_> {
    /// What happened.
    pub(super) fn outcome(&self) -> DoorOutcome {
        let served: HashSet<Uuid> = self.truth.orders.iter().map(|(request_id, _)| *request_id).collect();
        let units: u64 = self.truth.orders.iter().map(|(_, quantity)| quantity).sum();
        let stock: u64 = self.schedule.items.iter().map(|item| item.stock).sum();
        let told: HashMap<Uuid, &End> = self.by_request(|visit| &visit.end);
        let is_told = |request_id: &Uuid| told.get(request_id).is_some_and(|end| **end == End::Sold);
        let ends = |wanted: &End| self.visits.iter().filter(|visit| visit.end == *wanted).count() as u64;
        #[allow(clippy::cast_precision_loss)]
        let ms = |microseconds: u64| round(microseconds as f64 / US_PER_MS, 1e1);
        let outcome = DoorOutcome {
            sold: ends(&End::Sold),
            sold_out: ends(&End::SoldOut),
            attempts: self.counts.attempts,
            conflicts: self.counts.conflicts,
            rollbacks: self.counts.rollbacks,
            pool_timeouts: self.counts.pool_timeouts,
            lock_timeouts: self.counts.lock_timeouts,
            pool_wait_ms: ms(self.counts.pool_wait_us),
            connection_ms: ms(self.counts.connection_us),
            round_trips: self.counts.round_trips,
            orders: self.truth.orders.len() as u64,
            untold: served.iter().filter(|request_id| !is_told(request_id)).count() as u64,
            sold_without_order: told.iter().filter(|(id, end)| ***end == End::Sold && !served.contains(id)).count()
                as u64,
            zombie_units: stock.saturating_sub(self.truth.quantity).saturating_sub(units),
            oversold: units.saturating_sub(stock),
            order_inversions: self.inversions(&served),
            syn_drops: self.kernel.listen_drops,
            listen_overflows: self.kernel.listen_overflows,
            syn_retransmits: self.kernel.syn_retransmits,
            ..DoorOutcome::default()
        };
        self.with_failures(self.with_times(outcome))
    }

    fn by_request<'b, T>(&'b self, of: impl Fn(&'b Visit) -> T) -> HashMap<Uuid, T> {
        self.schedule.requests.iter().zip(self.visits).map(|(due, visit)| (due.request_id, of(visit))).collect()
    }

    fn with_failures(&self, mut outcome: DoorOutcome) -> DoorOutcome {
        for visit in self.visits {
            if let End::Failed(kind, text) = &visit.end {
                *outcome.failures.entry(*kind).or_default() += 1;
                if *kind == FailureKind::Other && outcome.first_other.is_none() {
                    outcome.first_other = Some(text.clone());
                }
            }
        }
        outcome
    }

    fn with_times(&self, outcome: DoorOutcome) -> DoorOutcome {
        let answered: Vec<&Visit> = self.visits.iter().filter(|visit| visit.end.is_answer()).collect();
        let is_stalled = |visit: &&&Visit| visit.connecting.is_some_and(|took| took >= SYN_RESENT_AFTER);
        let first = self.visits.iter().map(|visit| visit.came).min().unwrap_or_default();
        let last = self.visits.iter().map(|visit| visit.left).max().unwrap_or_default();
        let seconds = last.saturating_sub(first).as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let answers = answered.len() as f64;
        DoorOutcome {
            stalled: answered.iter().filter(is_stalled).count() as u64,
            crowd_lag_ms: round(self.lag.as_secs_f64() * 1e3, 1e1),
            seconds: round(seconds, 1e6),
            answers_per_second: if seconds > 0.0 { round(answers / seconds, 1e1) } else { 0.0 },
            latency_ms: answered.iter().map(|visit| visit.left.saturating_sub(visit.came)).collect(),
            ..outcome
        }
    }

    /// Everybody asks for one unit of the same item, so whoever comes after somebody who gets nothing should get nothing.
    fn inversions(&self, served: &HashSet<Uuid>) -> u64 {
        let mut came: Vec<(Duration, bool)> =
            self.by_request(|visit| visit.came).iter().map(|(id, came)| (*came, served.contains(id))).collect();
        // Who came in the same instant is given the benefit of the doubt: the served first.
        came.sort_by_key(|(came, is_served)| (*came, !is_served));
        let after_somebody_unserved = came.iter().skip_while(|(_, is_served)| *is_served);
        after_somebody_unserved.filter(|(_, is_served)| *is_served).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Scenario;

    fn schedule(buyers: u32, stock: u64) -> Schedule {
        Schedule::new(&Scenario { buyers, items: 1, stock, quantities: 1..=1, rate: 0.0, seed: 1 }, "t")
    }

    fn visit(came_ms: u64, connecting_ms: u64, left_ms: u64, end: End) -> Visit {
        let ms = Duration::from_millis;
        Visit { came: ms(came_ms), connecting: Some(ms(connecting_ms)), left: ms(left_ms), end }
    }

    fn failed(kind: FailureKind) -> End {
        End::Failed(kind, kind.as_str().to_owned())
    }

    /// The outcome, where these of the buyers have an order of one unit, and so many units are left.
    fn outcome(schedule: &Schedule, visits: &[Visit], served: &[usize], quantity: u64) -> DoorOutcome {
        let orders = served.iter().map(|index| (schedule.requests[*index].request_id, 1)).collect();
        let truth = Truth { quantity, orders };
        let (counts, kernel) = (Counts { pool_wait_us: 1_500, ..Counts::default() }, Counters::default());
        Known { schedule, visits, lag: Duration::ZERO, counts, truth: &truth, kernel }.outcome()
    }

    #[test]
    fn every_buyer_is_counted_once_by_what_became_of_him() {
        let visits = [
            visit(0, 0, 30, End::Sold),
            visit(1, 0, 20, End::SoldOut),
            visit(2, 0, 25, failed(FailureKind::Conflict)),
            visit(3, 0, 10, failed(FailureKind::Other)),
            visit(4, 0, 10_004, failed(FailureKind::TimedOut)),
        ];
        let outcome = outcome(&schedule(5, 1), &visits, &[0], 0);
        assert_eq!((outcome.sold, outcome.sold_out, outcome.failed()), (1, 1, 3));
        let failures: Vec<_> = outcome.failures.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        assert_eq!(failures, [("timed_out", 1), ("conflict", 1), ("other", 1)]);
        assert_eq!(outcome.first_other.as_deref(), Some("other"));
        assert_eq!((outcome.seconds, outcome.answers_per_second), (10.004, 0.3), "until the last one gave up");
        assert!(outcome.latency_ms.max < 31.0, "of answers alone: {:?}", outcome.latency_ms);
        assert_eq!(outcome.pool_wait_ms, 1.5);
    }

    #[test]
    fn who_was_answered_after_a_second_of_connecting_was_stalled() {
        let visits = [
            visit(0, 1_001, 1_100, End::SoldOut),
            visit(0, 999, 1_100, End::SoldOut),
            visit(0, 7_000, 10_000, failed(FailureKind::TimedOut)),
        ];
        assert_eq!(outcome(&schedule(3, 0), &visits, &[], 0).stalled, 1);
    }

    #[test]
    fn what_the_buyers_were_told_is_held_against_the_orders() {
        let schedule = schedule(3, 5);
        let gone = failed(FailureKind::TimedOut);
        let visits = [visit(0, 0, 9, End::Sold), visit(1, 0, 9, gone), visit(2, 0, 9, End::Sold)];
        // The first is told rightly, the second never knew, the third was lied to; and a unit has no owner.
        let outcome = outcome(&schedule, &visits, &[0, 1], 2);
        assert_eq!((outcome.orders, outcome.untold, outcome.sold_without_order), (2, 1, 1));
        assert_eq!((outcome.zombie_units, outcome.oversold), (1, 0));
    }

    #[test]
    fn more_orders_than_stock_are_oversold() {
        let visits = [visit(0, 0, 9, End::Sold), visit(1, 0, 9, End::Sold)];
        let outcome = outcome(&schedule(2, 1), &visits, &[0, 1], 0);
        assert_eq!((outcome.oversold, outcome.zombie_units), (1, 0));
    }

    #[test]
    fn whoever_is_served_after_somebody_who_is_not_jumped_the_queue() {
        let visits = [
            // Not in the order in which they came.
            visit(3, 0, 9, End::Sold),
            visit(0, 0, 9, End::Sold),
            visit(1, 0, 9, failed(FailureKind::Conflict)),
            visit(2, 0, 9, End::Sold),
            visit(1, 0, 9, End::Sold),
        ];
        let schedule = schedule(5, 4);
        assert_eq!(outcome(&schedule, &visits, &[0, 1, 3, 4], 0).order_inversions, 2);
        assert_eq!(outcome(&schedule, &visits, &[1, 4], 2).order_inversions, 0);
    }
}
