//! Every request is answered, where and how its sender asked for it.

use crate::support::queue::{consume, durable, table, text};
use crate::support::shop::{Reply, Shop, request, until};
use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::types::AMQPValue;

#[tokio::test]
async fn odd_properties_are_answered_where_they_can_be() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let _worker = shop.worker("w", &[]).await;
    let long = "ü".repeat(127);
    // By the header CC the broker would deliver a copy to a queue of the sender's choice.
    let copied = AMQPValue::FieldArray(vec![text("purchase.3")].into());
    let traced = text("00-4bf92f3577b34da6-00f067aa0ba902b7-01");
    let headers = table(&[("traceparent", traced), ("CC", copied)]);
    let cases = [
        (shop.properties(&long), "reserved"),
        (shop.properties("a b/ü€"), "reserved"),
        (shop.properties("nul\0id"), "invalid_correlation_id"),
        (shop.properties("fleeting").with_expiration("60000".into()), "reserved"),
        (
            shop.properties("no").with_headers(headers.clone()).with_content_type("a/b".into()),
            "unsupported_content_type",
        ),
        (shop.properties("traced-too").with_headers(headers.clone()), "reserved"),
    ];
    for (number, (properties, code)) in cases.into_iter().enumerate() {
        let expected = properties.correlation_id().clone().unwrap().to_string();
        let body = request(&format!("r-{number}"), "ticket", 1);
        shop.send("ticket", body.as_bytes(), properties.clone()).await;
        let found = shop.reply().await;
        assert_eq!((found.correlation_id.as_str(), found.code()), (expected.as_str(), code));
        let traced = found.properties.headers().as_ref().map(|headers| headers.inner().contains_key("traceparent"));
        assert_eq!(traced, properties.headers().as_ref().map(|_| true), "the trace goes on, nothing else does");
    }
    assert_eq!(shop.dead(2).await.len(), 2);
    until("no copy is left in our queues", async || shop.is_drained().await).await;
    assert_eq!(shop.dead_depth().await, 0, "nor among what was kept");
}

#[tokio::test]
async fn the_request_id_stands_in_for_a_correlation_id_and_the_message_id_for_a_request_id() {
    let mut shop = Shop::open(&[("ticket", 2)]).await;
    let _worker = shop.worker("w", &[]).await;
    let reply_to = || BasicProperties::default().with_reply_to(shop.reply_queue.clone());
    shop.send("ticket", request("in-body", "ticket", 1).as_bytes(), reply_to()).await;
    let body = br#"{"item":"ticket","buyer":"b","quantity":1,"colour":"an unknown field"}"#;
    shop.send("ticket", body, reply_to().with_message_id("in-transport".into())).await;
    let replies = shop.replies(2).await;
    for id in ["in-body", "in-transport"] {
        let verdict = &replies[id].verdict;
        assert_eq!((verdict["request_id"].as_str(), verdict["status"].as_str()), (Some(id), Some("reserved")));
    }
}

#[tokio::test]
async fn a_request_is_not_a_way_to_write_into_our_queues() {
    let mut shop = Shop::open(&[("ticket", 10)]).await;
    let _worker = shop.worker("w", &[]).await;
    for (number, queue) in ["purchase.3", "dead", "purchase.workers"].into_iter().enumerate() {
        let body = request(&format!("r-{number}"), "ticket", 1);
        shop.send("ticket", body.as_bytes(), shop.properties("c").with_reply_to(queue.into())).await;
    }
    let kept = shop.dead(3).await;
    assert!(kept.iter().all(|(reason, _)| reason == "invalid_reply_to"), "{kept:?}");
    assert!(shop.log("w").await.contains("reply_to=\"purchase.3\""), "the log names it");
    assert_eq!(shop.purchase("last").await.code(), "reserved");
    until("nothing waits", async || shop.is_drained().await).await;
    assert_eq!(shop.stock("ticket").await, (9, 1), "a request that cannot be answered buys nothing");
}

#[tokio::test]
async fn direct_reply_to_and_queues_of_any_name_work() {
    let shop = Shop::open(&[("ticket", 10)]).await;
    let _worker = shop.worker("w", &[]).await;
    let named = ["reply.shop-7", "amq_3f0c7a1e", "c0bbd84a-5a3b-4b1c-9a8d-0f6f3f3f3f3f", "spring.gen-x", "purchase.8"];
    for queue in named {
        durable(&shop.channel, queue).await;
    }
    for queue in ["amq.rabbitmq.reply-to"].into_iter().chain(named) {
        let mut replies = consume(&shop.channel, queue).await;
        let properties = shop.properties(queue).with_reply_to(queue.into());
        shop.send("ticket", request(queue, "ticket", 1).as_bytes(), properties).await;
        let found = Reply::of(replies.next().await.unwrap().unwrap());
        assert_eq!((found.correlation_id.as_str(), found.code()), (queue, "reserved"));
    }
}

#[tokio::test]
async fn a_request_without_reply_to_is_decided_and_recorded() {
    let mut shop = Shop::open(&[("ticket", 2)]).await;
    let _worker = shop.worker("w", &[]).await;
    shop.send("ticket", request("silent", "ticket", 1).as_bytes(), BasicProperties::default()).await;
    // Same item, same partition: when this one is answered, the one before it is decided.
    shop.buy("loud", "ticket").await;
    shop.reply_to("loud").await;
    assert_eq!(shop.count("SELECT count(*) FROM verdicts WHERE request_id = 'silent'").await, 1);
    assert_eq!(shop.stock("ticket").await, (0, 2));
}
