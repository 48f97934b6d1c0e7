//! Rows of events that were set aside are listed, published again, or dropped.

use crate::Shop;
use serde_json::{Value, json};

const SET_ASIDE: &str = "
INSERT INTO outbox_failed (id, kind, order_ids, item, detail, at, reason)
SELECT id, 'item.opened', NULL, 'a', '{}', now(), 'reason ' || id FROM generate_series(1, 4) AS id
UNION ALL SELECT 5, 'order.paid', ARRAY[gen_random_uuid(), gen_random_uuid()], NULL, NULL, now(), 'reason 5'";

fn ids(document: &Value) -> Vec<i64> {
    document["rows"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn rows_that_were_set_aside_are_listed_put_back_under_their_numbers_or_dropped() {
    let shop = Shop::open().await;
    assert_eq!(shop.text(&["outbox", "list"]).await, "No such rows.\n");
    shop.execute(SET_ASIDE).await;
    let listed = shop.json(&["outbox", "list", "--limit", "2"]).await;
    assert_eq!((ids(&listed), &listed["not_shown"]), (vec![1, 2], &json!(3)));
    let text = shop.text(&["outbox", "list"]).await;
    assert!(text.contains("order.paid") && text.contains("reason 5") && !text.contains("Not shown"), "{text}");
    let all = shop.json(&["outbox", "list"]).await;
    assert_eq!((&all["rows"][4]["events"], &all["rows"][4]["item"]), (&json!(2), &Value::Null));

    assert_eq!(ids(&shop.json(&["outbox", "replay", "5", "2"]).await), [2, 5]);
    let kept: Vec<(i64, String)> =
        sqlx::query_as("SELECT id, kind FROM outbox ORDER BY id").fetch_all(&shop.pool).await.unwrap();
    assert_eq!(kept, [(2, "item.opened".to_owned()), (5, "order.paid".to_owned())], "with the ids that they had");
    assert_eq!(ids(&shop.json(&["outbox", "drop", "1"]).await), [1]);
    let unknown = shop.run(&["outbox", "replay", "1", "3"]).await.unwrap();
    assert!(!unknown.is_well && unknown.text.contains("There is no row 1."), "{}", unknown.text);
    assert_eq!(ids(&shop.json(&["outbox", "replay", "--all", "--yes"]).await), [4]);
    assert_eq!(ids(&shop.json(&["outbox", "list"]).await), Vec::<i64>::new());
    let left: Vec<i64> = sqlx::query_scalar("SELECT id FROM outbox ORDER BY id").fetch_all(&shop.pool).await.unwrap();
    assert_eq!(left, [2, 3, 4, 5]);
}
