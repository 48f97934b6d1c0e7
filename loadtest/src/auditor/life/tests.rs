//! Each kind of fault, seeded into lives that were right, turns exactly its own invariants red.

use std::time::Duration;

use shared::messages::{Code, Event, EventKind, EventOrder, Order, Status, Verdict};
use shared::order::{Cause, State};
use shared::outbox::kind_of;
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::answers::Answers;
use crate::auditor::{Audit, Ending, Facts};
use crate::facts::{Recorded, RecordedItem, RecordedVerdict};
use crate::life::facts::RecordedPayment;
use crate::life::ledger::{Bill, Ledger, Manners};
use crate::life::listener::Heard;
use crate::life::plan::{FollowUp, Plan, Share, Wish};
use crate::schedule::{Scenario, Schedule};

const NOON: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const KIND: Manners = Manners { decline: Share::NONE, failure: Share::NONE, seed: 1 };

/// Six buyers and two units, and what became of them; the tests break one thing and look.
///
/// The first buyer pays. The second cancels, so the fourth gets the unit and lets the hold run out; then the fifth gets it,
/// whose payment is declined and whose hold runs out; then the sixth, who pays. The third was sold out.
struct Story {
    schedule: Schedule,
    answers: Answers,
    follow_ups: FollowUps,
    recorded: Recorded,
    life: RecordedLife,
    ledger: Ledger,
    heard: Vec<Heard>,
}

impl Story {
    fn told() -> Self {
        let scenario = Scenario { buyers: 6, items: 1, stock: 2, quantities: 1..=1, rate: 0.0, seed: 7 };
        let schedule = Schedule::new(&scenario, "test");
        let id = schedule.items[0].id.clone();
        let row = RecordedItem { id, stock: 2, available: 0, held: 0, sold: 2, version: 8, conflicts: 0 };
        let (answers, follow_ups) =
            (Answers::to(&schedule.requests), FollowUps::to(&schedule.requests, Plan::default()));
        let recorded = Recorded { items: vec![row], ..Recorded::default() };
        let (life, ledger, heard) = (RecordedLife::default(), Ledger::default(), Vec::new());
        let mut story = Self { schedule, answers, follow_ups, recorded, life, ledger, heard };
        story.buys(0, 0, State::Paid, Some(1));
        story.buys(1, 0, State::Cancelled, Some(1));
        story.sold_out(2, 1);
        story.asks(0, Wish::Pay, &[(Cause::PaymentBegun, 2), (Cause::PaymentCaptured, 3)], Code::Paid);
        story.asks(1, Wish::Cancel, &[(Cause::Cancel, 4)], Code::Cancelled);
        story.buys(3, 3, State::Expired, Some(5));
        story.moves(3, Cause::HoldPassed, 6);
        story.buys(4, 5, State::Expired, Some(7));
        story.asks(4, Wish::Pay, &[(Cause::PaymentBegun, 8), (Cause::PaymentDeclined, 9)], Code::Declined);
        story.moves(4, Cause::HoldPassed, 10);
        story.buys(5, 7, State::Paid, Some(11));
        story.asks(5, Wish::Pay, &[(Cause::PaymentBegun, 12), (Cause::PaymentCaptured, 13)], Code::Paid);
        story
    }

    fn order(&self, index: usize) -> Uuid {
        Uuid::new_v5(&self.schedule.requests[index].request_id, b"order")
    }

    fn verdict(&mut self, index: usize, version: i64, code: Code) {
        let (request_id, item) = (self.schedule.requests[index].request_id.to_string(), self.item());
        let order = Order { id: self.order(index), item: item.clone(), quantity: 1, hold_until: NOON };
        let order = (code == Code::Reserved).then_some(order);
        let reply = reply(&request_id, code, order, Some(version));
        self.answers.sent(&[index]);
        self.answers.record(&request_id, "worker-1", reply.clone().into_bytes(), Duration::ZERO);
        self.recorded.verdicts.push(RecordedVerdict { request_id, item, status: code.status(), reply });
    }

