//! The decisions on data made up here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

use super::*;
use proptest::prelude::*;
use proptest::sample::select;
use shared::idempotency::Recorded;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

const NOW: OffsetDateTime = datetime!(2026-11-27 10:00 UTC);

fn request(id: u128, order_id: Uuid, method: &str) -> PaymentRequest {
    PaymentRequest { request_id: format!("p-{id}"), order_id, payment_method: method.to_owned(), sender: None }
}

/// Ids, orders and methods are few, so that they clash.
fn requests() -> impl Strategy<Value = Vec<PaymentRequest>> {
    let request = (0..5_u128, 0..4_u128, select(&["card", "empty"][..]))
        .prop_map(|(id, order, method)| request(id, Uuid::from_u128(order), method));
    prop::collection::vec(request, 0..12)
}

/// What the database says; without borrowing from requests. There are the orders 0 to 2, and no order 3. Some are held no
/// longer, and nobody has ended them yet; those that are being paid for have payments under way, each by a request of its own.
#[derive(Debug, Clone)]
struct Database {
    orders: HashMap<Uuid, Order>,
    payments: HashMap<Uuid, Payment>,
    recorded: HashMap<String, Recorded>,
}

fn database() -> impl Strategy<Value = Database> {
    let order =
        (select(&State::ALL[..]), 1..5_i64, prop::bool::weighted(0.8)).prop_map(|(state, quantity, is_held)| {
            let left = if is_held { time::Duration::HOUR } else { time::Duration::ZERO };
            Order {
                id: Uuid::nil(),
                state,
                item: format!("i-{}", quantity % 2),
                quantity,
                hold_until: NOW + left,
                sender: String::new(),
            }
        });
    prop::collection::vec(order, 3).prop_map(|orders| {
        let orders: HashMap<_, _> = (0_u128..).map(Uuid::from_u128).zip(orders).collect();
        let paying = orders.iter().filter(|(_, order)| order.state == State::Paying);
        let payment = |(id, _): (&Uuid, &Order)| (*id, Payment::of(&request(id.as_u128(), *id, "card")));
        Database { payments: paying.map(payment).collect(), orders, recorded: HashMap::new() }
    })
}

impl Database {
    fn read<'a>(&self) -> Snapshot<'a> {
        let verdicts = Verdicts::at(NOW, self.recorded.clone());
        Snapshot { orders: self.orders.clone(), payments: self.payments.clone(), verdicts }
    }

    /// Each transition is one that the state machine allows.
    fn move_on(&mut self, orders: impl IntoIterator<Item = Uuid>, cause: Cause) {
        for id in orders {
            let order = self.orders.get_mut(&id).unwrap();
            order.state = order.state.after(cause).unwrap();
        }
    }

    fn record(&mut self, verdicts: &Verdicts<'_>) {
        for new in verdicts.all_added() {
            let before = self.recorded.insert(new.request_id.to_owned(), new.recorded.clone());
            assert!(before.is_none(), "one request id, one verdict");
        }
    }

    fn after_begin(&mut self, begun: &Begun<'_>, verdicts: &Verdicts<'_>) {
        let new = || begun.asks.values().filter(|ask| ask.is_new);
        self.move_on(new().map(|ask| ask.request.order_id), Cause::PaymentBegun);
        self.payments.extend(new().map(|ask| (ask.request.order_id, Payment::of(ask.request))));
        self.record(verdicts);
    }

    fn after_finish(&mut self, finished: &Finished<'_>, verdicts: &Verdicts<'_>) {
        for (moved, cause) in [
            (&finished.late, Cause::PaymentBegun),
            (&finished.captured, Cause::PaymentCaptured),
            (&finished.declined, Cause::PaymentDeclined),
            (&finished.voided, Cause::PaymentVoided),
        ] {
            self.move_on(moved.iter().map(|(id, _)| *id), cause);
        }
        for id in finished.over.keys() {
            if let Some(payment) = self.payments.get_mut(id) {
                payment.is_under_way = false;
            }
        }
        self.record(verdicts);
    }
}

