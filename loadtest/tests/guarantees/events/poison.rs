//! A row that cannot be published is kept with its reason, and nothing waits behind it; what is refused by all is no such row.

use super::{OUTBOX, record};
use crate::support::listener::Listener;
use crate::support::queue::{bind, table, text};
use crate::support::shop::{Shop, until};
use lapin::BasicProperties;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::AMQPValue;
use shared::messages::{EVENTS_EXCHANGE, EventKind};

/// A queue that is full, and says no to what it is bound for.
const FULL: &str = "full";

/// More than the broker takes (`max_message_size` in rabbitmq.conf).
const TOO_LARGE: &str = "INSERT INTO outbox (kind, item, detail) VALUES ('item.opened', 'large', json_build_object('x', repeat('x', 1048576)))";
const NO_JSON: &str = "INSERT INTO outbox (kind, item, detail) VALUES ('item.opened', 'a', '{')";
const NO_ORDER: &str = "INSERT INTO outbox (kind, order_ids) VALUES ('order.paid', ARRAY[gen_random_uuid()])";
const ANY_KIND: &str = "ALTER TABLE outbox DROP CONSTRAINT outbox_kind_check";
const LATER_KIND: &str = "INSERT INTO outbox (kind, item, detail) VALUES ('item.sold_at_auction', 'a', '{}')";

#[tokio::test]
async fn rows_that_cannot_be_told_are_kept_with_their_reasons_and_block_nothing() {
    let shop = Shop::open(&[]).await;
    let mut listener = Listener::to(&shop, "item.created.#").await;
    fill(&shop, "item.closed.#").await;
    shop.execute(ANY_KIND).await;
    record(&shop, EventKind::ItemCreated, "first").await;
    for poison in [TOO_LARGE, NO_JSON, NO_ORDER, LATER_KIND] {
        shop.execute(poison).await;
    }
    record(&shop, EventKind::ItemClosed, "refused").await;
    record(&shop, EventKind::ItemCreated, "last").await;

    let _relay = shop.worker_of("relay", "r", &[]).await;
    assert_eq!(listener.next_new().await.item, "first");
    assert_eq!(listener.next_new().await.item, "last");
    shop.outbox_is_empty().await;
    let kept = "SELECT id, reason FROM outbox_failed ORDER BY id";
    let kept: Vec<(i64, String)> = sqlx::query_as(kept).fetch_all(&shop.pool).await.unwrap();
    let expected = [
        (2, "message size"),
        (3, "the detail is not a JSON object"),
        (4, "is gone"),
        (5, "this version knows no event item.sold_at_auction"),
        (6, "a queue that is bound for it refuses it"),
    ];
    assert_eq!(kept.len(), expected.len(), "{kept:?}");
    for ((id, reason), (row, part)) in kept.iter().zip(expected) {
        assert!(*id == row && reason.contains(part), "{kept:?}");
    }
    assert_eq!(shop.log("r").await.matches("it is kept in outbox_failed").count(), 5, "each is logged once");
}

#[tokio::test]
async fn a_row_that_is_refused_while_nothing_else_is_taken_waits() {
    let shop = Shop::open(&[]).await;
    let mut listener = Listener::to(&shop, "#").await;
    fill(&shop, "#").await;
    record(&shop, EventKind::ItemClosed, "a").await;
    record(&shop, EventKind::ItemClosed, "b").await;
    let _relay = shop.worker_of("relay", "r", &[]).await;
    until("it says so", async || shop.log("r").await.contains("RabbitMQ takes no event")).await;
    assert_eq!(shop.count(OUTBOX).await, 2);
    shop.channel.queue_delete(FULL.into(), QueueDeleteOptions::default()).await.unwrap();
    shop.outbox_is_empty().await;
    assert_eq!(shop.count("SELECT count(*) FROM outbox_failed").await, 0);
    for item in ["a", "b"] {
        assert_eq!(listener.next_new().await.item, item);
    }
}

#[tokio::test]
async fn many_rows_that_one_full_queue_refuses_cost_the_next_one_no_round_and_its_subscribers_one_repeat() {
    let shop = Shop::open(&[]).await;
    let mut listener = Listener::to(&shop, "item.created.#").await;
    fill(&shop, "item.closed.#").await;
    for _ in 0..30 {
        record(&shop, EventKind::ItemClosed, "refused").await;
    }
    record(&shop, EventKind::ItemCreated, "next").await;
    let _relay = shop.worker_of("relay", "r", &[]).await;
    shop.outbox_is_empty().await;
    record(&shop, EventKind::ItemCreated, "last").await;
    let mut heard = vec![];
    while heard.last().is_none_or(|item| item != "last") {
        heard.push(listener.next().await.event.item);
    }
    assert_eq!(heard, ["next", "next", "last"]);
    assert_eq!(shop.count("SELECT count(*) FROM outbox_failed").await, 30);
}

#[tokio::test]
async fn where_there_is_nothing_but_what_one_full_queue_refuses_it_is_kept_with_its_reason_and_nothing_waits() {
    let shop = Shop::open(&[]).await;
    let mut listener = Listener::to(&shop, "#").await;
    fill(&shop, "item.closed.#").await;
    record(&shop, EventKind::ItemClosed, "refused").await;
    record(&shop, EventKind::ItemClosed, "refused, too").await;
    let _relay = shop.worker_of("relay", "r", &[]).await;
    shop.outbox_is_empty().await;
    assert_eq!(shop.count("SELECT count(*) FROM outbox_failed WHERE reason LIKE '%refuses it%'").await, 2);
    record(&shop, EventKind::ItemCreated, "last").await;
    for item in ["refused", "refused, too", "last"] {
        assert_eq!(listener.next_new().await.item, item);
    }
}

/// Makes a queue that has no room for what it is bound for.
async fn fill(shop: &Shop, pattern: &str) {
    let arguments = table(&[("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", text("reject-publish"))]);
    shop.channel.queue_declare(FULL.into(), QueueDeclareOptions::default(), arguments).await.unwrap();
    shop.send_to("", FULL, b"first", BasicProperties::default()).await;
    until("it is full", async || shop.depth(FULL).await == 1).await;
    bind(&shop.channel, FULL, EVENTS_EXCHANGE, pattern).await;
}
