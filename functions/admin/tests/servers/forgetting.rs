//! Whose a verdict is that a buyer's forgetting meets. (That nothing is left of them is among the tests of the whole system.)

use crate::Shop;
use serde_json::{Value, json};
use shared::devstack::seed::until_waiting;
use shared::messages::{Identity, PurchaseRequest};
use shared::order::State;
use uuid::Uuid;

/// As versions before 0008 recorded one: its content is zero.
const VERDICT: &str = "
INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at)
VALUES ($1, 'ticket', $2, 'refused', $3, now())";
/// Long replies of others: more pages than one step reads, and none that has room for a row more.
const OTHERS: &str = "
INSERT INTO verdicts SELECT 'o-' || g, 'other', gen_random_uuid(), 'refused', repeat('x', 1800), now(), NULL
FROM generate_series(1, 400) AS g";
const UNTOUCHED: &str = "
SELECT count(*) FROM verdicts WHERE fingerprint <> '00000000-0000-0000-0000-000000000000' AND request_id !~ '^o-'";

async fn forget(shop: &Shop, arguments: &[&str]) -> Value {
    shop.json(&[&["forget", "b-1"], arguments].concat()).await
}

async fn verdict(shop: &Shop, request_id: &str, fingerprint: Uuid, order: Option<Uuid>) {
    let message = order.map_or_else(String::new, |id| format!("The order {id} is cancelled already."));
    let reply = format!(
        r#"{{"request_id":"{request_id}","status":"refused","code":"already_cancelled","message":"{message}{}"}}"#,
        "x".repeat(1_700)
    );
    let insert = sqlx::query(VERDICT).bind(request_id).bind(fingerprint).bind(reply);
    insert.execute(&shop.pool).await.unwrap();
}

async fn untouched(shop: &Shop) -> i64 {
    sqlx::query_scalar(UNTOUCHED).fetch_one(&shop.pool).await.unwrap()
}

#[tokio::test]
async fn only_whole_ids_name_a_buyer_and_what_came_after_forgetting_is_found_and_counted_once() {
    let shop = Shop::open().await;
    let [forgotten, others] =
        [shop.order("ticket", State::Cancelled).await, shop.order("ticket", State::Cancelled).await];
    shop.execute("DELETE FROM verdicts").await;
    sqlx::query("UPDATE orders SET buyer = id::text WHERE id = $1").bind(forgotten).execute(&shop.pool).await.unwrap();
    // Before content there was none, which forgets nobody; and b-12 is somebody else.
    verdict(&shop, "b-12:1", Uuid::now_v7(), None).await;
    verdict(&shop, "rb-1", Uuid::now_v7(), Some(forgotten)).await;
    verdict(&shop, "b-1:for-b-2", Uuid::now_v7(), Some(others)).await;
    verdict(&shop, "cancel:b-1", Uuid::now_v7(), Some(forgotten)).await;
    shop.execute(OTHERS).await;
    let found = |verdicts, left, unknown| json!({ "orders": 0, "verdicts": verdicts, "verdicts_left": left, "verdicts_unknown": unknown });
    for _ in 0..2 {
        assert_eq!((forget(&shop, &[]).await, untouched(&shop).await), (found(1, 1, 0), 3));
    }
    verdict(&shop, "b-1", Uuid::now_v7(), None).await;
    let nobodys = (found(1, 0, 1), 4);
    assert_eq!((forget(&shop, &["--with-request-ids"]).await, untouched(&shop).await), nobodys);
    assert!(!shop.run(&["forget", "b-1"]).await.unwrap().is_well);
}

#[tokio::test]
async fn what_a_buyer_buys_while_they_are_forgotten_keeps_its_verdict_and_is_found_the_next_time() {
    let shop = Shop::open().await;
    let request = PurchaseRequest {
        request_id: "r".to_owned(),
        item: "ticket".to_owned(),
        buyer: "b-1".to_owned(),
        quantity: 1,
        deadline: None,
        sender: None,
    };
    let open = shop.order("ticket", State::Reserved).await;
    shop.execute("DELETE FROM verdicts").await;
    verdict(&shop, "r", request.fingerprint(), Some(open)).await;
    // The orders are read, and of the verdicts nothing yet.
    let mut buying = shop.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE verdicts").execute(&mut *buying).await.unwrap();
    let buys = async {
        until_waiting(&shop.pool, 1).await;
        sqlx::query("UPDATE orders SET buyer = 'b-1'").execute(&mut *buying).await.unwrap();
        buying.commit().await.unwrap();
    };
    let (done, ()) = tokio::join!(forget(&shop, &[]), buys);
    assert_eq!((&done["verdicts"], untouched(&shop).await), (&json!(0), 1), "{done}");
    let refused = shop.run(&["forget", "b-1"]).await.unwrap_err();
    assert!(format!("{refused:?}").contains(&open.to_string()), "{refused:?}");
}