/// Whatever the gateway may say.
fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Captured { charge_id: "ch".to_owned() }),
        Just(Outcome::Declined { reason: "no funds".to_owned() }),
        Just(Outcome::Voided),
    ]
}

proptest! {
    #[test]
    fn beginning_a_batch_is_beginning_one_by_one(requests in requests(), database in database()) {
        let mut snapshot = database.read();
        let begun = begin(&requests, &mut snapshot);
        let (mut answers, mut new) = (Vec::new(), BTreeSet::new());
        let mut one_by_one = database.clone();
        for request in &requests {
            let mut single = one_by_one.read();
            let alone = begin(std::slice::from_ref(request), &mut single);
            one_by_one.after_begin(&alone, &single.verdicts);
            new.extend(alone.asks.into_iter().filter(|(_, ask)| ask.is_new).map(|(id, _)| id));
            answers.extend(alone.answers);
        }
        let mut committed = database;
        committed.after_begin(&begun, &snapshot.verdicts);
        let new_together: BTreeSet<_> = begun.asks.iter().filter(|(_, ask)| ask.is_new).map(|(id, _)| *id).collect();
        prop_assert_eq!((&begun.answers, &committed.recorded, &new_together), (&answers, &one_by_one.recorded, &new));
        // One request pays for an order, and a request pays for one order.
        let asked = requests.iter().zip(&begun.answers).filter(|(_, answer)| answer.is_none());
        let pairs: BTreeSet<_> = asked.map(|(request, _)| (request.order_id, request.request_id.clone())).collect();
        let (orders, ids): (BTreeSet<_>, BTreeSet<_>) = pairs.iter().cloned().unzip();
        prop_assert_eq!((orders.len(), ids.len()), (pairs.len(), pairs.len()));
        prop_assert!(begun.asks.keys().copied().eq(orders.iter().copied()));
        prop_assert!(orders.iter().all(|id| committed.orders[id].state == State::Paying), "asked about: its units are held");
    }

    #[test]
    fn finishing_a_batch_is_finishing_one_by_one_and_no_order_is_sold_twice(
        requests in requests(),
        outcomes in prop::collection::vec(outcome(), 12),
        database in database(),
    ) {
        let asked: Vec<_> = requests.iter().zip(outcomes).collect();
        let finished = finish(&asked, &mut database.read());
        let mut one_by_one = database.clone();
        let (mut answers, mut captured, mut sold) = (Vec::new(), Vec::new(), Units::new());
        for one in &asked {
            let mut single = one_by_one.read();
            let mut alone = finish(std::slice::from_ref(one), &mut single);
            one_by_one.after_finish(&alone, &single.verdicts);
            answers.append(&mut alone.answers);
            captured.append(&mut alone.captured);
            for (item, units) in alone.sold {
                *sold.entry(item).or_default() += units;
            }
        }
        prop_assert_eq!((&finished.answers, &finished.captured, &finished.sold), (&answers, &captured, &sold));
        let once: BTreeSet<_> = captured.iter().map(|(id, _)| *id).collect();
        prop_assert_eq!(once.len(), captured.len(), "no order is captured twice");
        let units: i64 = once.iter().map(|id| database.orders[id].quantity).sum();
        prop_assert_eq!(sold.values().sum::<i64>(), units);
        for (id, order) in &one_by_one.orders {
            let before = database.orders[id].state;
            prop_assert_eq!(order.state == State::Paid && before != State::Paid, once.contains(id));
            prop_assert!(before.holds_units() || order.state == before, "what has ended stays");
            let is_voided = finished.voided.iter().any(|(voided, _)| voided == id);
            prop_assert_eq!(order.state == State::Expired && before != State::Expired, is_voided);
        }
        // Money that was taken is an order that is paid for, or goes back, or is another request's to answer for.
        for ((request, outcome), answer) in asked.iter().zip(&finished.answers) {
            let Some(before) = database.orders.get(&request.order_id) else { continue };
            if matches!(outcome, Outcome::Captured { .. }) && !before.state.holds_units() {
                prop_assert_eq!(answer.is_none(), before.state != State::Paid);
            }
        }
    }
}

