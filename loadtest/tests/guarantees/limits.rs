//! The rules of a sale over many workers: whichever of them decides, and at whatever instant, no buyer passes a limit.

use crate::{
    contract::assert_describes,
    support::shop::{Reply, Shop, until},
};
use serde_json::Value;
use shared::topology::Topology;
use std::collections::HashSet;

const ONE_EACH: &str = "UPDATE items SET counts_orders = true, max_per_buyer = 1, version = version + 1";
const TWENTY_EACH: &str = "UPDATE items SET max_per_buyer = 20, version = version + 1";
/// Workers that have decided on the row that the test has locked, and wait to commit.
const WAITING_WORKERS: &str = "
SELECT count(DISTINCT application_name) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'";

#[tokio::test]
async fn one_buyer_at_many_workers_at_once_cannot_pass_his_limit() {
    let mut shop = Shop::open(&[("ticket", 1_000)]).await;
    let _workers = [shop.worker("w1", &[]).await, shop.worker("w2", &[]).await, shop.worker("w3", &[]).await];
    let partitions = Topology::read().queues_of("purchase");
    let mut probes = 0;
    until("each worker has partitions of its own", async || {
        for partition in &partitions {
            probes += 1;
            ask(&shop, partition, &format!("probe-{probes}"), "nothing").await;
        }
        let mut answering = HashSet::new();
        for _ in &partitions {
            answering.insert(shop.reply().await.worker_id);
        }
        answering.len() == 3
    })
    .await;
    shop.execute(ONE_EACH).await;

    // An item has one partition, so one worker. Here its requests go around the exchange, one into each partition, and
    // the row is locked until all workers have read the same version of it, each to sell the buyer his one unit.
    let mut blocker = shop.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM items FOR UPDATE").execute(&mut *blocker).await.unwrap();
    for (number, partition) in partitions.iter().enumerate() {
        ask(&shop, partition, &format!("first-{number}"), "ticket").await;
    }
    until("each worker waits to commit", async || shop.count(WAITING_WORKERS).await == 3).await;
    blocker.rollback().await.unwrap();
    let replies: Vec<Reply> = shop.replies(partitions.len()).await.into_values().collect();
    assert_eq!(codes(&replies, "reserved"), 1);
    assert_eq!(codes(&replies, "buyer_limit"), partitions.len() - 1);
    assert!(shop.count("SELECT conflicts FROM items").await >= 2, "the version stopped two of three");

    // A flood, with nothing in its way.
    shop.execute(TWENTY_EACH).await;
    for number in 0..400 {
        ask(&shop, &partitions[number % partitions.len()], &format!("flood-{number}"), "ticket").await;
    }
    let replies: Vec<Reply> = shop.replies(400).await.into_values().collect();
    assert_eq!((codes(&replies, "reserved"), codes(&replies, "buyer_limit")), (19, 381));
    assert_eq!(replies.iter().map(|reply| reply.worker_id.as_str()).collect::<HashSet<_>>().len(), 3, "all took part");
    assert_eq!(shop.stock("ticket").await, (980, 20));
    assert_eq!(shop.count("SELECT sum(quantity)::bigint FROM orders WHERE buyer = 'ann'").await, 20);
}

#[tokio::test]
async fn what_a_buyer_gives_back_he_may_buy_again() {
    let mut shop = Shop::open(&[("ticket", 9)]).await;
    let _workers = [shop.worker("w", &[]).await, shop.worker_of("release", "r", &[]).await];
    shop.execute(ONE_EACH).await;
    assert_eq!(buy(&mut shop, "first").await["code"], "reserved");
    let refused = buy(&mut shop, "second").await;
    assert_eq!(refused["code"], "buyer_limit");
    let message = "One buyer may have 1 of ticket, held and paid for; you have 1, so you may ask for no more.";
    assert_eq!(refused["message"], message);

    let order: String = sqlx::query_scalar("SELECT id::text FROM orders").fetch_one(&shop.pool).await.unwrap();
    assert_eq!(shop.cancel("c", &order).await.code(), "cancelled");
    assert_eq!(buy(&mut shop, "third").await["code"], "reserved");
    assert_eq!(buy(&mut shop, "second").await, refused, "the same id is refused for ever");

    // A hold that runs out gives back, too.
    shop.execute("UPDATE orders SET hold_until = now() WHERE state = 'reserved'").await;
    until("the unit is back", async || shop.stock("ticket").await == (9, 0)).await;
    assert_eq!(buy(&mut shop, "fourth").await["code"], "reserved");
}

/// Asks for one unit for ann, in this partition.
async fn ask(shop: &Shop, partition: &str, id: &str, item: &str) {
    shop.send_to("", partition, of_ann(id, item).as_bytes(), shop.properties(id)).await;
}

/// The verdict on ann's request for a ticket, which is one that is described.
async fn buy(shop: &mut Shop, id: &str) -> Value {
    shop.send("ticket", of_ann(id, "ticket").as_bytes(), shop.properties(id)).await;
    let verdict = shop.reply().await.verdict();
    assert_describes(&verdict);
    verdict
}

fn of_ann(id: &str, item: &str) -> String {
    format!(r#"{{"request_id":"{id}","item":"{item}","buyer":"ann","quantity":1}}"#)
}

/// How many of these have the code.
fn codes(replies: &[Reply], code: &str) -> usize {
    replies.iter().filter(|reply| reply.code() == code).count()
}
