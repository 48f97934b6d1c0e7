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
async fn an_id_has_one_verdict_and_one_cancellation_and_other_content_is_told_so() {
    let pool = database_of_holds(&[("a", 2)]).await;
    let [one, other] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let requests = [(1, one), (2, Uuid::nil()), (1, other), (9, other)].map(|(id, order)| request(id, order));
    assert_one_verdict_per_id(&pool, requests, async |requests| answers(&pool, requests).await).await;
    assert_eq!((state(&pool, other).await, item(&pool, "a").await), (State::Reserved, (1, 1, 1)));
    assert_eq!(history(&pool, one).await.len(), 1);
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
async fn a_senders_order_is_unknown_to_others_and_may_be_cancelled_by_them_and_by_who_is_trusted() {
    for (sender, may) in [
        (None, false),
        (Some(by("eve")), false),
        (Some(by("ann")), true),
        (Some(Sender { user: "shop".to_owned(), is_trusted: true }), true),
    ] {
        let (pool, order) = one_hold(Due::InAnHour).await;
        sold_to(&pool, "ann").await;
        let [known, unknown] =
            [order, Uuid::from_u128(7)].map(|id| (id, ReleaseRequest { sender: sender.clone(), ..request(id, id) }));
        let found = answers(&pool, &[known.1.clone(), unknown.1]).await;
        let expected = if may { Code::Cancelled } else { Code::UnknownOrder };
        assert_eq!(codes(&found), [expected, Code::UnknownOrder], "{sender:?}");
        let [told, of_none] = [(&found[0], known.0), (&found[1], unknown.0)].map(|(answer, id)| {
            let Answer::Verdict(body) = answer else { panic!("{answer:?}") };
            body.replace(&id.to_string(), "<id>")
        });
        assert_eq!(told == of_none, !may, "as of one that there is not, byte for byte: {told} {of_none}");
        assert_eq!(verdict(&found[0]).item, may.then(|| "a".to_owned()));
        assert_eq!(answers(&pool, &[known.1]).await, found[..1], "again");
        assert_eq!(state(&pool, order).await, if may { State::Cancelled } else { State::Reserved });
    }
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
        assert_eq!(violated_by(&pool, &insert).await, constraint);
    }
}