    fn sold_out(&mut self, index: usize, version: i64) {
        self.verdict(index, version, Code::SoldOut);
    }

    fn buys(&mut self, index: usize, version: i64, ends: State, told: Option<u64>) {
        self.verdict(index, version, Code::Reserved);
        let (id, request_id) = (self.order(index), self.schedule.requests[index].request_id.to_string());
        let order = RecordedOrder { id, request_id, item: self.item(), quantity: 1, state: ends.as_str().into() };
        self.recorded.orders.push(order);
        if let Some(number) = told {
            self.tells(index, EventKind::OrderReserved, number);
        }
    }

    fn asks(&mut self, index: usize, wish: Wish, steps: &[(Cause, u64)], code: Code) {
        let request_id = FollowUp::request_id_of(self.schedule.requests[index].request_id);
        let follow_up = FollowUp { index, request_id, order_id: self.order(index), wish };
        self.follow_ups.asked[index] = Some(Asked { follow_up, at: Duration::ZERO });
        for (cause, number) in steps {
            self.moves(index, *cause, *number);
        }
        let reply = reply(&request_id.to_string(), code, None, None);
        self.follow_ups.answers.record(
            &request_id.to_string(),
            "payment-1",
            reply.clone().into_bytes(),
            Duration::ZERO,
        );
        self.life.follow_up_replies.insert(request_id.to_string(), reply);
        if code == Code::Paid {
            self.charge(&self.order(index).to_string());
        }
    }

    fn charge(&mut self, key: &str) {
        let bill = Bill { order_id: key.into(), item: self.item(), quantity: 1, payment_method: "card".into() };
        self.ledger.charge(key, bill, &KIND);
        let charge_id = Some(self.ledger.charges[key].id.clone());
        self.life.payments.push(RecordedPayment { order_id: key.parse().unwrap(), charge_id });
    }

    fn moves(&mut self, index: usize, cause: Cause, number: u64) {
        let (order_id, steps) = (self.order(index), &self.life.transitions);
        let from = steps.iter().rev().find(|step| step.order_id == order_id);
        let from = from.map_or(State::Reserved, |step| State::read(&step.to).unwrap());
        let request = FollowUp::request_id_of(self.schedule.requests[index].request_id).to_string();
        self.life.transitions.push(RecordedTransition {
            order_id,
            from: from.as_str().into(),
            to: from.after(cause).unwrap().as_str().into(),
            cause: cause.as_str().into(),
            request_id: (cause != Cause::HoldPassed).then_some(request),
        });
        self.tells(index, kind_of(cause), number);
    }

    fn tells(&mut self, index: usize, kind: EventKind, number: u64) {
        let (request_id, buyer) = (self.schedule.requests[index].request_id.to_string(), Schedule::buyer(index));
        let order = EventOrder { id: self.order(index), request_id, buyer, quantity: 1, hold_until: NOON };
        let (event_id, item) = (format!("{number}.{index}"), self.item());
        let event = Event { event_id, event: kind, item, at: NOON, order: Some(order), detail: None };
        let (routing_key, body) = (kind.routing_key(&event.item), serde_json::to_vec(&event).unwrap());
        self.heard.push(Heard { routing_key, body, at: NOON, is_redelivered: false });
    }

    fn item(&self) -> String {
        self.schedule.items[0].id.clone()
    }

    fn state(&mut self, index: usize) -> &mut String {
        &mut self
            .recorded
            .orders
            .iter_mut()
            .find(|order| order.request_id == self.schedule.requests[index].request_id.to_string())
            .unwrap()
            .state
    }

