//! A gateway that does not decide: it is asked more and more slowly, told to void in the end, or somebody who may says what
//! became of the payment. No unit is held for ever, and no charge is left without a paid order.

use super::*;
use payment::recovery::ASKS_A_SECOND;
use std::time::Instant;

/// Its turn has come, as if it were so long after the last time.
const DUE: &str = "UPDATE payments SET next_ask_at = now(),
                   asked_at = now() - round(extract(epoch FROM next_ask_at - asked_at)) * interval '1 s'";
/// Its turn comes in an hour, as if it had been asked then.
const LATER: &str =
    "UPDATE payments SET next_ask_at = next_ask_at + interval '1 h', asked_at = asked_at + interval '1 h'";
/// How long until it is asked again, in seconds.
const WAIT: &str = "SELECT round(extract(epoch FROM next_ask_at - asked_at))::bigint FROM payments";
const OVERDUE: &str = "UPDATE payments SET void_at = now() - interval '1 s', next_ask_at = now()";
const UNDER_WAY: &str = "SELECT count(*) FROM payments WHERE is_under_way";

impl Bank {
    /// It has not decided on this payment method; or it has by now.
    async fn pending(method: &str) -> Self {
        Self::open().await.but(|behaviour| behaviour.pending = [method.to_owned()].into())
    }

    fn decide(&self) {
        self.gateway.behave(|behaviour| behaviour.pending.clear());
    }
}

fn end(id: &str, order_id: Uuid, end: End) -> EndRequest {
    EndRequest { request_id: id.to_owned(), order_id, end, user: Some(OPERATOR.to_owned()) }
}

fn captured() -> End {
    End::Settle(Settlement::Captured { charge_id: "ch-9".to_owned() })
}

fn declined() -> End {
    End::Settle(Settlement::Declined { reason: "by phone".to_owned(), payment_method: None })
}

async fn settled(pool: &PgPool, bank: &Bank, request: EndRequest) -> Code {
    codes(&process(pool, bank).settle(&[request]).await.unwrap())[0]
}

#[tokio::test]
async fn a_gateway_that_has_not_decided_is_asked_again_ever_more_slowly_and_not_by_the_message() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::pending("card").await;
    let process = process(&pool, &bank);
    for _ in 0..3 {
        assert_eq!(handled(&process, &[request(1, order, "card")]).await, [Answer::Requeue]);
        execute(&pool, LATER).await;
        assert_eq!(process.take_up().await.unwrap(), 0);
        assert_eq!((bank.asked(), count(&pool, WAIT).await), (1, 2), "its turn has not come");
    }
    for (asked, seconds) in (2..).zip([4, 8, 16, 32, 64, 128, 256, 320, 320]) {
        execute(&pool, DUE).await;
        assert_eq!(process.take_up().await.unwrap(), 0);
        assert_eq!((bank.asked(), count(&pool, WAIT).await), (asked, seconds));
    }
    assert_eq!(count(&pool, "SELECT count(*) FROM payments WHERE said LIKE '%pending'").await, 1);
    // Nobody else can have the order meanwhile.
    assert_eq!(code(&pool, &bank, request(2, order, "other")).await, "payment_under_way");
    bank.decide();
    execute(&pool, DUE).await;
    assert_eq!(process.take_up().await.unwrap(), 1);
    assert_eq!(codes(&handled(&process, &[request(1, order, "card")]).await), [Code::Paid]);
    assert_eq!((bank.charges(), item(&pool, "a").await, count(&pool, UNDER_WAY).await), (1, (0, 1, 0), 0));
}

#[tokio::test]
async fn a_payment_that_is_not_decided_in_time_is_voided_and_its_hold_ends() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::pending("card").await;
    assert_eq!(handled(&process(&pool, &bank), &[request(1, order, "card")]).await, [Answer::Requeue]);
    assert_eq!(count(&pool, "SELECT extract(epoch FROM void_at - asked_at)::bigint FROM payments").await, 900);
    execute(&pool, OVERDUE).await;
    bank.gateway.behave(|behaviour| behaviour.is_away = true);
    assert_eq!(process(&pool, &bank).take_up().await.unwrap(), 0);
    assert_eq!(state(&pool, order).await, State::Paying, "nobody knows whether it is voided");
    bank.gateway.behave(|behaviour| behaviour.is_away = false);
    execute(&pool, DUE).await;
    assert_eq!(process(&pool, &bank).take_up().await.unwrap(), 1);
    assert!(bank.gateway.ledger().voided.contains(&order.to_string()));
    assert_eq!((state(&pool, order).await, item(&pool, "a").await), (State::Expired, (0, 0, 1)));
    assert_eq!(history(&pool, order).await, steps(&[("paying", "p-1"), ("expired", "p-1")]));
    assert_eq!(published(&pool).await, ["order.paying", "order.expired"]);
    let found = verdict(&handled(&process(&pool, &bank), &[request(1, order, "card")]).await[0]);
    assert_eq!(found.code, Code::AlreadyExpired);
    assert!(found.message.contains("did not end in time"), "{}", found.message);
    bank.decide();
    assert_eq!(code(&pool, &bank, request(2, order, "card")).await, "already_expired");
    assert_eq!(bank.charges(), 0);
}

