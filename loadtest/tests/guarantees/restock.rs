//! Items are put on sale, restocked, opened and closed by message, while buyers buy.

use crate::support::shop::{Reply, Shop, until};
use shared::messages::RESTOCK_QUEUE;

#[tokio::test]
async fn an_item_that_sold_out_is_restocked_by_message_and_the_next_buyer_gets_a_unit() {
    let mut shop = Shop::open(&[]).await;
    let _purchase = shop.worker("w", &[]).await;
    let _restock = shop.worker_of("restock", "s", &[]).await;
    assert_eq!(shop.purchase("early").await.code(), "unknown_item");
    assert_eq!(restock(&mut shop, "s-1", r#""op":"create","stock":1"#).await.code(), "created");
    assert_eq!(shop.purchase("first").await.code(), "reserved");
    assert_eq!(shop.purchase("second").await.code(), "sold_out");

    let added = restock(&mut shop, "s-2", r#""op":"add","quantity":2"#).await;
    assert_eq!(added.code(), "added");
    assert_eq!(shop.purchase("third").await.code(), "reserved");
    assert_eq!(restock(&mut shop, "s-2", r#""op":"add","quantity":2"#).await.body, added.body, "byte for byte");
    assert_eq!(restock(&mut shop, "s-3", r#""op":"remove","quantity":2"#).await.code(), "stock_in_use");
    assert_eq!(restock(&mut shop, "s-4", r#""op":"remove","quantity":1"#).await.code(), "removed");
    assert_eq!(shop.purchase("fourth").await.code(), "sold_out");
    assert_eq!(shop.stock("ticket").await, (0, 2));

    assert_eq!(restock(&mut shop, "s-1", r#""op":"create","stock":2"#).await.code(), "request_id_reused");
    assert_eq!(restock(&mut shop, "s-5", r#""op":"add","quantity":0"#).await.code(), "invalid_field");
    assert_eq!(restock(&mut shop, "s-6", r#""op":"add""#).await.code(), "malformed");
    assert_eq!(shop.dead_reasons(3).await, ["request_id_reused", "invalid_field", "malformed"]);
}

#[tokio::test]
async fn a_sale_is_closed_and_opened_again_by_message() {
    let mut shop = Shop::open(&[("ticket", 2)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let _restock = shop.worker_of("restock", "s", &[]).await;
    assert_eq!(restock(&mut shop, "s-1", r#""op":"close""#).await.code(), "closed");
    assert_eq!(shop.purchase("late").await.code(), "sale_closed");
    assert_eq!(restock(&mut shop, "s-2", r#""op":"open""#).await.code(), "opened");
    assert_eq!(shop.purchase("first").await.code(), "reserved");
    let next_century = r#""op":"open","opens_at":"2099-11-27T10:00:00Z""#;
    assert_eq!(restock(&mut shop, "s-3", next_century).await.code(), "opened");
    assert_eq!(shop.purchase("eager").await.code(), "sale_not_open");
}

#[tokio::test]
async fn a_limit_that_is_set_in_mid_sale_counts_what_was_bought_before() {
    let mut shop = Shop::open(&[("ticket", 5)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let _restock = shop.worker_of("restock", "s", &[]).await;
    assert_eq!(buy_as(&mut shop, "r-1", "anna").await.code(), "reserved");
    let limit = r#""op":"rules","rules":{"max_per_buyer":1}"#;
    assert_eq!(restock(&mut shop, "s-1", limit).await.code(), "rules_set");
    assert_eq!(buy_as(&mut shop, "r-2", "anna").await.code(), "buyer_limit");
    assert_eq!(buy_as(&mut shop, "r-3", "bob").await.code(), "reserved");
    assert_eq!(buy_as(&mut shop, "r-4", "bob").await.code(), "buyer_limit");
    let vip = r#""op":"rules","rules":{"cooldown_ms":3600000,"tiers":["vip"]}"#;
    assert_eq!(restock(&mut shop, "s-2", vip).await.code(), "rules_set");
    assert_eq!(buy_as(&mut shop, "r-5", "anna").await.code(), "not_eligible");
    assert_eq!(restock(&mut shop, "s-3", r#""op":"rules","rules":{}"#).await.code(), "rules_set");
    assert_eq!(buy_as(&mut shop, "r-6", "anna").await.code(), "reserved");
}

#[tokio::test]
async fn a_worker_that_dies_while_it_counts_orders_leaves_no_rule_and_the_next_one_counts_again() {
    const WAITING_WORKERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                                   AND wait_event_type = 'Lock' AND application_name LIKE 'turnstile-restock %'";
    let mut shop = Shop::open(&[("ticket", 5)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let mut active = shop.worker_of("restock", "active", &[]).await;
    assert_eq!(buy_as(&mut shop, "r-1", "anna").await.code(), "reserved");
    let mut paying = shop.pool.begin().await.unwrap();
    sqlx::query("UPDATE orders SET state = 'paid'").execute(&mut *paying).await.unwrap();
    send(&shop, "s-1", r#""op":"rules","rules":{"max_per_buyer":1}"#).await;
    until("it waits for the order", async || shop.count(WAITING_WORKERS).await == 1).await;
    active.kill().await.unwrap();
    assert_eq!(shop.count("SELECT count(*) FROM items WHERE is_counting AND max_per_buyer IS NULL").await, 1);
    paying.rollback().await.unwrap();

    let _next = shop.worker_of("restock", "next", &[]).await;
    let reply = shop.reply().await;
    assert_eq!((reply.code().as_str(), reply.worker_id.as_str()), ("rules_set", "next"));
    assert_eq!(buy_as(&mut shop, "r-2", "anna").await.code(), "buyer_limit");
}

#[tokio::test]
async fn when_the_active_worker_dies_the_one_that_stands_by_goes_on_in_order() {
    const CHANGES: usize = 40;
    let mut shop = Shop::open(&[]).await;
    let environment = [("BATCH_MAX", "1"), ("TURNSTILE_PAUSE_AT", "handling c-5")];
    let mut active = shop.worker_of("restock", "active", &environment).await;
    assert_eq!(restock(&mut shop, "c-0", r#""op":"create","stock":1"#).await.worker_id, "active");
    let _standby = shop.worker_of("restock", "standby", &[]).await;
    // Each is done only where the one before it is: the unit is taken, then given back, and so on.
    for number in 1..CHANGES {
        let operations = [r#""op":"add","quantity":1"#, r#""op":"remove","quantity":1"#];
        send(&shop, &format!("c-{number}"), operations[number % 2]).await;
    }
    shop.paused("active").await;
    active.kill().await.unwrap();
    let replies = shop.replies(CHANGES - 1).await;
    for number in 1..CHANGES {
        assert_eq!(replies[&format!("c-{number}")].code(), ["added", "removed"][number % 2], "{number}");
    }
    assert_eq!(replies["c-39"].worker_id, "standby");
    assert_eq!(shop.stock("ticket").await, (0, 0));
    let versions = "SELECT count(*) FROM (SELECT (detail::json ->> 'version')::bigint
                    = row_number() OVER (ORDER BY id) - 1 AS is_next FROM outbox) AS told WHERE is_next";
    assert_eq!(shop.count(versions).await, CHANGES as i64, "and told in that order, once");
}

async fn buy_as(shop: &mut Shop, id: &str, buyer: &str) -> Reply {
    let body = format!(r#"{{"request_id":"{id}","item":"ticket","buyer":"{buyer}","quantity":1}}"#);
    shop.send("ticket", body.as_bytes(), shop.properties(id)).await;
    shop.reply().await
}

async fn send(shop: &Shop, id: &str, operation: &str) {
    shop.send_to("", RESTOCK_QUEUE, request(id, operation).as_bytes(), shop.properties(id)).await;
}

async fn restock(shop: &mut Shop, id: &str, operation: &str) -> Reply {
    shop.ask(RESTOCK_QUEUE, id, &request(id, operation)).await
}

fn request(id: &str, operation: &str) -> String {
    format!(r#"{{"request_id":"{id}","item":"ticket",{operation}}}"#)
}
