//! Workers come, share the partitions, drain, die and freeze in mid-sale: the order stays, nothing is lost.

use crate::support::queue::{table, text};
use crate::support::sale::{
    assert_in_arrays, assert_passed, endpoints, open, result_of, start, verdicts_reach, workers,
};
use crate::support::shop::{Shop, request, until};
use lapin::options::QueueDeleteOptions;
use lapin::types::AMQPValue;
use loadtest::result::Outcome;
use loadtest::run::Running;
use loadtest::schedule::Scenario;
use serde_json::Value;
use shared::amqp::{self, DeadLetterQueue, Nodes};
use shared::devstack::seed::lock;
use shared::devstack::{Signal, as_user};
use shared::topology::Topology;
use std::collections::HashMap;

fn shares(outcome: &Outcome) -> Vec<u64> {
    outcome.workers.iter().map(|worker| worker.verdicts).collect()
}

/// How many partitions the first two workers have handed over.
fn handed_over(sale: &Running<'_>) -> [usize; 2] {
    [0, 1].map(|worker| sale.workers.log(worker).unwrap().matches("handed a partition over").count())
}

/// Scarce, so that who comes first matters.
fn scarce() -> Scenario {
    Scenario { buyers: 8_000, stock: 4_000, quantities: 1..=2, rate: 4_000.0, ..Scenario::default() }
}

#[tokio::test]
async fn workers_that_come_one_by_one_share_before_the_first_buyer_and_then_partitions_stay_where_they_are() {
    // Of many items, so that every partition has traffic.
    for (items, burst_ms, requests_per_message) in [(400, 0, 1), (40, 100, 10)] {
        let scarce = Scenario { items, burst_ms, requests_per_message, ..scarce() };
        let mut sale = start(&endpoints().await, &scarce, workers(1, Some(50)).await).await;
        sale.workers.start_another().await.unwrap();
        until("the first has handed over half of the partitions", async || handed_over(&sale) == [4, 0]).await;
        sale.open();
        verdicts_reach(&sale, 7_000).await;
        assert_eq!(handed_over(&sale), [4, 0]);
        let outcome = sale.finish().await.unwrap();
        assert_passed(&outcome);
        assert_in_arrays(&outcome);
        assert!(shares(&outcome).iter().all(|share| *share >= 8_000 / 8), "partitions of each: {outcome:?}");
    }
}

#[tokio::test]
async fn whoever_comes_in_mid_sale_is_handed_partitions_over_with_requests_alone_and_in_arrays_in_their_order() {
    for (burst_ms, requests_per_message) in [(0, 1), (100, 5)] {
        let scarce = Scenario { items: 16, rate: 500.0, burst_ms, requests_per_message, ..scarce() };
        let mut sale = open(&endpoints().await, &scarce, workers(1, Some(50)).await).await;
        verdicts_reach(&sale, 500).await;
        sale.workers.start_another().await.unwrap();
        until("the first has handed over half of the partitions", async || handed_over(&sale) == [4, 0]).await;
        assert!(*sale.answered().borrow() < 7_000, "in mid-sale");
        let outcome = sale.finish().await.unwrap();
        assert_passed(&outcome);
        assert_in_arrays(&outcome);
    }
}

