//! A sale that was right, and what came of it: the tests break one thing and look.

use std::time::Duration;

use shared::devstack::gateway::{Bill, Ledger};
use shared::messages::{Code, Event, EventKind, EventOrder, Order, Verdict};
use shared::order::{Cause, State};
use shared::outbox::kind_of;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::answers::Answers;
use crate::audit::database_state::{
    DatabaseState, OrderHistory, RecordedItem, RecordedOrder, RecordedPayment, RecordedTransition, RecordedVerdict,
};
use crate::audit::{Audit, Ending, Evidence, OrdersEvidence};
use crate::orders::events::{Events, Received};
use crate::orders::follow_ups::{FollowUps, Sent};
use crate::orders::plan::{FollowUp, FollowUpKind, Plan};
use crate::schedule::{Scenario, Schedule};

const NOON: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

pub(super) struct Fixture {
    pub(super) schedule: Schedule,
    pub(super) answers: Answers,
    pub(super) database: DatabaseState,
    pub(super) dead_growth: i64,
    pub(super) endings: Vec<Ending>,
    /// Whether there is evidence of what happened after the verdicts.
    has_orders: bool,
    pub(super) follow_ups: FollowUps,
    pub(super) history: OrderHistory,
    pub(super) ledger: Ledger,
    pub(super) received: Vec<Received>,
}

impl Fixture {
    /// Ten buyers, one item, three units.
    pub(super) fn sale() -> Self {
        Self::sale_of(&Scenario { buyers: 10, items: 1, stock: 3, quantities: 1..=1, rate: 0.0, seed: 7 })
    }

    /// Decides every request one after the other, as a correct system would.
    pub(super) fn sale_of(scenario: &Scenario) -> Self {
        let mut sale = Self::undecided(scenario);
        for index in 0..sale.schedule.requests.len() {
            let due = sale.schedule.requests[index];
            let row = &mut sale.database.items[due.item as usize];
            let (quantity, version) = (i64::from(due.quantity), row.version);
            row.version += 1;
            if row.available < quantity {
                sale.decide(index, version, Code::SoldOut);
                continue;
            }
            (row.available, row.held) = (row.available - quantity, row.held + quantity);
            sale.decide(index, version, Code::Reserved);
            sale.order(index, State::Reserved);
        }
        sale
    }

    /// Six buyers and two units, and what became of them.
    ///
    /// The first buyer pays. The second cancels, so the fourth gets the unit and lets the hold run out; then the fifth gets
    /// it, whose payment is declined and whose hold runs out; then the sixth, who pays. The third was sold out.
    pub(super) fn orders() -> Self {
        let scenario = Scenario { buyers: 6, items: 1, stock: 2, quantities: 1..=1, rate: 0.0, seed: 7 };
        let mut sale = Self { has_orders: true, ..Self::undecided(&scenario) };
        let row = &mut sale.database.items[0];
        (row.available, row.sold, row.version) = (0, 2, 8);
        sale.buys(0, 0, State::Paid, 1);
        sale.buys(1, 0, State::Cancelled, 1);
        sale.decide(2, 1, Code::SoldOut);
        sale.asks(0, FollowUpKind::Pay, &[(Cause::PaymentBegun, 2), (Cause::PaymentCaptured, 3)], Code::Paid);
        sale.asks(1, FollowUpKind::Cancel, &[(Cause::Cancel, 4)], Code::Cancelled);
        sale.buys(3, 3, State::Expired, 5);
        sale.moves(3, Cause::HoldPassed, 6);
        sale.buys(4, 5, State::Expired, 7);
        sale.asks(4, FollowUpKind::Pay, &[(Cause::PaymentBegun, 8), (Cause::PaymentDeclined, 9)], Code::Declined);
        sale.moves(4, Cause::HoldPassed, 10);
        sale.buys(5, 7, State::Paid, 11);
        sale.asks(5, FollowUpKind::Pay, &[(Cause::PaymentBegun, 12), (Cause::PaymentCaptured, 13)], Code::Paid);
        sale
    }

