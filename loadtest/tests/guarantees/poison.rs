//! Messages made to break a client, a worker, or the sale of everybody else.

use crate::support::{
    free_address, get,
    queue::{consume, table, text},
    sale::rabbitmqctl,
    shop::{Reply, Shop, memory_of, request, until},
};
use futures_util::StreamExt;
use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicPublishOptions},
    types::AMQPValue,
};
use loadtest::raw;
use shared::{
    amqp::{self, Nodes},
    devstack::{Supervised, fixture},
    messages::BODY_BYTES_MAX,
    topology::Topology,
};
use std::{collections::HashSet, time::Duration};
use uuid::Uuid;

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
    let (nodes, queues) = (Nodes::read(&shop.amqp_url).unwrap(), Topology::read().queues.iter());
    let names: Vec<_> = queues.map(|queue| queue.name.clone()).collect();
    until("all queues are up", async || {
        let states = amqp::queue_states(&nodes, "test", &names).await;
        states.is_ok_and(|states| states.iter().all(Option::is_some))
    })
    .await;
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
    raw::publish(&shop.amqp_url, "purchase", "ticket", b"{}", &raw::nested_headers(24_000)).await.unwrap();
    shop.buy("after", "ticket").await;
    let mut worker = shop.worker("w", &[]).await;
    let replies = shop.replies(2).await;
    assert!(replies.values().all(|reply| reply.code() == "reserved"));
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
    let full = shop.properties("full").with_headers(header("pad", 120_000));
    shop.send("ticket", b"not JSON", full).await;
    let traced = shop.properties("traced").with_headers(header("traceparent", 120_000));
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
async fn reply_addresses_that_end_the_brokers_connections_cost_nobody_else_an_answer_or_the_engine_its_connection() {
    const PREFIX: &str = "amq.rabbitmq.reply-to.";
    let items: Vec<String> = (0..40).map(|number| format!("item-{number}")).collect();
    let mut shop = Shop::open(&items.iter().map(|item| (item.as_str(), 100)).collect::<Vec<_>>()).await;
    let _worker = shop.worker("w", &[]).await;
    let mut direct = consume(&shop.channel, "amq.rabbitmq.reply-to").await;
    // What the broker makes of it, and what was answered once.
    let of_direct = |shop: &Shop, id: &str| shop.properties(id).with_reply_to("amq.rabbitmq.reply-to".into());
    shop.send_to("", shop.reply_queue.as_str(), b"{}", of_direct(&shop, "address")).await;
    let ours = shop.reply().await.properties.reply_to().clone().unwrap();
    let (process, key) = ours.as_str().strip_prefix(PREFIX).unwrap().split_once('.').unwrap();
    shop.send("item-0", request("first", "item-0", 1).as_bytes(), of_direct(&shop, "first")).await;
    assert_eq!(Reply::of(direct.next().await.unwrap().unwrap()).code(), "reserved");
    shop.buy("named", "item-0").await;
    assert_eq!(shop.reply_to("named").await.code(), "reserved");
    let mut connections = Vec::new();
    until("the broker lists it", async || {
        connections = publishing(&shop).await;
        connections.len() == 1
    })
    .await;

    // The process id's number begins twelve bytes before the end; no process of Erlang/OTP 25 has one that large.
    let bytes = process.len() / 4 * 3 - process.matches('=').count();
    let mut large = process.to_owned();
    let number = ((bytes - 12) * 8).div_ceil(6);
    large.replace_range(number..number + 2, "//");
    for number in 0..200 {
        // Another node each, none of which is there.
        let node = process_of_node(1_000 + number);
        for (kind, process) in ["AAAA", node.as_str(), &large].into_iter().enumerate() {
            let id = format!("bad-{kind}-{number}");
            let properties = shop.properties(&id).with_reply_to(format!("{PREFIX}{process}.{key}").into());
            let item = &items[number % 10];
            shop.send(item, request(&id, item, 1).as_bytes(), properties).await;
        }
        let (id, item) = (format!("good-{number}"), &items[10 + number % 30]);
        let properties = if number % 2 == 0 { of_direct(&shop, &id) } else { shop.properties(&id) };
        shop.send(item, request(&id, item, 1).as_bytes(), properties).await;
    }
    let mut answered = HashSet::new();
    while answered.len() < 200 {
        let reply = tokio::select! {
            reply = direct.next() => Reply::of(reply.unwrap().unwrap()),
            reply = shop.reply() => reply,
        };
        assert_eq!(reply.code(), "reserved", "{}", reply.correlation_id);
        assert!(answered.insert(reply.correlation_id), "nobody is answered twice");
    }
    assert_eq!(publishing(&shop).await, connections, "the engine's connection stays");
    let recorded = "SELECT count(*) FROM verdicts WHERE request_id LIKE 'bad-1-%' OR request_id LIKE 'bad-2-%'";
    until("the verdicts of those that RabbitMQ might have made are on record", async || {
        shop.count(recorded).await == 400
    })
    .await;
    assert_eq!(shop.count("SELECT count(*) FROM verdicts WHERE request_id LIKE 'bad-0-%'").await, 0);
    until("what it cannot have made is kept", async || shop.depth("dead.invalid").await == 200).await;
}

