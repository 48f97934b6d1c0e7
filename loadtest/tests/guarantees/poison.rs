//! Messages made to break a client, a worker, or the sale of everybody else.

use crate::support::queue::{table, text};
use crate::support::shop::{Shop, all_queues_are_up, request, until};
use lapin::types::AMQPValue;
use loadtest::raw;
use shared::devstack::Signal;
use shared::messages::BODY_BYTES_MAX;

#[tokio::test]
async fn messages_that_no_client_library_can_read_are_refused_like_any_other_and_cost_nobody_a_connection() {
    let items: Vec<String> = (0..13).map(|number| format!("item-{number}")).collect();
    let on_sale: Vec<(&str, i64)> = items.iter().map(|item| (item.as_str(), 1_000)).collect();
    let mut shop = Shop::open(&on_sale).await;
    let [unreadable, good] = [60, 600];
    for number in 0..good {
        shop.buy_unconfirmed(&format!("r-{number}"), &items[number % items.len()]).await;
        if number % (good / unreadable) == 0 {
            let correlation_id = [format!("bad-{number} ").as_bytes(), b"\xff\xfe"].concat();
            let properties = raw::addressed(&correlation_id, shop.reply_queue.as_str().as_bytes());
            raw::publish(&shop.amqp_url, "purchase", "item-0", b"{}", &properties).await.unwrap();
        }
    }
    let nowhere = raw::addressed(b"to nobody", b"reply.\xff");
    raw::publish(&shop.amqp_url, "purchase", "item-1", request("nowhere", "item-1", 1).as_bytes(), &nowhere)
        .await
        .unwrap();
    // What a request does not use, does not matter.
    let named = raw::forged_death(b"caf\xe9");
    raw::publish(&shop.amqp_url, "purchase", "item-2", request("named", "item-2", 1).as_bytes(), &named).await.unwrap();
    let mut worker = shop.worker("w", &[("BATCH_MAX", "20")]).await;
    let replies = shop.replies(good + unreadable).await;
    for (id, reply) in &replies {
        let bad = id.strip_suffix(" \u{1a}\u{1a}").is_some_and(|id| id.starts_with("bad-"));
        assert_eq!(reply.code(), if bad { "invalid_correlation_id" } else { "reserved" }, "{id}");
    }
    let dead = shop.dead(unreadable + 1).await;
    let of_code = |code: &str| dead.iter().filter(|(reason, _)| reason == code).count();
    assert_eq!((of_code("invalid_correlation_id"), of_code("invalid_reply_to")), (unreadable, 1));
    assert_eq!(shop.count("SELECT count(*) FROM verdicts WHERE request_id = 'named'").await, 1);
    assert!(worker.try_wait().unwrap().is_none(), "the worker is unharmed");
    let log = shop.log("w").await;
    assert!(!log.contains("with care") && !log.contains("cannot be consumed"), "and has never connected again: {log}");
}

