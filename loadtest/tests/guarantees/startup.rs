//! A worker starts against what it finds, or says what is wrong and what to do, with an exit code that says which.

mod secrets;

use crate::support::listener::Listener;
use crate::support::queue::durable;
use crate::support::sale::{LOADTEST, add_user, rabbitmqctl, said};
use crate::support::shop::{Shop, purchase_program, until};
use futures_util::future::join_all;
use lapin::options::QueueDeleteOptions;
use shared::amqp;
use shared::devstack::{Fixture, Folder, PgBouncer, PoolMode, Servers, Signal, fixture};
use shared::messages::EventKind;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;
use tokio::net::UnixDatagram;

const UNREACHABLE: i32 = 69;
/// Whoever gives up by themself does it long before.
const GIVES_UP_WITHIN: Duration = Duration::from_secs(60);
/// How long a door is listened to, and the exit code where it went on.
const DOOR_SECONDS: &str = "5";
const WENT_ON: i32 = 124;
pub(crate) const CONFIGURATION: i32 = 78;

#[tokio::test]
async fn the_broker_imports_the_definitions_and_the_declared_topology_agrees_and_without_the_plugin_it_is_told_apart() {
    let servers = Servers::start(&["declared", "bare"]).await.unwrap();
    servers.postgres.create_database("shop").await.unwrap();
    let definitions = concat!(env!("CARGO_MANIFEST_DIR"), "/../rabbitmq/definitions.json");
    rabbitmqctl(&servers.rabbitmq, &["import_definitions", definitions]).await;
    // Where it was imported, declaring finds everything as it would have made it: a difference is an error. And where it
    // was only declared, the broker lists the same.
    let [imported, declared] = ["/", "declared"].map(|vhost| servers.rabbitmq.url(vhost));
    for url in [&imported, &declared] {
        let shop = Shop::on(url, &servers.postgres.url("shop"), &[]).await;
        amqp::declare(&shop.channel).await.unwrap();
    }
    for (what, columns) in [
        ("list_queues", &["name", "durable", "auto_delete", "arguments", "type"][..]),
        ("list_exchanges", &["name", "type", "durable", "auto_delete", "internal", "arguments"]),
        ("list_bindings", &["source_name", "destination_name", "destination_kind", "routing_key", "arguments"]),
    ] {
        let mut lists = Vec::new();
        for vhost in ["/", "declared"] {
            let listed = rabbitmqctl(&servers.rabbitmq, &[&["--vhost", vhost, what], columns].concat()).await;
            let mut lines: Vec<_> = listed.lines().map(sorted_arguments).collect();
            lines.sort();
            lists.push(lines);
        }
        assert!(lists[0].len() >= 9, "{what}: {lists:?}");
        assert_eq!(lists[0], lists[1], "{what}");
    }

    let forget = "rabbit_registry:unregister(exchange, <<\"x-consistent-hash\">>), rabbit_registry:lookup_module(exchange, 'x-consistent-hash').";
    rabbitmqctl(&servers.rabbitmq, &["eval", forget]).await;
    let url = servers.postgres.url("shop");
    let (bare, hint) = (servers.rabbitmq.url("bare"), "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange");
    assert_gives_up(&[("AMQP_URL", &bare), ("DATABASE_URL", &url)], CONFIGURATION, hint).await;
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_table_that_cannot_be_read_yet_is_waited_for() {
    // Building it takes longer than anybody may hold a lock.
    purchase_program().await;
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let lock = shop.begin("LOCK TABLE items").await;
    let _worker = shop.worker("w", &[]).await;
    until("it waits", async || shop.log("w").await.contains("waiting for the database")).await;
    lock.rollback().await.unwrap();
    assert_eq!(shop.purchase("r").await.code(), "reserved");
}

#[tokio::test]
async fn what_it_finds_is_told_apart_by_exit_code_with_what_to_do() {
    let (fixture, odd) = (Fixture::new().await, Shop::open(&[]).await);
    odd.channel.queue_delete("purchase.3".into(), QueueDeleteOptions::default()).await.unwrap();
    durable(&odd.channel, "purchase.3").await;
    let (amqp, database) = (fixture.amqp_url.as_str(), fixture.database_url.as_str());
    let stranger = amqp.replace("guest:guest", "guest:wrong");
    let no_role = database.replace("turnstile@", "nobody@");
    for (variable, value, code, hint) in [
        ("AMQP_URL", odd.amqp_url.as_str(), CONFIGURATION, "rabbitmqctl delete_queue purchase.3"),
        ("AMQP_URL", "amqp://127.0.0.1:1/%2f", UNREACHABLE, "AMQP_URL"),
        ("AMQP_URL", "amqp://127.0.0.1:1/%2f,amqp://127.0.0.1:2/%2f", UNREACHABLE, "127.0.0.1:1: "),
        ("AMQP_URL", "amqp://127.0.0.1:1/%2f,amqp://127.0.0.1:2/%2f", UNREACHABLE, "127.0.0.1:2: "),
        ("AMQP_URL", "amqp://127.0.0.1:1/%2f,nonsense", CONFIGURATION, "with commas between them"),
        ("AMQP_URL", &stranger, CONFIGURATION, "check the user, the password"),
        ("AMQP_URL", "http://somewhere", CONFIGURATION, "amqp://USER:PASSWORD@HOST:PORT/VHOST"),
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none", UNREACHABLE, "DATABASE_URL"),
        ("DATABASE_URL", &no_role, CONFIGURATION, "DATABASE_URL"),
        ("DATABASE_URL", "nonsense", CONFIGURATION, "postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("DATABASE_URL", "postgresql://", CONFIGURATION, "it names no database"),
        ("DATABASE_URL", "postgres://a:1,b:2/shop?target_session_attrs=read-write", CONFIGURATION, "name one host"),
        ("DATABASE_URL", "postgres://a/shop?target_session_attrs=read-write", CONFIGURATION, "name one host"),
        ("DATABASE_URL", "postgres:///shop?host=a,b", CONFIGURATION, "name one host"),
        ("IN_FLIGHT", "16", CONFIGURATION, "--in-flight 16 needs as many connections: --database-connections-max 16"),
        ("KEEP_ORDERS_DAYS", "29", CONFIGURATION, "--keep-orders-days is less than --keep-verdicts-days"),
        ("METRICS_ADDRESS", "192.0.2.1:9400", CONFIGURATION, "listen on 192.0.2.1:9400 (--metrics-address)"),
        ("REDIS_URL", "localhost", CONFIGURATION, "REDIS_URL cannot be read"),
        ("REDIS_URL", "redis://127.0.0.1:1", UNREACHABLE, "does REDIS_URL name it?"),
    ] {
        let strategy = if variable == "REDIS_URL" { "redis" } else { "optimistic" };
        let found = [("AMQP_URL", amqp), ("DATABASE_URL", database), ("STRATEGY", strategy), (variable, value)];
        assert_gives_up(&found, code, hint).await;
    }
}

#[tokio::test]
async fn a_user_that_may_not_read_from_a_queue_is_told_so_at_the_start_with_the_command_that_grants_it() {
    let shop = Shop::open(&[("ticket", 10)]).await;
    let vhost = shop.amqp_url.rsplit('/').next().unwrap();
    let (user, broker) = (add_user(vhost, "reads-little").await, fixture::rabbitmq().await);
    let let_read = async |read: &str| {
        rabbitmqctl(broker, &["set_permissions", "-p", vhost, &user, ".*", ".*", read]).await;
    };
    let_read(r"^(purchase\.workers|purchase\.[0-46-7]|amq\.gen-.*)$").await;
    let url = shop.amqp_url.replace("guest:guest", &format!("{user}:{user}"));
    let environment = [("AMQP_URL", url.as_str()), ("DATABASE_URL", &shop.database_url)];
    for hint in ["queue 'purchase.5'", &format!("rabbitmqctl set_permissions -p '{vhost}' '{user}' ")] {
        assert_gives_up(&environment, CONFIGURATION, hint).await;
    }
    // Who has read waits for what was taken away.
    let_read(".*").await;
    let mut shop = Shop::on(&url, &shop.database_url, &[]).await;
    let mut worker = shop.worker("w", &[("AMQP_URL", &url)]).await;
    assert_eq!(shop.purchase("r").await.code(), "reserved");
    let_read(r"^amq\.gen-.*$").await;
    let listed = rabbitmqctl(broker, &["list_connections", "vhost", "pid", "client_properties"]).await;
    let is_consuming = |line: &&str| line.starts_with(vhost) && line.contains("turnstile-purchase w consume");
    let pid = listed.lines().find(is_consuming).unwrap().split('\t').nth(1).unwrap();
    rabbitmqctl(broker, &["close_connection", pid, "a test"]).await;
    until("it is said", async || shop.log("w").await.contains("trying until that is over")).await;
    let_read(".*").await;
    assert_eq!(shop.purchase("again").await.code(), "reserved");
    assert_eq!(worker.stop().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn through_a_pooler_that_keeps_no_sessions_no_function_starts_and_through_one_that_does_a_sale_goes_on() {
    let fixture = Fixture::new().await;
    let (pooler, pooled) = PgBouncer::before(&fixture.database_url, PoolMode::Transaction).await.unwrap();
    let programs = ["purchase", "payment", "release", "restock", "relay", "admin items", "loadtest run --buyers 1"];
    for (line, output) in outputs(&fixture, &programs, &[("GATEWAY", "simulated"), ("DATABASE_URL", &pooled)]).await {
        assert_eq!(output.status.code(), Some(CONFIGURATION), "{line}: {output:?}");
        assert!(said(&output).contains("a pooler in transaction mode"), "{line}: {output:?}");
    }
    pooler.stop().await.unwrap();

    let (pooler, pooled) = PgBouncer::before(&fixture.database_url, PoolMode::Session).await.unwrap();
    let mut shop = Shop::on(&fixture.amqp_url, &pooled, &[("ticket", 1)]).await;
    let mut listener = Listener::to(&shop, "order.#").await;
    let _workers = shop.workers(&["purchase", "relay", "release"]).await;
    let order = shop.purchase("r").await.order().to_owned();
    assert_eq!(listener.next().await.event.event, EventKind::OrderReserved);
    assert_eq!(shop.cancel("c", &order).await.code(), "cancelled");
    assert_eq!(listener.next().await.event.event, EventKind::OrderCancelled);
    assert_eq!(shop.purchase("again").await.code(), "reserved");
    let output = outputs(&fixture, &["admin audit"], &[("DATABASE_URL", &shop.database_url)]).await.remove(0).1;
    assert!(output.status.success(), "{output:?}");
    drop(shop);
    pooler.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_deletes_verdicts_and_orders_past_their_time_beside_its_work() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let old = "INSERT INTO verdicts SELECT 'days-' || days, 'ticket', gen_random_uuid(), 'sold_out', '{}',
               now() - make_interval(days => days) FROM unnest(ARRAY[1, 3]) AS days";
    shop.execute(old).await;
    let order = "INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
                 SELECT gen_random_uuid(), 'days-' || days, 'ticket', 'b', 1, 'expired', now() - make_interval(days => days), now()
                 FROM unnest(ARRAY[2, 4]) AS days";
    shop.execute(order).await;
    let _worker = shop.worker("keeper", &[("KEEP_VERDICTS_DAYS", "2"), ("KEEP_ORDERS_DAYS", "3")]).await;
    assert_eq!(shop.purchase("now").await.code(), "reserved");
    until("the old verdict is gone", async || shop.count("SELECT count(*) FROM verdicts").await == 2).await;
    assert_eq!(shop.count("SELECT count(*) FROM verdicts WHERE request_id = 'days-3'").await, 0);
    until("the old order is gone", async || shop.count("SELECT count(*) FROM orders").await == 2).await;
}

#[tokio::test]
async fn operators_recognise_the_connections_of_a_worker() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _worker = shop.worker("purchase-7", &[]).await;
    shop.purchase("r").await;
    until("the broker lists the connections", async || {
        let text = rabbitmqctl(fixture::rabbitmq().await, &["list_connections", "client_properties"]).await;
        ["consume", "publish"].iter().all(|role| text.contains(&format!("turnstile-purchase purchase-7 {role}")))
    })
    .await;
    let in_database = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'turnstile-purchase purchase-7'";
    assert!(shop.count(in_database).await >= 1);
}

#[tokio::test]
async fn a_service_manager_and_a_probe_see_when_a_worker_consumes_and_when_it_drains() {
    let shop = Shop::open(&[]).await;
    let folder = Folder::create().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let ready = folder.path().join("ready");
    std::fs::write(&ready, "left over").unwrap();
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("READY_FILE", ready.to_str().unwrap())];
    let mut worker = shop.worker("told", &environment).await;
    assert_eq!(heard(&socket).await, "READY=1");
    assert!(shop.log("told").await.contains("consuming"), "not before");
    until("a probe sees it, too", async || std::fs::read(&ready).is_ok_and(|text| text.is_empty())).await;
    worker.send(Signal::SIGTERM).unwrap();
    assert_eq!(heard(&socket).await, "STOPPING=1");
    assert_eq!(worker.wait().await.unwrap().code(), Some(0));
    assert!(!ready.exists(), "who has left is not ready");
    folder.remove().await.unwrap();
}

async fn heard(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let heard = tokio::time::timeout(Duration::from_secs(60), socket.recv(&mut buffer)).await;
    String::from_utf8(buffer[..heard.expect("the worker says it").unwrap()].to_vec()).unwrap().trim().to_owned()
}

/// What these programs say, all at once, on the fixture's servers unless the environment says otherwise.
async fn outputs<'a>(fixture: &Fixture, programs: &[&'a str], environment: &[(&str, &str)]) -> Vec<(&'a str, Output)> {
    let purchase = purchase_program().await;
    let run = |line: &'a str| {
        let (program, arguments) = line.split_once(' ').unwrap_or((line, "--startup-seconds-max 0"));
        let program = if program == "loadtest" { PathBuf::from(LOADTEST) } else { purchase.with_file_name(program) };
        // A door goes on where a server is away.
        let is_door = program.ends_with("web");
        let mut command = tokio::process::Command::new(if is_door { "timeout".into() } else { program.clone() });
        if is_door {
            command.arg(DOOR_SECONDS).arg(program);
        }
        command.args(arguments.split(' ')).env("RUST_LOG", "debug,lapin=off").env_remove("CARGO").kill_on_drop(true);
        command.env("AMQP_URL", &fixture.amqp_url).env("DATABASE_URL", &fixture.database_url);
        command.envs(environment.iter().copied());
        async move { (line, command.output().await.unwrap()) }
    };
    join_all(programs.iter().copied().map(run)).await
}

/// Runs a worker that is expected to give up by itself.
pub(crate) async fn assert_gives_up(environment: &[(&str, &str)], code: i32, hint: &str) {
    let mut command = tokio::process::Command::new(purchase_program().await);
    command.args(["--startup-seconds-max", "0"]).envs(environment.iter().copied()).env("NO_COLOR", "1");
    let output = tokio::time::timeout(GIVES_UP_WITHIN, command.kill_on_drop(true).output()).await;
    let output: Output = output.expect("it gives up").unwrap();
    assert_eq!(output.status.code(), Some(code), "{environment:?}: {output:?}");
    assert!(said(&output).contains(hint), "{environment:?}: {output:?}");
}

/// Arguments come in the order in which they were given, which means nothing.
fn sorted_arguments(line: &str) -> String {
    let mut characters: Vec<_> = line.split(['[', ']', ',', '{', '}']).map(str::trim).collect();
    characters.sort_unstable();
    characters.join(" ")
}
