//! Whole sales with each way to keep stock, and what a worker tells of its attempts.

use crate::{
    sales::{assert_passed, endpoints, open, workers},
    shop::{Shop, until},
};
use clap::ValueEnum;
use loadtest::{schedule::Scenario, servers::Endpoints, strategy::Strategy, workers::WorkerSpec};
use shared::devstack::fixture;
use std::{net::Ipv4Addr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn a_sale_keeps_every_promise_with_each_strategy_though_a_worker_dies() {
    let scenario = Scenario { buyers: 1_500, items: 3, stock: 900, quantities: 1..=3, rate: 0.0, seed: 7 };
    for strategy in Strategy::value_variants() {
        let workers = WorkerSpec { strategy: Some(*strategy), ..workers(2, Some(20)).await };
        let endpoints = Endpoints { redis_url: Some(fixture::redis().await.url()), ..endpoints().await };
        let mut sale = open(&endpoints, &scenario, workers).await;
        crate::sales::verdicts_reach(&sale, 300).await;
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

    let (status, shown) = get(&address, "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    for line in [
        r#"turnstile_attempts_total{function="purchase",item="hot"} 2"#,
        r#"turnstile_conflicts_total{function="purchase",item="hot"} 1"#,
        r#"turnstile_attempts_total{function="purchase",item="(others)"} 1"#,
        r#"turnstile_answers_total{function="purchase",answer="verdict"} 2"#,
        r#"turnstile_batch_requests_sum{function="purchase"} 2.0"#,
        "# EOF",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert_eq!(get(&address, "/").await.0, "HTTP/1.1 404 Not Found");
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
        let status = tokio::time::timeout(Duration::from_secs(60), worker.wait()).await.unwrap().unwrap();
        let log = shop.log(id).await;
        assert_eq!(status.code(), Some(78), "{log}");
        assert!(log.contains(reason), "{log}");
    }
}

/// Where nobody listens, a moment ago.
async fn free_address() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The status line and the whole response.
async fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    (response.lines().next().unwrap_or_default().to_owned(), response)
}
