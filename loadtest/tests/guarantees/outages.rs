//! Database, broker, and nodes of a cluster go away in mid-sale: nothing is lost, nothing is doubled, the order stays.

use crate::support::{
    sale::{TIME_MAX, assert_passed, is_running, open, private_servers, rabbitmqctl, signal, verdicts_reach, workers},
    shop::{Shop, until},
};
use loadtest::{
    faults::{Action, Event, PrivateBroker},
    result::Outcome,
    run::{Running, Sale, start},
    schedule::{Scenario, Schedule},
    servers::Endpoints,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use shared::{
    db,
    devstack::{RabbitMq, Servers},
};
use std::collections::HashMap;
use tokio::sync::Mutex;

#[tokio::test]
async fn a_database_restart_in_mid_sale_costs_nothing_but_time() {
    let (mut servers, mut shop) = Shop::private(&[("ticket", 1_000)]).await;
    shop.line_up(2_000).await;
    let mut worker = shop.worker("w", &[("BATCH_MAX", "20")]).await;
    let mut replies = shop.replies(100).await;
    servers.postgres.restart().await.unwrap();
    replies.extend(shop.replies(200).await);
    servers.postgres.kill_and_restart().await.unwrap();
    shop.assert_served_in_order(replies, 2_000, 1_000).await;
    assert_eq!(shop.depth("dead").await, 0);
    assert_eq!(worker.stop().await.unwrap().code(), Some(0));
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_told_to_stop_while_the_database_is_away_stops_and_loses_nothing() {
    let (mut servers, mut shop) = Shop::private(&[("ticket", 10)]).await;
    let mut first = shop.worker("first", &[]).await;
    shop.purchase("warm-up").await;
    let frozen = servers.postgres.pid();
    signal(frozen, Signal::SIGSTOP);
    shop.buy("held", "ticket").await;
    until("the worker has it", async || shop.is_drained().await).await;
    assert_eq!(first.stop().await.unwrap().code(), Some(0), "it does not wait for the database for ever");
    signal(frozen, Signal::SIGCONT);
    servers.postgres.restart().await.unwrap();
    let _second = shop.worker("second", &[]).await;
    let reply = shop.reply().await;
    assert_eq!((reply.correlation_id.as_str(), reply.code().as_str()), ("held", "reserved"));
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_broker_restart_in_mid_sale_costs_nobody_a_verdict_or_a_place() {
    let (mut servers, endpoints) = private_servers(1).await;
    let scenario = Scenario { buyers: 6_000, items: 3, stock: 4_000, quantities: 1..=1, rate: 0.0, seed: 7 };
    let sale = open(&endpoints, &scenario, workers(2, Some(20)).await).await;
    verdicts_reach(&sale, 200).await;
    servers.rabbitmq.kill_and_restart().await.unwrap();
    let outcome = sale.finish().await.unwrap();
    assert_passed(&outcome);
    assert!(outcome.reconnects >= 1, "the restart came in the middle of the sale");
    assert_eq!(outcome.verdicts.reserved, 4_000);
    servers.stop().await.unwrap();
}

const NODES: usize = 3;
/// Three nodes are enough for one machine: one cluster at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn the_death_of_the_node_that_leads_the_hot_items_partition_costs_nobody_a_verdict_or_a_place() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (mut servers, endpoints) = cluster().await;
    // Twice as many as there are units: the last one goes while the node dies.
    let scenario = Scenario { buyers: 12_000, items: 1, stock: 6_000, quantities: 1..=1, rate: 0.0, seed: 7 };
    let pids = servers.rabbitmq.pids();
    let mut sale = Sale::of(scenario, workers(2, Some(50)).await, TIME_MAX);
    sale.faults.events = vec![Event { at: "50%".parse().unwrap(), action: Action::KillBroker }];
    sale.faults.broker = Some(PrivateBroker { rabbitmq: &mut servers.rabbitmq, vhost: "/" });
    let sale = start(&endpoints, sale).await.unwrap();
    let answered = sale.answered();
    let ((outcome, asked), answered_at_death) = tokio::join!(finish(sale), async {
        until("a node is dead", async || !pids.iter().all(|pid| is_running(*pid))).await;
        *answered.borrow()
    });
    assert!((6_000..12_000).contains(&answered_at_death), "in mid-sale: {answered_at_death}");
    assert!(outcome.events[0].broker_node.is_some(), "{:?}", outcome.events);
    assert_kept(&outcome, &endpoints, &asked).await;
    assert_eq!((outcome.verdicts.reserved, outcome.verdicts.sold_out), (6_000, 6_000));
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn the_death_of_the_node_that_the_buyers_are_connected_to_costs_nobody_a_verdict_or_a_place() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (mut servers, endpoints) = cluster().await;
    let scenario = Scenario { buyers: 12_000, items: 400, stock: 8_000, quantities: 1..=2, rate: 0.0, seed: 11 };
    let sale = Sale::of(scenario, workers(3, Some(50)).await, TIME_MAX);
    let sale = start(&endpoints, sale).await.unwrap();
    assert_replicated(&servers.rabbitmq).await;
    let node = node_of("turnstile-loadtest replies", &servers.rabbitmq).await;
    let mut answered = sale.answered();
    let (sold, killed) = tokio::join!(finish(sale), async {
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
    assert_eq!(shop.purchase("r").await.code(), "reserved");
}

async fn cluster() -> (Servers, Endpoints) {
    let (servers, endpoints) = private_servers(NODES).await;
    assert_eq!(endpoints.amqp_url.split(',').count(), NODES);
    (servers, endpoints)
}

/// Sells it all; returns what was asked, in order, too.
async fn finish(sale: Running<'_>) -> (Outcome, Vec<(u32, String)>) {
    let asked = asked(sale.schedule());
    (sale.finish().await.unwrap(), asked)
}

/// Item and request id of every request, in the order of publishing.
fn asked(schedule: &Schedule) -> Vec<(u32, String)> {
    schedule.requests.iter().map(|due| (due.item, due.request_id.to_string())).collect()
}

async fn assert_kept(outcome: &Outcome, endpoints: &Endpoints, asked: &[(u32, String)]) {
    assert_passed(outcome);
    let counts = [outcome.lost, outcome.conflicting_replies, outcome.oversold, outcome.order_inversions];
    assert_eq!(counts, [0; 4]);
    assert_eq!(overtakers(asked, &versions(endpoints).await), Vec::<&str>::new());
}

/// The version of its item that each request was decided on.
async fn versions(endpoints: &Endpoints) -> HashMap<String, i64> {
    let pool = db::pool(&endpoints.database_url, "test", 1).unwrap();
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT request_id, reply FROM verdicts").fetch_all(&pool).await.unwrap();
    let version = |reply: &str| serde_json::from_str::<Value>(reply).unwrap()["item_version"].as_i64().unwrap();
    rows.into_iter().map(|(id, reply)| (id, version(&reply))).collect()
}

/// Who was decided on an older version of its item than somebody before it: stricter than the auditor, who sees an
/// inversion only where one of the two got nothing.
fn overtakers<'a>(asked: &'a [(u32, String)], versions: &HashMap<String, i64>) -> Vec<&'a str> {
    let mut newest: HashMap<u32, i64> = HashMap::new();
    let mut overtakers = Vec::new();
    for (item, id) in asked {
        let newest = newest.entry(*item).or_default();
        if versions[id] < *newest {
            overtakers.push(id.as_str());
        }
        *newest = versions[id].max(*newest);
    }
    overtakers
}

#[test]
fn whoever_is_decided_before_an_earlier_request_for_the_same_item_is_seen() {
    let asked: Vec<(u32, String)> = [(1, "a"), (2, "b"), (1, "c"), (1, "d")].map(|(item, id)| (item, id.into())).into();
    let overtakers_at = |versions: [i64; 4]| {
        let versions = asked.iter().zip(versions).map(|((_, id), version)| (id.clone(), version)).collect();
        overtakers(&asked, &versions).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(overtakers_at([7, 3, 7, 8]), [""; 0]);
    assert_eq!(overtakers_at([7, 9, 8, 7]), ["d"]);
}

/// Every partition is on every node, and every node leads some.
async fn assert_replicated(rabbitmq: &RabbitMq) {
    let listed = rabbitmqctl(rabbitmq, &["list_queues", "--no-table-headers", "name", "leader", "members"]).await;
    let partitions: Vec<Vec<&str>> =
        listed.lines().filter(|line| line.starts_with("purchase.")).map(|line| line.split('\t').collect()).collect();
    assert_eq!(partitions.len(), 8, "{listed}");
    for name in rabbitmq.node_names() {
        assert!(partitions.iter().any(|columns| columns[1].contains(name)), "{name} leads nothing: {listed}");
        assert!(partitions.iter().all(|columns| columns[2].contains(name)), "{name} has not all: {listed}");
    }
}

/// The node that has the connection of this name.
async fn node_of(connection: &str, rabbitmq: &RabbitMq) -> String {
    let text = rabbitmqctl(rabbitmq, &["list_connections", "--no-table-headers", "pid", "client_properties"]).await;
    let line = text.lines().find(|line| line.contains(connection)).unwrap_or_else(|| panic!("{connection}: {text}"));
    let of = |name: &&str| line.contains(&format!("<{name}."));
    (*rabbitmq.node_names().iter().find(|name| of(name)).unwrap_or_else(|| panic!("{line}"))).to_owned()
}
