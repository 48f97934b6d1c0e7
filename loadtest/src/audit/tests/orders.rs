//! Faults of orders after their verdicts.

use super::{Evidence, Fault, assert_red, by_http};
use shared::messages::{Code, EventKind, Status};

pub(super) const FAULTS: &[Fault] = &[
    (
        "a hold did not end, and a unit is there twice",
        |sale| {
            sale.forget_steps(3, |_| true);
            sale.lose(6);
            sale.state(3, "reserved");
            sale.row().held = 1;
        },
        "stock_conserved every_change_accounted every_hold_ended",
    ),
    (
        "a payment was left halfway",
        |sale| {
            sale.state(5, "paying");
            sale.forget_steps(5, |step| step.to == "paid");
            sale.lose(13);
            sale.refund(5);
            (sale.row().held, sale.row().sold) = (1, 1);
        },
        "every_hold_ended follow_ups_match_orders",
    ),
    (
        "an order ended in two ways",
        |sale| {
            let mut again = sale.database.transitions[0].clone();
            (again.from, again.to, again.cause) = ("reserved".into(), "expired".into(), "hold_passed".into());
            sale.database.transitions.push(again);
        },
        "orders_end_once history_is_legal events_equal_transitions",
    ),
    (
        "an order is paid without having been paid for: the end is right, the way is not",
        |sale| {
            sale.forget_steps(0, |step| step.to == "paying");
            sale.lose(2);
        },
        "history_is_legal",
    ),
    (
        "a hold ran out before its time",
        |sale| sale.database.transitions.last_mut().unwrap().is_in_time = false,
        "history_is_legal",
    ),
    ("a state without a step", |sale| sale.state(3, "cancelled"), "history_is_legal follow_ups_match_orders"),
    ("money was taken for no paid order", |sale| _ = sale.charge(3), "charges_match_paid_orders"),
    (
        "what went back was not taken",
        |sale| {
            sale.charge(3);
            sale.refund(3);
        },
        "",
    ),
    ("a paid order was not charged", |sale| sale.ledger.charges.clear(), "charges_match_paid_orders"),
    ("a paid order was refunded", |sale| sale.refund(0), "charges_match_paid_orders"),
    ("too much was charged", |sale| sale.charge(0).bill.quantity = 2, "charges_match_paid_orders"),
    ("another item was charged", |sale| sale.charge(0).bill.item = "elsewhere".into(), "charges_match_paid_orders"),
    (
        "another buyer's card was charged",
        |sale| sale.charge(0).bill.payment_method = "card-of-buyer-1".into(),
        "charges_match_paid_orders",
    ),
    ("one key was used for two bills", |sale| sale.charge(0).is_reused = true, "charges_match_paid_orders"),
    ("another charge is on record", |sale| sale.charge(0).id = "charge-9".into(), "charges_match_paid_orders"),
    ("a follow-up has no answer", |sale| sale.follow_ups.answers.answers[1].body = None, "every_follow_up_answered"),
    ("a second answer differs", |sale| sale.follow_ups.answers.answers[1].differing = 1, "no_conflicting_follow_ups"),
    (
        "an answer is not the recorded one",
        |sale| sale.database.follow_up_replies.values_mut().next().unwrap().push(' '),
        "follow_ups_match_records",
    ),
    ("no answer is recorded", |sale| sale.database.follow_up_replies.clear(), "follow_ups_match_records"),
    ("declined, and paid", |sale| sale.answer(0, Code::Declined), "follow_ups_match_orders"),
    ("already expired, and paid", |sale| sale.answer(0, Code::AlreadyExpired), "follow_ups_match_orders"),
    ("payment under way, and paid", |sale| sale.answer(0, Code::PaymentUnderWay), "follow_ups_match_orders"),
    ("already expired, and cancelled", |sale| sale.answer(1, Code::AlreadyExpired), "follow_ups_match_orders"),
    ("paid, and declined", |sale| sale.answer(4, Code::Paid), "follow_ups_match_orders"),
    // It did expire in the end; that its payment was declined before says another row.
    ("already expired, and declined before", |sale| sale.answer(4, Code::AlreadyExpired), ""),
    ("paid, and nobody asked for it", |sale| sale.follow_ups.sent[5] = None, "follow_ups_match_orders"),
    ("a payment's event is missing", |sale| sale.lose(3), "events_equal_transitions"),
    ("a purchase's event is missing", |sale| sale.lose(1), "events_equal_transitions"),
    ("the event of a payment under way is missing", |sale| sale.lose(8), "events_equal_transitions"),
    ("the event of a return is missing", |sale| sale.lose(6), "every_change_accounted events_equal_transitions"),
    ("an event cannot be read", |sale| sale.events.faults.push("order.paid.x".into()), "events_equal_transitions"),
    ("an event of nothing", |sale| sale.publish(2, EventKind::OrderReserved, 20), "events_equal_transitions"),
    ("one step is two events", |sale| sale.publish(0, EventKind::OrderPaid, 20), "events_equal_transitions"),
    ("an event comes again, and is no fault", |sale| sale.events.duplicates = 1, ""),
    ("an event names another buyer", |sale| sale.published().buyer = "buyer-1".into(), "events_equal_transitions"),
    ("an event says another quantity", |sale| sale.published().quantity = 2, "events_equal_transitions"),
    ("events of one order in another order", |sale| sale.swap_with_next(2), "events_in_order"),
    ("events of one item's stock in another order", |sale| sale.swap_with_next(6), "events_in_order"),
    ("something is still to be published", |sale| sale.database.unpublished = 1, "everything_told"),
    (
        // The fourth buyer got the second one's unit one version before it was back.
        "a unit was sold before it came back",
        |sale| {
            sale.decide(3, 2, Code::Reserved);
            let returned = sale.arrival(4);
            sale.events.published[returned].number.0 = 5;
            sale.events.published[returned + 1].number.0 = 4;
            sale.events.published.swap(returned, returned + 1);
        },
        "never_oversold",
    ),
    // The third buyer was decided after the second one's unit had come back, and before the fourth got it.
    ("sold out while a unit is back", |sale| sale.decide(2, 2, Code::SoldOut), "no_false_sold_out"),
    (
        // The third buyer came before the sixth, and was decided after, when nothing was left. Versions 1, 3 and 5 are those
        // of the three returns then.
        "a buyer was decided before an earlier one",
        decide_the_third_last,
        "first_come_first_served",
    ),
    (
        "by HTTP, those whom they came before were under way while they were",
        |sale| {
            decide_the_third_last(sale);
            by_http(sale, &[3, 4, 5], 7);
        },
        "",
    ),
    (
        "by HTTP, those whom they came before asked after they were told",
        |sale| {
            decide_the_third_last(sale);
            by_http(sale, &[3, 4, 5], 8);
        },
        "first_come_first_served",
    ),
    (
        // On one version: of the two, the fourth buyer came last and got the unit that was back.
        "two requests of an array are decided in the wrong order",
        |sale| {
            for (index, version, code) in
                [(2, 2, Code::SoldOut), (3, 2, Code::Reserved), (4, 4, Code::Reserved), (5, 6, Code::Reserved)]
            {
                sale.decide(index, version, code);
            }
            sale.row().version = 7;
        },
        "no_false_sold_out first_come_first_served",
    ),
    ("a verdict does not say on which version", |sale| sale.decide(2, -1, Code::SoldOut), "every_change_accounted"),
    ("nobody made a change of the stock", |sale| sale.row().version = 9, "every_change_accounted"),
    (
        "the units at the end are not those of the replay",
        |sale| sale.database.verdicts[3].status = Status::SoldOut,
        "orders_match_verdicts replies_match_records no_false_sold_out every_change_accounted",
    ),
];

fn decide_the_third_last(sale: &mut Evidence) {
    sale.decide(2, 7, Code::SoldOut);
    for (index, version) in [(3, 2), (4, 4), (5, 6)] {
        sale.decide(index, version, Code::Reserved);
    }
}

#[test]
fn each_fault_of_an_order_turns_its_invariants_red_and_no_other() {
    assert_red(Evidence::orders, FAULTS);
}