#[tokio::test]
async fn whoever_comes_by_another_way_than_the_line_is_refused_and_replayed_into_it() {
    let mut shop = Shop::open(&[("ticket", 8)]).await;
    let honest = 1_000;
    shop.line_up(honest).await;
    let properties = |id: &str| shop.properties(id);
    let body = |id: &str| request(id, "ticket", 1).into_bytes();
    // Into emptier partitions, by another routing key, or by none at all.
    for number in 0..12 {
        let id = format!("key-{number}");
        shop.send(&format!("k{number}"), &body(&id), properties(&id)).await;
    }
    for partition in Topology::read().queues_of("purchase") {
        shop.send_to("", &partition, &body(&partition), properties(&partition)).await;
    }
    // Before the others, where the broker honours that (RabbitMQ 4).
    for (id, priority) in [("priority-4", 4), ("priority-5", 5), ("priority-9", 9)] {
        shop.send("ticket", &body(id), properties(id).with_priority(priority)).await;
    }
    // Copies by other routing keys, which the exchange does not make.
    for (id, name) in [("cc", "CC"), ("bcc", "BCC")] {
        let copies = table(&[(name, AMQPValue::FieldArray(vec![text("k1"), text("k2"), text("k3")].into()))]);
        shop.send("ticket", &body(id), properties(id).with_headers(copies)).await;
    }
    let _worker = shop.worker("w", &[]).await;
    let mut replies = shop.replies(honest + 12 + 8 + 3 + 2).await;
    let refused: Vec<_> = replies.extract_if(|id, _| !id.starts_with("r-")).collect();
    for (id, reply) in &refused {
        let expected = match id.as_str() {
            "priority-4" | "cc" | "bcc" => "sold_out",
            "priority-5" | "priority-9" => "priority_not_allowed",
            _ => "wrong_routing_key",
        };
        assert_eq!(reply.code(), expected, "{id}");
    }
    shop.assert_served_in_order(replies, honest, 8).await;
    until("the refused are in dead.invalid", async || shop.depth("dead.invalid").await == 22).await;
    // An operator sends them again: each gets in line.
    let nodes = Nodes::read(&shop.amqp_url).unwrap();
    let dead = DeadLetterQueue::open(&nodes, "test", &[]).await.unwrap();
    for message in dead.take(100).await.unwrap().messages {
        assert!(dead.replay(&message).await.unwrap().is_done(), "{message:?}");
    }
    dead.close().await.unwrap();
    assert!(shop.replies(22).await.values().all(|reply| reply.code() == "sold_out"));
}

#[tokio::test]
async fn under_light_traffic_too_a_partition_is_handed_over_in_order() {
    let items: Vec<String> = (0..24).map(|number| format!("item-{number}")).collect();
    let on_sale: Vec<(&str, i64)> = items.iter().map(|item| (item.as_str(), 1_000)).collect();
    let mut shop = Shop::open(&on_sale).await;
    let mut first = shop.worker("first", &[]).await;
    let mut second = None;
    let mut sent = 0;
    // One request at a time: no window ever fills by itself.
    until("both workers answer, each at least a quarter of what was sent since", async || {
        let mut answers = [0, 0];
        for item in &items {
            sent += 1;
            shop.buy(&format!("r-{sent}"), item).await;
            let reply = shop.reply().await;
            assert_eq!(reply.code(), "reserved");
            answers[usize::from(reply.worker_id == "second")] += 1;
        }
        if second.is_none() {
            second = Some(shop.worker("second", &[]).await);
        }
        answers.iter().all(|count| *count >= 6)
    })
    .await;
    for worker in [&mut first, second.as_mut().expect("it was started")] {
        assert_eq!(worker.stop().await.unwrap().code(), Some(0));
    }
    assert_eq!(shop.dead_depth().await, 0, "what fills a window is not kept");
}

#[tokio::test]
async fn a_worker_that_sleeps_while_its_partition_moves_on_costs_nobody_a_verdict_or_a_place() {
    for (burst_ms, requests_per_message) in [(0, 1), (150, 100)] {
        let hot = Scenario { buyers: 10_000, stock: 5_000, quantities: 1..=2, rate: 1_000.0, ..Scenario::default() };
        assert_sleeps_through(Scenario { burst_ms, requests_per_message, ..hot }).await;
    }
}

async fn assert_sleeps_through(hot: Scenario) {
    let mut endpoints = endpoints().await;
    // The broker gives a silent connection up after two heartbeats.
    endpoints.amqp_url += "?heartbeat=1";
    let mut sale = open(&endpoints, &hot, workers(1, Some(50)).await).await;
    sale.workers.start_another().await.unwrap();
    sale.workers.ready(1).await.unwrap();
    verdicts_reach(&sale, 1_000).await;
    sale.workers.signal(0, Signal::SIGSTOP).unwrap();
    let at = *sale.answered().borrow();
    // By the other one: there is but one partition.
    verdicts_reach(&sale, at + 2_000).await;
    sale.workers.signal(0, Signal::SIGCONT).unwrap();
    let outcome = sale.finish().await.unwrap();
    assert_passed(&outcome);
    assert_in_arrays(&outcome);
    assert!(shares(&outcome).iter().all(|share| *share >= 500), "both took part: {:?}", shares(&outcome));
}

