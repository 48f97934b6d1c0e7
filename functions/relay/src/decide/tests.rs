#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

use super::*;
use time::macros::datetime;

fn row(kind: &str) -> Row {
    let at = datetime!(2026-11-27 10:00:00.25 UTC);
    Row { id: 41, kind: kind.to_owned(), order_ids: None, item: None, detail: None, at, fills: false }
}

fn of_orders(kind: &str, numbers: &[u128]) -> Row {
    Row { order_ids: Some(numbers.iter().map(|number| Some(Uuid::from_u128(*number))).collect()), ..row(kind) }
}

fn of_item(kind: &str, detail: &str) -> Row {
    Row { item: Some("concert-42".to_owned()), detail: Some(detail.to_owned()), ..row(kind) }
}

fn order(number: u128, item: &str) -> (Uuid, Order) {
    let id = Uuid::from_u128(number);
    let (request_id, buyer) = (format!("r-{number}"), format!("b-{number}"));
    let hold_until = datetime!(2026-11-27 10:10:00 UTC);
    (id, Order { item: item.to_owned(), order: EventOrder { id, request_id, buyer, quantity: 2, hold_until } })
}

#[test]
fn an_event_has_the_number_of_its_row_and_its_place_in_it() {
    let orders = HashMap::from([order(1, "concert.42"), order(2, "opera")]);
    let events = messages(&of_orders("order.reserved", &[2, 1, 2]), &orders).unwrap();
    let keys: Vec<_> = events.iter().map(|event| (event.event_id.as_str(), event.routing_key.as_str())).collect();
    assert_eq!(
        keys,
        [
            ("41.0.1795773600250000", "order.reserved.opera"),
            ("41.1.1795773600250000", "order.reserved.concert.42"),
            ("41.2.1795773600250000", "order.reserved.opera")
        ]
    );
    let body: Event = serde_json::from_str(&events[1].body).unwrap();
    assert_eq!(
        (body.event_id.as_str(), body.order),
        ("41.1.1795773600250000", Some(orders[&Uuid::from_u128(1)].order.clone()))
    );
}

#[test]
fn a_number_that_comes_again_after_a_backup_is_restored_makes_another_id() {
    let before = of_item("item.opened", "{}");
    let after = Row { at: before.at + time::Duration::microseconds(1), ..before.clone() };
    let id = |row: &Row| messages(row, &HashMap::new()).unwrap().remove(0).event_id;
    assert_eq!(id(&before), id(&before.clone()), "the same row, read again");
    assert_ne!(id(&before), id(&after));
}

#[test]
fn every_kind_is_told() {
    let orders = HashMap::from([order(1, "a")]);
    for (kind, word) in EventKind::ALL {
        let row = if word.starts_with("order.") { of_orders(word, &[1]) } else { of_item(word, "{}") };
        assert_eq!(messages(&row, &orders).unwrap()[0].kind, kind);
    }
}

#[test]
fn what_cannot_be_told_says_why_and_tells_nothing() {
    let orders = HashMap::from([order(1, "a"), order(3, &"x".repeat(241))]);
    let hole = Row { order_ids: Some(vec![Some(Uuid::from_u128(1)), None]), ..row("order.paid") };
    for (row, reason) in [
        (of_orders("order.teleported", &[1]), "this version knows no event order.teleported"),
        (of_orders("order.paid", &[1, 2]), "the order 00000000-0000-0000-0000-000000000002 is gone"),
        (hole, "the order at place 1 has no id"),
        (of_orders("order.reserved", &[1, 3]), "the routing key would have 256 bytes, and AMQP has room for 255"),
        (of_item("item.opened", "{"), "the detail is not a JSON object (EOF while parsing"),
        (of_item("item.opened", "[]"), "the detail is not a JSON object (invalid type: sequence"),
        (row("item.opened"), "it happened to no order and to no item"),
    ] {
        let error = messages(&row, &orders).unwrap_err();
        assert!(error.starts_with(reason), "{error}");
    }
}

#[test]
fn a_row_that_is_refused_while_others_are_taken_is_given_up_and_where_none_is_taken_none_is() {
    let not_taken = || Err(Refusal::NotTaken("full".to_owned()));
    let unfit = || Err(Refusal::Unfit("too large".to_owned()));
    let (full, large) = (|| Err("full".to_owned()), || Err("too large".to_owned()));
    for (rows, takes_others, expected) in [
        (vec![not_taken(), Ok(()), Ok(())], true, Ok(vec![full(), Ok(()), Ok(())])),
        (vec![Ok(()), not_taken(), Ok(())], true, Ok(vec![Ok(()), full(), Ok(())])),
        (vec![Ok(()), Ok(()), not_taken()], true, Ok(vec![Ok(()), Ok(()), full()])),
        // None of these, but one that is for nobody.
        (vec![not_taken(), unfit(), not_taken()], true, Ok(vec![full(), large(), full()])),
        (vec![not_taken()], false, Err("full".to_owned())),
        (vec![not_taken(), not_taken()], false, Err("full".to_owned())),
        (vec![not_taken(), unfit()], false, Err("full".to_owned())),
        // One that can never be, even if it is the only one; the next one waits.
        (vec![unfit()], false, Ok(vec![large()])),
        (vec![unfit(), not_taken(), unfit()], false, Ok(vec![large()])),
    ] {
        assert_eq!(given_up(rows, takes_others), expected);
    }
}
