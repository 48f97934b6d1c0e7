//! An order is paid for once, or not at all, and the answer says which.

use super::*;

#[tokio::test]
async fn a_held_order_is_paid_for_and_its_units_are_sold() {
    let pool = database(&[("a", 5), ("b", 1)]).await;
    let bank = Bank::open().await;
    let (of_a, of_b) = (hold(&pool, "a", 3, Due::InAnHour).await, hold(&pool, "b", 1, Due::InAnHour).await);
    let found = answers(&pool, &bank, &[request(1, of_b, "card"), request(2, of_a, "card")]).await;
    for answer in &found {
        assert_eq!((verdict(answer).status, verdict(answer).code), (Status::Done, Code::Paid));
    }
    // The version stays: what can be reserved is what it was, so no purchase has to be decided again.
    assert_eq!((item(&pool, "a").await, item(&pool, "b").await), ((2, 3, 0), (0, 1, 0)));
    assert_eq!(state(&pool, of_a).await, State::Paid);
    assert_eq!(history(&pool, of_a).await, steps(&[("paying", "p-2"), ("paid", "p-2")]));
    assert_eq!(published(&pool).await, ["order.paying", "order.paid"], "one row for each commit");
    assert_eq!(bank.charges(), 2);
    assert_eq!(count(&pool, "SELECT count(DISTINCT charge_id) FROM payments WHERE NOT is_under_way").await, 2);
}

#[tokio::test]
async fn an_id_has_one_verdict_and_one_charge_and_other_content_is_told_so() {
    let pool = database(&[("a", 2)]).await;
    let [one, other] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let bank = Bank::open().await;
    let requests = [(1, one), (2, Uuid::nil()), (1, other), (9, other)].map(|(id, order)| request(id, order, "card"));
    assert_one_verdict_per_id(&pool, requests, async |requests| answers(&pool, &bank, requests).await).await;
    assert_eq!((state(&pool, other).await, bank.charges()), (State::Reserved, 1));
    assert_eq!((history(&pool, one).await.len(), published(&pool).await.len()), (2, 2));
}

#[tokio::test]
async fn the_id_of_a_payment_under_way_is_used_for_no_other_order_and_no_other_method() {
    let pool = database(&[("a", 2)]).await;
    let [one, other] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let bank = Bank::silent_on(&[one]).await;
    let first = handled(&process(&pool, &bank), &[request(1, one, "card"), request(1, other, "card")]).await;
    assert_eq!((&first[0], verdict(&first[1]).code), (&Answer::Requeue, Code::RequestIdReused), "in one batch");
    for again in [request(1, other, "card"), request(1, one, "other")] {
        assert_eq!(code(&pool, &bank, again).await, "request_id_reused");
    }
    bank.let_out(one);
    assert_eq!(code(&pool, &bank, request(1, one, "card")).await, "paid");
    assert_eq!((state(&pool, other).await, bank.charges()), (State::Reserved, 1));
}

#[tokio::test]
async fn a_decline_gives_the_hold_back_for_the_rest_of_its_time_and_another_method_may_pay() {
    let pool = database(&[("a", 2)]).await;
    let bank = Bank::open().await.declines("empty");
    let order = hold(&pool, "a", 2, Due::InAnHour).await;
    let until = "SELECT extract(epoch FROM hold_until)::bigint FROM orders";
    let held_until = count(&pool, until).await;
    let declined = verdict(&answers(&pool, &bank, &[request(1, order, "empty")]).await[0]);
    assert_eq!((declined.status, declined.code), (Status::Refused, Code::Declined));
    assert!(declined.message.contains("insufficient_funds"), "{}", declined.message);
    assert_eq!((state(&pool, order).await, item(&pool, "a").await), (State::Reserved, (2, 0, 0)));
    assert_eq!(count(&pool, until).await, held_until);

    assert_eq!(code(&pool, &bank, request(2, order, "card")).await, "paid");
    assert_eq!(code(&pool, &bank, request(1, order, "empty")).await, "declined", "what was said stays said");
    let expected = steps(&[("paying", "p-1"), ("reserved", "p-1"), ("paying", "p-2"), ("paid", "p-2")]);
    assert_eq!(history(&pool, order).await, expected);
    assert_eq!(published(&pool).await, ["order.paying", "order.declined", "order.paying", "order.paid"]);
    assert_eq!((bank.charges(), item(&pool, "a").await), (1, (0, 2, 0)));
}

