//! A sale that was right, and what came of it: the tests break one thing and look.

use crate::answers::{Answer, Answers};
use crate::audit::database_state::{DatabaseState, RecordedItem, RecordedOrder, RecordedTransition, RecordedVerdict};
use crate::audit::{Audit, Ending, Evidence, Scope};
use crate::orders::events::PublishedEvent;
use crate::orders::follow_ups::FollowUps;
use crate::orders::plan::{FollowUp, FollowUpKind, Plan, card_of};
use crate::result::DoorsReport;
use crate::schedule::{Scenario, Schedule};
use shared::devstack::gateway::{Bill, Charge};
use shared::messages::{Code, Event, EventKind, EventOrder, Order, Verdict};
use shared::order::{Cause, State};
use shared::outbox::kind_of;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

const NOON: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

impl Evidence {
    /// Ten buyers, one item, three units.
    pub(super) fn sale() -> Self {
        Self::sale_of(&Scenario { buyers: 10, stock: 3, seed: 7, ..Scenario::default() })
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
            sale.add_order(index, State::Reserved);
        }
        sale
    }

    /// Six buyers and two units, and what became of them.
    ///
    /// The first buyer pays. The second cancels, so the fourth gets the unit and lets the hold run out; then the fifth gets
    /// it, whose payment is declined and whose hold runs out; then the sixth, who pays. The third was sold out.
    pub(super) fn orders() -> Self {
        let scenario = Scenario { buyers: 6, stock: 2, seed: 7, ..Scenario::default() };
        let mut sale = Self::undecided(&scenario);
        (sale.scope, sale.doors) = (Scope::Orders, Some(DoorsReport::default()));
        sale.follow_ups = FollowUps::to(&sale.schedule.requests, Plan { hold_ms: Some(1), ..Plan::default() });
        let row = sale.row();
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
            scope: Scope::Records,
            database: DatabaseState { items: items.collect(), ..DatabaseState::default() },
            answers: Answers::to(&schedule.requests),
            endings: vec![Ending { worker_id: "worker-1".into(), clean: true, how: "exit status: 0".into() }],
            schedule: schedule.into(),
            ..Self::default()
        }
    }

    /// The invariants that do not hold.
    pub(super) fn red(&self) -> Vec<&'static str> {
        Audit::of(self).broken().map(|invariant| invariant.name).collect()
    }

    /// The only item.
    pub(super) fn row(&mut self) -> &mut RecordedItem {
        &mut self.database.items[0]
    }

    pub(super) fn order(&mut self, index: usize) -> &mut RecordedOrder {
        let id = self.id(index);
        self.database.orders.iter_mut().find(|order| order.request_id == id).unwrap()
    }

    pub(super) fn state(&mut self, index: usize, state: &str) {
        self.order(index).state = state.to_owned();
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
    fn verdict(&self, index: usize, version: i64, code: Code) -> String {
        let quantity = self.schedule.requests[index].quantity;
        let order = Order { id: self.order_id(index), item: self.item(index), quantity, hold_until: NOON };
        let order = (code == Code::Reserved).then_some(order);
        let verdict = Verdict::decided(&self.id(index), code, "…", NOON);
        serde_json::to_string(&Verdict { order, item_version: Some(version), ..verdict }).unwrap()
    }

    /// A reply comes, the first or another one.
    pub(super) fn reply(&mut self, correlation_id: &str, body: impl AsRef<[u8]>) {
        self.answers.record(correlation_id, "worker-1", body.as_ref(), Duration::from_millis(1));
    }

    /// These came in one array, and what they were told is told anew: as an array, with the verdict on each at the place of one
    /// of them.
    pub(super) fn reply_to_array(&mut self, requests: &[usize], told: &[usize]) {
        let body = |&index: &usize| String::from_utf8(self.answers.answers[index].body.clone().unwrap()).unwrap();
        let array = format!("[{}]", told.iter().map(body).collect::<Vec<_>>().join(","));
        for &index in requests {
            self.answers.answers[index] = Answer::default();
        }
        let correlation_id = self.answers.sent_as_array(requests.to_vec());
        self.reply(&correlation_id, array);
    }

    pub(super) fn reply_again(&mut self, index: usize) {
        let again = self.answers.answers[index].body.clone().unwrap();
        self.reply(&self.id(index), again);
    }

    /// The time was over before a buyer was due.
    pub(super) fn never_send(&mut self, index: usize) {
        let id = self.id(index);
        self.answers.answers[index] = Answer::default();
        self.database.verdicts.retain(|verdict| verdict.request_id != id);
    }

    /// A buyer is told something else than is on record.
    pub(super) fn tell(&mut self, index: usize, code: Code) {
        self.answers.answers[index].body = Some(self.verdict(index, 1, code).into_bytes());
    }

    /// Decides a request, in the reply and on record; its order and the stock stay as they are.
    pub(super) fn decide(&mut self, index: usize, version: i64, code: Code) {
        let (request_id, item, status) = (self.id(index), self.item(index), code.status());
        let reply = self.verdict(index, version, code);
        self.answers.answers[index].body = None;
        self.answers.sent(&[index]);
        self.reply(&request_id, reply.clone());
        self.database.verdicts.retain(|verdict| verdict.request_id != request_id);
        self.database.verdicts.push(RecordedVerdict { request_id, item, status, reply });
    }

    /// Buyers who were decided ask for more than they did.
    pub(super) fn asks_for(&mut self, index: usize, quantity: u32) {
        Arc::get_mut(&mut self.schedule).unwrap().requests[index].quantity = quantity;
    }

    /// A verdict, in the reply and on record, names the order of another.
    pub(super) fn name_order_of(&mut self, index: usize, of: usize) {
        let [own, others] = [index, of].map(|index| self.order_id(index).to_string());
        let recorded = self.database.verdicts.iter_mut().find(|verdict| verdict.reply.contains(&own)).unwrap();
        recorded.reply = recorded.reply.replace(&own, &others);
        self.answers.answers[index].body = Some(recorded.reply.clone().into_bytes());
    }

    /// Decides it otherwise, with the order and the stock that belong to it.
    pub(super) fn turn(&mut self, index: usize, code: Code) {
        self.decide(index, 1, code);
        let id = self.id(index);
        self.database.orders.retain(|order| order.request_id != id);
        let units = if code == Code::Reserved { 1 } else { -1 };
        if units > 0 {
            self.add_order(index, State::Reserved);
        }
        let row = self.row();
        (row.available, row.held) = (row.available - units, row.held + units);
    }

    fn add_order(&mut self, index: usize, state: State) {
        let quantity = i64::from(self.schedule.requests[index].quantity);
        let (id, request_id, item) = (self.order_id(index), self.id(index), self.item(index));
        let (buyer, state) = (Schedule::buyer(index), state.as_str().to_owned());
        self.database.orders.push(RecordedOrder { id, request_id, item, buyer, quantity, state });
    }

    fn buys(&mut self, index: usize, version: i64, ends: State, number: u64) {
        self.decide(index, version, Code::Reserved);
        self.add_order(index, ends);
        self.publish(index, EventKind::OrderReserved, number);
    }

    fn asks(&mut self, index: usize, kind: FollowUpKind, steps: &[(Cause, u64)], code: Code) {
        let request_id = FollowUp::request_id_of(self.schedule.requests[index].request_id);
        let follow_up = FollowUp { index, request_id, order_id: self.order_id(index), kind, at: Duration::ZERO };
        self.follow_ups.sent[index] = Some(follow_up);
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
        let id = self.follow_ups.sent[index].unwrap().request_id.to_string();
        let reply = serde_json::to_string(&Verdict::decided(&id, code, "…", NOON)).unwrap();
        self.follow_ups.answers.answers[index].body = None;
        self.follow_ups.answers.record(&id, "payment-1", reply.as_bytes(), Duration::ZERO);
        self.database.follow_up_replies.insert(id, reply);
    }

    /// The gateway charges for an order.
    pub(super) fn charge(&mut self, index: usize) -> &mut Charge {
        let (order_id, item) = (self.order_id(index), self.item(index));
        let bill = Bill {
            order_id: order_id.to_string(),
            item,
            quantity: 1,
            payment_method: card_of(&Schedule::buyer(index)),
        };
        let id = self.ledger.capture(&order_id.to_string(), bill).id.clone();
        self.database.charge_ids.insert(order_id, Some(id));
        self.ledger.charges.get_mut(&order_id.to_string()).unwrap()
    }

    pub(super) fn refund(&mut self, index: usize) {
        let key = self.order_id(index).to_string();
        assert!(self.ledger.refund(&key));
    }

    fn moves(&mut self, index: usize, cause: Cause, number: u64) {
        let order_id = self.order_id(index);
        let request_id = FollowUp::request_id_of(self.schedule.requests[index].request_id).to_string();
        let steps = &mut self.database.transitions;
        let from = steps.iter().rev().find(|step| step.order_id == order_id);
        let from = from.map_or(State::Reserved, |step| State::read(&step.to).unwrap());
        steps.push(RecordedTransition {
            order_id,
            from: from.as_str().into(),
            to: from.after(cause).unwrap().as_str().into(),
            cause: cause.as_str().into(),
            is_in_time: true,
            request_id: (cause != Cause::HoldPassed).then_some(request_id),
        });
        self.publish(index, kind_of(cause), number);
    }

    /// What is on record of an order's way.
    pub(super) fn forget_steps(&mut self, index: usize, are_these: fn(&RecordedTransition) -> bool) {
        let order = self.order_id(index);
        self.database.transitions.retain(|step| step.order_id != order || !are_these(step));
    }

    pub(super) fn publish(&mut self, index: usize, event: EventKind, number: u64) {
        let (id, request_id, buyer) = (self.order_id(index), self.id(index), Schedule::buyer(index));
        let order = Some(EventOrder { id, request_id, buyer, quantity: 1, hold_until: NOON });
        let (event_id, item) = (format!("{number}.{index}.0"), self.item(index));
        let event = Event { event_id, event, item, at: NOON, order, detail: None };
        self.events.published.push(PublishedEvent { number: (number, index as u64), event, at: NOON });
    }

    /// Where the event with this number arrived; no two of `orders` have one but the first.
    pub(super) fn arrival(&mut self, number: u64) -> usize {
        self.events.published.iter().position(|one| one.number.0 == number).unwrap()
    }

    pub(super) fn lose(&mut self, number: u64) {
        let arrival = self.arrival(number);
        self.events.published.remove(arrival);
    }

    pub(super) fn swap_with_next(&mut self, number: u64) {
        let arrival = self.arrival(number);
        self.events.published.swap(arrival, arrival + 1);
    }

    /// The first event's order.
    pub(super) fn published(&mut self) -> &mut EventOrder {
        self.events.published[0].event.order.as_mut().unwrap()
    }
}
