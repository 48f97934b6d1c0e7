//! Senders who mean ill, with the rights of a buyer.

use crate::support::queue::{consume, table, text};
use crate::support::sale::{TIME_MAX, assert_passed, endpoints, private_servers, rabbitmqctl, verdicts_reach, workers};
use crate::support::shop::{Reply, Shop, all_queues_are_up, memory_of, request, until};
use crate::support::{free_address, get};
use base64::prelude::{BASE64_STANDARD, Engine};
use clap::ValueEnum;
use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicPublishOptions};
use loadtest::hostile::HostileKind;
use loadtest::raw;
use loadtest::run::{self, Sale};
use loadtest::schedule::Scenario;
use shared::devstack::{Supervised, as_user, fixture};
use shared::topology::Topology;
use std::collections::HashSet;
use std::time::Instant;
use uuid::Uuid;

#[tokio::test]
async fn a_sender_of_everything_that_is_made_to_hurt_changes_nothing_for_the_buyers() {
    let scenario = Scenario { buyers: 2_000, items: 5, stock: 200, rate: 200.0, seed: 3, ..Scenario::default() };
    let mut sale = Sale::of(scenario, workers(2, None).await, TIME_MAX);
    sale.faults.hostile_rate = 300;
    let running = run::start(&endpoints().await, sale).await.unwrap();
    let (seconds, opened) = (running.schedule().last().as_secs_f64(), Instant::now());
    let outcome = running.finish().await.unwrap();
    assert_passed(&outcome);
    // From when it is connected, for as long as the sale goes on, and some of what comes after it.
    let (sent, most) = (outcome.hostile_messages as f64, opened.elapsed().as_secs_f64());
    assert!((300.0 * (seconds - 3.0)..300.0 * most).contains(&sent), "{sent} in {seconds} to {most} s");
    for worker in &outcome.workers {
        assert!(worker.rss_mib.unwrap() <= 256.0, "{worker:?}");
    }
}