#[tokio::test]
async fn under_an_attack_that_began_before_it_a_worker_answers_direct_replies_and_does_so_first() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let mut direct = consume(&shop.channel, "amq.rabbitmq.reply-to").await;
    let properties = shop.properties("first").with_reply_to("amq.rabbitmq.reply-to".into());
    shop.send("ticket", request("first", "ticket", 1).as_bytes(), properties).await;
    shop.buy("named", "ticket").await;
    for number in 0..20 {
        let id = format!("bad-{number}");
        let address = format!("amq.rabbitmq.reply-to.{}.AAECAwQFBgcICQoLDA0ODw==", process_of_node(1_000 + number / 2));
        let properties = shop.properties(&id).with_reply_to(address.into());
        shop.send("ticket", request(&id, "ticket", 1).as_bytes(), properties).await;
    }
    // Nobody's reply waits for what is tried out.
    let _worker = shop.worker("w", &[("TURNSTILE_PAUSE_AT", "trying nodes out")]).await;
    assert_eq!(Reply::of(direct.next().await.unwrap().unwrap()).correlation_id, "first");
    assert_eq!(shop.reply_to("named").await.code(), "reserved");
    shop.paused("w").await;
}

/// A process id, in base64, of a node of this number (of four digits).
fn process_of_node(number: usize) -> String {
    let process = format!("\u{83}Xv\0\nreply@{number}\0\0\0\u{1}\0\0\0\0\0\0\0\u{1}");
    base64(&process.chars().map(|byte| u8::try_from(byte).unwrap()).collect::<Vec<_>>())
}

/// Of a multiple of three bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (triples, []) = bytes.as_chunks::<3>() else { panic!("a multiple of three bytes") };
    let of_triple = |[first, second, third]: &[u8; 3]| {
        let bits = usize::from(*first) << 16 | usize::from(*second) << 8 | usize::from(*third);
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[bits >> shift & 63]))
    };
    triples.iter().flat_map(of_triple).collect()
}

/// The worker's connections for all but replies to nodes that were not heard of, as the broker knows them.
async fn publishing(shop: &Shop) -> Vec<String> {
    let vhost = shop.amqp_url.rsplit('/').next().unwrap();
    let listed =
        rabbitmqctl(fixture::rabbitmq().await, &["list_connections", "vhost", "pid", "client_properties"]).await;
    let ours = |line: &&str| line.starts_with(&format!("{vhost}\t")) && line.contains("turnstile-purchase w publish");
    listed.lines().filter(ours).map(ToOwned::to_owned).collect()
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
    // Each of these dies when it is about to decide the first message, as a worker would that it makes run out of
    // memory. At first their whole windows come back with it; from then on, it is tried alone.
    let mut workers = 0;
    while shop.depth("dead").await == 0 {
        let id = format!("doomed-{workers}");
        let mut doomed = shop.worker(&id, &[("TURNSTILE_PAUSE_AT", "handling r-00")]).await;
        until("it is about to decide the message, or is spared it", async || {
            shop.depth("dead").await == 1 || shop.log(&id).await.contains("paused")
        })
        .await;
        doomed.kill().await.unwrap();
        workers += 1;
        assert!(workers <= 34, "the delivery limit ends it: 30, and one for each worker that is counted");
    }
    assert!(workers >= 10, "it was given a chance: {workers}");
    let _worker = shop.worker("next", &[]).await;
    let replies = shop.replies(30).await;
    assert!((1..30).all(|number| replies[&format!("r-{number:02}")].code() == "reserved"), "its neighbours are served");
    assert_eq!(replies["r-00"].code(), "delivery_limit", "and it is answered");
    assert_eq!(shop.dead(1).await, [("delivery_limit".to_owned(), request("r-00", "ticket", 1).into_bytes())]);
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
        if number >= 12 {
            // As somebody who kills it every other second: what is near the limit by then is found to end nobody.
            let survived =
                until("a message is in its queue anew", async || shop.log(&worker).await.contains("settled"));
            drop(tokio::time::timeout(Duration::from_millis(1_500), survived).await);
        }
        killed.kill().await.unwrap();
    }
    let _worker = shop.worker("next", &[]).await;
    let replies = shop.replies(ids.len()).await;
    assert!(ids.iter().all(|id| replies[*id].code() == "reserved"));
    assert_eq!(shop.dead_depth().await, 0);
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

