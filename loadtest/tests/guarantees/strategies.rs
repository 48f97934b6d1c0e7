//! Every way to keep stock keeps every promise. Redis, which one of them has count, dies and comes back empty or with an
//! old snapshot, stands still, or is not there: no unit is lost or sold twice, nobody is sent away while units are left.

use crate::support::{
    free_address, get,
    sale::{
        TIME_MAX, assert_fails, assert_passed, endpoints, none_given, open, result_of, signal, verdicts_reach, workers,
    },
    shop::{Shop, until},
};
use clap::ValueEnum;
use loadtest::{
    faults::{Action, Event},
    result::Outcome,
    run::{Sale, start},
    schedule::Scenario,
    servers::Endpoints,
    strategy::Strategy,
    workers::WorkerSpec,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use shared::{
    db,
    devstack::{Folder, Redis, Supervised, fixture},
};
use std::sync::Arc;

/// A third of the buyers come too late.
const SALE: Scenario = Scenario { buyers: 6_000, items: 3, stock: 4_000, quantities: 1..=1, rate: 0.0, seed: 7 };

#[tokio::test]
async fn a_sale_keeps_every_promise_with_each_strategy_though_a_worker_dies() {
    let scenario = Scenario { buyers: 1_500, items: 3, stock: 900, quantities: 1..=3, rate: 0.0, seed: 7 };
    for strategy in Strategy::value_variants() {
        let workers = WorkerSpec { strategy: Some(*strategy), ..workers(2, Some(20)).await };
        let endpoints = Endpoints { redis_url: Some(fixture::redis().await.url()), ..endpoints().await };
        let mut sale = open(&endpoints, &scenario, workers).await;
        verdicts_reach(&sale, 300).await;
        sale.workers.kill(0).await.unwrap();
        let outcome = sale.finish().await.unwrap();
        assert_passed(&outcome);
        assert_eq!(outcome.scenario.strategy, strategy.as_str());
        assert!(outcome.verdicts.sold_out > 0 && outcome.verdicts.reserved > 0);
    }
}

#[tokio::test]
async fn a_worker_shows_its_attempts_and_conflicts_by_item() {
    let mut shop = Shop::open(&[("hot", 10), ("cold", 10)]).await;
    let address = free_address().await;
    let _worker = shop.worker("w", &[("METRICS_ADDRESS", &address)]).await;
    shop.buy("first", "cold").await;
    shop.reply().await;
    // Somebody else decides on the item between the worker's reading and its commit.
    let mut other = shop.pool.begin().await.unwrap();
    sqlx::query("UPDATE items SET version = version + 1 WHERE id = 'hot'").execute(&mut *other).await.unwrap();
    shop.buy("second", "hot").await;
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("the worker waits for the row", async || shop.count(waiting).await == 1).await;
    other.commit().await.unwrap();
    assert_eq!(shop.reply().await.code(), "reserved");

    let shown = get(&address, "/metrics").await;
    assert!(shown.starts_with("HTTP/1.1 200 OK\r\n"), "{shown}");
    for line in [
        r#"turnstile_attempts_total{function="purchase"} 3"#,
        r#"turnstile_conflicts_total{function="purchase"} 1"#,
        r#"turnstile_answers_total{function="purchase",answer="verdict"} 2"#,
        r#"turnstile_batch_requests_sum{function="purchase"} 2.0"#,
        "# EOF",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert!(get(&address, "/").await.starts_with("HTTP/1.1 404 Not Found\r\n"));
}

#[tokio::test]
async fn what_cannot_work_together_is_said_at_the_start() {
    let shop = Shop::open(&[]).await;
    for (id, variable, value, reason) in [
        ("too-few", "IN_FLIGHT", "16", "--in-flight 16 needs as many connections: --database-connections-max 16"),
        ("nowhere", "REDIS_URL", "localhost", "REDIS_URL cannot be read"),
        ("not-here", "METRICS_ADDRESS", "192.0.2.1:9400", "listen on 192.0.2.1:9400 (--metrics-address)"),
    ] {
        let strategy = if variable == "REDIS_URL" { "redis" } else { "optimistic" };
        let mut worker = shop.worker(id, &[(variable, value), ("STRATEGY", strategy)]).await;
        let status = tokio::time::timeout(TIME_MAX, worker.wait()).await.unwrap().unwrap();
        let log = shop.log(id).await;
        assert_eq!(status.code(), Some(78), "{log}");
        assert!(log.contains(reason), "{log}");
    }
}

#[tokio::test]
async fn a_redis_that_dies_in_mid_sale_and_starts_empty_costs_nobody_a_verdict_or_a_unit() {
    let mut redis = redis().await;
    let (mut sale, endpoints) = prepare(&redis).await;
    sale.faults.events = vec![Event { at: "40%".parse().unwrap(), action: Action::KillRedis }];
    sale.faults.redis = Some(&mut redis);
    let outcome = start(&endpoints, sale).await.unwrap().finish().await.unwrap();
    assert_eq!(outcome.events.len(), 1);
    assert_sold(&outcome, &endpoints).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_with_an_old_snapshot_costs_nobody_a_verdict_or_a_unit() {
    let mut redis = redis().await;
    let (sale, endpoints) = prepare(&redis).await;
    let mut sale = start(&endpoints, sale).await.unwrap();
    sale.open();
    verdicts_reach(&sale, 600).await;
    redis.save().await.unwrap();
    verdicts_reach(&sale, 2_400).await;
    redis.kill_and_restart().await.unwrap();
    // Once more, from the same snapshot: by now of two epochs ago.
    verdicts_reach(&sale, 4_200).await;
    redis.kill_and_restart().await.unwrap();
    assert_sold(&sale.finish().await.unwrap(), &endpoints).await;
}

#[tokio::test]
async fn a_worker_killed_between_redis_and_the_database_leaves_its_decisions_to_the_next() {
    let redis = redis().await;
    let mut shop = Shop::open(&[("ticket", 3)]).await;
    let mut doomed = worker(&shop, "doomed", &redis, &[("TURNSTILE_PAUSE_AT", "confirming")]).await;
    for number in 0..5 {
        shop.buy(&format!("r-{number}"), "ticket").await;
    }
    // It has asked Redis, and the database not yet.
    shop.paused("doomed").await;
    assert_eq!(shop.count("SELECT count(*) FROM verdicts").await, 0);
    doomed.kill().await.unwrap();

    let _next = worker(&shop, "next", &redis, &[]).await;
    let replies = shop.replies(5).await;
    let codes: Vec<String> = (0..5).map(|number| replies[&format!("r-{number}")].code()).collect();
    assert_eq!(codes, ["reserved", "reserved", "reserved", "sold_out", "sold_out"], "in order of arrival");
    assert_eq!(shop.stock("ticket").await, (0, 3));
}

#[tokio::test]
async fn a_redis_that_stands_still_holds_the_batch_until_it_goes_on() {
    let redis = redis().await;
    let mut shop = Shop::open(&[("ticket", 2)]).await;
    let _worker = worker(&shop, "w", &redis, &[]).await;
    assert_eq!(shop.purchase("before").await.code(), "reserved");
    signal(redis.pid(), Signal::SIGSTOP);
    shop.buy("meanwhile", "ticket").await;
    let held = "holding the batch";
    until("the worker holds it", async || shop.log("w").await.lines().any(|line| line.contains(held))).await;
    assert!(shop.log("w").await.contains("Redis does not answer"), "{}", shop.log("w").await);
    signal(redis.pid(), Signal::SIGCONT);
    assert_eq!(shop.reply().await.code(), "reserved");
    assert_eq!(shop.purchase("after").await.code(), "sold_out");
    assert_eq!((shop.stock("ticket").await, shop.depth("dead").await), ((0, 2), 0));
}

#[tokio::test]
async fn a_worker_whose_redis_is_not_there_says_so_and_exits_with_69() {
    let redis = redis().await;
    let shop = Shop::open(&[]).await;
    let url = redis.url();
    redis.stop().await.unwrap();
    let environment = [("STRATEGY", "redis"), ("REDIS_URL", url.as_str()), ("STARTUP_SECONDS_MAX", "1")];
    let mut worker = shop.worker("alone", &environment).await;
    let status = tokio::time::timeout(TIME_MAX, worker.wait()).await.unwrap().unwrap();
    let log = shop.log("alone").await;
    assert_eq!(status.code(), Some(69), "{log}");
    assert!(log.contains("does REDIS_URL name it?"), "{log}");
}

#[tokio::test]
async fn the_load_generator_starts_a_redis_where_it_starts_servers_and_kills_it_when_told_to() {
    let sale = "run --buyers 3000 --stock 1500 --strategy redis --kill-redis-at 40% --json -";
    let json = result_of(&none_given(), sale).await;
    assert_eq!((&json["scenario"]["strategy"], &json["verdicts"]["reserved"]), (&"redis".into(), &1_500.into()));
    assert_eq!((&json["events"][0]["at"], &json["events"][0]["event"]), (&"40%".into(), &"kill_redis".into()));
    assert!(json["servers"]["redis"].is_string(), "{}", json["servers"]);

    // On servers that it is given, it needs to be given a Redis, too; and to kill that is not for it to do.
    let given = endpoints().await;
    assert_fails(&given, "run --strategy redis", 78, "REDIS_URL").await;
    assert_fails(&given, "run --strategy redis --kill-redis-at 40%", 2, "").await;
    let json = result_of(&given, "run --buyers 100 --json -").await;
    assert_eq!(json["servers"]["redis"], Value::Null, "no other strategy needs one");
}

async fn redis() -> Redis {
    Redis::start(&Arc::new(Folder::create().unwrap())).await.unwrap()
}

/// A worker of this strategy.
async fn worker(shop: &Shop, id: &str, redis: &Redis, environment: &[(&str, &str)]) -> Supervised {
    let url = redis.url();
    let of_strategy = [("STRATEGY", "redis"), ("REDIS_URL", url.as_str())];
    shop.worker(id, &[&of_strategy, environment].concat()).await
}

async fn prepare<'a>(redis: &Redis) -> (Sale<'a>, Endpoints) {
    let endpoints = Endpoints { redis_url: Some(redis.url()), ..endpoints().await };
    let workers = WorkerSpec { strategy: Some(Strategy::Redis), ..workers(2, Some(20)).await };
    (Sale::of(SALE, workers, TIME_MAX), endpoints)
}

/// Every promise is kept, and Redis was what decided: the workers have passed its fence.
async fn assert_sold(outcome: &Outcome, endpoints: &Endpoints) {
    assert_passed(outcome);
    assert_eq!((outcome.verdicts.reserved, outcome.verdicts.sold_out), (4_000, 2_000));
    let pool = db::pool(&endpoints.database_url, "test", 1).unwrap();
    let passed: bool = sqlx::query_scalar("SELECT run_id <> '' FROM redis_fence").fetch_one(&pool).await.unwrap();
    assert!(passed);
}