#[tokio::test]
async fn what_is_done_to_the_workers_in_mid_sale_costs_nobody_a_verdict_or_a_place_and_is_reported() {
    // Frozen, a worker keeps its partitions until it is awake again: others, one just come, go on with theirs.
    for (how, messages_max) in [("--items 400", 12_000), ("--items 40 --burst 100 --requests-per-message 4", 6_000)] {
        let sale = "run --buyers 12000 --stock 6000 --quantity 1-2 --rate 2000 --workers 3 --batch-max 50 \
                    --add-worker-at 10% --kill-worker-at 20% --add-worker-at 40% --stop-worker-at 40% \
                    --freeze-worker-at 60% --freeze-seconds 1 --add-worker-at 60% --add-worker-at 100% --json -";
        let json = result_of(&endpoints().await, &format!("{sale} {how}")).await;
        assert_disturbed(&json);
        assert!(json["messages"].as_u64().unwrap() <= messages_max, "half full: {}", json["messages"]);
    }
}

fn assert_disturbed(json: &Value) {
    assert_eq!((&json["order_inversions"], &json["lost"]), (&Value::from(0), &Value::from(0)));
    let done: Vec<[&str; 3]> = json["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| ["at", "event", "worker"].map(|key| event[key].as_str().unwrap()))
        .collect();
    let expected = [
        ["10%", "add", "worker-4"],
        ["20%", "kill", "worker-1"],
        ["40%", "add", "worker-5"],
        ["40%", "stop", "worker-2"],
        ["60%", "add", "worker-6"],
        ["60%", "freeze", "worker-3"],
        ["100%", "add", "worker-7"],
    ];
    assert_eq!(done, expected);
    let of_newcomer = json["workers"].as_array().unwrap().iter().find(|worker| worker["id"] == "worker-4");
    assert!(of_newcomer.unwrap()["verdicts"].as_u64().unwrap() >= 1_000, "the newcomer took part: {}", json["workers"]);
}

#[tokio::test]
async fn a_worker_told_to_stop_settles_what_is_in_hand_and_leaves_the_rest_in_order() {
    assert_drained_in_order(Shop::open(&[("ticket", 1_000)]).await).await;
}

/// A worker is told to stop in mid-sale, and another goes on.
pub(crate) async fn assert_drained_in_order(mut shop: Shop) {
    let count = 2_000;
    shop.line_up(count).await;
    // Small batches: the others take seconds, should we stand still for one.
    let mut first = shop.worker("first", &[("BATCH_MAX", "5")]).await;
    // In mid-sale, by what a buyer sees.
    let replies = shop.replies(100).await;
    first.send(Signal::SIGTERM).unwrap();
    assert_eq!(first.wait().await.unwrap().code(), Some(0), "a drain is a success");
    let decided_by_first = shop.count("SELECT count(*) FROM verdicts").await;
    assert!((100..count as i64).contains(&decided_by_first), "{decided_by_first}: it stopped in mid-sale");

    let _second = shop.worker("second", &[]).await;
    shop.assert_served_in_order(replies, count, 1_000).await;
}

#[tokio::test]
async fn a_frozen_worker_that_wakes_after_its_partition_moved_on_changes_nothing() {
    // Decided on an item's row, fenced by its version; and decided without one, fenced by the request id.
    for (item, code) in [("ticket", "reserved"), ("nothing", "unknown_item")] {
        for requests_per_message in [1, 3] {
            assert_wakes_too_late(item, code, requests_per_message).await;
        }
    }
}

async fn assert_wakes_too_late(item: &str, code: &str, requests_per_message: usize) {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    // The broker gives a silent connection up after two heartbeats.
    let amqp_url = as_user(&format!("{}?heartbeat=1", shop.amqp_url), "worker");
    let environment = [("TURNSTILE_PAUSE_AT", "committing"), ("AMQP_URL", &amqp_url)];
    let mut sleeper = shop.worker("sleeper", &environment).await;
    let message = |name: &str| (0..requests_per_message).map(|place| format!("{name}-{place}")).collect::<Vec<_>>();
    shop.buy_together(&message("first"), item).await;
    shop.paused("sleeper").await;
    sleeper.send(Signal::SIGSTOP).unwrap();

    let mut next = shop.worker("next", &[]).await;
    let none_left = if item == "ticket" { "sold_out" } else { code };
    let mut told = HashMap::new();
    for name in ["first", "second"] {
        if name == "second" {
            shop.buy_together(&message(name), item).await;
        }
        for id in message(name) {
            let reply = shop.reply_to(&id).await;
            let expected = if id == "first-0" { code } else { none_left };
            assert_eq!((reply.code(), reply.worker_id.as_str()), (expected, "next"), "handed over: {id}");
            told.insert(id, reply.body);
        }
    }

    sleeper.send(Signal::SIGCONT).unwrap();
    until("its commit has failed", async || shop.log("sleeper").await.contains("deciding again")).await;
    next.kill().await.unwrap();
    shop.buy_together(&message("third"), item).await;
    let mut third = Vec::new();
    while third.len() < requests_per_message {
        let reply = shop.reply().await;
        // It may still say what is on record: of the first, and of the second where that was not acknowledged yet.
        match told.get(&reply.correlation_id) {
            Some(body) => assert_eq!(reply.body, *body, "what is on record"),
            None => {
                assert_eq!((reply.code(), reply.worker_id.as_str()), (none_left, "sleeper"), "back at work");
                third.push(reply.correlation_id);
            }
        }
    }
    assert_eq!(third, message("third"));
    assert_eq!(shop.stock("ticket").await, if item == "ticket" { (0, 1) } else { (1, 0) });
    assert_eq!(shop.count("SELECT count(*) FROM verdicts").await, 3 * requests_per_message as i64);
}

#[tokio::test]
async fn a_worker_whose_subscription_the_broker_has_cancelled_decides_nothing_more_of_what_it_got() {
    let mut shop = Shop::open(&[("ticket", 3)]).await;
    let environment =
        [("TURNSTILE_PAUSE_AT", "handling second"), ("BATCH_MAX", "1"), ("RUST_LOG", "debug,lapin::consumer=trace")];
    let mut worker = shop.worker("w", &environment).await;
    until("it has subscribed to all", async || shop.log("w").await.contains("consuming")).await;
    assert_eq!(shop.purchase("first").await.code(), "reserved");
    for id in ["second", "third", "fourth"] {
        shop.buy(id, "ticket").await;
    }
    shop.paused("w").await;
    until("it has all of them", async || shop.is_drained().await).await;
    let queues = Topology::read().queues_of("purchase");
    for queue in &queues {
        shop.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }
    // Its channels stay open.
    until("it was told of each", async || {
        let log = shop.log("w").await;
        let cancelled = |line: &&str| line.ends_with("cancel consumer_tag=turnstile-purchase w");
        log.lines().filter(cancelled).count() == queues.len()
    })
    .await;
    amqp::declare(&shop.channel).await.unwrap();
    worker.send(Signal::SIGCONT).unwrap();
    shop.buy("fifth", "ticket").await;
    let mut reply = shop.reply().await;
    if reply.correlation_id == "second" {
        // It was being decided, on the version that it had read.
        reply = shop.reply().await;
    }
    assert_eq!(reply.correlation_id, "fifth", "{}", reply.body);
    assert_eq!(shop.count("SELECT count(*) FROM verdicts").await, 3, "the third and the fourth are not its any more");
}

#[tokio::test]
async fn what_is_under_way_when_one_worker_after_the_other_dies_keeps_its_place() {
    let mut shop = Shop::open(&[("ticket", 10)]).await;
    shop.line_up(20).await;
    for id in ["first", "second", "third"] {
        let mut doomed = shop.worker(id, &[("TURNSTILE_PAUSE_AT", "committing"), ("BATCH_MAX", "2")]).await;
        shop.paused(id).await;
        doomed.kill().await.unwrap();
    }
    let _next = shop.worker("next", &[]).await;
    shop.assert_served_in_order(HashMap::new(), 20, 10).await;
}

#[tokio::test]
async fn what_waits_for_a_row_when_its_worker_dies_keeps_its_place() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let mut doomed = shop.worker("doomed", &[]).await;
    let lock = lock(&shop.pool, "items", "ticket").await;
    shop.line_up(20).await;
    until("it has all of them", async || shop.is_drained().await).await;
    doomed.kill().await.unwrap();
    lock.rollback().await.unwrap();
    let _next = shop.worker("next", &[]).await;
    shop.assert_served_in_order(HashMap::new(), 20, 1).await;
}