#[tokio::test]
async fn what_was_captured_before_it_could_be_voided_is_paid() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::silent_on(&[order]).await;
    left_unknown(&pool, &bank, &[request(1, order, "card")]).await;
    execute(&pool, OVERDUE).await;
    assert_eq!(process(&pool, &bank).take_up().await.unwrap(), 1);
    assert_eq!((state(&pool, order).await, bank.charges()), (State::Paid, 1));
}

#[tokio::test]
async fn nonsense_is_declined_at_once_but_not_where_it_may_have_been_charged_before() {
    let pool = database(&[("a", 2)]).await;
    let [one, other] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let bank = Bank::silent_on(&[other]).await.but(|behaviour| behaviour.nonsense = ["x".to_owned()].into());
    let found = verdict(&answers(&pool, &bank, &[request(1, one, "x")]).await[0]);
    assert_eq!((found.code, state(&pool, one).await), (Code::Declined, State::Reserved));
    assert!(found.message.contains("no_such_method"), "{}", found.message);

    left_unknown(&pool, &bank, &[request(2, other, "x")]).await;
    for _ in 0..2 {
        assert_eq!(handled(&process(&pool, &bank), &[request(2, other, "x")]).await, [Answer::Requeue]);
    }
    assert_eq!(bank.gateway.ledger().asked_about(&other.to_string()), 2, "once by each process");
    execute(&pool, OVERDUE).await;
    assert_eq!(process(&pool, &bank).take_up().await.unwrap(), 1);
    assert_eq!(code(&pool, &bank, request(2, other, "x")).await, "already_expired");
}

#[tokio::test]
async fn a_gateway_that_will_not_have_our_requests_is_not_asked_in_a_hurry() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let server = http::refusing().await;
    let payment = Payment::new(functions(&pool), Arc::new(Http::new(&options(&server.url, 5_000)).unwrap()), terms());
    for _ in 0..3 {
        assert_eq!(handled(&payment, &[request(1, order, "card")]).await, [Answer::Requeue]);
    }
    assert_eq!(server.seen().len(), 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM payments WHERE said LIKE '%GATEWAY_TOKEN: 401%'").await, 1);
}

#[tokio::test]
async fn what_the_gateway_says_of_two_senders_payments_under_one_id_is_kept_for_both() {
    let pool = database(&[("a", 2)]).await;
    let orders = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let bank = Bank::pending("card").await;
    let pays = |(user, order)| PaymentRequest { sender: Some(by(user)), ..request(1, order, "card") };
    let requests: Vec<_> = ["ann", "ben"].into_iter().zip(orders).map(pays).collect();
    assert!(handled(&process(&pool, &bank), &requests).await.iter().all(|answer| *answer == Answer::Requeue));
    let said =
        "SELECT count(*) FROM payments WHERE is_under_way AND said IS NOT NULL AND request_id IN ('p-1', 'p-1 ben')";
    assert_eq!(count(&pool, said).await, 2);
}

