//! Each kind of fault, seeded into a sale that was right, turns exactly its own invariants red.

mod fixture;
mod orders;

use super::*;
use crate::schedule::Scenario;
use proptest::prelude::*;
use shared::messages::{Code, Status};
use std::collections::BTreeSet;

/// What is wrong, how it is seeded, and the invariants that go red: these, and no other.
type Fault = (&'static str, fn(&mut Evidence), &'static str);

fn assert_red(healthy: fn() -> Evidence, faults: &[Fault]) {
    assert_eq!(healthy().red(), [""; 0], "what is right passes");
    for (what, seed, expected) in faults {
        let mut evidence = healthy();
        seed(&mut evidence);
        assert_eq!(evidence.red().join(" "), *expected, "{what}");
    }
}

const FAULTS: &[Fault] = &[
    ("a unit is sold twice", |sale| sale.turn(3, Code::Reserved), "never_oversold stock_conserved"),
    ("a unit is promised twice", |sale| sale.tell(3, Code::Reserved), "never_oversold replies_match_records"),
    ("a request has no record", |sale| drop(sale.database.verdicts.remove(9)), "every_request_recorded"),
    ("a verdict is on another item", |sale| sale.database.verdicts[9].item = "x".into(), "every_request_recorded"),
    ("a buyer was never sent", |sale| sale.never_send(9), ""),
    ("a buyer has no reply", |sale| sale.answers.answers[9].body = None, "every_buyer_answered"),
    (
        "a reply is no verdict",
        |sale| sale.answers.answers[9].body = Some(b"hello".to_vec()),
        "every_buyer_answered replies_match_records",
    ),
    (
        "nobody asked for a verdict",
        |sale| {
            let verdict = RecordedVerdict { request_id: "stranger".into(), ..sale.database.verdicts[9].clone() };
            sale.database.verdicts.push(verdict);
        },
        "nothing_unknown",
    ),
    (
        "nobody asked for an order",
        |sale| sale.order(0).request_id = "stranger".into(),
        "nothing_unknown orders_match_verdicts",
    ),
    ("a reply is to nobody", |sale| sale.reply("stranger", "{}"), "no_stray_replies"),
    ("a second reply differs", |sale| sale.reply(&sale.id(9), "{}"), "no_conflicting_replies"),
    ("a second reply is identical, and allowed", |sale| sale.reply_again(9), ""),
    ("a reply differs by one byte", |sale| sale.database.verdicts[9].reply.push(' '), "replies_match_records"),
    (
        "a record's status contradicts its reply",
        |sale| sale.database.verdicts[9].status = Status::Refused,
        "nobody_refused replies_match_records",
    ),
    ("a rule that is not there refuses somebody", |sale| sale.decide(9, 1, Code::SaleClosed), "nobody_refused"),
    // Whoever came after the third buyer was sent away as well, although a unit was left.
    ("sold out while a unit is left", |sale| sale.turn(2, Code::SoldOut), "no_false_sold_out"),
    (
        // The first asked for two of three units, and three others got one each.
        "sold out while enough were left, which are sold to those who want less",
        |sale| {
            sale.turn(0, Code::SoldOut);
            sale.turn(3, Code::Reserved);
            sale.asks_for(0, 2);
        },
        "first_come_first_served",
    ),
    ("a buyer jumps the queue", jump_the_queue, "first_come_first_served"),
    ("by HTTP, who is under way while another is sold out may be preferred", |sale| jump_by_http(sale, 7), ""),
    (
        "by HTTP, one who asks after another was told is preferred",
        |sale| jump_by_http(sale, 8),
        "first_come_first_served",
    ),
    (
        "by HTTP, somebody has to ask twice although nothing happened",
        |sale| sale.doors = Some(DoorsReport { failures: [("reset", 1)].into(), ..DoorsReport::default() }),
        "no_request_failed",
    ),
    ("verdicts of an array stand at their places", |sale| sale.reply_to_array(&[2, 3, 9], &[2, 3, 9]), ""),
    (
        "verdicts of an array stand at swapped places",
        |sale| sale.reply_to_array(&[2, 3, 9], &[3, 2, 9]),
        "every_buyer_answered replies_match_records",
    ),
    (
        "a verdict of an array is missing",
        |sale| sale.reply_to_array(&[2, 3, 9], &[2, 3]),
        "every_buyer_answered replies_match_records",
    ),
    (
        "a request of an array is answered by itself",
        |sale| {
            sale.reply_to_array(&[2, 3], &[2, 3]);
            sale.reply_again(2);
        },
        "no_stray_replies",
    ),
    (
        "two requests of an array are decided in the wrong order",
        |sale| {
            sale.turn(2, Code::SoldOut);
            sale.turn(3, Code::Reserved);
            sale.reply_to_array(&[2, 3], &[2, 3]);
        },
        "first_come_first_served",
    ),
    ("units do not add up", |sale| sale.row().stock = 4, "stock_conserved"),
    (
        "units were added on the quiet",
        |sale| (sale.row().stock, sale.row().available, sale.row().sold) = (1_003, 0, 1_000),
        "stock_conserved orders_match_stock",
    ),
    (
        "units are negative",
        |sale| (sale.row().available, sale.row().sold) = (-1, 1),
        "stock_conserved orders_match_stock",
    ),
    ("an item is gone", |sale| sale.database.items.clear(), "stock_conserved"),
    (
        // Both the order that has no verdict and the verdict that has no order; and with both, one unit too many.
        "an order has no reserved verdict",
        |sale| sale.order(2).request_id = sale.id(5),
        "never_oversold orders_match_verdicts",
    ),
    (
        "a reserved verdict has no order",
        |sale| drop(sale.database.orders.remove(0)),
        "orders_match_stock orders_match_verdicts",
    ),
    (
        "an order is for too much",
        |sale| sale.order(0).quantity = 2,
        "never_oversold orders_match_stock orders_match_verdicts",
    ),
    ("an order is another buyer's", |sale| sale.order(0).buyer = "buyer-1".into(), "orders_match_verdicts"),
    ("a buyer is told another's order", |sale| sale.name_order_of(0, 1), "orders_match_verdicts"),
    ("an order is paid, and its unit held", |sale| sale.state(0, "paid"), "orders_match_stock"),
    ("an order has a state of its own", |sale| sale.state(0, "lent"), "orders_match_stock"),
    (
        "paid orders count as sold and paying ones as held",
        |sale| {
            sale.state(0, "paid");
            sale.state(1, "paying");
            (sale.row().held, sale.row().sold) = (2, 1);
        },
        "",
    ),
    ("a message is in the queue `dead`", |sale| sale.dead_growth = 1, "nothing_dead"),
    (
        "somebody buys by another routing key",
        |sale| sale.jumper = Jumper::Told(Code::Reserved),
        "nobody_jumps_the_line",
    ),
    ("they get no answer", |sale| sale.jumper = Jumper::Unanswered, "nobody_jumps_the_line"),
    ("they are refused", |sale| sale.jumper = Jumper::Told(Code::WrongRoutingKey), ""),
    ("a worker did not drain", |sale| sale.endings[0].clean = false, "workers_drained"),
];

