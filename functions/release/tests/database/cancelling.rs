//! A cancelled order gives its units back once; a request that comes too late, again, or for nothing changes nothing.

use super::*;

#[tokio::test]
async fn a_cancelled_order_gives_its_units_back() {
    let pool = database_of_holds(&[("a", 3), ("b", 1)]).await;
    let (of_a, of_b) = (hold(&pool, "a", 2, Due::InAnHour).await, hold(&pool, "b", 1, Due::InAnHour).await);
    let found = answers(&pool, &[request(1, of_b), request(2, of_a)]).await;
    assert_eq!(codes(&found), [Code::Cancelled, Code::Cancelled]);
    assert_eq!(verdict(&found[0]).status, Status::Done);
    assert_eq!((item(&pool, "a").await, item(&pool, "b").await), ((2, 1, 1), (1, 0, 1)));
    assert_eq!(state(&pool, of_a).await, State::Cancelled);
    let expected = ("reserved".to_owned(), "cancelled".to_owned(), "cancel".to_owned(), Some("c-2".to_owned()));
    assert_eq!(history(&pool, of_a).await, [expected]);
}

#[tokio::test]
async fn a_repeat_gets_the_same_verdict_byte_for_byte_and_changes_nothing() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let requests = [request(1, order), request(1, order), request(2, Uuid::nil())];
    let first = answers(&pool, &requests).await;
    assert_eq!(first[0], first[1], "copies in one batch are one request");
    assert_eq!(answers(&pool, &requests).await, first);
    assert_eq!(item(&pool, "a").await, (1, 0, 1));
    assert_eq!(count(&pool, "SELECT count(*) FROM verdicts").await, 2, "the refusal is recorded, too");
}

#[tokio::test]
async fn copies_decided_at_the_same_instant_are_one_cancellation() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let deciders = (0..6).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move { answers(&pool, &[request(1, order), request(2, Uuid::nil())]).await })
    });
    let found = all_of(deciders).await;
    assert!(found.iter().all(|answers| *answers == found[0]), "{found:?}");
    assert_eq!(verdict(&found[0][0]).code, Code::Cancelled);
    assert_eq!((item(&pool, "a").await, history(&pool, order).await.len()), ((1, 0, 1), 1));
}

#[tokio::test]
async fn the_same_id_with_other_content_is_told_so_and_changes_nothing() {
    let pool = database_of_holds(&[("a", 2)]).await;
    let (one, other) = (hold(&pool, "a", 1, Due::InAnHour).await, hold(&pool, "a", 1, Due::InAnHour).await);
    // In the same batch, and once it is on record.
    let both = answers(&pool, &[request(1, one), request(1, other)]).await;
    let later = answers(&pool, &[request(1, other)]).await;
    for answer in [&both[1], &later[0]] {
        assert!(matches!(answer, Answer::Rejected(_)));
        assert_eq!(verdict(answer).code, Code::RequestIdReused);
    }
    assert_eq!(state(&pool, other).await, State::Reserved);

    // A purchase's id is no release's.
    execute(&pool, "INSERT INTO verdicts VALUES ('c-9', 'a', gen_random_uuid(), 'reserved', '{}', now())").await;
    assert_eq!(verdict(&answers(&pool, &[request(9, other)]).await[0]).code, Code::RequestIdReused);
    assert_eq!(item(&pool, "a").await, (1, 1, 1));
}

#[tokio::test]
async fn an_order_that_cannot_be_cancelled_stays_as_it_is_and_the_answer_says_why() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    for (other, code) in [
        (State::Paying, Code::PaymentUnderWay),
        (State::Paid, Code::AlreadyPaid),
        (State::Expired, Code::AlreadyExpired),
        (State::Cancelled, Code::AlreadyCancelled),
    ] {
        sqlx::query("UPDATE orders SET state = $1").bind(other.as_str()).execute(&pool).await.unwrap();
        let found = verdict(&answers(&pool, &[request(other.as_str(), order)]).await[0]);
        assert_eq!((found.status, found.code), (Status::Refused, code));
        assert_eq!(state(&pool, order).await, other);
    }
    let unknown = verdict(&answers(&pool, &[request("none", Uuid::now_v7())]).await[0]);
    assert_eq!((unknown.status, unknown.code), (Status::Refused, Code::UnknownOrder));
    assert_eq!(item(&pool, "a").await, (0, 1, 0));
    assert!(history(&pool, order).await.is_empty());
}

#[tokio::test]
async fn an_order_is_cancelled_by_the_first_request_and_not_by_the_second() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let found = answers(&pool, &[request(1, order), request(2, order)]).await;
    assert_eq!(codes(&found), [Code::Cancelled, Code::AlreadyCancelled]);
    assert_eq!((item(&pool, "a").await, history(&pool, order).await.len()), ((1, 0, 1), 1));
}

#[tokio::test]
async fn the_database_itself_lets_no_order_end_twice() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    answers(&pool, &[request(1, order)]).await;
    for (row, constraint) in [
        ("'reserved', 'expired', 'hold_passed', NULL", "an_order_ends_once"),
        ("'cancelled', 'expired', 'hold_passed', NULL", "transition_is_allowed"),
        ("'reserved', 'cancelled', 'cancel', NULL", "request_is_named"),
    ] {
        let insert = format!("INSERT INTO order_history SELECT id, {row}, clock_timestamp() FROM orders");
        let error = sqlx::query(sqlx::AssertSqlSafe(insert)).execute(&pool).await.unwrap_err();
        let violated = error.as_database_error().and_then(|error| error.constraint()).map(str::to_owned);
        assert_eq!(violated.as_deref(), Some(constraint), "{error}");
    }
}
