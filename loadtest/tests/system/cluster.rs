//! A broker of three nodes, one of which dies in mid-sale: nothing is lost, nothing is doubled, the order stays.

use crate::sales::{PATIENCE, assert_passed, crew};
use crate::shop::Shop;
use loadtest::{
    cluster::Cluster,
    events,
    options::EventOptions,
    outcome::Outcome,
    sale::Sale,
    scenario::{Scenario, Schedule},
    workers::Endpoints,
};
use serde_json::Value;
use shared::{
    devstack::{RabbitMq, Servers},
    store,
};
use std::{collections::HashMap, time::Duration};
use tokio::sync::Mutex;

const NODES: usize = 3;
/// Three nodes are enough for one machine: one cluster at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn the_death_of_the_node_that_leads_the_hot_items_partition_costs_nobody_a_verdict_or_a_place() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (mut servers, endpoints) = cluster().await;
    // Twice as many as there are units: the last one goes while the node dies.
    let scenario = Scenario { buyers: 12_000, items: 1, stock: 6_000, quantities: 1..=1, rate: 0.0, seed: 7 };
    let sale = Sale::prepare(&endpoints, &scenario, crew(2, Some(50)).await).await.unwrap();
    let cluster = Cluster::of(&mut servers.rabbitmq, "/").await.unwrap();
    let (outcome, asked) = sell(sale, &scenario, Some(cluster)).await;
    let leader = outcome.events[0].broker_node.clone().unwrap();
    assert!(servers.rabbitmq.node_names().contains(&leader.as_str()), "{leader} was killed");
    assert_kept(&outcome, &endpoints, &asked).await;
    assert_eq!((outcome.verdicts.reserved, outcome.verdicts.sold_out), (6_000, 6_000));
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn the_death_of_the_node_that_the_buyers_are_connected_to_costs_nobody_a_verdict_or_a_place() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (mut servers, endpoints) = cluster().await;
    let scenario = Scenario { buyers: 12_000, items: 400, stock: 8_000, quantities: 1..=2, rate: 0.0, seed: 11 };
    let sale = Sale::prepare(&endpoints, &scenario, crew(3, Some(50)).await).await.unwrap();
    let node = node_of("turnstile-loadtest replies", &servers.rabbitmq).await;
    let mut answered = sale.answered();
    let (sold, killed) = tokio::join!(sell(sale, &scenario, None), async {
        answered.wait_for(|answered| *answered >= 6_000).await.unwrap();
        servers.rabbitmq.kill_node(&node).await
    });
    killed.unwrap();
    let (outcome, asked) = sold;
    assert!(outcome.reconnects >= 1, "their reply queue died with the node");
    assert_kept(&outcome, &endpoints, &asked).await;
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_begins_with_another_node_where_the_first_ones_are_away() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    shop.amqp_url.insert_str(0, &"amqp://guest:guest@127.0.0.1:1/%2f,".repeat(7));
    let _worker = shop.worker("w", &[]).await;
    shop.buy("r", "ticket").await;
    assert_eq!(shop.reply().await.code(), "reserved");
}

async fn cluster() -> (Servers, Endpoints) {
    let servers = Servers::start_cluster(&[], NODES).await.unwrap();
    servers.postgres.create_database("sale").await.unwrap();
    let endpoints = Endpoints { amqp_url: servers.rabbitmq.url("/"), database_url: servers.postgres.url("sale") };
    assert_eq!(endpoints.amqp_url.split(',').count(), NODES);
    (servers, endpoints)
}

/// Sells it all, and kills a node of the cluster, if one is given, at the middle; returns what was asked, in order, too.
async fn sell(sale: Sale<'_>, scenario: &Scenario, cluster: Option<Cluster<'_>>) -> (Outcome, Vec<(u32, String)>) {
    let asked = asked(sale.schedule());
    let kill_broker_at = cluster.as_ref().map(|_| "50%".parse().unwrap());
    let plan = events::plan(&EventOptions { kill_broker_at, ..EventOptions::default() }, scenario.buyers);
    let outcome = sale.disturbed(plan, Duration::ZERO, cluster).open(PATIENCE).finish().await.unwrap();
    (outcome, asked)
}

/// Item and request id of every request, in the order of publishing.
fn asked(schedule: &Schedule) -> Vec<(u32, String)> {
    schedule.requests.iter().map(|due| (due.item, due.request_id.to_string())).collect()
}

async fn assert_kept(outcome: &Outcome, endpoints: &Endpoints, asked: &[(u32, String)]) {
    assert_passed(outcome);
    let counts = [outcome.lost, outcome.conflicting_replies, outcome.oversold, outcome.order_inversions];
    assert_eq!(counts, [0; 4]);
    assert_eq!(overtaken(endpoints, asked).await, Vec::<&str>::new());
}

/// Who was decided on an older version of its item than somebody before it: stricter than the auditor, who sees an
/// inversion only where one of the two got nothing.
async fn overtaken<'a>(endpoints: &Endpoints, asked: &'a [(u32, String)]) -> Vec<&'a str> {
    let pool = store::pool(&endpoints.database_url, "test", 1).unwrap();
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT request_id, reply FROM verdicts").fetch_all(&pool).await.unwrap();
    let version = |reply: &str| serde_json::from_str::<Value>(reply).unwrap()["item_version"].as_i64().unwrap();
    let versions: HashMap<String, i64> = rows.into_iter().map(|(id, reply)| (id, version(&reply))).collect();
    let mut newest: HashMap<u32, i64> = HashMap::new();
    let mut overtaken = Vec::new();
    for (item, id) in asked {
        let newest = newest.entry(*item).or_default();
        if versions[id] < *newest {
            overtaken.push(id.as_str());
        }
        *newest = versions[id].max(*newest);
    }
    overtaken
}

/// The node that has the connection of this name.
async fn node_of(connection: &str, rabbitmq: &RabbitMq) -> String {
    let columns = ["--silent", "list_connections", "--no-table-headers", "pid", "client_properties"];
    let listed = rabbitmq.rabbitmqctl().args(columns).output().await.unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let line = text.lines().find(|line| line.contains(connection)).unwrap_or_else(|| panic!("{connection}: {text}"));
    let of = |name: &&str| line.contains(&format!("<{name}."));
    (*rabbitmq.node_names().iter().find(|name| of(name)).unwrap_or_else(|| panic!("{line}"))).to_owned()
}