#[tokio::test]
async fn who_may_says_how_a_payment_ends_and_nobody_else() {
    let pool = database(&[("a", 3)]).await;
    let orders @ [paid, refused, voided] = holds(&pool, ["a"; 3], Due::InAnHour).await;
    let bank = Bank::pending("card").await;
    let requests: Vec<_> = orders.iter().map(|order| request(order, *order, "card")).collect();
    assert!(handled(&process(&pool, &bank), &requests).await.iter().all(|answer| *answer == Answer::Requeue));
    for user in [None, Some("buyer".to_owned())] {
        let forged = EndRequest { user, ..end("e-1", paid, captured()) };
        assert_eq!(settled(&pool, &bank, forged).await, Code::NotAllowed);
    }
    assert_eq!(count(&pool, UNDER_WAY).await, 3);

    let asked = [end("e-1", paid, captured()), end("e-2", refused, declined()), end("e-3", voided, End::Void)];
    let found = process(&pool, &bank).settle(&asked).await.unwrap();
    assert_eq!(codes(&found), [Code::Settled, Code::Settled, Code::Voiding]);
    assert_eq!(process(&pool, &bank).settle(&asked).await.unwrap(), found, "the same, byte for byte");
    assert_eq!(settled(&pool, &bank, end("e-1", paid, declined())).await, Code::RequestIdReused);
    assert_eq!(process(&pool, &bank).take_up().await.unwrap(), 1);
    let found = handled(&process(&pool, &bank), &requests).await;
    assert_eq!(codes(&found), [Code::Paid, Code::Declined, Code::AlreadyExpired]);
    assert!(verdict(&found[1]).message.contains("by phone"));
    let mut states = Vec::new();
    for order in &orders {
        states.push(state(&pool, *order).await);
    }
    assert_eq!((states, item(&pool, "a").await), (vec![State::Paid, State::Reserved, State::Expired], (1, 1, 1)));
    assert_eq!(count(&pool, "SELECT count(*) FROM payments WHERE charge_id = 'ch-9'").await, 1);

    let unpaid = hold(&pool, "a", 1, Due::InAnHour).await;
    for (id, order, how, expected) in [
        ("e-4", paid, captured(), Code::AlreadyPaid),
        ("e-5", paid, declined(), Code::NoPayment),
        ("e-6", voided, End::Void, Code::NoPayment),
        ("e-7", unpaid, captured(), Code::NoPayment),
        ("e-8", Uuid::now_v7(), captured(), Code::UnknownOrder),
        // Late, but its units are held still.
        ("e-9", refused, captured(), Code::Settled),
    ] {
        assert_eq!(settled(&pool, &bank, end(id, order, how)).await, expected, "{id}");
    }
    assert_eq!(state(&pool, refused).await, State::Paid);
}

#[tokio::test]
async fn a_capture_that_is_told_after_the_hold_is_over_is_given_back_whatever_happens_meanwhile() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::silent_on(&[order]).await;
    left_unknown(&pool, &bank, &[request(1, order, "card")]).await;
    assert_eq!(settled(&pool, &bank, end("e-1", order, declined())).await, Code::Settled);
    execute(&pool, "UPDATE orders SET state = 'expired'; UPDATE items SET held = 0, available = 1").await;
    assert_eq!((bank.charges(), count(&pool, UNDER_WAY).await), (1, 0));

    assert_eq!(settled(&pool, &bank, end("e-2", order, captured())).await, Code::Settled);
    bank.gateway.behave(|behaviour| behaviour.is_away = true);
    assert_eq!(process(&pool, &bank).take_up().await.unwrap(), 0);
    bank.gateway.behave(|behaviour| behaviour.is_away = false);
    execute(&pool, DUE).await;
    assert_eq!(process(&pool, &bank).take_up().await.unwrap(), 1);
    assert_eq!((bank.charges(), count(&pool, UNDER_WAY).await, state(&pool, order).await), (0, 0, State::Expired));
    assert_eq!(code(&pool, &bank, request(1, order, "card")).await, "declined", "what was said stays said");
}

#[tokio::test]
async fn however_many_are_pending_and_however_many_look_the_gateway_is_asked_at_one_pace() {
    let pool = database(&[("a", 1_000)]).await;
    let bank = Bank::pending("card").await;
    execute(
        &pool,
        "INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
         SELECT gen_random_uuid(), 'r-' || g, 'a', 'b', 1, 'paying', now() + interval '1 h', now()
         FROM generate_series(1, 1000) AS g;
         INSERT INTO payments (order_id, request_id, fingerprint, payment_method, asked_at, next_ask_at)
         SELECT id, 'p-' || id, gen_random_uuid(), 'card', now() - interval '1 h', now() FROM orders",
    )
    .await;
    let begun = Instant::now();
    let looking = (0..4).map(|_| {
        let process = process(&pool, &bank);
        tokio::spawn(async move {
            while begun.elapsed() < Duration::from_secs(2) {
                assert_eq!(process.take_up().await.unwrap(), 0);
            }
        })
    });
    all_of(looking.collect::<Vec<_>>()).await;
    let (asked, most) = (bank.asked() as f64, ASKS_A_SECOND * (0.5 + begun.elapsed().as_secs_f64()));
    assert!((16.0..=most).contains(&asked), "{asked}, and {most} at most");
}
