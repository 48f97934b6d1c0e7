//! Database, broker, and nodes of a cluster go away in mid-sale: nothing is lost, nothing is doubled, the order stays.

use crate::support::sale::{
    TIME_MAX, assert_in_arrays, assert_passed, is_running, open, private_servers, rabbitmqctl, signal, verdicts_reach,
    workers,
};
use crate::support::shop::{Shop, until};
use loadtest::faults::{Action, Event, PrivateBroker};
use loadtest::result::Outcome;
use loadtest::run::{Running, Sale, start};
use loadtest::schedule::{Scenario, Schedule};
use loadtest::servers::Endpoints;
use nix::sys::signal::Signal;
use shared::db;
use shared::devstack::{Disturbance, FUNCTIONS, Forwarder, RabbitMq, as_role};
use std::time::Duration;

#[tokio::test]
async fn a_database_that_restarts_dies_or_stands_still_costs_nothing_but_time() {
    let (mut servers, mut shop) = Shop::private(&[("ticket", 1_000), ("late", 1)]).await;
    shop.line_up(2_000).await;
    let mut worker = shop.worker("w", &[("BATCH_MAX", "20")]).await;
    let mut replies = shop.replies(100).await;
    servers.postgres.restart().await.unwrap();
    replies.extend(shop.replies(200).await);
    servers.postgres.kill_and_restart().await.unwrap();
    shop.assert_served_in_order(replies, 2_000, 1_000).await;

    let frozen = servers.postgres.pid();
    signal(frozen, Signal::SIGSTOP);
    shop.buy("held", "late").await;
    until("the worker has it", async || shop.is_drained().await).await;
    assert_eq!(worker.stop().await.unwrap().code(), Some(0), "it does not wait for the database for ever");
    assert_eq!(shop.dead_depth().await, 0);
    signal(frozen, Signal::SIGCONT);
    servers.postgres.restart().await.unwrap();
    let _second = shop.worker("second", &[]).await;
    assert_eq!(shop.reply_to("held").await.code(), "reserved");
    servers.stop().await.unwrap();
}

/// The connections of a process, each of which has a thread.
fn connections(pid: u32) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("lapin-io")).count()
}

