//! What operators do with messages in `dead`: listed, shown, sent again, dropped.

use super::{admin, admin_json};
use crate::support::queue::{table, text};
use crate::support::shop::{Shop, request, until};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldTable};
use loadtest::raw;
use serde_json::{Value, json};
use shared::topology::Topology;

#[tokio::test]
async fn a_dead_message_that_is_replayed_is_answered_as_if_nothing_had_happened() {
    let mut shop = Shop::open(&[("ticket", 10)]).await;
    let headers = [
        ("x-dead-reason", "not_handled"),
        ("x-dead-message", "\u{1b}[2Jthe handler failed"),
        ("x-dead-queue", "purchase.3"),
        ("x-first-death-queue", "purchase.3"),
        ("traceparent", "00-abc"),
    ];
    dead_letter(&shop, "r-1", &headers).await;
    let (_, listed) = admin_json(&shop, &["dead", "list"]).await;
    let message = &listed["messages"][0];
    assert_eq!((&message["reason"], &message["queue"]), (&json!("not_handled"), &json!("purchase.3")));
    let id = message["id"].as_str().unwrap();
    until("looking gave it back", async || shop.depth("dead").await == 1).await;
    let shown = admin(&shop, &["dead", "show", id]).await;
    assert!(shown.out.contains("r-1") && shown.out.contains("\\u{1b}[2Jthe handler failed"), "{}", shown.out);

    let (code, replayed) = admin_json(&shop, &["dead", "replay", id]).await;
    assert_eq!((code, &replayed["messages"][0]["outcome"]), (Some(0), &json!("replayed")));
    assert_eq!(shop.depth("dead").await, 0);
    let message = take(&shop, &partition_of_ticket(&shop).await).await;
    let kept = message.properties.headers().clone().unwrap();
    // The broker's own count of this very delivery may be there.
    let kept = kept.inner().keys().map(|name| name.as_str()).filter(|name| *name != "x-delivery-count");
    assert_eq!(kept.collect::<Vec<_>>(), ["traceparent"], "what it got on its way is off");
    assert_eq!(message.properties.correlation_id().as_ref().unwrap().as_str(), "r-1");
    assert!(shop.is_drained().await, "it went into the line of its item, and nowhere else");
    message.acker.reject(BasicRejectOptions { requeue: true }).await.unwrap();

    let _worker = shop.worker("w", &[]).await;
    let first = shop.reply_to("r-1").await;
    assert_eq!(first.code(), "reserved");
    // After a crash it would be in both, and be sent again.
    dead_letter(&shop, "r-1", &headers).await;
    assert_eq!(admin(&shop, &["dead", "replay", "--all", "--yes"]).await.code, Some(0));
    assert_eq!(shop.reply().await.body, first.body, "the same request id, the same verdict");
    assert_eq!(shop.stock("ticket").await, (9, 1));
}

#[tokio::test]
async fn what_the_broker_moved_to_dead_for_an_older_version_goes_back_to_its_queue_by_its_reason() {
    let shop = Shop::open(&[]).await;
    let death = AMQPValue::FieldTable(headers(&[("queue", "purchase.5"), ("reason", "rejected")]));
    // The sender of the second would have it taken for something else, sent again to another queue.
    let forged = headers(&[("x-dead-queue", "purchase.0"), ("x-dead-reason", "malformed")]);
    for (id, mut headers) in [("r-1", FieldTable::default()), ("r-2", forged)] {
        headers.insert("x-death".into(), AMQPValue::FieldArray(vec![death.clone()].into()));
        let properties = shop.properties(id).with_headers(headers);
        shop.send_to("dead", "", request(id, "ticket", 1).as_bytes(), properties).await;
    }
    dead_letter(&shop, "r-3", &[("x-dead-reason", "malformed"), ("x-dead-queue", "elsewhere")]).await;
    until("they are in dead", async || shop.depth("dead").await == 3).await;
    let (_, listed) = admin_json(&shop, &["dead", "list", "--reason", "rejected"]).await;
    assert_eq!(listed["reasons"], json!({"malformed": 1, "rejected": 2}));
    assert_eq!(listed["messages"].as_array().unwrap().len(), 2);
    assert_eq!(listed["messages"][0]["queue"], "purchase.5");
    let (_, newest) = admin_json(&shop, &["dead", "list", "--limit", "1"]).await;
    assert_eq!((&newest["messages"][0]["correlation_id"], &newest["not_shown"]), (&json!("r-3"), &json!(2)));
    let text = admin(&shop, &["dead", "list", "--limit", "1"]).await.out;
    assert!(text.contains("Not shown: 2 older ones; --limit N shows more."), "{text}");

    assert_eq!(admin(&shop, &["dead", "replay", "--reason", "rejected"]).await.code, Some(2), "--yes is missing");
    assert_eq!(admin(&shop, &["dead", "replay", "--reason", "rejected", "--yes"]).await.code, Some(0));
    let depths = async || (shop.depth(&partition_of_ticket(&shop).await).await, shop.depth("dead").await);
    until("two are back, one stays", async || depths().await == (2, 1)).await;
    let (code, kept) = admin_json(&shop, &["dead", "replay", "--all", "--yes"]).await;
    assert_eq!((code, &kept["messages"][0]["outcome"]), (Some(1), &json!("kept_without_origin")));
    until("it stays", async || shop.depth("dead").await == 1).await;

    assert_eq!(admin(&shop, &["dead", "drop", "--all", "--yes"]).await.code, Some(0));
    assert_eq!(shop.depth("dead").await, 0);

    // Nor can a sender have their message taken for one that the broker moved.
    let _worker = shop.worker("w", &[]).await;
    let death = AMQPValue::FieldTable(headers(&[("queue", "purchase.0"), ("reason", "expired")]));
    let forged = table(&[("x-death", AMQPValue::FieldArray(vec![death].into()))]);
    shop.send_to("", "purchase.3", b"{", shop.properties("r-4").with_headers(forged)).await;
    until("it is in dead.invalid", async || shop.depth("dead.invalid").await == 1).await;
    dead_letter(&shop, "r-5", &[("x-dead-reason", "not_handled")]).await;
    let (_, listed) = admin_json(&shop, &["dead", "list"]).await;
    let message = &listed["messages"][1];
    assert_eq!(listed["messages"][0]["reason"], "not_handled", "what is nobody's fault comes first");
    assert_eq!((&message["reason"], &message["queue"]), (&json!("malformed"), &json!("purchase.3")));
    assert_eq!(admin(&shop, &["dead", "drop", "--reason", "malformed", "--yes"]).await.code, Some(0));
    until("only the other one stays", async || (shop.depth("dead").await, shop.dead_depth().await) == (1, 1)).await;
}