#[tokio::test]
async fn a_hostile_sender_who_loses_the_broker_comes_again_and_sends_what_was_asked_for_alone() {
    let (mut servers, endpoints) = private_servers(1).await;
    let scenario = Scenario { buyers: 600, items: 2, stock: 100, rate: 20.0, seed: 3, ..Scenario::default() };
    let mut sale = Sale::of(scenario, workers(1, None).await, TIME_MAX);
    (sale.faults.hostile_rate, sale.faults.hostile_kinds) = (100, vec![HostileKind::AnotherLine]);
    let mut running = run::start(&endpoints, sale).await.unwrap();
    running.open();
    let opened = Instant::now();
    verdicts_reach(&running, 20).await;
    // At most.
    let sent_before = 100.0 * (opened.elapsed().as_secs_f64() + 1.0);
    servers.rabbitmq.restart().await.unwrap();
    let outcome = running.finish().await.unwrap();
    assert_passed(&outcome);
    assert!(outcome.hostile_messages as f64 > sent_before, "{} of {sent_before} before", outcome.hostile_messages);
    let shop = Shop::as_it_is(&endpoints.amqp_url, &endpoints.database_url).await;
    let codes = shop.dead(20).await;
    assert!(codes.iter().all(|(code, _)| code == "wrong_routing_key"), "{codes:?}");
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn after_each_kind_of_hostile_message_a_restart_of_the_broker_finds_all_queues_up_and_buyers_are_answered() {
    let (mut servers, first) = Shop::private(&[("ticket", 1_000)]).await;
    let database_url = first.database_url.clone();
    // Each has partitions of its own, so one restart shows what each has done to them.
    let kinds: Vec<_> = HostileKind::value_variants().iter().map(|kind| (kind, format!("{kind:?}"))).collect();
    servers.rabbitmq.add_vhosts(&kinds.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>()).await.unwrap();
    for (number, (kind, name)) in (0_u64..).zip(&kinds) {
        let mut shop = Shop::on(&servers.rabbitmq.url(name), &database_url, &[]).await;
        shop.buy(&format!("before-{number}"), "ticket").await;
        // Of half of them, nobody has taken one when it comes to its end.
        let send = async |shop: &Shop, half: u64| {
            let buyer = as_user(&shop.amqp_url, "buyer");
            for place in half..half + 5 {
                let somebodys = format!("before-{number}");
                let (key, properties, body) = kind.message(100 * number + place, "ticket", &somebodys);
                raw::publish(&buyer, "purchase", &key, &body, &properties).await.unwrap();
            }
        };
        send(&shop, 0).await;
        let mut worker = shop.worker("w", &[]).await;
        send(&shop, 5).await;
        shop.buy(&format!("beside-{number}"), "ticket").await;
        let replies = shop.replies(2).await;
        assert!(replies.values().all(|reply| reply.code() == "reserved"), "{kind:?}");
        worker.stop().await.unwrap();
        send(&shop, 10).await;
    }
    servers.rabbitmq.restart().await.unwrap();
    for (number, (kind, name)) in kinds.iter().enumerate() {
        let amqp_url = servers.rabbitmq.url(name);
        all_queues_are_up(&amqp_url).await;
        let mut shop = Shop::on(&amqp_url, &database_url, &[]).await;
        let mut worker = shop.worker("again", &[]).await;
        assert_eq!(shop.purchase(&format!("after-{number}")).await.code(), "reserved", "{kind:?}");
        assert_eq!(worker.stop().await.unwrap().code(), Some(0), "{kind:?}");
        assert_eq!(shop.depth("dead").await, 0, "{kind:?}");
    }
    servers.stop().await.unwrap();
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

#[tokio::test]
async fn while_nodes_are_tried_out_the_next_batches_are_answered_and_nothing_is_acknowledged_before() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let mut trying = shop.worker("trying", &[("TURNSTILE_PAUSE_AT", "trying nodes out")]).await;
    let address = format!("amq.rabbitmq.reply-to.{}.AAECAwQFBgcICQoLDA0ODw==", process_of_node(1_000));
    let forged = shop.properties("bad").with_reply_to(address.into());
    shop.send("ticket", request("bad", "ticket", 1).as_bytes(), forged).await;
    shop.paused("trying").await;
    let bought = [shop.purchase("r-1").await, shop.purchase("r-2").await, shop.purchase("r-3").await];
    assert!(bought.iter().all(|reply| reply.code() == "reserved"));
    trying.kill().await.unwrap();
    let mut next = shop.worker("next", &[]).await;
    let replies = shop.replies(3).await;
    assert!(bought.iter().all(|first| replies[&first.correlation_id].body == first.body), "none was acknowledged");
    assert_eq!(next.stop().await.unwrap().code(), Some(0));
    let _last = shop.worker("last", &[]).await;
    assert_eq!(shop.purchase("r-4").await.code(), "reserved", "nothing comes again: all before it is acknowledged");
}

#[tokio::test]
async fn among_256_replies_the_one_that_ends_connections_is_found_at_the_price_of_two() {
    let shop = Shop::open(&[("ticket", 1_000)]).await;
    let mut direct = consume(&shop.channel, "amq.rabbitmq.reply-to").await;
    for number in 0..256 {
        let (id, bare) = (format!("r-{number}"), "amq.rabbitmq.reply-to".to_owned());
        let forged = format!("{bare}.{}.AAECAwQFBgcICQoLDA0ODw==", process_of_node(1_000));
        let reply_to = if number == 100 { forged } else { bare };
        let properties = shop.properties(&id).with_reply_to(reply_to.into());
        shop.send("ticket", request(&id, "ticket", 1).as_bytes(), properties).await;
    }
    let mut worker = shop.worker("w", &[]).await;
    let mut answered = HashSet::new();
    while answered.len() < 255 {
        let reply = Reply::of(direct.next().await.unwrap().unwrap());
        assert_eq!(reply.code(), "reserved");
        assert!(answered.insert(reply.correlation_id), "nobody is answered twice");
    }
    assert_eq!(worker.stop().await.unwrap().code(), Some(0));
    let log = shop.log("w").await;
    let lost = log.matches("not published; trying again").count();
    assert!(lost == 0 && !log.contains("replies cannot be published"), "{log}");
    // RabbitMQ from 4.2 on loses none.
    assert!(log.contains("losses=1") || !log.contains("losses="), "{log}");
}

/// A process id, in base64, of a node of this number (of four digits).
fn process_of_node(number: usize) -> String {
    let process = format!("\u{83}Xv\0\nreply@{number}\0\0\0\u{1}\0\0\0\0\0\0\0\u{1}");
    BASE64_STANDARD.encode(process.chars().map(|byte| u8::try_from(byte).unwrap()).collect::<Vec<_>>())
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
async fn what_senders_do_wrong_is_kept_in_bounds_and_never_in_place_of_what_is_nobodys_fault() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let nobodys = table(&[("x-dead-reason", text("not_handled")), ("x-dead-queue", text("purchase.0"))]);
    shop.send_to("dead", "", b"{}", BasicProperties::default().with_headers(nobodys)).await;
    let address = free_address().await;
    let mut worker = shop.worker("w", &[]).await;
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
    assert_eq!(worker.stop().await.unwrap().code(), Some(0), "its copies are kept");
    assert_eq!((shop.depth("dead").await, u64::from(shop.depth("dead.invalid").await)), (1, length_max));
    let oldest = shop.channel.basic_get("dead.invalid".into(), BasicGetOptions { no_ack: true }).await.unwrap();
    assert_eq!(oldest.unwrap().delivery.data, b"51", "the oldest have left");
    let _second = shop.worker("second", &[("METRICS_ADDRESS", &address)]).await;
    until("it serves", async || shop.log("second").await.contains("consuming")).await;
    for (queue, waiting) in [("dead", 1), ("dead.invalid", length_max - 1)] {
        let line = format!(r#"turnstile_dead_messages{{function="purchase",queue="{queue}"}} {waiting}"#);
        until("the metrics show it", async || get(&address, "/metrics").await.lines().any(|shown| shown == line)).await;
    }
    assert!(shop.log("second").await.contains("a queue of dead letters is nearly full"));
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
    // Another user than the workers', who says so.
    let by_another = || none().with_user_id("guest".into());
    let heartbeat = async |body: &[u8], properties: BasicProperties| {
        let options = BasicPublishOptions::default();
        drop(shop.channel.basic_publish("purchase.workers".into(), "".into(), options, body, properties).await);
    };
    let large = "w".repeat(100_000);
    for number in 0..1_000 {
        heartbeat(format!("{number} {large}").as_bytes(), by_another()).await;
    }
    for number in 0..40_000 {
        let properties = if number % 2 == 0 { none() } else { by_another() };
        heartbeat(format!("turnstile-purchase w {}", Uuid::now_v7()).as_bytes(), properties).await;
    }
    shop.channel.wait_for_confirms().await.unwrap();
    // Until a third worker has its share, 30 are there that nobody has started.
    let (third, invented) = (shop.worker("w3", &[]).await, [(); 30].map(|()| Uuid::now_v7()));
    until("a third worker has its share", async || {
        for process in invented {
            heartbeat(format!("turnstile-purchase invented {process}").as_bytes(), by_another()).await;
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