    fn broken(&self) -> Vec<&'static str> {
        let events = Events::read(&self.heard);
        let endings = [Ending { worker_id: "worker-1".into(), clean: true, how: "exit status: 0".into() }];
        let (follow_ups, ledger, recorded) = (&self.follow_ups, &self.ledger, &self.life);
        let life = LifeFacts { follow_ups, ledger, events: &events, recorded, is_over: true };
        let audit = Audit::of(&Facts {
            schedule: &self.schedule,
            answers: &self.answers,
            dead_growth: 0,
            endings: &endings,
            recorded: Some(&self.recorded),
            life: Some(life),
        });
        audit.invariants.iter().filter(|invariant| !invariant.holds).map(|invariant| invariant.name).collect()
    }

    /// Decides a request otherwise than it was, in the reply and on record; its order stays as it is.
    fn decide_again(&mut self, index: usize, version: i64, code: Code) {
        let id = self.schedule.requests[index].request_id.to_string();
        let at = self.recorded.verdicts.iter().position(|verdict| verdict.request_id == id).unwrap();
        self.recorded.verdicts.remove(at);
        self.answers.answers[index].body = None;
        self.verdict(index, version, code);
    }
}

fn reply(request_id: &str, code: Code, order: Option<Order>, item_version: Option<i64>) -> String {
    let verdict = Verdict {
        request_id: Some(request_id.into()),
        status: code.status(),
        code,
        message: "…".into(),
        order,
        item_version,
        decided_at: Some(NOON),
    };
    serde_json::to_string(&verdict).unwrap()
}

#[test]
fn lives_that_were_right_pass() {
    assert_eq!(Story::told().broken(), [""; 0]);
}

#[test]
fn a_hold_that_did_not_end_is_found() {
    let mut story = Story::told();
    let held = story.order(3);
    story.life.transitions.retain(|step| step.order_id != held);
    story.heard.retain(|heard| !heard.routing_key.starts_with("order.expired") || !mentions(heard, "6.3"));
    *story.state(3) = "reserved".into();
    story.recorded.items[0].held = 1;
    let broken = story.broken();
    assert!(broken.contains(&"every_hold_ended"), "{broken:?}");
    assert!(broken.contains(&"stock_conserved"), "a unit is there twice: {broken:?}");
}

fn mentions(heard: &Heard, text: &str) -> bool {
    String::from_utf8_lossy(&heard.body).contains(&format!("\"{text}\""))
}

#[test]
fn a_payment_that_was_left_halfway_is_found() {
    let mut story = Story::told();
    *story.state(5) = "paying".into();
    story.life.transitions.pop();
    story.heard.pop();
    story.ledger.refund(&story.order(5).to_string());
    (story.recorded.items[0].held, story.recorded.items[0].sold) = (1, 1);
    assert_eq!(story.broken(), ["every_hold_ended", "follow_ups_match_orders"]);
}

#[test]
fn an_order_that_ended_in_two_ways_is_found() {
    let mut story = Story::told();
    let mut again = story.life.transitions[0].clone();
    (again.from, again.to, again.cause) = ("reserved".into(), "expired".into(), "hold_passed".into());
    story.life.transitions.push(again);
    assert_eq!(story.broken(), ["orders_end_once", "history_is_legal", "events_equal_transitions"]);
}

#[test]
fn a_step_that_may_not_be_taken_is_found() {
    let mut story = Story::told();
    // Paid without having been paid for: the end is right, the way is not.
    let paid = story.order(0);
    story.life.transitions.retain(|step| step.cause != "payment_begun" || step.order_id != paid);
    story.heard.retain(|heard| !mentions(heard, "2.0"));
    assert_eq!(story.broken(), ["history_is_legal"]);
}

#[test]
fn a_state_without_a_step_is_found() {
    let mut story = Story::told();
    *story.state(3) = "cancelled".into();
    assert_eq!(story.broken(), ["history_is_legal", "follow_ups_match_orders"]);
}

#[test]
fn money_that_was_taken_for_no_paid_order_is_found() {
    let mut story = Story::told();
    let stranger = story.order(3).to_string();
    story.charge(&stranger);
    assert_eq!(story.broken(), ["charges_match_paid_orders"]);
    story.ledger.refund(&stranger);
    assert_eq!(story.broken(), [""; 0], "what went back was not taken");
}