#[tokio::test]
async fn a_forged_death_takes_no_queue_down_not_even_for_the_next_start_of_the_broker() {
    let (mut servers, mut shop) = Shop::private(&[("ticket", 100)]).await;
    // It expires in its queue, where nobody takes it.
    let one = AMQPValue::FieldArray(vec![AMQPValue::LongInt(1)].into());
    let forged = shop.properties("forged").with_headers(table(&[("x-death", one)]));
    shop.send("ticket", b"{}", forged.clone().with_expiration("1".into())).await;
    until("it has expired", async || shop.is_drained().await).await;
    let mut worker = shop.worker("w", &[]).await;
    // It is refused, and it is bought with; a rejection goes to `dead.invalid` by way of the worker alone.
    shop.send("ticket", b"{}", forged).await;
    assert_eq!(shop.reply_to("forged").await.code(), "malformed");
    raw::publish(&shop.amqp_url, "purchase", "ticket", b"{", &raw::forged_death(b"caf\xe9")).await.unwrap();
    until("both are in dead.invalid", async || shop.depth("dead.invalid").await == 2).await;
    assert_eq!(worker.stop().await.unwrap().code(), Some(0));

    let waiting = request("waiting", "ticket", 1);
    let properties = shop.properties("waiting").with_reply_to("later".into());
    shop.send("ticket", waiting.as_bytes(), properties).await;
    servers.rabbitmq.restart().await.unwrap();
    all_queues_are_up(&shop.amqp_url).await;
    let mut shop = Shop::on(&shop.amqp_url, &shop.database_url, &[]).await;
    assert_eq!(shop.depth("dead.invalid").await, 2);
    let _worker = shop.worker("next", &[]).await;
    assert_eq!(shop.purchase("after").await.code(), "reserved");
    let recorded = async || shop.count("SELECT count(*) FROM verdicts WHERE request_id = 'waiting'").await;
    until("what waited is decided", async || recorded().await == 1).await;
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn headers_nested_without_end_harm_nobody() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    shop.buy("before", "ticket").await;
    raw::publish_nested(&shop.amqp_url, "purchase", "ticket", b"{}").await.unwrap();
    shop.buy("after", "ticket").await;
    // To headers that fill a frame the broker adds how often they were delivered.
    let mut killed = shop.worker("killed", &[("TURNSTILE_PAUSE_AT", "handling before")]).await;
    shop.paused("killed").await;
    killed.kill().await.unwrap();
    let mut worker = shop.worker("w", &[]).await;
    let replies = shop.replies(2).await;
    assert!(replies.values().all(|reply| reply.code() == "reserved"));
    assert!(!shop.log("w").await.contains("FRAME"), "and its connection stands");
    until("it is in dead.invalid", async || shop.depth("dead.invalid").await == 1).await;
    assert!(worker.try_wait().unwrap().is_none(), "the worker is unharmed");
}

#[tokio::test]
async fn what_would_make_a_reply_or_a_dead_copy_unpublishable_stops_nobody() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let header = |name, bytes: usize| table(&[(name, text(&"x".repeat(bytes)))]);
    // Quoted in an error message, each of these bytes would become six.
    let quoted = format!("\"{}\"", "\u{7f}".repeat(60_000));
    shop.send("ticket", quoted.as_bytes(), shop.properties("quoted")).await;
    // On top of headers that fill a frame, the reason does not fit.
    let header_bytes = shop.frame_bytes_max() - 500;
    let full = shop.properties("full").with_headers(header("pad", header_bytes));
    shop.send("ticket", b"not JSON", full).await;
    let traced = shop.properties("traced").with_headers(header("traceparent", header_bytes));
    shop.send("ticket", request("traced", "ticket", 1).as_bytes(), traced).await;
    shop.buy("good", "ticket").await;

    let _worker = shop.worker("w", &[]).await;
    let replies = shop.replies(4).await;
    for (id, code) in [("quoted", "malformed"), ("full", "malformed"), ("traced", "reserved"), ("good", "reserved")] {
        assert_eq!(replies[id].code(), code, "{id}");
    }
    assert!(replies.values().all(|reply| reply.properties.headers().is_none()), "nothing of that size is carried on");
    assert_eq!(shop.dead(2).await.len(), 2);
}

#[tokio::test]
async fn a_forged_delivery_count_is_not_believed() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let mut worker = shop.worker("w", &[]).await;
    for number in 0..20 {
        let headers = table(&[("x-delivery-count", AMQPValue::LongLongInt(25))]);
        let id = format!("r-{number}");
        shop.send("ticket", request(&id, "ticket", 1).as_bytes(), shop.properties(&id).with_headers(headers)).await;
    }
    assert!(shop.replies(20).await.values().all(|reply| reply.code() == "reserved"));
    assert_eq!(worker.stop().await.unwrap().code(), Some(0));
    assert!(!shop.log("w").await.contains("anew"), "nothing made the worker suspicious");
    // Delivered again, the broker writes its own over the first of two.
    let body = request("twice", "ticket", 1);
    raw::publish(&shop.amqp_url, "purchase", "ticket", body.as_bytes(), &raw::delivery_counts(&[50, 50]))
        .await
        .unwrap();
    let mut killed = shop.worker("killed", &[("TURNSTILE_PAUSE_AT", "handling twice")]).await;
    shop.paused("killed").await;
    killed.kill().await.unwrap();
    let _next = shop.worker("next", &[]).await;
    let recorded = "SELECT count(*) FROM verdicts WHERE request_id = 'twice'";
    until("it is decided", async || shop.count(recorded).await == 1).await;
    let log = shop.log("next").await;
    assert!(!log.contains("suspiciously"), "{log}");
}

