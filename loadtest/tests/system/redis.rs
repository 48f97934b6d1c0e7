//! The strategy that has Redis count, in whole sales: Redis dies and comes back empty or with an old snapshot, stands still, or
//! is not there; a worker dies between Redis and the database. No unit is lost, none is sold twice, nobody is sent away
//! while units are left.

use crate::{
    sales::{TIME_MAX, assert_passed, endpoints, json, run, verdicts_reach, workers},
    shop::{Shop, purchase_program, until},
};
use loadtest::{
    faults::{Action, Event},
    result::Outcome,
    run::{Sale, start},
    schedule::Scenario,
    servers::Endpoints,
    strategy::Strategy,
    workers::WorkerSpec,
};
use nix::{sys::signal, unistd::Pid};
use serde_json::Value;
use shared::{
    db,
    devstack::{Folder, Redis, Supervised},
};
use std::sync::Arc;

/// A third of the buyers come too late.
const SALE: Scenario = Scenario { buyers: 6_000, items: 3, stock: 4_000, quantities: 1..=1, rate: 0.0, seed: 7 };

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
    until("it has asked Redis, and stands still", async || shop.log("doomed").await.contains("paused")).await;
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
    shop.buy("before", "ticket").await;
    assert_eq!(shop.reply().await.code(), "reserved");
    let pid = Pid::from_raw(redis.pid().try_into().unwrap());
    signal::kill(pid, signal::Signal::SIGSTOP).unwrap();
    shop.buy("meanwhile", "ticket").await;
    let held = "holding the batch";
    until("the worker holds it", async || shop.log("w").await.lines().any(|line| line.contains(held))).await;
    assert!(shop.log("w").await.contains("Redis does not answer"), "{}", shop.log("w").await);
    signal::kill(pid, signal::Signal::SIGCONT).unwrap();
    assert_eq!(shop.reply().await.code(), "reserved");
    shop.buy("after", "ticket").await;
    assert_eq!(shop.reply().await.code(), "sold_out");
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
    purchase_program().await;
    let private = Endpoints { amqp_url: String::new(), database_url: String::new(), redis_url: None };
    let sale = "run --buyers 3000 --stock 1500 --strategy redis --kill-redis-at 40% --json -";
    let output = run(&private, &sale.split_whitespace().collect::<Vec<_>>()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json = json(&output);
    assert_eq!((&json["scenario"]["strategy"], &json["verdicts"]["reserved"]), (&"redis".into(), &1_500.into()));
    assert_eq!((&json["events"][0]["at"], &json["events"][0]["event"]), (&"40%".into(), &"kill_redis".into()));
    assert!(json["servers"]["redis"].is_string(), "{}", json["servers"]);

    // On servers that it is given, it needs to be given a Redis, too; and to kill that is not for it to do.
    let given = endpoints().await;
    let output = run(&given, &["run", "--strategy", "redis"]).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("REDIS_URL"), "{output:?}");
    let output = run(&given, &["run", "--strategy", "redis", "--kill-redis-at", "40%"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = run(&given, &["run", "--buyers", "100", "--json", "-"]).await;
    assert_eq!(self::json(&output)["servers"]["redis"], Value::Null, "no other strategy needs one");
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
