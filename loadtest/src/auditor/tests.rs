//! Each kind of fault, seeded into a sale that was right, turns exactly its own invariants red.

use std::time::Duration;

use proptest::prelude::*;
use shared::messages::{Code, Order, Status, Verdict};
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::facts::RecordedItem;
use crate::schedule::Scenario;

/// A sale and what came of it; the tests break one thing and look.
struct Sale {
    schedule: Schedule,
    answers: Answers,
    recorded: Recorded,
    dead_growth: i64,
    endings: Vec<Ending>,
}

impl Sale {
    /// Decides every request one after the other, as a correct system would.
    fn correct(scenario: &Scenario) -> Self {
        let schedule = Schedule::new(scenario, "test");
        let mut answers = Answers::to(&schedule.requests);
        let mut recorded = Recorded::default();
        for item in &schedule.items {
            let stock = i64::try_from(item.stock).unwrap();
            let id = item.id.clone();
            recorded.items.push(RecordedItem {
                id,
                stock,
                available: stock,
                held: 0,
                sold: 0,
                version: 0,
                conflicts: 0,
            });
        }
        for (index, due) in schedule.requests.iter().enumerate() {
            let row = &mut recorded.items[due.item as usize];
            let quantity = i64::from(due.quantity);
            let reserved = row.available >= quantity;
            if reserved {
                (row.available, row.held) = (row.available - quantity, row.held + quantity);
            }
            row.version += 1;
            let (request_id, item) = (due.request_id.to_string(), row.id.clone());
            let reply = reply(&request_id, &item, due.quantity, reserved);
            answers.sent(&[index]);
            answers.record(&request_id, "worker-1", reply.clone().into_bytes(), Duration::from_millis(1));
            if reserved {
                let (request_id, item) = (request_id.clone(), item.clone());
                recorded.orders.push(RecordedOrder {
                    id: Uuid::now_v7(),
                    request_id,
                    item,
                    quantity,
                    state: "reserved".into(),
                });
            }
            let status = if reserved { Status::Reserved } else { Status::SoldOut };
            recorded.verdicts.push(RecordedVerdict { request_id, item, status, reply });
        }
        let endings = vec![Ending { worker_id: "worker-1".into(), clean: true, how: "exit status: 0".into() }];
        Self { schedule, answers, recorded, dead_growth: 0, endings }
    }

    /// Ten buyers, one item, three units.
    fn small() -> Self {
        Self::correct(&Scenario { buyers: 10, items: 1, stock: 3, quantities: 1..=1, rate: 0.0, seed: 7 })
    }

    fn audit(&self) -> Audit {
        Audit::of(&Facts {
            schedule: &self.schedule,
            answers: &self.answers,
            dead_growth: self.dead_growth,
            endings: &self.endings,
            recorded: Some(&self.recorded),
            life: None,
        })
    }

    fn broken(&self) -> Vec<&'static str> {
        let audit = self.audit();
        audit.invariants.iter().filter(|invariant| !invariant.holds).map(|invariant| invariant.name).collect()
    }

    fn id(&self, index: usize) -> String {
        self.schedule.requests[index].request_id.to_string()
    }

    /// Turns a request's verdict, in the record, in the reply and in the order and stock that belong to it.
    fn turn(&mut self, index: usize, reserved: bool) {
        let (request_id, item) = (self.id(index), self.schedule.items[0].id.clone());
        let reply = reply(&request_id, &item, 1, reserved);
        self.answers.answers[index].body = Some(reply.clone().into_bytes());
        let verdict = &mut self.recorded.verdicts[index];
        verdict.status = if reserved { Status::Reserved } else { Status::SoldOut };
        verdict.reply = reply;
        self.recorded.orders.retain(|order| order.request_id != request_id);
        if reserved {
            self.recorded.orders.push(RecordedOrder {
                id: Uuid::now_v7(),
                request_id,
                item,
                quantity: 1,
                state: "reserved".into(),
            });
        }
        let (row, units) = (&mut self.recorded.items[0], if reserved { 1 } else { -1 });
        (row.available, row.held) = (row.available - units, row.held + units);
    }
}

