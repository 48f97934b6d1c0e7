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
async fn a_repeat_gets_the_same_verdict_byte_for_byte_and_charges_nothing() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::open().await;
    let requests = [request(1, order, "card"), request(1, order, "card"), request(2, Uuid::nil(), "card")];
    let first = answers(&pool, &bank, &requests).await;
    assert_eq!(first[0], first[1], "copies in one batch are one request");
    assert_eq!(answers(&pool, &bank, &requests).await, first);
    assert_eq!(bank.asked(), 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM verdicts").await, 2, "the refusal is recorded, too");
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
async fn a_payment_that_comes_too_late_is_not_charged() {
    let pool = database(&[("a", 1)]).await;
    let bank = Bank::open().await;
    // Nobody has ended the hold yet; its time has passed all the same.
    let order = hold(&pool, "a", 1, Due::Now).await;
    assert_eq!(code(&pool, &bank, request(1, order, "card")).await, "already_expired");
    assert_eq!((bank.asked(), state(&pool, order).await), (0, State::Reserved));
    assert!(history(&pool, order).await.is_empty());
}

#[tokio::test]
async fn an_order_that_cannot_be_paid_for_stays_as_it_is_and_the_answer_says_why() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::open().await;
    for (other, expected) in [
        (State::Paying, "payment_under_way"),
        (State::Paid, "already_paid"),
        (State::Expired, "already_expired"),
        (State::Cancelled, "already_cancelled"),
    ] {
        sqlx::query("UPDATE orders SET state = $1").bind(other.as_str()).execute(&pool).await.unwrap();
        assert_eq!(code(&pool, &bank, request(other.as_str(), order, "card")).await, expected);
        assert_eq!(state(&pool, order).await, other);
    }
    assert_eq!(code(&pool, &bank, request("none", Uuid::now_v7(), "card")).await, "unknown_order");
    assert_eq!((bank.asked(), item(&pool, "a").await), (0, (1, 0, 0)));
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
async fn the_same_id_with_other_content_is_told_so_and_charges_nothing() {
    let pool = database(&[("a", 2)]).await;
    let (one, other) = (hold(&pool, "a", 1, Due::InAnHour).await, hold(&pool, "a", 1, Due::InAnHour).await);
    let bank = Bank::silent_on(&[one]).await;
    let is_reused =
        |answer: &Answer| matches!(answer, Answer::Rejected(_)) && verdict(answer).code == Code::RequestIdReused;

    // In the same batch, while its payment is under way, with another method, and once its verdict is on record.
    let both = [request(1, one, "card"), request(1, other, "card")];
    let first = process(&pool, &bank).handle(&both).await.unwrap();
    assert_eq!(first[0], Answer::Requeue);
    assert!(is_reused(&first[1]), "{first:?}");
    for again in [request(1, other, "card"), request(1, one, "other")] {
        assert!(is_reused(&answers(&pool, &bank, &[again]).await[0]));
    }
    bank.let_out(one);
    assert_eq!(code(&pool, &bank, request(1, one, "card")).await, "paid");
    assert!(is_reused(&answers(&pool, &bank, &[request(1, other, "card")]).await[0]));

    // A purchase's id is no payment's.
    execute(&pool, "INSERT INTO verdicts VALUES ('p-9', 'a', gen_random_uuid(), 'reserved', '{}', now())").await;
    assert!(is_reused(&answers(&pool, &bank, &[request(9, other, "card")]).await[0]));
    assert_eq!((state(&pool, other).await, bank.charges()), (State::Reserved, 1));
}

#[tokio::test]
async fn the_database_itself_lets_one_request_pay_for_one_order_only() {
    let pool = database(&[("a", 2)]).await;
    let (one, other) = (hold(&pool, "a", 1, Due::InAnHour).await, hold(&pool, "a", 1, Due::InAnHour).await);
    let insert = "INSERT INTO payments VALUES ($1, 'p-1', gen_random_uuid(), 'card', now())";
    sqlx::query(insert).bind(one).execute(&pool).await.unwrap();
    let error = sqlx::query(insert).bind(other).execute(&pool).await.unwrap_err();
    assert!(error.to_string().contains("a_request_pays_for_one_order"), "{error}");
    let skip = "INSERT INTO order_history VALUES ($1, 'reserved', 'paid', 'payment_captured', 'p-1', now())";
    let error = sqlx::query(skip).bind(one).execute(&pool).await.unwrap_err();
    assert!(error.to_string().contains("transition_is_allowed"), "only what is being paid for becomes paid: {error}");
}
