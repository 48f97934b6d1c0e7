//! Items are put on sale, restocked, opened and closed by message, while buyers buy.

use crate::support::shop::{Reply, Shop};
use shared::messages::RESTOCK_QUEUE;

#[tokio::test]
async fn an_item_that_sold_out_is_restocked_by_message_and_the_next_buyer_gets_a_unit() {
    let mut shop = Shop::open(&[]).await;
    let _workers = shop.workers(&["purchase", "restock"]).await;
    assert_eq!(shop.purchase("early").await.code(), "unknown_item");
    assert_eq!(restock(&mut shop, "s-1", r#""op":"create","stock":1"#).await.code(), "created");
    assert_eq!(shop.purchase("first").await.code(), "reserved");
    assert_eq!(shop.purchase("second").await.code(), "sold_out");
    let added = restock(&mut shop, "s-2", r#""op":"add","quantity":2"#).await;
    assert_eq!(added.code(), "added");
    assert_eq!(shop.purchase("third").await.code(), "reserved");
    assert_eq!(restock(&mut shop, "s-2", r#""op":"add","quantity":2"#).await.body, added.body, "byte for byte");
    assert_eq!(restock(&mut shop, "s-3", r#""op":"remove","quantity":2"#).await.code(), "stock_in_use");
    assert_eq!(restock(&mut shop, "s-4", r#""op":"close""#).await.code(), "closed");
    assert_eq!(shop.purchase("late").await.code(), "sale_closed");
    assert_eq!(restock(&mut shop, "s-5", r#""op":"remove","quantity":1"#).await.code(), "removed");
    // Stock has an order, too, which RabbitMQ 4 would let a priority jump.
    let first = request("s-6", r#""op":"add","quantity":1"#);
    shop.send_to(RESTOCK_QUEUE, "", first.as_bytes(), shop.properties("s-6").with_priority(5)).await;
    assert_eq!(shop.reply_to("s-6").await.code(), "priority_not_allowed");
    assert_eq!(shop.stock("ticket").await, (0, 2));
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

#[tokio::test]
async fn the_default_exchange_is_taken_unless_it_is_to_be_refused_and_then_rights_tell_functions_apart() {
    let mut shop = Shop::open(&[]).await;
    let mut before = shop.worker_of("restock", "before", &[]).await;
    send(&shop, "old-way", r#""op":"create","stock":1"#).await;
    assert_eq!(shop.reply_to("old-way").await.code(), "created");
    assert_eq!(before.stop().await.unwrap().code(), Some(0));
    let strict = [("REFUSE_DEFAULT_EXCHANGE", "true")];
    let _restock = shop.worker_of("restock", "strict", &strict).await;
    send(&shop, "old-way-again", r#""op":"add","quantity":1"#).await;
    assert_eq!(shop.reply_to("old-way-again").await.code(), "not_allowed");
    assert_eq!(restock(&mut shop, "new-way", r#""op":"add","quantity":1"#).await.code(), "added");
    assert_eq!(shop.dead(1).await[0].0, "not_allowed");
    assert_eq!(shop.stock("ticket").await, (2, 0));
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