#[tokio::test]
async fn a_message_that_brings_its_worker_down_is_found_and_its_neighbours_are_served() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    for number in 0..30 {
        shop.buy(&format!("r-{number:02}"), "ticket").await;
    }
    let workers = doom(&shop, "r-00").await;
    assert!(workers >= 10, "it was given a chance: {workers}");
    let _worker = shop.worker("next", &[]).await;
    let replies = shop.replies(30).await;
    assert!((1..30).all(|number| replies[&format!("r-{number:02}")].code() == "reserved"), "its neighbours are served");
    assert_eq!(replies["r-00"].code(), "delivery_limit", "and it is answered");
    assert_eq!(shop.dead(1).await, [("delivery_limit".to_owned(), request("r-00", "ticket", 1).into_bytes())]);
}

/// Has workers die one after the other when they are about to decide this request, which comes first, as if it made them run
/// out of memory, until its message is put away; how many that were. At first their whole windows come back with it; from then
/// on, it is tried alone.
pub(crate) async fn doom(shop: &Shop, request_id: &str) -> usize {
    let (mut workers, pause_at) = (0, format!("handling {request_id}"));
    while shop.depth("dead").await == 0 {
        let id = format!("doomed-{workers}");
        let mut doomed = shop.worker(&id, &[("TURNSTILE_PAUSE_AT", pause_at.as_str())]).await;
        until("it is about to decide the message, or is spared it", async || {
            shop.depth("dead").await == 1 || shop.log(&id).await.contains("paused")
        })
        .await;
        doomed.kill().await.unwrap();
        workers += 1;
        assert!(workers <= 34, "the delivery limit ends it: 30, and one for each worker that is counted");
    }
    workers
}

#[tokio::test]
async fn workers_killed_again_and_again_over_a_message_that_waits_send_no_innocent_to_dead() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let ids = ["r-0", "r-1", "r-2"];
    for id in ids {
        shop.buy(id, "ticket").await;
    }
    // More often than the delivery limit.
    for number in 0..34 {
        let worker = format!("killed-{number}");
        // It stands still, and lives, as if the database did not answer.
        let mut killed = shop.worker(&worker, &[("TURNSTILE_PAUSE_AT", "committing")]).await;
        shop.paused(&worker).await;
        // As somebody who kills it every other second: what is near the limit by then is found to end nobody.
        if shop.log(&worker).await.contains("near the delivery limit") {
            // What its forerunner left may have been settled before.
            until("a message is in its queue anew, and settled", async || {
                let log = shop.log(&worker).await;
                log.split_once("put into its queue anew").is_some_and(|(_, behind)| behind.contains("settled"))
            })
            .await;
        }
        killed.kill().await.unwrap();
    }
    let mut next = shop.worker("next", &[]).await;
    let replies = shop.replies(ids.len()).await;
    assert!(ids.iter().all(|id| replies[*id].code() == "reserved"));
    assert_eq!(next.stop().await.unwrap().code(), Some(0), "all is settled");
    assert_eq!(shop.dead_depth().await, 0);
}

