//! Units come back: of a hold that ran out, and of a cancelled order, and the next buyer gets them.

use crate::{
    asyncapi::assert_describes,
    shop::{Reply, Shop, until},
};
use serde_json::Value;
use shared::{devstack::Signal, messages::RELEASE_QUEUE};

/// Holds that run out as soon as they are made.
const HOLD_NOTHING: &str = "UPDATE items SET hold_ms = 1";
const HOLD_AN_HOUR: &str = "UPDATE items SET hold_ms = 3600000";

#[tokio::test]
async fn the_unpaid_hold_of_a_sold_out_ticket_runs_out_and_the_next_buyer_gets_the_unit() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _purchase = shop.worker("w", &[]).await;
    sqlx::query(HOLD_NOTHING).execute(&shop.pool).await.unwrap();
    assert_eq!(buy(&mut shop, "first").await.code(), "reserved");
    assert_eq!(buy(&mut shop, "second").await.code(), "sold_out");
    sqlx::query(HOLD_AN_HOUR).execute(&shop.pool).await.unwrap();

    let _releases = [shop.worker_of("release", "r1", &[]).await, shop.worker_of("release", "r2", &[]).await];
    until("the unit is back", async || shop.stock("ticket").await == (1, 0)).await;
    assert_eq!(buy(&mut shop, "third").await.code(), "reserved");
    assert_eq!(shop.stock("ticket").await, (0, 1));
    assert_eq!(shop.count("SELECT count(*) FROM order_history WHERE to_state = 'expired'").await, 1);
}

#[tokio::test]
async fn the_unit_of_a_cancelled_order_goes_to_the_next_buyer() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let _releases = [shop.worker_of("release", "r1", &[]).await, shop.worker_of("release", "r2", &[]).await];
    let order = order_of(&buy(&mut shop, "first").await);
    assert_eq!(buy(&mut shop, "second").await.code(), "sold_out");

    let cancelled = cancel(&mut shop, "c-1", &order).await;
    assert_eq!(cancelled.code(), "cancelled");
    assert_eq!(buy(&mut shop, "third").await.code(), "reserved");
    assert_eq!(cancel(&mut shop, "c-1", &order).await.body, cancelled.body, "a repeat, byte for byte");
    assert_eq!(cancel(&mut shop, "c-2", &order).await.code(), "already_cancelled");
    assert_eq!(cancel(&mut shop, "c-3", "019ac4b6-2d80-7c61-9f0e-2b6a1c8d4e5f").await.code(), "unknown_order");
    assert_eq!(shop.stock("ticket").await, (0, 1), "the unit is the third buyer's");

    assert_eq!(cancel(&mut shop, "c-1", "019ac4b6-2d80-7c61-9f0e-2b6a1c8d4e5f").await.code(), "request_id_reused");
    assert_eq!(cancel(&mut shop, "first", &order).await.code(), "request_id_reused", "also where it was a purchase's");
    assert_eq!(cancel(&mut shop, "c-4", "order-7").await.code(), "invalid_id");
    let reasons: Vec<String> = shop.dead(3).await.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["request_id_reused", "request_id_reused", "invalid_id"]);
}

#[tokio::test]
async fn a_purchase_that_has_read_a_sold_out_item_gets_the_unit_that_comes_back_before_it_commits() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let mut before = shop.worker("before", &[]).await;
    sqlx::query(HOLD_NOTHING).execute(&shop.pool).await.unwrap();
    assert_eq!(buy(&mut shop, "first").await.code(), "reserved");
    before.stop().await.unwrap();
    sqlx::query(HOLD_AN_HOUR).execute(&shop.pool).await.unwrap();

    // It has read that nothing is left, has decided so, and stands still before it commits.
    let mut purchase = shop.worker("purchase", &[("TURNSTILE_PAUSE_AT", "committing")]).await;
    shop.buy("second", "ticket").await;
    until("it is about to commit", async || shop.log("purchase").await.contains("paused")).await;
    let _release = shop.worker_of("release", "r", &[]).await;
    until("the unit is back", async || shop.stock("ticket").await == (1, 0)).await;
    purchase.send(Signal::Continue).unwrap();

    let reply = shop.reply().await;
    assert_eq!((reply.correlation_id.as_str(), reply.code().as_str()), ("second", "reserved"));
    assert_eq!(shop.count("SELECT conflicts FROM items").await, 1, "it decided again");
}

async fn buy(shop: &mut Shop, id: &str) -> Reply {
    shop.buy(id, "ticket").await;
    shop.reply().await
}

/// Asks for an order to be cancelled; every answer is one that is described.
async fn cancel(shop: &mut Shop, id: &str, order: &str) -> Reply {
    let body = format!(r#"{{"request_id":"{id}","order_id":"{order}"}}"#);
    shop.send_to("", RELEASE_QUEUE, body.as_bytes(), shop.properties(id)).await;
    let reply = shop.reply().await;
    assert_eq!(reply.correlation_id, id);
    assert_describes(&serde_json::from_str(&reply.body).unwrap());
    reply
}

fn order_of(reply: &Reply) -> String {
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    body["order"]["id"].as_str().unwrap().to_owned()
}