fn jump_the_queue(sale: &mut Evidence) {
    sale.turn(2, Code::SoldOut);
    sale.turn(8, Code::Reserved);
}

/// The ninth buyer is preferred to the third.
fn jump_by_http(sale: &mut Evidence, begins_ms: u64) {
    jump_the_queue(sale);
    by_http(sale, &[8], begins_ms);
}

/// Everybody asks by HTTP, these buyers after so long, all others at once; and each is told after 7 ms.
fn by_http(sale: &mut Evidence, late: &[usize], begins_ms: u64) {
    for (index, answer) in sale.answers.answers.iter_mut().enumerate() {
        let begun = Duration::from_millis(if late.contains(&index) { begins_ms } else { 0 });
        (answer.begun, answer.at) = (Some(begun), Duration::from_millis(7));
    }
}

#[test]
fn each_fault_of_a_sale_turns_its_invariants_red_and_no_other() {
    assert_red(Evidence::sale, FAULTS);
}

#[test]
fn every_invariant_has_a_fault_that_turns_it_red() {
    let faults = FAULTS.iter().chain(orders::FAULTS);
    let red: BTreeSet<&str> = faults.flat_map(|(_, _, red)| red.split_whitespace()).collect();
    let invariants = Audit::of(&Evidence::orders()).invariants;
    assert_eq!(red, invariants.iter().map(|invariant| invariant.name).collect());
}

