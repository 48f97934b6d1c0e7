#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

use super::*;
use serde_json::{Value, json};
use time::macros::datetime;

fn row(kind: &str) -> Row {
    let at = datetime!(2026-11-27 10:00:00.25 UTC);
    Row { id: 41, kind: kind.to_owned(), order_ids: None, item: None, detail: None, at }
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
        [("41.0", "order.reserved.opera"), ("41.1", "order.reserved.concert.42"), ("41.2", "order.reserved.opera")]
    );
    let body: Value = serde_json::from_str(&events[1].body).unwrap();
    let expected = json!({
        "event_id": "41.1", "event": "order.reserved", "item": "concert.42", "at": "2026-11-27T10:00:00.250000Z",
        "order": {
            "id": Uuid::from_u128(1), "request_id": "r-1", "buyer": "b-1", "quantity": 2,
            "hold_until": "2026-11-27T10:10:00.000000Z"
        }
    });
    assert_eq!(body, expected);
}

#[test]
fn an_item_is_told_as_it_was_after_the_change() {
    let events = messages(&of_item("item.created", r#"{"stock":7}"#), &HashMap::new()).unwrap();
    let [event] = &events[..] else { panic!("one event: {events:?}") };
    assert_eq!((event.event_id.as_str(), event.routing_key.as_str()), ("41.0", "item.created.concert-42"));
    let body: Event = serde_json::from_str(&event.body).unwrap();
    assert_eq!((body.detail, body.order), (Some(json!({"stock": 7})), None));
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
        let error = messages(&row, &orders).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{error}");
    }
}

fn not_taken() -> Result<(), Refusal> {
    Err(Refusal::NotTaken("full".to_owned()))
}

fn unfit() -> Result<(), Refusal> {
    Err(Refusal::Unfit("too large".to_owned()))
}

fn refused(reason: &str) -> Result<(), String> {
    Err(reason.to_owned())
}

#[test]
fn a_row_that_is_refused_while_others_are_taken_is_given_up_wherever_it_stands() {
    for place in 0..3 {
        let mut rows = vec![Ok(()), Ok(())];
        rows.insert(place, not_taken());
        let mut expected = vec![Ok(()), Ok(())];
        expected.insert(place, refused("full"));
        assert_eq!(given_up(rows).unwrap(), expected);
    }
}

#[test]
fn where_none_is_taken_none_is_given_up() {
    for rows in [vec![not_taken()], vec![not_taken(), not_taken()], vec![not_taken(), unfit()]] {
        assert_eq!(given_up(rows), Err("full".to_owned()));
    }
}

#[test]
fn a_row_that_can_never_be_is_given_up_even_if_it_is_the_only_one() {
    assert_eq!(given_up(vec![unfit()]).unwrap(), [refused("too large")]);
    assert_eq!(given_up(vec![unfit(), not_taken(), unfit()]).unwrap(), [refused("too large")], "the next one waits");
}
