//! The decisions on data made up here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

use super::*;
use crate::gateway::Outcome;
use proptest::{prelude::*, sample::select};
use shared::order::Cause;
use std::collections::BTreeSet;
use time::macros::datetime;
use uuid::Uuid;

const NOW: OffsetDateTime = datetime!(2026-11-27 10:00 UTC);

/// Ids, orders and methods are few, so that they clash.
fn requests() -> impl Strategy<Value = Vec<PaymentRequest>> {
    let request =
        (0..5_u32, 0..4_u128, select(&["card", "empty"][..])).prop_map(|(id, order, method)| PaymentRequest {
            request_id: format!("p-{id}"),
            order_id: Uuid::from_u128(order),
            payment_method: method.to_owned(),
        });
    prop::collection::vec(request, 0..12)
}

/// Of the orders 0 to 2; there is no order 3. Some are held no longer, and nobody has ended them yet.
fn orders() -> impl Strategy<Value = HashMap<Uuid, Order>> {
    let order =
        (select(&State::ALL[..]), 1..5_i64, prop::bool::weighted(0.8)).prop_map(|(state, quantity, is_held)| {
            let left = if is_held { time::Duration::HOUR } else { time::Duration::ZERO };
            Order { state, item: format!("i-{}", quantity % 2), quantity, hold_until: NOW + left }
        });
    prop::collection::vec(order, 3)
        .prop_map(|orders| (0_u128..).map(Uuid::from_u128).zip(orders).collect::<HashMap<_, _>>())
}

/// Payments under way of those orders that are being paid for, each by a request of its own.
fn snapshot() -> impl Strategy<Value = Snapshot> {
    orders().prop_map(|orders| {
        let paying = orders.iter().filter(|(_, order)| order.state == State::Paying);
        let payment = |(id, _): (&Uuid, &Order)| {
            let request_id = format!("p-{}", id.as_u128());
            let request = PaymentRequest { request_id, order_id: *id, payment_method: "card".to_owned() };
            let fingerprint = request.fingerprint();
            (*id, Payment { request_id: request.request_id, fingerprint, is_under_way: true })
        };
        let payments = paying.map(payment).collect();
        Snapshot { now: NOW, orders, payments, recorded: HashMap::new() }
    })
}

/// What the database says once this is committed.
fn after_begin(requests: &[PaymentRequest], begun: &Begun, snapshot: &mut Snapshot) {
    for (id, place) in &begun.new {
        let request = &requests[*place];
        let order = snapshot.orders.get_mut(id).unwrap();
        order.state = order.state.after(Cause::PaymentBegun).unwrap();
        let (request_id, fingerprint) = (request.request_id.clone(), request.fingerprint());
        snapshot.payments.insert(*id, Payment { request_id, fingerprint, is_under_way: true });
    }
    record(&begun.verdicts, snapshot);
}

fn after_finish(finished: &Finished, snapshot: &mut Snapshot) {
    for (moved, cause) in [
        (&finished.late, Cause::PaymentBegun),
        (&finished.captured, Cause::PaymentCaptured),
        (&finished.declined, Cause::PaymentDeclined),
    ] {
        for (id, _) in moved {
            let order = snapshot.orders.get_mut(id).unwrap();
            // Each transition is one that the state machine allows.
            order.state = order.state.after(cause).unwrap();
        }
    }
    for id in finished.over.keys() {
        if let Some(payment) = snapshot.payments.get_mut(id) {
            payment.is_under_way = false;
        }
    }
    record(&finished.verdicts, snapshot);
}

fn record(verdicts: &Verdicts, snapshot: &mut Snapshot) {
    for (id, Decision { fingerprint, reply, .. }) in verdicts {
        let recorded = Recorded { fingerprint: *fingerprint, reply: reply.clone() };
        assert!(snapshot.recorded.insert(id.clone(), recorded).is_none(), "one request id, one verdict");
    }
}

fn states(snapshot: &Snapshot) -> BTreeMap<Uuid, State> {
    snapshot.orders.iter().map(|(id, order)| (*id, order.state)).collect()
}