#[tokio::test]
async fn a_broker_that_is_short_of_memory_for_long_gets_no_more_connections_and_nothing_twice() {
    let (servers, mut shop) = Shop::private(&[("ticket", 2)]).await;
    let mut worker = shop.worker("w", &[]).await;
    assert_eq!(shop.purchase("r-1").await.code(), "reserved");
    let before = connections(worker.pid());
    worker.send(Signal::SIGSTOP).unwrap();
    // Nobody can send it any more when the alarm has begun.
    shop.buy("r-2", "ticket").await;
    let watermark = async |share: &str| {
        let set = format!("vm_memory_monitor:set_vm_memory_high_watermark({share}).");
        rabbitmqctl(&servers.rabbitmq, &["eval", &set]).await;
    };
    watermark("0.0").await;
    worker.send(Signal::SIGCONT).unwrap();
    let told = async |what: &str| shop.log("w").await.matches(what).count();
    until("it is told to the operators", async || told("the broker is short of memory or disk").await == 1).await;
    // Whoever comes has padding sent by the first. Each time waits for ten seconds.
    let _second = shop.worker("second", &[]).await;
    until("padding is tried again", async || told("messages that mean nothing were not sent").await >= 2).await;
    assert_eq!(told("the workers are not counted").await, 0);
    until("what was for the padding alone is cut", async || connections(worker.pid()) <= before).await;
    watermark("0.4").await;
    assert_eq!(shop.reply_to("r-2").await.code(), "reserved");
    assert_eq!(shop.purchase("r-3").await.code(), "sold_out");
    assert_eq!(worker.stop().await.unwrap().code(), Some(0));
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_broker_that_takes_back_what_is_held_for_too_long_costs_nobody_a_verdict_or_a_place() {
    // Three times as long as the broker lets a message be held, and three times as long as it takes to look.
    let away = Duration::from_secs(std::env::var("AWAY_SECONDS").map_or(6, |seconds| seconds.parse().unwrap()));
    let (mut servers, endpoints) = private_servers(1).await;
    for setting in ["consumer_timeout", "channel_tick_interval"] {
        let set = format!("application:set_env(rabbit, {setting}, {}).", away.as_millis() / 3);
        rabbitmqctl(&servers.rabbitmq, &["eval", &set]).await;
    }
    let scenario = Scenario { buyers: 6_000, items: 40, stock: 4_000, seed: 7, ..Scenario::default() };
    let sale = Sale::of(scenario, workers(2, Some(20)).await, TIME_MAX + away);
    let mut sale = start(&endpoints, sale).await.unwrap();
    sale.open();
    verdicts_reach(&sale, 200).await;
    servers.postgres.kill_for(away).await.unwrap();
    let outcome = sale.finish().await.unwrap();
    // Every buyer of every partition has a verdict, and who came first was served first.
    assert_passed(&outcome);
    let log = std::fs::read_to_string(servers.folder().join("rabbitmq.log")).unwrap();
    let version = rabbitmqctl(&servers.rabbitmq, &["version"]).await;
    let is_deaf = ["3.", "4.0.", "4.1.", "4.2."].iter().any(|older| version.starts_with(older));
    assert_eq!(log.contains("has timed out"), is_deaf, "{version} gives a worker the time that it asks for");
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_stops_that_item_alone_and_the_log_says_who_has_it() {
    const BUYERS: usize = 40;
    let others: Vec<String> = (0..BUYERS).map(|number| format!("other-{number}")).collect();
    let mut items: Vec<(&str, i64)> = others.iter().map(|item| (item.as_str(), 2)).collect();
    items.push(("ticket", 5));
    let mut shop = Shop::open(&items).await;
    let mut worker = shop.worker("w", &[]).await;
    let mut lock = shop.pool.begin().await.unwrap();
    let locked = "SELECT pg_backend_pid() FROM items WHERE id = 'ticket' FOR UPDATE";
    let pid: i32 = sqlx::query_scalar(locked).fetch_one(&mut *lock).await.unwrap();
    for (number, other) in others.iter().enumerate() {
        shop.buy_unconfirmed(&format!("r-{number:04}"), "ticket").await;
        shop.buy_unconfirmed(&format!("a-{number}"), other).await;
    }
    let replies = shop.replies(BUYERS).await;
    assert!(replies.iter().all(|(id, reply)| id.starts_with("a-") && reply.code() == "reserved"));
    until("it is logged", async || shop.log("w").await.contains("item ticket")).await;
    assert!(shop.log("w").await.contains(&format!("pid {pid} (test")));

    // Whoever comes next has them in order, and only them.
    worker.kill().await.unwrap();
    let mut next = shop.worker("next", &[]).await;
    for (number, other) in others.iter().enumerate() {
        shop.buy_unconfirmed(&format!("b-{number}"), other).await;
    }
    let mut replies = shop.replies(BUYERS).await;
    assert!(replies.iter().all(|(id, reply)| !id.starts_with("r-") && reply.code() == "reserved"));
    until("it is logged", async || shop.log("next").await.contains("item ticket")).await;
    lock.rollback().await.unwrap();
    while (0..BUYERS).any(|number| !replies.contains_key(&format!("r-{number:04}"))) {
        replies.extend(shop.replies(1).await);
    }
    for number in 0..BUYERS {
        let expected = if number < 5 { "reserved" } else { "sold_out" };
        assert_eq!(replies[&format!("r-{number:04}")].code(), expected, "{number}");
    }
    assert!(shop.log("next").await.contains("its requests are decided again"));
    assert_eq!(next.stop().await.unwrap().code(), Some(0));
    assert_eq!(shop.dead_depth().await, 0);
}

#[tokio::test]
async fn rows_that_are_locked_while_their_partitions_are_handed_over_stop_their_items_alone() {
    let names: Vec<String> = (0..40).map(|number| format!("item-{number}")).collect();
    let mut shop = Shop::open(&names.iter().map(|item| (item.as_str(), 10)).collect::<Vec<_>>()).await;
    let mut worker = shop.worker("w", &[("TURNSTILE_PAUSE_AT", "filling a window")]).await;
    let ask = async |shop: &mut Shop, round: &str, items: &[String]| {
        for item in items {
            shop.buy_unconfirmed(&format!("{round}-{item}"), item).await;
        }
    };
    ask(&mut shop, "first", &names).await;
    shop.replies(names.len()).await;
    let _next = shop.worker("next", &[]).await;
    until("it holds partitions", async || shop.log("w").await.contains("TURNSTILE_PAUSE_AT")).await;
    let (locked, others) = names.split_at(20);
    let mut lock = shop.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM items WHERE id = ANY($1) FOR UPDATE").bind(locked).execute(&mut *lock).await.unwrap();
    ask(&mut shop, "second", &names).await;
    shop.replies(others.len()).await;
    worker.send(Signal::SIGCONT).unwrap();
    // Four windows of messages that mean nothing, which must not be held back: whatever comes behind them would stand still.
    let settled = |log: &str| -> u32 { log.split("settled messages=").skip(1).map(first_number).sum() };
    until("the windows are filled", async || settled(&shop.log("w").await) >= 4 * 2_000).await;
    ask(&mut shop, "third", others).await;
    let replies = shop.replies(others.len()).await;
    assert!(replies.keys().all(|id| id.starts_with("third-")));
    lock.rollback().await.unwrap();
    let replies = shop.replies(locked.len()).await;
    assert!(replies.iter().all(|(id, reply)| id.starts_with("second-") && reply.code() == "reserved"));
}

fn first_number(text: &str) -> u32 {
    text.split(|symbol: char| !symbol.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn connections_to_the_database_that_lead_nowhere_keep_no_function_from_its_work() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let (forwarder, url) = Forwarder::before(&as_role(&shop.database_url, FUNCTIONS)).await.unwrap();
    let environment = [("DATABASE_URL", url.as_str())];
    let _functions = [shop.worker("w", &environment).await, shop.worker_of("relay", "relay", &environment).await];
    for round in 0..3 {
        for number in 0..3 {
            assert_eq!(shop.purchase(&format!("r-{round}-{number}")).await.code(), "reserved");
        }
        shop.outbox_is_empty().await;
        assert!(forwarder.disturb(Disturbance::HalfOpen(Duration::MAX), None));
    }
}

#[tokio::test]
async fn a_broker_restart_in_mid_sale_costs_nobody_a_verdict_or_a_place() {
    let (mut servers, endpoints) = private_servers(1).await;
    for requests_per_message in [1, 10] {
        let scenario = Scenario { buyers: 6_000, items: 3, stock: 4_000, requests_per_message, ..Scenario::default() };
        let sale = open(&endpoints, &scenario, workers(2, Some(20)).await).await;
        verdicts_reach(&sale, 200).await;
        servers.rabbitmq.kill_and_restart().await.unwrap();
        let outcome = sale.finish().await.unwrap();
        assert_passed(&outcome);
        assert!(outcome.reconnects >= 1, "the restart came in the middle of the sale");
        assert_in_arrays(&outcome);
        assert_eq!(outcome.audit.verdicts.reserved, 4_000);
    }
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn the_death_of_a_node_that_leads_the_hot_partition_or_has_the_buyers_costs_nobody_a_verdict_or_a_place() {
    const NODES: usize = 3;
    let (mut servers, endpoints) = private_servers(NODES).await;
    assert_eq!(endpoints.amqp_url.split(',').count(), NODES);
    for (vhost, buyers, requests_per_message) in [("/", 12_000, 1), ("arrays", 60_000, 20)] {
        if vhost != "/" {
            servers.rabbitmq.add_vhosts(&[vhost.to_owned()]).await.unwrap();
        }
        let endpoints = Endpoints { amqp_url: servers.rabbitmq.url(vhost), ..endpoints.clone() };
        // Twice as many as there are units: the last one goes while the node dies.
        let stock = u64::from(buyers) / 2;
        let hot = Scenario { buyers, stock, requests_per_message, seed: 7, ..Scenario::default() };
        assert_outlives_the_leader(&mut servers.rabbitmq, vhost, &endpoints, hot).await;
        servers.rabbitmq.start_killed().await.unwrap();
        rabbitmqctl(&servers.rabbitmq, &["delete_vhost", vhost]).await;
    }

    let (items, quantities, requests_per_message) = (400, 1..=2, 5);
    let wide = Scenario { buyers: 6_000, items, stock: 4_000, quantities, requests_per_message, ..Scenario::default() };
    // In a virtual host of its own, whose partitions are new. The broker puts them where the fewest leaders are, and after a
    // death those of the first sales were spread unevenly.
    servers.rabbitmq.add_vhosts(&["wide".to_owned()]).await.unwrap();
    let endpoints = Endpoints { amqp_url: servers.rabbitmq.url("wide"), ..endpoints };
    let sale = start(&endpoints, Sale::of(wide, workers(3, Some(10)).await, TIME_MAX)).await.unwrap();
    assert_replicated(&servers.rabbitmq, "wide").await;
    let node = node_of("turnstile-loadtest replies", &servers.rabbitmq).await;
    let mut answered = sale.answered();
    let (outcome, killed) = tokio::join!(assert_kept(sale, &endpoints), async {
        answered.wait_for(|answered| *answered >= 3_000).await.unwrap();
        servers.rabbitmq.kill_node(&node).await
    });
    killed.unwrap();
    assert!(outcome.reconnects >= 1, "their reply queue died with the node");
    assert_in_arrays(&outcome);
    servers.stop().await.unwrap();
}

/// A sale of one item, in the middle of which the node that leads its partition dies.
async fn assert_outlives_the_leader(rabbitmq: &mut RabbitMq, vhost: &str, endpoints: &Endpoints, hot: Scenario) {
    let (pids, stock) = (rabbitmq.pids(), hot.stock);
    let half = stock as usize;
    let batch_max = hot.requests_per_message.max(20);
    let mut sale = Sale::of(hot, workers(2, Some(batch_max)).await, TIME_MAX);
    sale.faults.events = vec![Event { at: "50%".parse().unwrap(), action: Action::KillBroker }];
    sale.faults.broker = Some(PrivateBroker { rabbitmq, vhost });
    let sale = start(endpoints, sale).await.unwrap();
    let answered = sale.answered();
    let (outcome, answered_at_death) = tokio::join!(assert_kept(sale, endpoints), async {
        until("a node is dead", async || !pids.iter().all(|pid| is_running(*pid))).await;
        *answered.borrow()
    });
    assert!((half..2 * half).contains(&answered_at_death), "in mid-sale: {answered_at_death}");
    assert!(outcome.events[0].broker_node.is_some(), "{:?}", outcome.events);
    assert_eq!((outcome.audit.verdicts.reserved, outcome.audit.verdicts.sold_out), (stock, stock));
    assert_in_arrays(&outcome);
}

#[tokio::test]
async fn a_worker_begins_with_another_node_where_the_first_ones_are_away() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    shop.amqp_url.insert_str(0, &"amqp://guest:guest@127.0.0.1:1/%2f,".repeat(7));
    let _worker = shop.worker("w", &[]).await;
    assert_eq!(shop.purchase("r").await.code(), "reserved");
}

/// Item and request id of every request, in the order of publishing.
fn asked(schedule: &Schedule) -> (Vec<i64>, Vec<String>) {
    schedule.requests.iter().map(|due| (i64::from(due.item), due.request_id.to_string())).unzip()
}

/// Who was decided on an older version of its item than somebody before it: stricter than the auditor, who sees an
/// inversion only where one of the two got nothing.
const OVERTAKERS: &str = "
SELECT count(*) FROM (
    SELECT version IS NULL OR version < max(version) OVER (PARTITION BY item ORDER BY place) AS overtakes FROM (
        SELECT asked.item, place, (reply::json ->> 'item_version')::bigint AS version
        FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS asked (item, id, place)
        JOIN verdicts ON request_id = asked.id
    ) AS decided
) AS seen WHERE overtakes";

/// Sells it all.
pub(crate) async fn assert_kept(sale: Running<'_>, endpoints: &Endpoints) -> Outcome {
    let (items, ids) = asked(sale.schedule());
    let outcome = sale.finish().await.unwrap();
    assert_passed(&outcome);
    let counts =
        [outcome.audit.lost, outcome.audit.conflicting_replies, outcome.audit.oversold, outcome.audit.order_inversions];
    assert_eq!(counts, [0; 4]);
    let pool = db::pool(&endpoints.database_url, "test", 1).unwrap();
    // Rows that nobody has counted yet are taken for few, and compared each with each. No worker's limit is ours.
    sqlx::raw_sql("SET statement_timeout = 0; ANALYZE verdicts").execute(&pool).await.unwrap();
    let overtakers: i64 = sqlx::query_scalar(OVERTAKERS).bind(items).bind(ids).fetch_one(&pool).await.unwrap();
    assert_eq!(overtakers, 0);
    outcome
}

/// Every partition is on every node, and every node leads some.
async fn assert_replicated(rabbitmq: &RabbitMq, vhost: &str) {
    let arguments = ["--vhost", vhost, "list_queues", "--no-table-headers", "name", "members"];
    let listed = rabbitmqctl(rabbitmq, &arguments).await;
    let mut leaders = rabbitmq.leaders(vhost).await.unwrap();
    leaders.retain(|queue, _| queue.starts_with("purchase."));
    let partitions: Vec<&str> = listed.lines().filter(|line| line.starts_with("purchase.")).collect();
    assert_eq!(partitions.len(), 8, "{listed}");
    for name in rabbitmq.node_names() {
        assert!(leaders.values().any(|leader| leader == name), "{name} leads nothing: {leaders:?}");
        assert!(partitions.iter().all(|line| line.contains(name)), "{name} has not all: {listed}");
    }
}

/// The node that has the connection of this name.
async fn node_of(connection: &str, rabbitmq: &RabbitMq) -> String {
    let text = rabbitmqctl(rabbitmq, &["list_connections", "--no-table-headers", "pid", "client_properties"]).await;
    let line = text.lines().find(|line| line.contains(connection)).unwrap_or_else(|| panic!("{connection}: {text}"));
    let of = |name: &&str| line.contains(&format!("<{name}."));
    (*rabbitmq.node_names().iter().find(|name| of(name)).unwrap_or_else(|| panic!("{line}"))).to_owned()
}