    fn undecided(scenario: &Scenario) -> Self {
        let schedule = Schedule::new(scenario, "test");
        let items = schedule.items.iter().map(|item| {
            let stock = i64::try_from(item.stock).unwrap();
            RecordedItem { id: item.id.clone(), stock, available: stock, held: 0, sold: 0, version: 0, conflicts: 0 }
        });
        Self {
            database: DatabaseState { items: items.collect(), ..DatabaseState::default() },
            answers: Answers::to(&schedule.requests),
            dead_growth: 0,
            endings: vec![Ending { worker_id: "worker-1".into(), clean: true, how: "exit status: 0".into() }],
            has_orders: false,
            follow_ups: FollowUps::to(&schedule.requests, Plan::default()),
            history: OrderHistory::default(),
            ledger: Ledger::default(),
            received: Vec::new(),
            schedule,
        }
    }

    pub(super) fn audit(&self) -> Audit {
        let (follow_ups, ledger, history) = (&self.follow_ups, &self.ledger, &self.history);
        let orders = OrdersEvidence { follow_ups, ledger, events: &self.events(), history, is_over: true };
        Audit::of(&Evidence {
            database: Some(&self.database),
            orders: self.has_orders.then_some(orders),
            ..self.replies()
        })
    }

    /// What is known where no database takes part.
    pub(super) fn replies(&self) -> Evidence<'_> {
        Evidence {
            schedule: &self.schedule,
            answers: &self.answers,
            dead_growth: self.dead_growth,
            endings: &self.endings,
            database: None,
            orders: None,
        }
    }

    pub(super) fn events(&self) -> Events {
        Events::read(&self.received)
    }

    /// The invariants that do not hold.
    pub(super) fn red(&self) -> Vec<&'static str> {
        let invariants = self.audit().invariants;
        invariants.iter().filter(|invariant| !invariant.holds).map(|invariant| invariant.name).collect()
    }

    pub(super) fn id(&self, index: usize) -> String {
        self.schedule.requests[index].request_id.to_string()
    }

    pub(super) fn order_id(&self, index: usize) -> Uuid {
        Uuid::new_v5(&self.schedule.requests[index].request_id, b"order")
    }

    fn item(&self, index: usize) -> String {
        self.schedule.items[self.schedule.requests[index].item as usize].id.clone()
    }

    /// The verdict on a purchase.
    pub(super) fn reply(&self, index: usize, version: i64, code: Code) -> String {
        let quantity = self.schedule.requests[index].quantity;
        let order = Order { id: self.order_id(index), item: self.item(index), quantity, hold_until: NOON };
        let order = (code == Code::Reserved).then_some(order);
        let verdict = Verdict::decided(&self.id(index), code, "…", NOON);
        serde_json::to_string(&Verdict { order, item_version: Some(version), ..verdict }).unwrap()
    }

    /// Decides a request, in the reply and on record.
    fn decide(&mut self, index: usize, version: i64, code: Code) {
        let (request_id, item, status) = (self.id(index), self.item(index), code.status());
        let reply = self.reply(index, version, code);
        self.answers.sent(&[index]);
        self.answers.record(&request_id, "worker-1", reply.clone().into_bytes(), Duration::from_millis(1));
        self.database.verdicts.push(RecordedVerdict { request_id, item, status, reply });
    }

    /// Decides it otherwise than it was; its order and the stock stay as they are.
    pub(super) fn decide_again(&mut self, index: usize, version: i64, code: Code) {
        let id = self.id(index);
        self.database.verdicts.retain(|verdict| verdict.request_id != id);
        self.answers.answers[index].body = None;
        self.decide(index, version, code);
    }

    /// Decides it otherwise, with the order and the stock that belong to it.
    pub(super) fn turn(&mut self, index: usize, code: Code) {
        self.decide_again(index, 1, code);
        let id = self.id(index);
        self.database.orders.retain(|order| order.request_id != id);
        let units = match code == Code::Reserved {
            true => 1,
            false => -1,
        };
        if units > 0 {
            self.order(index, State::Reserved);
        }
        let row = &mut self.database.items[0];
        (row.available, row.held) = (row.available - units, row.held + units);
    }

    fn order(&mut self, index: usize, state: State) {
        let quantity = i64::from(self.schedule.requests[index].quantity);
        let (id, request_id, item) = (self.order_id(index), self.id(index), self.item(index));
        self.database.orders.push(RecordedOrder { id, request_id, item, quantity, state: state.as_str().into() });
    }

    pub(super) fn state(&mut self, index: usize) -> &mut String {
        let id = self.id(index);
        &mut self.database.orders.iter_mut().find(|order| order.request_id == id).unwrap().state
    }

    fn buys(&mut self, index: usize, version: i64, ends: State, number: u64) {
        self.decide(index, version, Code::Reserved);
        self.order(index, ends);
        self.publishes(index, EventKind::OrderReserved, number);
    }

    fn asks(&mut self, index: usize, kind: FollowUpKind, steps: &[(Cause, u64)], code: Code) {
        let request_id = FollowUp::request_id_of(self.schedule.requests[index].request_id);
        let follow_up = FollowUp { index, request_id, order_id: self.order_id(index), kind };
        self.follow_ups.sent[index] = Some(Sent { follow_up, at: Duration::ZERO });
        for (cause, number) in steps {
            self.moves(index, *cause, *number);
        }
        self.answer(index, code);
        if code == Code::Paid {
            self.charge(index);
        }
    }

    /// Answers a follow-up, in the reply and on record, whatever it was answered before.
    pub(super) fn answer(&mut self, index: usize, code: Code) {
        let id = self.follow_ups.sent[index].unwrap().follow_up.request_id.to_string();
        let reply = serde_json::to_string(&Verdict::decided(&id, code, "…", NOON)).unwrap();
        self.follow_ups.answers.answers[index].body = None;
        self.follow_ups.answers.record(&id, "payment-1", reply.clone().into_bytes(), Duration::ZERO);
        self.history.follow_up_replies.insert(id, reply);
    }

    /// The gateway charges for an order.
    pub(super) fn charge(&mut self, index: usize) {
        let (order_id, item) = (self.order_id(index), self.item(index));
        let bill = Bill { order_id: order_id.to_string(), item, quantity: 1, payment_method: "card".into() };
        let charge_id = Some(self.ledger.capture(&order_id.to_string(), bill).id.clone());
        self.history.payments.push(RecordedPayment { order_id, charge_id });
    }

    fn moves(&mut self, index: usize, cause: Cause, number: u64) {
        let (order_id, steps) = (self.order_id(index), &self.history.transitions);
        let from = steps.iter().rev().find(|step| step.order_id == order_id);
        let from = from.map_or(State::Reserved, |step| State::read(&step.to).unwrap());
        let request_id = FollowUp::request_id_of(self.schedule.requests[index].request_id).to_string();
        self.history.transitions.push(RecordedTransition {
            order_id,
            from: from.as_str().into(),
            to: from.after(cause).unwrap().as_str().into(),
            cause: cause.as_str().into(),
            request_id: (cause != Cause::HoldPassed).then_some(request_id),
        });
        self.publishes(index, kind_of(cause), number);
    }

    pub(super) fn publishes(&mut self, index: usize, kind: EventKind, number: u64) {
        let (id, request_id, buyer) = (self.order_id(index), self.id(index), Schedule::buyer(index));
        let order = Some(EventOrder { id, request_id, buyer, quantity: 1, hold_until: NOON });
        let (event_id, item) = (format!("{number}.{index}"), self.item(index));
        let (routing_key, event) =
            (kind.routing_key(&item), Event { event_id, event: kind, item, at: NOON, order, detail: None });
        let body = serde_json::to_vec(&event).unwrap();
        self.received.push(Received { routing_key, body, at: NOON, is_redelivered: false });
    }

    /// Where the event with this id arrived.
    pub(super) fn arrival(&self, id: &str) -> usize {
        let text = format!("\"{id}\"");
        self.received.iter().position(|one| String::from_utf8_lossy(&one.body).contains(&text)).unwrap()
    }

    /// Says something else in the event that arrived there.
    pub(super) fn rewrite(&mut self, arrival: usize, from: &str, to: &str) {
        let body = String::from_utf8(self.received[arrival].body.clone()).unwrap();
        assert!(body.contains(from), "{body}");
        self.received[arrival].body = body.replace(from, to).into_bytes();
    }
}