fn held(id: Uuid, state: State) -> HashMap<Uuid, Order> {
    let hold_until = NOW + time::Duration::HOUR;
    HashMap::from([(id, Order { id, state, item: "i".to_owned(), quantity: 1, hold_until, sender: String::new() })])
}

#[test]
fn a_payment_is_ended_once_in_a_transaction_and_not_under_its_payers_request_id() {
    let id = Uuid::from_u128(1);
    let payer = request(1, id, "card");
    let payers = HashMap::from([(id, payer.clone())]);
    let declined = End::Settle(Settlement::Declined { reason: "no".to_owned(), payment_method: None });
    let captured = End::Settle(Settlement::Captured { charge_id: "c".to_owned() });
    let end = |request_id: &str, end| EndRequest { request_id: request_id.to_owned(), order_id: id, end, user: None };
    for (first, is_void) in [(declined, false), (End::Void, true)] {
        let requests = [end("p-1", End::Void), end("e-1", first), end("e-2", captured.clone())];
        let payments = HashMap::from([(id, Payment::of(&payer))]);
        let mut snapshot =
            Snapshot { orders: held(id, State::Paying), payments, verdicts: Verdicts::at(NOW, HashMap::new()) };
        let mut verdicts = Verdicts::at(NOW, HashMap::new());
        let settled = settle(&requests, &payers, &mut snapshot, &mut verdicts);
        assert!(matches!(&settled.answers[0], Some(Answer::Rejected(reason)) if reason.code == Code::RequestIdReused));
        assert!(matches!(settled.answers[1], Some(Answer::Verdict(_))));
        assert_eq!(settled.answers[2], Some(Answer::Later));
        assert_eq!((settled.declined.is_empty(), settled.to_void.is_empty()), (is_void, !is_void));
        assert!(settled.captured.is_empty());
    }
}

#[test]
fn a_decline_that_comes_late_ends_no_payment_by_another_method_and_none_whose_money_is_being_given_back() {
    let id = Uuid::from_u128(1);
    let payer = request(1, id, "card-b");
    let payers = HashMap::from([(id, payer.clone())]);
    for (method, state, expected) in [
        (Some("card-a"), State::Paying, Code::NoPayment),
        (Some("card-b"), State::Paying, Code::Settled),
        (None, State::Paying, Code::Settled),
        (Some("card-b"), State::Expired, Code::NoPayment),
        (None, State::Cancelled, Code::NoPayment),
    ] {
        let payment_method = method.map(str::to_owned);
        let end = End::Settle(Settlement::Declined { reason: "no".to_owned(), payment_method });
        let requests = [EndRequest { request_id: "e-1".to_owned(), order_id: id, end, user: None }];
        let payments = HashMap::from([(id, Payment::of(&payer))]);
        let mut snapshot = Snapshot { orders: held(id, state), payments, verdicts: Verdicts::at(NOW, HashMap::new()) };
        let mut verdicts = Verdicts::at(NOW, HashMap::new());
        let settled = settle(&requests, &payers, &mut snapshot, &mut verdicts);
        let Some(Answer::Verdict(verdict)) = &settled.answers[0] else { panic!("{settled:?}") };
        let is_ended = expected == Code::Settled;
        assert!(verdict.contains(expected.as_str()), "{method:?} {state:?}: {verdict}");
        assert_eq!((settled.over.is_empty(), snapshot.payments[&id].is_under_way), (!is_ended, !is_ended));
    }
}

#[test]
fn money_that_was_taken_for_an_order_that_has_ended_is_remembered_until_it_is_given_back() {
    let id = Uuid::from_u128(1);
    let late = request(1, id, "card");
    let captured = [(&late, Outcome::Captured { charge_id: "c".to_owned() })];
    for (state, is_to_void) in [(State::Expired, true), (State::Cancelled, true), (State::Paid, false)] {
        let verdicts = Verdicts::at(NOW, HashMap::new());
        let mut snapshot = Snapshot { orders: held(id, state), payments: HashMap::new(), verdicts };
        assert_eq!(finish(&captured, &mut snapshot).to_void.contains(&id), is_to_void, "{state:?}");
    }
}