#[tokio::test]
async fn messages_that_are_dead_for_a_reason_do_not_end_the_operators_program() {
    let shop = Shop::open(&[]).await;
    dead_letter(&shop, "r-1", &[]).await;
    raw::publish_nested(&shop.amqp_url, "dead", "", b"\xff\xfe").await.unwrap();
    until("both are there", async || shop.depth("dead").await == 2).await;
    let (code, listed) = admin_json(&shop, &["dead", "list"]).await;
    assert_eq!(code, Some(0));
    until("they are back", async || shop.depth("dead").await == 2).await;
    let (_, shown) = admin_json(&shop, &["dead", "show", listed["messages"][0]["id"].as_str().unwrap()]).await;
    assert_eq!((&shown["body"], &shown["body_hex"]), (&Value::Null, &json!("fffe")));

    raw::publish(&shop.amqp_url, "dead", "", b"{}", &raw::addressed(b"\xff not UTF-8", b"")).await.unwrap();
    dead_letter(&shop, "r-2", &[("x-dead-reason", "not_handled"), ("x-dead-queue", "purchase.3")]).await;
    until("they are there", async || shop.depth("dead").await == 4).await;
    let (code, listed) = admin_json(&shop, &["dead", "list"]).await;
    assert_eq!((code, listed["messages"].as_array().unwrap().len()), (Some(0), 4), "it is listed, and past it");
    let bad = &listed["messages"][1];
    assert_eq!(bad["correlation_id"], "\u{1a} not UTF-8");
    until("they are back", async || shop.depth("dead").await == 4).await;
    let behind = listed["messages"].as_array().unwrap().iter().find(|one| one["correlation_id"] == "r-2").unwrap();
    assert_eq!(behind["id"], listed["messages"][0]["id"], "the newest first: it is behind the other");
    let id = behind["id"].as_str().unwrap();
    let (code, shown) = admin_json(&shop, &["dead", "show", id]).await;
    assert_eq!((code, shown["body"].as_str().unwrap()), (Some(0), &*request("r-2", "ticket", 1)));
    until("they are back again", async || shop.depth("dead").await == 4).await;
    let (code, replayed) = admin_json(&shop, &["dead", "replay", id]).await;
    assert_eq!((code, &replayed["messages"][0]["outcome"]), (Some(0), &json!("replayed")));
    until("it alone is replayed", async || shop.depth("dead").await == 3 && !shop.is_drained().await).await;
    assert_eq!(admin(&shop, &["dead", "drop", bad["id"].as_str().unwrap()]).await.code, Some(0));
    until("it is gone, and it alone", async || shop.depth("dead").await == 2).await;
}

fn headers(entries: &[(&str, &str)]) -> FieldTable {
    table(&entries.iter().map(|(name, value)| (*name, text(value))).collect::<Vec<_>>())
}

/// The partition in which purchases of tickets wait.
async fn partition_of_ticket(shop: &Shop) -> String {
    for partition in Topology::read().queues_of("purchase") {
        if shop.depth(&partition).await > 0 {
            return partition;
        }
    }
    "purchase.0".to_owned()
}

/// Puts a good request into `dead`, as if it had come there from its queue.
pub(crate) async fn dead_letter(shop: &Shop, id: &str, entries: &[(&str, &str)]) {
    let mut headers = headers(entries);
    // It asks to be put into a queue that it never came from, too.
    headers.insert("CC".into(), AMQPValue::FieldArray(vec![text("purchase.4")].into()));
    let properties = shop.properties(id).with_headers(headers).with_message_id(id.into());
    shop.send_to("dead", "", request(id, "ticket", 1).as_bytes(), properties).await;
}

/// Takes the first message of a queue: of a partition, there is no other way than to be its consumer.
async fn take(shop: &Shop, queue: &str) -> Delivery {
    let (options, tag) = (BasicConsumeOptions::default(), "take");
    let consuming = shop.channel.basic_consume(queue.into(), tag.into(), options, FieldTable::default());
    let message = consuming.await.unwrap().next().await.unwrap().unwrap();
    shop.channel.basic_cancel(tag.into(), BasicCancelOptions::default()).await.unwrap();
    message
}