#[test]
fn what_is_wrong_is_counted() {
    /// Lost, duplicate and conflicting replies, oversold, order inversions.
    type Counted = (fn(&mut Evidence), [u64; 5]);
    let counted = Audit::of(&Evidence::sale()).verdicts;
    assert_eq!(counted, VerdictCounts { reserved: 3, sold_out: 7, refused: 0, invalid: 0 });
    let counts: [Counted; 10] = [
        (|_| {}, [0, 0, 0, 0, 0]),
        (|sale| sale.never_send(9), [0, 0, 0, 0, 0]),
        (|sale| drop(sale.database.verdicts.remove(9)), [1, 0, 0, 0, 0]),
        (|sale| (sale.answers.answers[9].body, sale.answers.answers[9].replies) = (None, 0), [1, 0, 0, 0, 0]),
        (|sale| sale.reply_again(9), [0, 1, 0, 0, 0]),
        (|sale| sale.reply(&sale.id(9), "{}"), [0, 1, 1, 0, 0]),
        (|sale| sale.turn(3, Code::Reserved), [0, 0, 0, 1, 0]),
        (|sale| sale.tell(3, Code::Reserved), [0, 0, 0, 1, 0]),
        (jump_the_queue, [0, 0, 0, 0, 1]),
        (|sale| jump_by_http(sale, 7), [0, 0, 0, 0, 1]),
    ];
    for (number, (seed, expected)) in counts.into_iter().enumerate() {
        let mut sale = Evidence::sale();
        // A second reply to a request that was sent twice is no duplicate.
        sale.answers.sent(&[8]);
        sale.reply_again(8);
        seed(&mut sale);
        let Audit { lost, duplicate_replies, conflicting_replies, oversold, order_inversions, .. } = Audit::of(&sale);
        let counted = [lost, duplicate_replies, conflicting_replies, oversold, order_inversions];
        assert_eq!(counted, expected, "{number}");
    }
}

#[test]
fn offenders_are_counted_and_the_first_named() {
    let detail = |offenders: &[u32]| invariant("a", "kept", offenders).detail;
    assert_eq!((detail(&[]), detail(&[9])), ("kept".to_owned(), "1: 9".to_owned()));
    assert_eq!(detail(&[2, 3, 4, 5, 6]), "5: 2, 3, 4, 5, 6");
    assert_eq!(detail(&[2, 3, 4, 5, 6, 7, 8, 9]), "8: 2, 3, 4, 5, 6, …");
}

#[test]
fn a_small_request_may_be_accepted_after_a_large_one_was_refused() {
    let mut cases = 0;
    for seed in 0..20 {
        let scenario = Scenario { buyers: 200, stock: 50, quantities: 1..=9, seed, ..Scenario::default() };
        let sale = Evidence::sale_of(&scenario);
        assert_eq!(sale.red(), [""; 0]);
        let mut after_refused = sale.database.verdicts.iter().skip_while(|verdict| verdict.status == Status::Reserved);
        cases += u32::from(after_refused.any(|verdict| verdict.status == Status::Reserved));
    }
    assert!(cases > 0, "one of the seeds must show the case");
}

#[test]
fn without_a_database_only_the_replies_are_judged() {
    let audit = Audit::of(&Evidence { scope: Scope::Replies, ..Evidence::sale() });
    let names: Vec<&str> = audit.invariants.iter().map(|invariant| invariant.name).collect();
    assert!(audit.passed());
    let [first, second] =
        ["every_buyer_answered nobody_refused no_conflicting_replies no_stray_replies", "nothing_dead"];
    assert_eq!(names.join(" "), format!("{first} {second} nobody_jumps_the_line workers_drained"));
}

proptest! {
    #[test]
    fn whatever_the_sale_if_it_is_decided_in_order_it_passes(
        buyers in 1_u32..200, items in 1_u32..6, stock in 0_u64..300, most in 1_u32..6, seed in any::<u64>(),
    ) {
        let sale = Evidence::sale_of(&Scenario { buyers, items, stock, quantities: 1..=most, seed, ..Scenario::default() });
        prop_assert_eq!(sale.red(), vec![""; 0]);
    }

    #[test]
    fn whichever_two_buyers_swap_their_luck_it_is_found(lucky in 0_usize..3, unlucky in 3_usize..10) {
        let mut sale = Evidence::sale();
        sale.turn(lucky, Code::SoldOut);
        sale.turn(unlucky, Code::Reserved);
        prop_assert_eq!(sale.red(), vec!["first_come_first_served"]);
        prop_assert!(Audit::of(&sale).order_inversions >= 1);
    }
}