#[test]
fn a_paid_order_without_its_money_is_found() {
    for spoil in [
        |story: &mut Story, key: &str| drop(story.ledger.charges.remove(key)),
        |story: &mut Story, key: &str| assert!(story.ledger.refund(key)),
        |story: &mut Story, key: &str| story.ledger.charges.get_mut(key).unwrap().bill.quantity = 2,
        |story: &mut Story, key: &str| story.ledger.charges.get_mut(key).unwrap().bill.item = "elsewhere".into(),
        |story: &mut Story, key: &str| story.ledger.charges.get_mut(key).unwrap().is_reused = true,
        |story: &mut Story, _: &str| story.life.payments[0].charge_id = Some("charge-9".into()),
    ] {
        let mut story = Story::told();
        let key = story.order(0).to_string();
        spoil(&mut story, &key);
        assert_eq!(story.broken(), ["charges_match_paid_orders"]);
    }
}

#[test]
fn a_follow_up_without_an_answer_is_found() {
    let mut story = Story::told();
    story.follow_ups.answers.answers[1].body = None;
    assert_eq!(story.broken(), ["every_follow_up_answered"]);
}

#[test]
fn a_second_answer_that_differs_is_found() {
    let mut story = Story::told();
    story.follow_ups.answers.answers[1].differing = 1;
    assert_eq!(story.broken(), ["no_conflicting_follow_ups"]);
}

#[test]
fn an_answer_that_is_not_the_recorded_one_is_found() {
    let mut story = Story::told();
    story.life.follow_up_replies.values_mut().next().unwrap().push(' ');
    assert_eq!(story.broken(), ["follow_ups_match_records"]);
    story.life.follow_up_replies.clear();
    assert_eq!(story.broken(), ["follow_ups_match_records"]);
}

#[test]
fn a_buyer_who_was_told_what_is_not_so_is_found() {
    for (index, code) in [
        (0, Code::Declined),
        (0, Code::AlreadyExpired),
        (0, Code::PaymentUnderWay),
        (1, Code::AlreadyExpired),
        (4, Code::Paid),
        (4, Code::AlreadyExpired),
    ] {
        let mut story = Story::told();
        let asked = story.follow_ups.asked[index].unwrap().follow_up;
        let reply = reply(&asked.request_id.to_string(), code, None, None);
        story.follow_ups.answers.answers[index].body = Some(reply.clone().into_bytes());
        story.life.follow_up_replies.insert(asked.request_id.to_string(), reply);
        let expected: &[&str] = match (index, code) {
            // It did expire in the end; that its payment was declined before says another row.
            (4, Code::AlreadyExpired) => &[],
            _ => &["follow_ups_match_orders"],
        };
        assert_eq!(story.broken(), expected, "{index} {code:?}");
    }
}

#[test]
fn an_order_that_was_paid_and_nobody_asked_for_it_is_found() {
    let mut story = Story::told();
    story.follow_ups.asked[5] = None;
    assert_eq!(story.broken(), ["follow_ups_match_orders"]);
}

#[test]
fn an_event_that_is_missing_is_found() {
    for (lost, also) in [("3.0", &[][..]), ("1.0", &[]), ("8.4", &[]), ("6.3", &["every_change_accounted"])] {
        let mut story = Story::told();
        story.heard.retain(|heard| !mentions(heard, lost));
        let expected: Vec<&str> = also.iter().copied().chain(["events_equal_transitions"]).collect();
        assert_eq!(story.broken(), expected, "{lost}");
    }
}

#[test]
fn an_event_of_nothing_that_happened_is_found() {
    let mut story = Story::told();
    story.tells(2, EventKind::OrderReserved, 20);
    assert_eq!(story.broken(), ["events_equal_transitions"]);
    let mut story = Story::told();
    story.tells(0, EventKind::OrderPaid, 20);
    assert_eq!(story.broken(), ["events_equal_transitions"], "told twice as two events");
}

#[test]
fn an_event_that_comes_again_is_no_fault() {
    let mut story = Story::told();
    let again = story.heard[0].clone();
    story.heard.push(again);
    assert_eq!(story.broken(), [""; 0]);
    assert_eq!(Events::read(&story.heard).duplicates, 1);
}

