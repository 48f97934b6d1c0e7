//! What is read, and what is the same request. What is refused, and how, stands in tests/golden/rejections.txt.

use super::*;
use crate::messages::Sender;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

fn decode(mut body: Value) -> Result<Operation, Rejection> {
    body["request_id"] = "r-1".into();
    body["item"] = "a".into();
    RestockRequest::decode(body.to_string().as_bytes(), None).map(|request| request.operation)
}

#[test]
fn every_operation_is_read_with_all_of_its_fields_and_with_the_fewest() {
    let rules = json!({"max_per_buyer": 2, "cooldown_ms": 86_400_000, "tiers": ["vip", "gold"]});
    let read = Rules {
        max_per_buyer: Some(2),
        cooldown_ms: Some(86_400_000),
        tiers: Some(["gold".to_owned(), "vip".to_owned()].into()),
    };
    let (ten, eleven) = (Some(datetime!(2026-11-27 10:00 UTC)), Some(datetime!(2026-11-27 11:00 UTC)));
    let window = (json!("2026-11-27T10:00:00Z"), json!("2026-11-27T12:00:00+01:00"));
    let full =
        json!({"op": "create", "stock": 5, "hold_ms": 1, "opens_at": window.0, "closes_at": window.1, "rules": rules});
    let expected = Operation::Create { stock: 5, hold_ms: 1, opens_at: ten, closes_at: eleven, rules: read.clone() };
    let (stock, hold_ms, rules_of_fewest) = (0, HOLD_MS_DEFAULT, Rules::default());
    let fewest = Operation::Create { stock, hold_ms, opens_at: None, closes_at: None, rules: rules_of_fewest };
    for (body, expected) in [
        (full, expected),
        (
            json!({"op": "create", "stock": 0, "rules": null, "hold_ms": null, "opens_at": null, "quantity": null}),
            fewest,
        ),
        (json!({"op": "add", "quantity": STOCK_MAX}), Operation::Add { quantity: STOCK_MAX }),
        (json!({"op": "remove", "quantity": 1}), Operation::Remove { quantity: 1 }),
        (
            json!({"op": "open", "opens_at": window.0, "closes_at": window.1}),
            Operation::Open { opens_at: ten, closes_at: eleven },
        ),
        (json!({"op": "open"}), Operation::Open { opens_at: None, closes_at: None }),
        (json!({"op": "close"}), Operation::Close),
        (json!({"op": "rules", "rules": rules}), Operation::Rules { rules: read }),
        (json!({"op": "rules", "rules": {"tiers": null}}), Operation::Rules { rules: Rules::default() }),
    ] {
        assert_eq!(decode(body.clone()), Ok(expected.clone()), "{body}");
        // What is written is read as what it was, and is the same request.
        let request = RestockRequest { request_id: "r-1".into(), item: "a".into(), operation: expected };
        let again = RestockRequest::decode(&serde_json::to_vec(&request).unwrap(), None);
        assert_eq!(again.map(|again| (again.fingerprint(), again)), Ok((request.fingerprint(), request)));
    }
}

#[test]
fn another_content_has_another_fingerprint() {
    let bodies = [
        json!({"op": "create", "stock": 1}),
        json!({"op": "create", "stock": 1, "hold_ms": 1}),
        json!({"op": "create", "stock": 1, "closes_at": "2026-11-27T10:00:00Z"}),
        json!({"op": "create", "stock": 1, "opens_at": "2026-11-27T10:00:00.0Z"}),
        json!({"op": "create", "stock": 1, "rules": {"max_per_buyer": 1}}),
        json!({"op": "create", "stock": 1, "rules": {"cooldown_ms": 1}}),
        json!({"op": "create", "stock": 1, "rules": {"tiers": ["1"]}}),
        json!({"op": "add", "quantity": 1}),
        json!({"op": "remove", "quantity": 1}),
        json!({"op": "open"}),
        json!({"op": "close"}),
        json!({"op": "rules", "rules": {}}),
    ];
    let mut seen = BTreeSet::new();
    for (item, body) in bodies.iter().flat_map(|body| [("a", body), ("b", body)]) {
        let operation = decode(body.clone()).unwrap();
        let request = RestockRequest { request_id: "r-1".into(), item: item.into(), operation };
        assert!(seen.insert(request.fingerprint()), "{body}");
    }
    let same = json!({"op": "create", "stock": 1, "opens_at": "2026-11-27T11:00:00+01:00", "hold_ms": 600_000});
    let request = RestockRequest { request_id: "r-2".into(), item: "a".into(), operation: decode(same).unwrap() };
    assert!(!seen.insert(request.fingerprint()), "the same, written otherwise");
}