fn reply(request_id: &str, item: &str, quantity: u32, reserved: bool) -> String {
    let code = if reserved { Code::Reserved } else { Code::SoldOut };
    let order = Order { id: Uuid::nil(), item: item.into(), quantity, hold_until: OffsetDateTime::UNIX_EPOCH };
    let verdict = Verdict {
        request_id: Some(request_id.into()),
        status: code.status(),
        code,
        message: "…".into(),
        order: reserved.then_some(order),
        item_version: Some(1),
        decided_at: Some(OffsetDateTime::UNIX_EPOCH),
    };
    serde_json::to_string(&verdict).unwrap()
}

#[test]
fn a_correct_sale_passes() {
    let audit = Sale::small().audit();
    assert!(audit.passed(), "{:#?}", audit.invariants);
    assert_eq!(audit.verdicts, VerdictCounts { reserved: 3, sold_out: 7, refused: 0, invalid: 0 });
    assert_eq!((audit.lost, audit.duplicate_replies, audit.conflicting_replies), (0, 0, 0));
    assert_eq!((audit.oversold, audit.order_inversions), (0, 0));
}

#[test]
fn a_unit_that_is_sold_twice_is_found() {
    let mut sale = Sale::small();
    sale.turn(3, true);
    assert_eq!(sale.broken(), ["never_oversold", "stock_conserved"]);
    assert_eq!(sale.audit().oversold, 1);
}

#[test]
fn a_buyer_who_was_promised_a_unit_beyond_the_stock_is_found_without_any_record() {
    let mut sale = Sale::small();
    let told = reply(&sale.id(3), &sale.schedule.items[0].id, 1, true);
    sale.answers.answers[3].body = Some(told.into_bytes());
    assert_eq!(sale.broken(), ["never_oversold", "replies_match_records"]);
    assert_eq!(sale.audit().oversold, 1);
}

#[test]
fn a_request_without_a_record_is_lost() {
    let mut sale = Sale::small();
    sale.recorded.verdicts.remove(9);
    assert_eq!(sale.broken(), ["every_request_recorded"]);
    assert_eq!(sale.audit().lost, 1);
}

#[test]
fn a_verdict_on_another_item_than_asked_for_is_found() {
    let mut sale = Sale::small();
    sale.recorded.verdicts[9].item = "elsewhere".into();
    assert_eq!(sale.broken(), ["every_request_recorded"]);
}

#[test]
fn a_buyer_without_a_reply_is_lost() {
    let mut sale = Sale::small();
    (sale.answers.answers[9].body, sale.answers.answers[9].replies) = (None, 0);
    assert_eq!(sale.broken(), ["every_buyer_answered"]);
    assert_eq!(sale.audit().lost, 1);
}

#[test]
fn a_reply_that_is_no_verdict_is_no_answer() {
    let mut sale = Sale::small();
    sale.answers.answers[9].body = Some(b"hello".to_vec());
    assert_eq!(sale.broken(), ["every_buyer_answered", "replies_match_records"]);
}

#[test]
fn a_broken_invariant_names_the_offender() {
    let mut sale = Sale::small();
    sale.recorded.verdicts.remove(9);
    let audit = sale.audit();
    let broken = audit.invariants.iter().find(|invariant| !invariant.holds).unwrap();
    assert_eq!(broken.detail, format!("1: {}", sale.id(9)));
}

#[test]
fn many_offenders_are_counted_and_the_first_named() {
    let mut sale = Sale::small();
    sale.recorded.verdicts.drain(2..);
    let audit = sale.audit();
    let broken = audit.invariants.iter().find(|invariant| invariant.name == "every_request_recorded").unwrap();
    let first: Vec<String> = (2..7).map(|index| sale.id(index)).collect();
    assert_eq!(broken.detail, format!("8: {}, …", first.join(", ")));
}

#[test]
fn a_verdict_that_nobody_asked_for_is_unknown() {
    let mut sale = Sale::small();
    let extra = RecordedVerdict { request_id: "stranger".into(), ..sale.recorded.verdicts[9].clone() };
    sale.recorded.verdicts.push(extra);
    assert_eq!(sale.broken(), ["nothing_unknown"]);
}

