//! Messages made to break a client, a worker, or the sale of everybody else.

use crate::{
    raw,
    shop::{Shop, request, until},
};
use lapin::types::{AMQPValue, FieldTable};

#[tokio::test]
async fn a_message_that_no_client_can_read_ends_in_dead_alone() {
    let items: Vec<String> = (0..40).map(|number| format!("item-{number}")).collect();
    let on_sale: Vec<(&str, i64)> = items.iter().map(|item| (item.as_str(), 1_000)).collect();
    let mut shop = Shop::open(&on_sale).await;
    // Deep in a backlog over all partitions, more of it than a worker's windows hold.
    let count = 6_000;
    for number in 0..count {
        shop.buy_unconfirmed(&format!("r-{number}"), &items[number % items.len()]).await;
        if number == count / 3 {
            raw::publish(&shop.amqp_url, "item-0", b"{}", &raw::correlation_id(b"\xff\xfe not UTF-8")).await;
        }
    }
    let mut worker = shop.worker("w", &[]).await;
    let replies = shop.replies(count).await;
    assert!(replies.values().all(|reply| reply.code() == "reserved"));
    until("the message is in dead", async || shop.depth("dead").await == 1).await;
    assert!(worker.try_wait().unwrap().is_none(), "the worker is unharmed");
    // And it goes on taking what comes.
    shop.buy("later", "item-0").await;
    assert_eq!(shop.reply().await.code(), "reserved");
}

#[tokio::test]
async fn headers_nested_without_end_harm_nobody() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    shop.buy("before", "ticket").await;
    raw::publish(&shop.amqp_url, "ticket", b"{}", &raw::nested_headers(24_000)).await;
    shop.buy("after", "ticket").await;
    let mut worker = shop.worker("w", &[]).await;
    let replies = shop.replies(2).await;
    assert!(replies.values().all(|reply| reply.code() == "reserved"));
    until("it is in dead", async || shop.depth("dead").await == 1).await;
    assert!(worker.try_wait().unwrap().is_none(), "the worker is unharmed");
}

#[tokio::test]
async fn what_would_make_a_reply_or_a_dead_copy_unpublishable_stops_nobody() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let header = |name: &str, value: AMQPValue| {
        let mut headers = FieldTable::default();
        headers.insert(name.into(), value);
        headers
    };
    let text = |bytes: usize| AMQPValue::LongString("x".repeat(bytes).as_str().into());
    // Quoted in an error message, each of these bytes would become six.
    let quoted = format!("\"{}\"", "\u{7f}".repeat(60_000));
    shop.send("ticket", quoted.as_bytes(), shop.properties("quoted")).await;
    // On top of headers that fill a frame, the reason does not fit.
    let full = shop.properties("full").with_headers(header("pad", text(120_000)));
    shop.send("ticket", b"not JSON", full).await;
    let traced = shop.properties("traced").with_headers(header("traceparent", text(120_000)));
    shop.send("ticket", request("traced", "ticket", 1).as_bytes(), traced).await;
    // The broker gives up the connection that replies to this.
    let stale = shop.properties("stale").with_reply_to("amq.rabbitmq.reply-to.!!.x".into());
    shop.send("ticket", request("stale", "ticket", 1).as_bytes(), stale).await;
    shop.buy("good", "ticket").await;

    let _worker = shop.worker("w", &[]).await;
    let replies = shop.replies(4).await;
    for (id, code) in [("quoted", "malformed"), ("full", "malformed"), ("traced", "reserved"), ("good", "reserved")] {
        assert_eq!(replies[id].code(), code, "{id}");
    }
    assert!(replies.values().all(|reply| reply.properties.headers().is_none()), "nothing of that size is carried on");
    assert_eq!(shop.dead(2).await.len(), 2);
    assert_eq!(shop.count("SELECT count(*) FROM verdicts WHERE request_id = 'stale'").await, 1, "it is on record");
}

#[tokio::test]
async fn a_forged_delivery_count_is_not_believed() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let mut worker = shop.worker("w", &[]).await;
    for number in 0..20 {
        let mut headers = FieldTable::default();
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(25));
        let id = format!("r-{number}");
        shop.send("ticket", request(&id, "ticket", 1).as_bytes(), shop.properties(&id).with_headers(headers)).await;
    }
    assert!(shop.replies(20).await.values().all(|reply| reply.code() == "reserved"));
    assert_eq!(worker.stop().await.unwrap().code(), Some(0));
    assert!(!shop.log("w").await.contains("with care"), "nothing made the worker suspicious");
}