/// A field of any name that is known, with values near and far from what it may have.
fn field() -> impl Strategy<Value = (String, Value)> {
    let names = ["op", "stock", "hold_ms", "quantity", "opens_at", "closes_at", "rules", "request_id", "item"];
    let value = prop_oneof![
        select(vec!["create", "add", "remove", "open", "close", "rules"]).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2..3_i64).prop_map(Value::from),
        "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:00:00(\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:59)".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        (any::<i64>(), 0..20_usize).prop_map(|(number, tiers)| {
            let tiers: Vec<String> = (0..tiers).map(|tier| format!("t-{tier}")).collect();
            json!({"max_per_buyer": number, "cooldown_ms": number, "tiers": tiers})
        }),
        Just(Value::Null),
    ];
    (select(names.to_vec()).prop_map(str::to_owned), value)
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = RestockRequest::decode(&body, None);
    }

    #[test]
    fn no_fields_make_it_panic_and_what_is_accepted_holds_the_limits(
        op in select(vec!["create", "add", "remove", "open", "close", "rules"]),
        fields in proptest::collection::vec(field(), 0..5),
    ) {
        let mut body = json!({"request_id": "r-1", "item": "a", "op": op, "stock": 1});
        if op != "create" {
            body.as_object_mut().unwrap().remove("stock");
        }
        body.as_object_mut().unwrap().extend(fields);
        let Ok(request) = RestockRequest::decode(body.to_string().as_bytes(), None) else { return Ok(()) };
        let again = RestockRequest::decode(&serde_json::to_vec(&request).unwrap(), None);
        prop_assert_eq!(again.as_ref().map(RestockRequest::fingerprint), Ok(request.fingerprint()));
        prop_assert_eq!(again, Ok(request.clone()));
        let written = serde_json::to_value(&request).unwrap();
        for (name, allowed) in [
            ("/stock", 0..=STOCK_MAX),
            ("/quantity", 1..=STOCK_MAX),
            ("/hold_ms", 1..=TIME_MS_MAX),
            ("/rules/max_per_buyer", 1..=STOCK_MAX),
            ("/rules/cooldown_ms", 1..=TIME_MS_MAX),
        ] {
            let number = written.pointer(name).map(|number| number.as_i64().unwrap());
            prop_assert!(number.is_none_or(|number| allowed.contains(&number)), "{name}: {number:?}");
        }
        let tiers = written.pointer("/rules/tiers").map(|tiers| tiers.as_array().unwrap().len());
        prop_assert!(tiers.is_none_or(|tiers| (1..=TIERS_MAX).contains(&tiers)));
        if let Operation::Create { opens_at, closes_at, .. } | Operation::Open { opens_at, closes_at } = request.operation {
            prop_assert!(opens_at.zip(closes_at).is_none_or(|(opens_at, closes_at)| opens_at < closes_at));
            prop_assert!([opens_at, closes_at].into_iter().flatten().all(|time| TIMES.contains(&time)));
        }
    }
}

#[test]
fn who_begins_to_say_who_they_are_does_not_restock_twice() {
    let mut request = RestockRequest::decode(br#"{"request_id":"s-1","item":"a","op":"close"}"#, None).unwrap();
    request.sent_by(Sender { user: "keeper".to_owned(), is_trusted: false }, false);
    assert_eq!((&*request.own_key(), request.user()), ("s-1", None));
}
