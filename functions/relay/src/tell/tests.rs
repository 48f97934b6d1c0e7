#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

use super::*;
use serde_json::json;
use time::macros::datetime;

fn row(kind: &str, what: What) -> Row {
    Row { id: 41, kind: kind.to_owned(), what, at: datetime!(2026-11-27 10:00:00.25 UTC) }
}

fn order(number: u128, item: &str) -> (Uuid, Order) {
    let id = Uuid::from_u128(number);
    let (request_id, buyer) = (format!("r-{number}"), format!("b-{number}"));
    let hold_until = datetime!(2026-11-27 10:10:00 UTC);
    (id, Order { item: item.to_owned(), order: EventOrder { id, request_id, buyer, quantity: 2, hold_until } })
}

fn of_item(detail: &str) -> What {
    What::Item { id: "concert-42".to_owned(), detail: detail.to_owned() }
}

#[test]
fn an_event_has_the_number_of_its_row_and_its_place_in_it() {
    let orders = HashMap::from([order(1, "concert.42"), order(2, "opera")]);
    let ids = [2, 1, 2].map(|number| Some(Uuid::from_u128(number)));
    let told = tell(&row("order.reserved", What::Orders(ids.to_vec())), &orders).unwrap();
    let keys: Vec<_> = told.iter().map(|event| (event.id.as_str(), event.routing_key.as_str())).collect();
    assert_eq!(
        keys,
        [("41.0", "order.reserved.opera"), ("41.1", "order.reserved.concert.42"), ("41.2", "order.reserved.opera")]
    );
    let body: serde_json::Value = serde_json::from_str(&told[1].body).unwrap();
    let expected = json!({
        "event_id": "41.1", "event": "order.reserved", "item": "concert.42", "at": "2026-11-27T10:00:00.25Z",
        "order": {
            "id": Uuid::from_u128(1), "request_id": "r-1", "buyer": "b-1", "quantity": 2,
            "hold_until": "2026-11-27T10:10:00Z"
        }
    });
    assert_eq!(body, expected);
}

#[test]
fn an_item_is_told_as_it_was_after_the_change() {
    let told = tell(&row("item.created", of_item(r#"{"stock":7}"#)), &HashMap::new()).unwrap();
    let [event] = &told[..] else { panic!("one event: {told:?}") };
    assert_eq!((event.id.as_str(), event.routing_key.as_str()), ("41.0", "item.created.concert-42"));
    let body: Event = serde_json::from_str(&event.body).unwrap();
    assert_eq!((body.detail, body.order), (Some(json!({"stock": 7})), None));
}

#[test]
fn every_kind_is_told() {
    let orders = HashMap::from([order(1, "a")]);
    for kind in EventKind::ALL {
        let is_of_order = kind.as_str().starts_with("order.");
        let what = if is_of_order { What::Orders(vec![Some(Uuid::from_u128(1))]) } else { of_item("{}") };
        assert_eq!(tell(&row(kind.as_str(), what), &orders).unwrap()[0].kind, kind);
    }
}

#[test]
fn what_cannot_be_told_says_why_and_tells_nothing() {
    let long = "x".repeat(241);
    let orders = HashMap::from([order(1, "a"), order(3, &long)]);
    let of_orders =
        |numbers: &[u128]| What::Orders(numbers.iter().map(|number| Some(Uuid::from_u128(*number))).collect());
    for (kind, what, reason) in [
        ("order.teleported", of_orders(&[1]), "this version knows no event order.teleported"),
        ("order.paid", of_orders(&[1, 2]), "the order 00000000-0000-0000-0000-000000000002 is gone"),
        ("order.paid", What::Orders(vec![Some(Uuid::from_u128(1)), None]), "the order at place 1 has no id"),
        ("order.reserved", of_orders(&[1, 3]), "the routing key would have 256 bytes, and AMQP has room for 255"),
        ("item.opened", of_item("{"), "the detail is not a JSON object (EOF while parsing"),
        ("item.opened", of_item("[]"), "the detail is not a JSON object (invalid type: sequence"),
    ] {
        let error = tell(&row(kind, what), &orders).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{error}");
    }
}