/// Whatever the gateway and others may say of these requests.
fn ended() -> impl Strategy<Value = Ended> {
    prop_oneof![
        3 => Just(Ended::Decided(Outcome::Captured { charge_id: "ch".to_owned() })),
        2 => Just(Ended::Decided(Outcome::Declined { reason: "no funds".to_owned() })),
        1 => Just(Ended::Refunded),
    ]
}

proptest! {
    #[test]
    fn beginning_a_batch_is_beginning_one_by_one(requests in requests(), snapshot in snapshot()) {
        let begun = begin(&requests, snapshot.clone());
        let (mut steps, mut verdicts, mut new) = (Vec::new(), Verdicts::new(), BTreeMap::new());
        let mut one_by_one = snapshot.clone();
        for (place, request) in requests.iter().enumerate() {
            let mut alone = begin(std::slice::from_ref(request), one_by_one.clone());
            after_begin(std::slice::from_ref(request), &alone, &mut one_by_one);
            new.extend(alone.new.keys().map(|id| (*id, place)));
            steps.append(&mut alone.steps);
            verdicts.append(&mut alone.verdicts);
        }
        prop_assert_eq!((&begun.steps, &begun.verdicts, &begun.new), (&steps, &verdicts, &new));
        // One request pays for an order, and a request pays for one order.
        let asked = requests.iter().zip(&begun.steps).filter(|(_, step)| **step == Step::Ask);
        let pairs: BTreeSet<_> = asked.map(|(request, _)| (request.order_id, request.request_id.clone())).collect();
        let (orders, ids): (BTreeSet<_>, BTreeSet<_>) = pairs.iter().cloned().unzip();
        prop_assert_eq!((orders.len(), ids.len()), (pairs.len(), pairs.len()));
        let mut committed = snapshot;
        after_begin(&requests, &begun, &mut committed);
        prop_assert!(orders.iter().all(|id| committed.orders[id].state == State::Paying), "asked about: its units are held");
    }

    #[test]
    fn finishing_a_batch_is_finishing_one_by_one_and_no_order_is_sold_twice(
        requests in requests(),
        ends in prop::collection::vec(ended(), 12),
        snapshot in snapshot(),
    ) {
        let asked: Vec<_> = requests.iter().zip(ends).collect();
        let finished = finish(&asked, snapshot.clone());
        let mut one_by_one = snapshot.clone();
        let (mut ends, mut captured, mut sold) = (Vec::new(), Vec::new(), BTreeMap::<String, i64>::new());
        for one in &asked {
            let mut alone = finish(std::slice::from_ref(one), one_by_one.clone());
            after_finish(&alone, &mut one_by_one);
            ends.append(&mut alone.ends);
            captured.append(&mut alone.captured);
            for (item, units) in alone.sold {
                *sold.entry(item).or_default() += units;
            }
        }
        prop_assert_eq!((&finished.ends, &finished.captured, &finished.sold), (&ends, &captured, &sold));
        let once: BTreeSet<_> = captured.iter().map(|(id, _)| *id).collect();
        prop_assert_eq!(once.len(), captured.len(), "no order is captured twice");
        let units: i64 = once.iter().map(|id| snapshot.orders[id].quantity).sum();
        prop_assert_eq!(sold.values().sum::<i64>(), units);
        for (id, state) in states(&one_by_one) {
            let (before, is_sold) = (snapshot.orders[&id].state, once.contains(&id));
            prop_assert_eq!(state == State::Paid && before != State::Paid, is_sold);
            prop_assert!(before.holds_units() || state == before, "what has ended stays");
        }
        // Money that was taken is an order that is paid for, or goes back, or is another request's to answer for.
        for ((request, ended), end) in asked.iter().zip(&finished.ends) {
            let Some(before) = snapshot.orders.get(&request.order_id) else { continue };
            if matches!(ended, Ended::Decided(Outcome::Captured { .. })) && !before.state.holds_units() {
                prop_assert_eq!(*end == End::Refund, before.state != State::Paid);
            }
        }
    }
}