#[test]
fn an_order_that_nobody_asked_for_is_unknown() {
    let mut sale = Sale::small();
    sale.recorded.orders[0].request_id = "stranger".into();
    assert_eq!(sale.broken(), ["nothing_unknown", "orders_match_verdicts"]);
}

#[test]
fn a_reply_to_nobody_is_found() {
    let mut sale = Sale::small();
    sale.answers.record("stranger", "worker-1", b"{}".to_vec(), Duration::ZERO);
    assert_eq!(sale.broken(), ["no_stray_replies"]);
}

#[test]
fn a_second_reply_that_differs_is_a_conflict() {
    let mut sale = Sale::small();
    let other = reply(&sale.id(9), &sale.schedule.items[0].id, 1, true);
    sale.answers.record(&sale.id(9), "worker-1", other.into_bytes(), Duration::ZERO);
    assert_eq!(sale.broken(), ["no_conflicting_replies"]);
    assert_eq!(sale.audit().conflicting_replies, 1);
}

#[test]
fn an_identical_second_reply_is_counted_and_allowed() {
    let mut sale = Sale::small();
    let again = sale.answers.answers[9].body.clone().unwrap();
    sale.answers.record(&sale.id(9), "worker-1", again, Duration::ZERO);
    assert_eq!(sale.broken(), [""; 0]);
    assert_eq!(sale.audit().duplicate_replies, 1);
}

#[test]
fn a_second_reply_to_a_request_that_was_sent_twice_is_no_duplicate() {
    let mut sale = Sale::small();
    let again = sale.answers.answers[9].body.clone().unwrap();
    sale.answers.sent(&[9]);
    sale.answers.record(&sale.id(9), "worker-1", again, Duration::ZERO);
    assert_eq!(sale.audit().duplicate_replies, 0);
}

#[test]
fn a_reply_that_differs_from_the_record_by_one_byte_is_found() {
    let mut sale = Sale::small();
    sale.recorded.verdicts[9].reply.push(' ');
    assert_eq!(sale.broken(), ["replies_match_records"]);
}

#[test]
fn a_record_whose_status_contradicts_its_reply_is_found() {
    let mut sale = Sale::small();
    sale.recorded.verdicts[9].status = Status::Refused;
    assert_eq!(sale.broken(), ["replies_match_records"]);
}

#[test]
fn sold_out_while_a_unit_is_left_is_found() {
    let mut sale = Sale::small();
    sale.turn(2, false);
    // Whoever came after the third buyer was sent away as well, although a unit was left.
    assert_eq!(sale.broken(), ["no_false_sold_out"]);
}

#[test]
fn a_small_request_may_be_accepted_after_a_large_one_was_refused() {
    let mut cases = 0;
    for seed in 0..20 {
        let sale = Sale::correct(&Scenario { buyers: 200, items: 1, stock: 50, quantities: 1..=9, rate: 0.0, seed });
        assert_eq!(sale.broken(), [""; 0]);
        let mut after_refused = sale.recorded.verdicts.iter().skip_while(|verdict| verdict.status == Status::Reserved);
        cases += u32::from(after_refused.any(|verdict| verdict.status == Status::Reserved));
    }
    assert!(cases > 0, "one of the seeds must show the case");
}

#[test]
fn a_buyer_who_jumps_the_queue_is_found() {
    let mut sale = Sale::small();
    sale.turn(2, false);
    sale.turn(8, true);
    assert_eq!(sale.broken(), ["first_come_first_served"]);
    assert_eq!(sale.audit().order_inversions, 1);
}

#[test]
fn units_that_do_not_add_up_are_found() {
    let mut sale = Sale::small();
    sale.recorded.items[0].stock = 4;
    assert_eq!(sale.broken(), ["stock_conserved"]);
}