#[tokio::test]
async fn an_order_that_cannot_be_paid_for_stays_as_it_is_and_the_answer_says_why() {
    let (pool, order) = one_hold(Due::Now).await;
    let bank = Bank::open().await;
    for (stands, expected) in [
        // Nobody has ended the hold yet; its time has passed all the same.
        (State::Reserved, "already_expired"),
        (State::Paying, "payment_under_way"),
        (State::Paid, "already_paid"),
        (State::Expired, "already_expired"),
        (State::Cancelled, "already_cancelled"),
    ] {
        sqlx::query("UPDATE orders SET state = $1").bind(stands.as_str()).execute(&pool).await.unwrap();
        assert_eq!(code(&pool, &bank, request(stands.as_str(), order, "card")).await, expected);
        assert_eq!(state(&pool, order).await, stands);
    }
    assert_eq!(code(&pool, &bank, request("none", Uuid::now_v7(), "card")).await, "unknown_order");
    assert_eq!((bank.asked(), item(&pool, "a").await, history(&pool, order).await.len()), (0, (1, 0, 0), 0));
}

#[tokio::test]
async fn of_two_requests_for_one_order_the_first_pays_and_the_second_is_told_so() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::open().await;
    let found = answers(&pool, &bank, &[request(1, order, "card"), request(2, order, "card")]).await;
    assert_eq!(codes(&found), [Code::Paid, Code::PaymentUnderWay]);
    assert_eq!(code(&pool, &bank, request(3, order, "card")).await, "already_paid");
    assert_eq!(bank.asked(), 1);
}

#[tokio::test]
async fn a_senders_order_is_paid_for_by_them_alone_and_each_sender_has_ids_of_their_own() {
    let pool = database(&[("a", 2)]).await;
    let orders @ [anns, bens] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    sold_to(&pool, "ann").await;
    sqlx::query("UPDATE orders SET sender = 'ben' WHERE id = $1").bind(bens).execute(&pool).await.unwrap();
    let bank = Bank::silent_on(&orders).await;
    // The same id for all of them.
    let pays = |user: &str, order| PaymentRequest { sender: Some(by(user)), ..request(1, order, "card") };
    let own = [pays("ann", anns), pays("ben", bens)];
    left_unknown(&pool, &bank, &own).await;
    for thief in [pays("eve", anns), pays("ben", anns), request(2, anns, "card")] {
        let found = code(&pool, &bank, thief.clone()).await;
        let under_way = thief.sender == Some(by("ben"));
        assert_eq!(found, if under_way { "request_id_reused" } else { "unknown_order" }, "{thief:?}");
    }
    // Whoever ends a payment has not its message.
    sqlx::query("UPDATE payments SET next_ask_at = now()").execute(&pool).await.unwrap();
    assert_eq!(process(&pool, &bank).take_up().await.unwrap(), 2);
    let paid = answers(&pool, &bank, &own).await;
    assert_eq!(codes(&paid), [Code::Paid, Code::Paid]);
    assert_eq!((verdict(&paid[0]).item.as_deref(), bank.charges()), (Some("a"), 2));
    assert_eq!(code(&pool, &bank, pays("eve", anns)).await, "unknown_order", "a repeat by another");
    assert_eq!(answers(&pool, &bank, &own).await, paid, "each their own");
}

#[tokio::test]
async fn a_payment_that_an_older_version_began_is_ended_for_whoever_sent_it_and_its_id_pays_for_nothing_else() {
    let pool = database(&[("a", 2)]).await;
    let [order, other] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let bank = Bank::silent_on(&[order]).await;
    left_unknown(&pool, &bank, &[request(1, order, "card")]).await;
    execute(&pool, "UPDATE payments SET sender = DEFAULT").await;
    let by_ann = |order| PaymentRequest { sender: Some(by("ann")), ..request(1, order, "card") };
    for again in [request(1, other, "card"), by_ann(other)] {
        assert_eq!(code(&pool, &bank, again).await, "request_id_reused");
    }
    assert_eq!(code(&pool, &bank, by_ann(order)).await, "paid");
}

#[tokio::test]
async fn the_database_itself_lets_one_request_pay_for_one_order_only() {
    let pool = database(&[("a", 2)]).await;
    for _ in 0..2 {
        hold(&pool, "a", 1, Due::InAnHour).await;
    }
    for (insert, constraint) in [
        ("payments SELECT id, 'p-1', gen_random_uuid(), 'card', now()", "a_request_pays_for_one_order"),
        // Only what is being paid for becomes paid.
        ("order_history SELECT id, 'reserved', 'paid', 'payment_captured', 'p-1', now()", "transition_is_allowed"),
    ] {
        assert_eq!(violated_by(&pool, &format!("INSERT INTO {insert} FROM orders")).await, constraint);
    }
}
