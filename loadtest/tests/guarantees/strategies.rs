//! Every way to keep stock keeps every promise. Redis, which one of them has count, dies and comes back empty or with an
//! old snapshot: no unit is lost or sold twice, nobody is sent away while units are left.

use crate::support::sale::{
    TIME_MAX, assert_fails, assert_passed, endpoints, none_given, open, result_of, verdicts_reach, workers,
};
use crate::support::shop::{Shop, until};
use crate::support::{free_address, get};
use clap::ValueEnum;
use loadtest::run::{Sale, start};
use loadtest::schedule::Scenario;
use loadtest::servers::Endpoints;
use loadtest::strategy::Strategy;
use loadtest::workers::WorkerSpec;
use shared::db;
use shared::devstack::{Folder, Redis, fixture};
use std::sync::Arc;

#[tokio::test]
async fn a_sale_keeps_every_promise_with_each_strategy_though_a_worker_dies() {
    let each = Strategy::value_variants().iter();
    for (strategy, requests_per_message) in each.flat_map(|strategy| [(strategy, 1), (strategy, 10)]) {
        let quantities = 1..=3;
        let scenario =
            Scenario { buyers: 1_500, items: 3, stock: 900, quantities, requests_per_message, ..Scenario::default() };
        let workers = WorkerSpec { strategy: Some(*strategy), ..workers(2, Some(20)).await };
        let endpoints = Endpoints { redis_url: Some(fixture::redis().await.url()), ..endpoints().await };
        let mut sale = open(&endpoints, &scenario, workers).await;
        verdicts_reach(&sale, 300).await;
        sale.workers.kill(0).await.unwrap();
        let outcome = sale.finish().await.unwrap();
        assert_passed(&outcome);
        assert_eq!(outcome.scenario.strategy, strategy.as_str());
        assert!(outcome.audit.verdicts.sold_out > 0 && outcome.audit.verdicts.reserved > 0);
    }
}

#[tokio::test]
async fn a_worker_shows_its_attempts_and_conflicts() {
    let mut shop = Shop::open(&[("hot", 10), ("cold", 10)]).await;
    let address = free_address().await;
    // However long it takes until somebody else is done.
    let patient = shop.patient_url();
    let environment = [("METRICS_ADDRESS", address.as_str()), ("DATABASE_URL", patient.as_str())];
    let _worker = shop.worker("w", &environment).await;
    shop.buy("first", "cold").await;
    shop.reply_to("first").await;
    // Somebody else decides on the item between the worker's reading and its commit.
    let other = shop.begin("UPDATE items SET version = version + 1 WHERE id = 'hot'").await;
    shop.buy("second", "hot").await;
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("the worker waits for the row", async || shop.count(waiting).await == 1).await;
    other.commit().await.unwrap();
    assert_eq!(shop.reply_to("second").await.code(), "reserved");

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
async fn a_redis_that_comes_back_with_an_old_snapshot_costs_nobody_a_verdict_or_a_unit() {
    let mut redis = Redis::start(&Arc::new(Folder::create().unwrap())).await.unwrap();
    let endpoints = Endpoints { redis_url: Some(redis.url()), ..endpoints().await };
    let workers = WorkerSpec { strategy: Some(Strategy::Redis), ..workers(2, Some(20)).await };
    let scenario = Scenario { buyers: 3_000, items: 3, stock: 2_000, seed: 7, ..Scenario::default() };
    let mut sale = start(&endpoints, Sale::of(scenario, workers, TIME_MAX)).await.unwrap();
    sale.open();
    verdicts_reach(&sale, 300).await;
    redis.save().await.unwrap();
    verdicts_reach(&sale, 1_200).await;
    redis.kill_and_restart().await.unwrap();
    // Once more, from the same snapshot: by now of two epochs ago.
    verdicts_reach(&sale, 2_100).await;
    redis.kill_and_restart().await.unwrap();
    let outcome = sale.finish().await.unwrap();
    assert_passed(&outcome);
    assert_eq!((outcome.audit.verdicts.reserved, outcome.audit.verdicts.sold_out), (2_000, 1_000));
    let pool = db::pool(&endpoints.database_url, "test", 1).unwrap();
    let passed: bool = sqlx::query_scalar("SELECT run_id <> '' FROM redis_fence").fetch_one(&pool).await.unwrap();
    assert!(passed, "Redis was what decided: the workers have passed its fence");
}

#[tokio::test]
async fn a_redis_that_dies_in_mid_sale_and_starts_empty_costs_nobody_a_verdict_or_a_unit() {
    // Where the load generator starts the servers, it starts a Redis, too, and kills it when told to.
    let sale = "run --buyers 3000 --stock 1500 --strategy redis --kill-redis-at 40% --json -";
    let json = result_of(&none_given(), sale).await;
    assert_eq!((&json["scenario"]["strategy"], &json["verdicts"]["reserved"]), (&"redis".into(), &1_500.into()));
    assert_eq!((&json["events"][0]["at"], &json["events"][0]["event"]), (&"40%".into(), &"kill_redis".into()));
    assert!(json["servers"]["redis"].is_string(), "{}", json["servers"]);
    assert_fails(&endpoints().await, "run --strategy redis", 78, "REDIS_URL").await;
}
