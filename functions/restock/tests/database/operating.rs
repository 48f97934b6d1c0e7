//! What the contract allows, the database keeps; and an id has one verdict. (Each operation and each refusal stand in
//! loadtest/tests/golden/replies.txt.)

use super::*;

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
async fn an_item_that_is_created_with_rules_counts_its_orders_from_the_first_one_on() {
    let pool = database(&[]).await;
    let rules = Rules { max_per_buyer: Some(2), ..Rules::default() };
    for (number, item, rules) in [(1, "ruled", rules), (2, "free", Rules::default())] {
        assert_eq!(code(&pool, request(number, item, create(5, rules))).await, Code::Created);
    }
    let as_it_should = "SELECT count(*) FROM items WHERE counts_orders = (id = 'ruled') AND NOT is_counting";
    assert_eq!(count(&pool, as_it_should).await, 2);
}

#[tokio::test]
async fn an_id_has_one_verdict_and_one_change_and_other_content_is_told_so() {
    let pool = database(&[("a", 5, 0, 0)]).await;
    let requests = [
        request(1, "new", create(3, Rules::default())),
        request(2, "a", Operation::Remove { quantity: 9 }),
        request(1, "new", Operation::Add { quantity: 1 }),
        request(9, "a", Operation::Close),
    ];
    assert_one_verdict_per_id(&pool, requests, async |requests| answers(&pool, requests).await).await;
    assert_eq!((item(&pool, "new").await, item(&pool, "a").await), ((3, 3, 0, 0, 0), (5, 5, 0, 0, 0)));
    assert_eq!(count(&pool, "SELECT count(*) FROM outbox").await, 1);
}
