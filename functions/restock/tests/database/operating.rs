//! Each operation and each refusal, as they stand in the database.

use super::*;

const OPENS_AT: OffsetDateTime = datetime!(2099-11-27 10:00 UTC);
const CLOSES_AT: OffsetDateTime = datetime!(2099-11-27 11:00 UTC);

fn all_rules() -> Rules {
    Rules { cooldown_ms: Some(86_400_000), tiers: Some(["gold".into(), "vip".into()].into()), ..at_most(2) }
}

#[tokio::test]
async fn an_item_is_created_with_all_that_was_asked_for() {
    let pool = database(&[]).await;
    let full = Operation::Create {
        stock: 50,
        hold_ms: 1_000,
        opens_at: Some(OPENS_AT),
        closes_at: Some(CLOSES_AT),
        rules: all_rules(),
    };
    let found = answers(&pool, &[request(1, "full", full), request(2, "bare", create(0, Rules::default()))]).await;
    for answer in &found {
        assert_eq!((verdict(answer).status, verdict(answer).code), (Status::Done, Code::Created));
    }
    let read = "SELECT stock, available, hold_ms, opens_at, closes_at, max_per_buyer, cooldown_ms, tiers, counts_orders
                FROM items ORDER BY id DESC";
    let rows = sqlx::query(read).fetch_all(&pool).await.unwrap();
    assert_eq!((rows[0].get::<i64, _>(0), rows[0].get::<i64, _>(1), rows[0].get::<i64, _>(2)), (50, 50, 1_000));
    assert_eq!((rows[0].get(3), rows[0].get(4)), (Some(OPENS_AT), Some(CLOSES_AT)));
    assert_eq!((rows[0].get(5), rows[0].get(6)), (Some(2_i64), Some(86_400_000_i64)));
    assert_eq!(rows[0].get::<Option<Vec<String>>, _>(7), Some(vec!["gold".to_owned(), "vip".to_owned()]));
    assert!(rows[0].get::<bool, _>(8), "its orders are counted from the first one on");
    assert_eq!((rows[1].get(3), rows[1].get(4)), (None::<OffsetDateTime>, None::<OffsetDateTime>));
    assert_eq!((rows[1].get(5), rows[1].get(7)), (None::<i64>, None::<Vec<String>>));
    assert!(!rows[1].get::<bool, _>(8), "a sale without rules pays nothing for them");
}

#[tokio::test]
async fn what_the_contract_allows_at_its_edges_the_database_keeps() {
    let pool = database(&[]).await;
    let (first, last) = ("0001-01-01T00:00:00.000000Z", "9999-01-01T00:00:00.000000Z");
    let tiers: Vec<String> = (10..10 + TIERS_MAX).map(|tier| format!("{tier}{}", "x".repeat(126))).collect();
    let body = serde_json::json!({"request_id": "s-1", "item": "y".repeat(128), "op": "create", "stock": STOCK_MAX,
        "hold_ms": TIME_MS_MAX, "opens_at": first, "closes_at": last,
        "rules": {"max_per_buyer": STOCK_MAX, "cooldown_ms": TIME_MS_MAX, "tiers": tiers}});
    let created = RestockRequest::decode(body.to_string().as_bytes(), None).unwrap();
    assert_eq!(code(&pool, created).await, Code::Created);
    // Read, changed and published again, as it is.
    let removed = request(2, &"y".repeat(128), Operation::Remove { quantity: STOCK_MAX });
    assert_eq!(code(&pool, removed).await, Code::Removed);
    let published = sqlx::query("SELECT detail FROM outbox ORDER BY id DESC LIMIT 1").fetch_one(&pool).await.unwrap();
    let published: Value = serde_json::from_str(published.get(0)).unwrap();
    for field in ["hold_ms", "opens_at", "closes_at", "rules"] {
        assert_eq!(published[field], body[field]);
    }
}

#[tokio::test]
async fn stock_is_added_and_removed_in_the_order_of_the_batch() {
    let pool = database(&[("a", 5, 2, 1)]).await;
    let operations = [
        ("a", Operation::Remove { quantity: 3 }, Code::StockInUse),
        ("new", Operation::Add { quantity: 1 }, Code::UnknownItem),
        ("a", Operation::Add { quantity: 1 }, Code::Added),
        ("a", Operation::Remove { quantity: 3 }, Code::Removed),
        ("new", create(7, Rules::default()), Code::Created),
        ("new", Operation::Remove { quantity: 7 }, Code::Removed),
        ("a", create(9, Rules::default()), Code::ItemExists),
        ("a", Operation::Remove { quantity: 1 }, Code::StockInUse),
    ];
    let numbered = operations.iter().enumerate();
    let requests: Vec<_> = numbered.map(|(id, (item, next, _))| request(id, item, next.clone())).collect();
    let expected: Vec<Code> = operations.iter().map(|(_, _, code)| *code).collect();
    assert_eq!(codes(&answers(&pool, &requests).await), expected);
    assert_eq!((item(&pool, "a").await, item(&pool, "new").await), ((3, 0, 2, 1, 2), (0, 0, 0, 0, 1)));
}