#[tokio::test]
async fn nobody_waits_for_the_copy_of_somebody_elses_message() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let mut copying = shop.worker("copying", &[("TURNSTILE_PAUSE_AT", "copying")]).await;
    shop.send("ticket", b"{", shop.properties("bad")).await;
    shop.paused("copying").await;
    assert_eq!(shop.reply_to("bad").await.code(), "malformed");
    let bought = [shop.purchase("r-1").await, shop.purchase("r-2").await, shop.purchase("r-3").await];
    assert_eq!((bought[2].code(), shop.dead_depth().await), ("reserved", 0));
    // None is acknowledged before the copy is kept.
    copying.kill().await.unwrap();
    let _next = shop.worker("next", &[]).await;
    let replies = shop.replies(4).await;
    assert_eq!((replies["bad"].code(), &replies["r-3"].body), ("malformed", &bought[2].body));
    until("it is kept", async || shop.dead_depth().await == 1).await;
}

#[tokio::test]
async fn what_is_answered_while_a_copy_waits_for_the_disk_is_kept_and_acknowledged_together() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let mut copying = shop.worker("copying", &[("TURNSTILE_PAUSE_AT", "copying")]).await;
    shop.send("ticket", b"{", shop.properties("bad")).await;
    shop.paused("copying").await;
    shop.reply_to("bad").await;
    for number in 0..20 {
        let id = format!("bad-{number}");
        shop.send("ticket", b"{", shop.properties(&id)).await;
        assert_eq!(shop.reply_to(&id).await.code(), "malformed", "in a batch of its own");
    }
    copying.send(Signal::SIGCONT).unwrap();
    assert_eq!(copying.stop().await.unwrap().code(), Some(0));
    // The first; what was answered meanwhile; and who was answered, but not waiting yet, when it went on.
    let waits = shop.log("copying").await.matches("finishing batches=").count();
    assert!(waits <= 3, "{waits} waits for the disk");
    // Each was acknowledged: none comes again to whoever is next, and before this purchase.
    let mut next = shop.worker("next", &[]).await;
    assert_eq!(shop.purchase("r-1").await.code(), "reserved");
    assert_eq!(next.stop().await.unwrap().code(), Some(0));
    assert_eq!(shop.dead_depth().await, 21);
}

#[tokio::test]
async fn malformed_messages_are_answered_and_kept_while_their_batch_goes_on() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let huge = format!(r#"{{"request_id":"x","pad":"{}"}}"#, "x".repeat(70_000));
    let cases: Vec<(&str, String)> = vec![
        ("malformed", "not json".to_owned()),
        ("malformed", String::new()),
        ("malformed", "null".to_owned()),
        ("malformed", "[".repeat(10_000)),
        ("malformed", r#"{"request_id":"x","request_id":"x","item":"ticket","buyer":"b","quantity":1}"#.to_owned()),
        ("invalid_id", r#"{"request_id":"x","item":"ticket","buyer":"b\u0000","quantity":1}"#.to_owned()),
        (
            "invalid_quantity",
            r#"{"request_id":"x","item":"ticket","buyer":"b","quantity":99999999999999999999999999}"#.to_owned(),
        ),
        ("too_large", huge),
    ];
    // All of them wait in the queue, a good one before and after each, when the worker comes.
    shop.buy("good-first", "ticket").await;
    for (number, (_, body)) in cases.iter().enumerate() {
        shop.send("ticket", body.as_bytes(), shop.properties(&format!("bad-{number}"))).await;
        shop.buy(&format!("good-{number}"), "ticket").await;
    }
    let _worker = shop.worker("w", &[]).await;
    let replies = shop.replies(cases.len() * 2 + 1).await;
    for (number, (code, body)) in cases.iter().enumerate() {
        let found = &replies[&format!("bad-{number}")];
        assert_eq!(found.code(), *code, "{body:.100} got {}", found.body);
        assert_eq!(replies[&format!("good-{number}")].code(), "reserved");
    }
    let mut kept = shop.dead(cases.len()).await;
    let mut sent: Vec<_> = cases.into_iter().map(|(code, body)| (code.to_owned(), body.into_bytes())).collect();
    sent.iter_mut().for_each(|(_, body)| body.truncate(BODY_BYTES_MAX));
    kept.sort();
    sent.sort();
    assert_eq!(kept, sent, "each is kept as it was sent, with its reason");
    assert_eq!(shop.stock("ticket").await, (91, 9), "only the good ones bought something");
}