#[test]
fn an_event_that_says_something_else_than_the_order_is_found() {
    for (is, says) in [("buyer-0", "buyer-1"), ("\"quantity\":1", "\"quantity\":2")] {
        let mut story = Story::told();
        let body = String::from_utf8(story.heard[0].body.clone()).unwrap().replace(is, says);
        story.heard[0].body = body.into_bytes();
        assert_eq!(story.broken(), ["events_equal_transitions"], "{says}");
    }
}

#[test]
fn events_that_first_come_in_another_order_are_found() {
    let mut story = Story::told();
    let paying = story.heard.iter().position(|heard| mentions(heard, "2.0")).unwrap();
    story.heard.swap(paying, paying + 1);
    assert_eq!(story.broken(), ["events_in_order"], "of one order");
    let mut story = Story::told();
    let expired = story.heard.iter().position(|heard| mentions(heard, "6.3")).unwrap();
    story.heard.swap(expired, expired + 1);
    assert_eq!(story.broken(), ["events_in_order"], "of one item's stock");
}

#[test]
fn what_nobody_was_told_is_found() {
    let mut story = Story::told();
    story.life.untold = 1;
    assert_eq!(story.broken(), ["everything_told"]);
}

#[test]
fn a_unit_that_was_sold_before_it_came_back_is_found() {
    let mut story = Story::told();
    // The fourth buyer got the second one's unit one version before it was back.
    story.decide_again(3, 2, Code::Reserved);
    let number = |heard: &Heard, from: &str, to: &str| {
        let body = String::from_utf8(heard.body.clone()).unwrap().replace(from, to);
        Heard { body: body.into_bytes(), ..heard.clone() }
    };
    let returned = story.heard.iter().position(|heard| mentions(heard, "4.1")).unwrap();
    story.heard[returned] = number(&story.heard[returned], "\"4.1\"", "\"5.1\"");
    story.heard[returned + 1] = number(&story.heard[returned + 1], "\"5.3\"", "\"4.3\"");
    story.heard.swap(returned, returned + 1);
    assert_eq!(story.broken(), ["never_oversold"]);
}

#[test]
fn sold_out_while_a_unit_is_back_is_found() {
    let mut story = Story::told();
    // The third buyer was decided after the second one's unit had come back, and before the fourth got it.
    story.decide_again(2, 2, Code::SoldOut);
    let mut broken = story.broken();
    assert_eq!(broken.pop(), Some("no_false_sold_out"));
    assert_eq!(broken, [""; 0]);
}

#[test]
fn a_buyer_who_was_decided_before_an_earlier_one_is_found() {
    let mut story = Story::told();
    // The third buyer came before the sixth, and was decided after, when nothing was left.
    story.decide_again(2, 8, Code::SoldOut);
    for (index, version) in [(3, 2), (4, 4), (5, 6)] {
        story.decide_again(index, version, Code::Reserved);
    }
    story.recorded.items[0].version = 9;
    let broken = story.broken();
    assert!(broken.contains(&"every_change_accounted"), "{broken:?}");
    story.recorded.items[0].version = 8;
    for (index, version) in [(2, 7), (3, 2), (4, 4), (5, 6)] {
        let code = if index == 2 { Code::SoldOut } else { Code::Reserved };
        story.decide_again(index, version, code);
    }
    // Versions 1, 3 and 5 are those of the three returns now.
    assert_eq!(story.broken(), ["first_come_first_served"]);
}

#[test]
fn a_change_of_the_stock_that_nobody_made_is_found() {
    let mut story = Story::told();
    story.recorded.items[0].version = 9;
    assert_eq!(story.broken(), ["every_change_accounted"]);
    let mut story = Story::told();
    story.recorded.verdicts[3].status = Status::SoldOut;
    assert!(story.broken().contains(&"every_change_accounted"), "the units at the end are not those of the replay");
}