#[tokio::test]
async fn a_sale_is_opened_and_closed() {
    let pool = database(&[("a", 1, 0, 0)]).await;
    let open = |opens_at, closes_at| Operation::Open { opens_at, closes_at };
    for (id, operation, expected, holds) in [
        (1, open(None, None), Code::Opened, "SELECT count(*) FROM items WHERE opens_at <= now() AND closes_at IS NULL"),
        (
            2,
            Operation::Close,
            Code::Closed,
            "SELECT count(*) FROM items WHERE closes_at <= now() AND opens_at < closes_at",
        ),
        (
            3,
            open(Some(OPENS_AT), Some(CLOSES_AT)),
            Code::Opened,
            "SELECT count(*) FROM items WHERE opens_at = '2099-11-27 10:00Z' AND closes_at = '2099-11-27 11:00Z'",
        ),
        (4, Operation::Close, Code::Closed, "SELECT count(*) FROM items WHERE closes_at <= now() AND opens_at IS NULL"),
        (
            5,
            open(None, Some(datetime!(2000-01-01 00:00 UTC))),
            Code::InvalidField,
            "SELECT count(*) FROM items WHERE opens_at IS NULL AND version = 4",
        ),
    ] {
        assert_eq!(code(&pool, request(id, "a", operation)).await, expected);
        assert_eq!(count(&pool, holds).await, 1, "{id}");
    }
}

#[tokio::test]
async fn rules_are_replaced_as_a_whole() {
    let pool = database(&[("a", 1, 0, 0)]).await;
    let held = "SELECT max_per_buyer, cooldown_ms, tiers FROM items";
    for (id, rules) in [all_rules(), at_most(1), Rules::default()].into_iter().enumerate() {
        assert_eq!(code(&pool, request(id, "a", Operation::Rules { rules: rules.clone() })).await, Code::RulesSet);
        let row = sqlx::query(held).fetch_one(&pool).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (rules.max_per_buyer, rules.cooldown_ms));
        assert_eq!(row.get::<Option<Vec<String>>, _>(2), rules.tiers.map(|tiers| tiers.into_iter().collect()));
    }
}

#[tokio::test]
async fn each_change_is_told_with_the_item_as_it_was_then_and_a_refusal_is_not() {
    let pool = database(&[("a", 5, 2, 1)]).await;
    let requests = [
        request(1, "new", create(1, at_most(2))),
        request(2, "new", Operation::Add { quantity: 2 }),
        request(3, "a", Operation::Remove { quantity: 9 }),
        request(4, "a", Operation::Remove { quantity: 2 }),
        request(5, "new", Operation::Open { opens_at: Some(OPENS_AT), closes_at: None }),
        request(6, "a", Operation::Close),
        request(7, "new", Operation::Rules { rules: Rules::default() }),
    ];
    answers(&pool, &requests).await;
    answers(&pool, &requests).await;
    let rows = sqlx::query("SELECT kind, item, detail FROM outbox ORDER BY id").fetch_all(&pool).await.unwrap();
    let published: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = [
        ("item.created", "new"),
        ("item.stock_added", "new"),
        ("item.stock_removed", "a"),
        ("item.opened", "new"),
        ("item.closed", "a"),
        ("item.rules_changed", "new"),
    ];
    assert_eq!(published, expected.map(|(kind, item)| (kind.to_owned(), item.to_owned())));
    let details: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row.get(2)).unwrap()).collect();
    let hold_ms = 600_000;
    let expected = serde_json::json!({"id": "new", "stock": 1, "available": 1, "held": 0, "sold": 0, "version": 0,
        "hold_ms": hold_ms, "rules": {"max_per_buyer": 2}});
    assert_eq!(details[0], expected);
    let expected = serde_json::json!({"id": "a", "stock": 3, "available": 0, "held": 2, "sold": 1, "version": 1,
        "hold_ms": hold_ms, "rules": {}});
    assert_eq!(details[2], expected);
    let expected = serde_json::json!({"id": "new", "stock": 3, "available": 3, "held": 0, "sold": 0, "version": 3,
        "hold_ms": hold_ms, "opens_at": "2099-11-27T10:00:00.000000Z", "rules": {}});
    assert_eq!(details[5], expected);
}

#[tokio::test]
async fn a_repeat_gets_the_same_verdict_byte_for_byte_and_changes_nothing() {
    let pool = database(&[("a", 5, 0, 0)]).await;
    let add = request(1, "a", Operation::Add { quantity: 1 });
    let requests =
        [add.clone(), add, request(2, "b", Operation::Close), request(3, "a", Operation::Remove { quantity: 9 })];
    let first = answers(&pool, &requests).await;
    assert_eq!(first[0], first[1], "copies in one batch are one request");
    assert_eq!(answers(&pool, &requests).await, first);
    assert_eq!(item(&pool, "a").await, (6, 6, 0, 0, 1));
    assert_eq!(count(&pool, "SELECT count(*) FROM verdicts WHERE item IN ('a', 'b')").await, 3, "refusals, too");
}

#[tokio::test]
async fn the_same_id_with_other_content_is_told_so_and_changes_nothing() {
    let pool = database(&[("a", 5, 0, 0)]).await;
    let add = |quantity| request(1, "a", Operation::Add { quantity });
    let both = answers(&pool, &[add(1), add(2)]).await;
    let later = answers(&pool, &[request(1, "a", Operation::Remove { quantity: 1 })]).await;
    for answer in [&both[1], &later[0]] {
        assert!(matches!(answer, Answer::Rejected(_)));
        assert_eq!(verdict(answer).code, Code::RequestIdReused);
    }
    // A purchase's id is no restock's.
    execute(&pool, "INSERT INTO verdicts VALUES ('s-9', 'a', gen_random_uuid(), 'reserved', '{}', now())").await;
    assert_eq!(code(&pool, request(9, "a", Operation::Close)).await, Code::RequestIdReused);
    assert_eq!(item(&pool, "a").await, (6, 6, 0, 0, 1));
}