#[tokio::test]
async fn what_senders_do_wrong_is_kept_in_bounds_and_never_in_place_of_what_is_nobodys_fault() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let nobodys = table(&[("x-dead-reason", text("not_handled")), ("x-dead-queue", text("purchase.0"))]);
    shop.send_to("dead", "", b"{}", BasicProperties::default().with_headers(nobodys)).await;
    let address = free_address().await;
    let _worker = shop.worker("w", &[("METRICS_ADDRESS", &address)]).await;
    let length_max = Topology::read().length_max("dead.invalid").unwrap();
    for number in 0..length_max + 50 {
        let (options, body) = (BasicPublishOptions::default(), number.to_string());
        let none = BasicProperties::default();
        drop(shop.channel.basic_publish("".into(), "dead.invalid".into(), options, body.as_bytes(), none).await);
    }
    shop.channel.wait_for_confirms().await.unwrap();
    shop.send("ticket", b"{", shop.properties("bad")).await;
    assert_eq!(shop.reply_to("bad").await.code(), "malformed");
    assert_eq!(shop.purchase("good").await.code(), "reserved");
    assert_eq!((shop.depth("dead").await, u64::from(shop.depth("dead.invalid").await)), (1, length_max));
    let oldest = shop.channel.basic_get("dead.invalid".into(), BasicGetOptions { no_ack: true }).await.unwrap();
    assert_eq!(oldest.unwrap().delivery.data, b"51", "the oldest have left");
    for (queue, waiting) in [("dead", 1), ("dead.invalid", length_max - 1)] {
        let line = format!(r#"turnstile_dead_messages{{function="purchase",queue="{queue}"}} {waiting}"#);
        until("the metrics show it", async || get(&address, "/metrics").await.lines().any(|shown| shown == line)).await;
    }
    assert!(shop.log("w").await.contains("a queue of dead letters is nearly full"));
}

#[tokio::test]
async fn whoever_may_send_heartbeats_makes_no_partition_move_and_fills_no_memory() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let first = shop.worker("w1", &[]).await;
    until("the first has all partitions", async || shop.log("w1").await.contains("consuming")).await;
    let workers = [first, shop.worker("w2", &[]).await];
    let moved = async || {
        let logs = [shop.log("w1").await, shop.log("w2").await].concat();
        logs.matches("handed a partition over").count()
    };
    until("they have shared the partitions out", async || moved().await == 4).await;
    let memory_before = workers.each_ref().map(memory_bytes_of);
    let none = BasicProperties::default;
    let heartbeat = async |body: &[u8], properties: BasicProperties| {
        let options = BasicPublishOptions::default();
        drop(shop.channel.basic_publish("purchase.workers".into(), "".into(), options, body, properties).await);
    };
    let large = "w".repeat(100_000);
    for number in 0..1_000 {
        heartbeat(format!("{number} {large}").as_bytes(), none().with_user_id("guest".into())).await;
    }
    for _ in 0..20_000 {
        heartbeat(format!("turnstile-purchase w {}", Uuid::now_v7()).as_bytes(), none()).await;
    }
    shop.channel.wait_for_confirms().await.unwrap();
    // Until a third worker has its share, 30 are there that nobody has started.
    let (third, invented) = (shop.worker("w3", &[]).await, [(); 30].map(|()| Uuid::now_v7()));
    until("a third worker has its share", async || {
        for process in invented {
            heartbeat(format!("turnstile-purchase invented {process}").as_bytes(), none()).await;
        }
        shop.channel.wait_for_confirms().await.unwrap();
        moved().await >= 6
    })
    .await;
    assert_eq!(moved().await, 6);
    for (worker, before) in workers.iter().zip(memory_before) {
        let more = memory_bytes_of(worker).saturating_sub(before);
        assert!(more < 32 * 1024 * 1024, "{more} bytes more");
    }
    assert_eq!(shop.purchase("r").await.code(), "reserved");
    drop(third);
}

/// What a process took of memory at most.
fn memory_bytes_of(process: &Supervised) -> u64 {
    let peak = memory_of(process);
    let kilobytes = peak.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kilobytes.unwrap_or_else(|| panic!("it begins with a number: {peak}")) * 1024
}
