//! How visits, orders and counts become a result.

use super::*;

/// The request id of the buyer with this number.
fn id(number: usize) -> Uuid {
    Uuid::from_u128(number as u128)
}

/// When each buyer came, how long connecting took, when they left (in milliseconds), and how it ended.
fn visits(visits: &[(u64, u64, u64, Ending)]) -> Visits {
    let ms = Duration::from_millis;
    let visit = |(number, (came, connecting, left, ending)): (usize, &(u64, u64, u64, Ending))| Visit {
        request_id: id(number),
        came: ms(*came),
        connecting: Some(ms(*connecting)),
        left: ms(*left),
        ending: ending.clone(),
    };
    Visits { visits: visits.iter().enumerate().map(visit).collect(), lag: Duration::ZERO }
}

/// The result, where these of the buyers have an order of one unit, and so many units of the stock are left.
fn result(came: &[(u64, u64, u64, Ending)], stock: u64, served: &[usize], left: i64) -> BaselineResult {
    let recorded = Recorded { left, orders: served.iter().map(|number| (id(*number), 1)).collect() };
    let counts = Counts { pool_wait: Duration::from_millis(15), ..Counts::default() };
    BaselineResult::of(&visits(came), &counts, &recorded, KernelCounters::default(), stock)
}

#[test]
fn every_buyer_is_counted_once_by_what_became_of_them() {
    let came = [
        (0, 0, 30, Ending::Sold),
        (1, 0, 20, Ending::SoldOut),
        (2, 0, 25, Ending::Conflict),
        (3, 0, 10, Ending::Other("no port".into())),
        (4, 0, 10_004, Ending::TimedOut),
    ];
    let result = result(&came, 1, &[0], 0);
    assert_eq!((result.sold, result.sold_out, result.failed()), (1, 1, 3));
    assert_eq!(result.failures, [("timed_out", 1), ("conflict", 1), ("other", 1)].into());
    assert_eq!(result.first_other.as_deref(), Some("no port"));
    assert_eq!((result.seconds, result.answers_per_second), (10.004, 0.3), "until the last one gave up");
    assert!(result.latency_ms.max < 31.0, "of answers alone: {:?}", result.latency_ms);
    assert_eq!(result.at_server.pool_wait_ms_per_purchase, 3.0);
}

#[test]
fn who_was_answered_after_a_second_of_connecting_was_stalled() {
    let came =
        [(0, 1_001, 1_100, Ending::SoldOut), (0, 999, 1_100, Ending::SoldOut), (0, 7_000, 10_000, Ending::TimedOut)];
    assert_eq!(result(&came, 0, &[], 0).stalled, 1);
}

#[test]
fn what_the_buyers_were_answered_is_held_against_the_orders() {
    let came = [(0, 0, 9, Ending::Sold), (1, 0, 9, Ending::TimedOut), (2, 0, 9, Ending::Sold)];
    // The first is answered rightly, the second never knew, the third was lied to; and a unit has no owner.
    let result = result(&came, 5, &[0, 1], 2);
    assert_eq!((result.orders, result.at_server.untold, result.sold_without_order), (2, 1, 1));
    assert_eq!((result.at_server.zombie_units, result.oversold), (1, 0));
}

#[test]
fn more_orders_than_stock_are_oversold() {
    let result = result(&[(0, 0, 9, Ending::Sold), (1, 0, 9, Ending::Sold)], 1, &[0, 1], 0);
    assert_eq!((result.oversold, result.at_server.zombie_units), (1, 0));
}

#[test]
fn whoever_is_served_after_somebody_who_is_not_jumped_the_queue() {
    // Not in the order in which they came.
    let came = [
        (3, 0, 9, Ending::Sold),
        (0, 0, 9, Ending::Sold),
        (1, 0, 9, Ending::Conflict),
        (2, 0, 9, Ending::Sold),
        (1, 0, 9, Ending::Sold),
    ];
    assert_eq!(result(&came, 4, &[0, 1, 3, 4], 0).order_inversions, 2);
    assert_eq!(result(&came, 4, &[1, 4], 2).order_inversions, 0);
}

#[test]
fn counters_are_found_by_name_wherever_they_stand() {
    let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops Other TCPSynRetrans\n\
                TcpExt: 1 20 30 4 50\nIpExt: ListenDrops\nIpExt: 9\n";
    assert_eq!(KernelCounters::parse(text), KernelCounters { syn_drops: 30, syn_retransmits: 50 });
    assert_eq!(KernelCounters::parse(""), KernelCounters::default());
}