#[test]
fn units_that_were_added_on_the_quiet_are_found() {
    let mut sale = Sale::small();
    (sale.recorded.items[0].stock, sale.recorded.items[0].available) = (1_003, 0);
    sale.recorded.items[0].sold = 1_000;
    assert_eq!(sale.broken(), ["stock_conserved", "orders_match_stock"]);
}

#[test]
fn negative_units_are_found_even_if_they_add_up() {
    let mut sale = Sale::small();
    (sale.recorded.items[0].available, sale.recorded.items[0].sold) = (-1, 1);
    assert_eq!(sale.broken(), ["stock_conserved", "orders_match_stock"]);
}

#[test]
fn an_item_that_is_gone_is_found() {
    let mut sale = Sale::small();
    sale.recorded.items.clear();
    assert_eq!(sale.broken(), ["stock_conserved"]);
}

#[test]
fn an_order_without_a_reserved_verdict_is_found() {
    let mut sale = Sale::small();
    sale.recorded.orders[2].request_id = sale.id(5);
    // Both the order that has no verdict and the verdict that has no order; and with both, one unit too many.
    assert_eq!(sale.broken(), ["never_oversold", "orders_match_verdicts"]);
}

#[test]
fn a_reserved_verdict_without_an_order_is_found() {
    let mut sale = Sale::small();
    sale.recorded.orders.remove(0);
    assert_eq!(sale.broken(), ["orders_match_stock", "orders_match_verdicts"]);
}

#[test]
fn an_order_for_more_than_was_asked_is_found() {
    let mut sale = Sale::small();
    sale.recorded.orders[0].quantity = 2;
    assert_eq!(sale.broken(), ["never_oversold", "orders_match_stock", "orders_match_verdicts"]);
}

#[test]
fn paid_orders_count_as_sold_and_paying_ones_as_held() {
    let mut sale = Sale::small();
    sale.recorded.orders[0].state = "paid".into();
    assert_eq!(sale.broken(), ["orders_match_stock"]);
    (sale.recorded.items[0].held, sale.recorded.items[0].sold) = (2, 1);
    sale.recorded.orders[1].state = "paying".into();
    assert_eq!(sale.broken(), [""; 0]);
}

#[test]
fn a_message_in_the_dead_letter_queue_is_found() {
    let mut sale = Sale::small();
    sale.dead_growth = 1;
    assert_eq!(sale.broken(), ["nothing_dead"]);
}

#[test]
fn a_worker_that_did_not_drain_is_found() {
    let mut sale = Sale::small();
    sale.endings[0] = Ending { worker_id: "worker-1".into(), clean: false, how: "exit status: 101".into() };
    assert_eq!(sale.broken(), ["workers_drained"]);
}

#[test]
fn without_a_database_only_the_replies_are_judged() {
    let sale = Sale::small();
    let facts = Facts {
        schedule: &sale.schedule,
        answers: &sale.answers,
        dead_growth: 0,
        endings: &sale.endings,
        recorded: None,
        life: None,
    };
    let audit = Audit::of(&facts);
    let names: Vec<&str> = audit.invariants.iter().map(|invariant| invariant.name).collect();
    let expected =
        ["every_buyer_answered", "no_conflicting_replies", "no_stray_replies", "nothing_dead", "workers_drained"];
    assert!(audit.passed());
    assert_eq!(names, expected);
}

proptest! {
    #[test]
    fn whatever_the_sale_if_it_is_decided_in_order_it_passes(
        buyers in 1_u32..200, items in 1_u32..6, stock in 0_u64..300, most in 1_u32..6, seed in any::<u64>(),
    ) {
        let sale = Sale::correct(&Scenario { buyers, items, stock, quantities: 1..=most, rate: 0.0, seed });
        prop_assert_eq!(sale.broken(), vec![""; 0]);
    }

    #[test]
    fn whichever_two_buyers_swap_their_luck_it_is_found(lucky in 0_usize..3, unlucky in 3_usize..10) {
        let mut sale = Sale::small();
        sale.turn(lucky, false);
        sale.turn(unlucky, true);
        prop_assert_eq!(sale.broken(), vec!["first_come_first_served"]);
        prop_assert!(sale.audit().order_inversions >= 1);
    }
}
