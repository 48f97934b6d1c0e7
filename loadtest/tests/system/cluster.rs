//! A broker of three nodes, one of which dies in mid-sale.

use crate::sales::{assert_passed, crew, prepare, verdicts_reach};
use loadtest::{scenario::Scenario, workers::Endpoints};
use shared::devstack::Servers;

const NODES: usize = 3;

#[tokio::test]
async fn scratch() {
    let begun = std::time::Instant::now();
    let mut servers = Servers::start_cluster(&[], NODES).await.unwrap();
    eprintln!("started {:?}", begun.elapsed());
    servers.postgres.create_database("sale").await.unwrap();
    let endpoints = Endpoints { amqp_url: servers.rabbitmq.url("/"), database_url: servers.postgres.url("sale") };
    eprintln!("{}", endpoints.amqp_url);
    let items = std::env::var("ITEMS").map_or(1, |items| items.parse().unwrap());
    let scenario = Scenario { buyers: 20_000, items, stock: 8_000, quantities: 1..=1, rate: 0.0, seed: 7 };
    let sale = prepare(&endpoints, &scenario, crew(2, Some(50)).await).await;
    eprintln!("open {:?}", begun.elapsed());
    let node = std::env::var("NODE").unwrap_or_else(|_| "turnstile-2@localhost".to_owned());
    if std::env::var("LEADERS").is_ok() {
        eprintln!("{:?}", servers.rabbitmq.leaders("/").await);
    }
    verdicts_reach(&sale, 2_000).await;
    eprintln!("killing {node} {:?}", begun.elapsed());
    servers.rabbitmq.kill_node(&node).await.unwrap();
    let outcome = sale.finish().await.unwrap();
    eprintln!("finished {:?}", begun.elapsed());
    eprintln!("{} reconnects, {} s, dup {}, inv {}", outcome.reconnects, outcome.seconds, outcome.duplicate_replies, outcome.order_inversions);
    if !outcome.passed {
        let folder = servers.folder();
        std::process::Command::new("cp").arg("-r").arg(folder).arg("/tmp/failed").status().unwrap();
    }
    assert_passed(&outcome);
    servers.stop().await.unwrap();
}
