//! Faults of orders after their verdicts.

use shared::messages::{Code, EventKind, Status};

use super::fixture::Fixture;
use super::{Fault, assert_red};

pub(super) const FAULTS: &[Fault] = &[
    (
        "a hold did not end, and a unit is there twice",
        |sale| {
            let held = sale.order_id(3);
            sale.history.transitions.retain(|step| step.order_id != held);
            sale.received.remove(sale.arrival("6.3"));
            *sale.state(3) = "reserved".into();
            sale.database.items[0].held = 1;
        },
        "stock_conserved every_change_accounted every_hold_ended",
    ),
    (
        "a payment was left halfway",
        |sale| {
            *sale.state(5) = "paying".into();
            sale.history.transitions.pop();
            sale.received.pop();
            sale.ledger.refund(&sale.order_id(5).to_string());
            (sale.database.items[0].held, sale.database.items[0].sold) = (1, 1);
        },
        "every_hold_ended follow_ups_match_orders",
    ),
    (
        "an order ended in two ways",
        |sale| {
            let mut again = sale.history.transitions[0].clone();
            (again.from, again.to, again.cause) = ("reserved".into(), "expired".into(), "hold_passed".into());
            sale.history.transitions.push(again);
        },
        "orders_end_once history_is_legal events_equal_transitions",
    ),
    (
        "an order is paid without having been paid for: the end is right, the way is not",
        |sale| {
            let paid = sale.order_id(0);
            sale.history.transitions.retain(|step| step.cause != "payment_begun" || step.order_id != paid);
            sale.received.remove(sale.arrival("2.0"));
        },
        "history_is_legal",
    ),
    (
        "an order came to its state without a step",
        |sale| *sale.state(3) = "cancelled".into(),
        "history_is_legal follow_ups_match_orders",
    ),
    ("money was taken for no paid order", |sale| sale.charge(3), "charges_match_paid_orders"),
    (
        "what went back was not taken",
        |sale| {
            sale.charge(3);
            sale.ledger.refund(&sale.order_id(3).to_string());
        },
        "",
    ),
    (
        "a paid order was not charged",
        |sale| drop(sale.ledger.charges.remove(&sale.order_id(0).to_string())),
        "charges_match_paid_orders",
    ),
    (
        "a paid order was refunded",
        |sale| assert!(sale.ledger.refund(&sale.order_id(0).to_string())),
        "charges_match_paid_orders",
    ),
    ("too much was charged", |sale| charge_of(sale).bill.quantity = 2, "charges_match_paid_orders"),
    ("another item was charged", |sale| charge_of(sale).bill.item = "elsewhere".into(), "charges_match_paid_orders"),
    ("one key was used for two bills", |sale| charge_of(sale).is_reused = true, "charges_match_paid_orders"),
    (
        "another charge is on record",
        |sale| sale.history.payments[0].charge_id = Some("charge-9".into()),
        "charges_match_paid_orders",
    ),
    ("a follow-up has no answer", |sale| sale.follow_ups.answers.answers[1].body = None, "every_follow_up_answered"),
    ("a second answer differs", |sale| sale.follow_ups.answers.answers[1].differing = 1, "no_conflicting_follow_ups"),
    (
        "an answer is not the recorded one",
        |sale| sale.history.follow_up_replies.values_mut().next().unwrap().push(' '),
        "follow_ups_match_records",
    ),
    ("no answer is recorded", |sale| sale.history.follow_up_replies.clear(), "follow_ups_match_records"),
    ("declined, and paid", |sale| sale.answer(0, Code::Declined), "follow_ups_match_orders"),
    ("already expired, and paid", |sale| sale.answer(0, Code::AlreadyExpired), "follow_ups_match_orders"),
    ("payment under way, and paid", |sale| sale.answer(0, Code::PaymentUnderWay), "follow_ups_match_orders"),
    ("already expired, and cancelled", |sale| sale.answer(1, Code::AlreadyExpired), "follow_ups_match_orders"),
    ("paid, and declined", |sale| sale.answer(4, Code::Paid), "follow_ups_match_orders"),
    // It did expire in the end; that its payment was declined before says another row.
    ("already expired, and declined before", |sale| sale.answer(4, Code::AlreadyExpired), ""),
    ("an order was paid, and nobody asked for it", |sale| sale.follow_ups.sent[5] = None, "follow_ups_match_orders"),
    ("a payment's event is missing", |sale| lose(sale, "3.0"), "events_equal_transitions"),
    ("a purchase's event is missing", |sale| lose(sale, "1.0"), "events_equal_transitions"),
    ("an event of a payment under way is missing", |sale| lose(sale, "8.4"), "events_equal_transitions"),
    (
        "the event of a unit that came back is missing",
        |sale| lose(sale, "6.3"),
        "every_change_accounted events_equal_transitions",
    ),
    (
        "an event is of nothing that happened",
        |sale| sale.publishes(2, EventKind::OrderReserved, 20),
        "events_equal_transitions",
    ),
    (
        "one step is published as two events",
        |sale| sale.publishes(0, EventKind::OrderPaid, 20),
        "events_equal_transitions",
    ),
    (
        "an event comes again, and is no fault",
        |sale| {
            sale.received.push(sale.received[0].clone());
            assert_eq!(sale.events().duplicates, 1);
        },
        "",
    ),
    ("an event names another buyer", |sale| sale.rewrite(0, "buyer-0", "buyer-1"), "events_equal_transitions"),
    (
        "an event says another quantity",
        |sale| sale.rewrite(0, "\"quantity\":1", "\"quantity\":2"),
        "events_equal_transitions",
    ),
    ("events of one order come in another order", |sale| swap_with_next(sale, "2.0"), "events_in_order"),
    ("events of one item's stock come in another order", |sale| swap_with_next(sale, "6.3"), "events_in_order"),
    ("something is still to be published", |sale| sale.history.unpublished = 1, "everything_told"),
    (
        // The fourth buyer got the second one's unit one version before it was back.
        "a unit was sold before it came back",
        |sale| {
            sale.decide_again(3, 2, Code::Reserved);
            let returned = sale.arrival("4.1");
            sale.rewrite(returned, "\"4.1\"", "\"5.1\"");
            sale.rewrite(returned + 1, "\"5.3\"", "\"4.3\"");
            sale.received.swap(returned, returned + 1);
        },
        "never_oversold",
    ),
    (
        // The third buyer was decided after the second one's unit had come back, and before the fourth got it.
        "sold out while a unit is back",
        |sale| sale.decide_again(2, 2, Code::SoldOut),
        "no_false_sold_out",
    ),
    (
        // The third buyer came before the sixth, and was decided after, when nothing was left. Versions 1, 3 and 5 are those
        // of the three returns then.
        "a buyer was decided before an earlier one",
        |sale| {
            sale.decide_again(2, 7, Code::SoldOut);
            for (index, version) in [(3, 2), (4, 4), (5, 6)] {
                sale.decide_again(index, version, Code::Reserved);
            }
        },
        "first_come_first_served",
    ),
    ("nobody made a change of the stock", |sale| sale.database.items[0].version = 9, "every_change_accounted"),
    (
        "the units at the end are not those of the replay",
        |sale| sale.database.verdicts[3].status = Status::SoldOut,
        "orders_match_verdicts replies_match_records no_false_sold_out every_change_accounted",
    ),
];

fn charge_of(sale: &mut Fixture) -> &mut shared::devstack::gateway::Charge {
    let key = sale.order_id(0).to_string();
    sale.ledger.charges.get_mut(&key).unwrap()
}

fn lose(sale: &mut Fixture, event: &str) {
    sale.received.remove(sale.arrival(event));
}

fn swap_with_next(sale: &mut Fixture, event: &str) {
    let arrival = sale.arrival(event);
    sale.received.swap(arrival, arrival + 1);
}

#[test]
fn each_fault_of_an_order_turns_its_invariants_red_and_no_other() {
    assert_red(Fixture::orders, FAULTS);
}
