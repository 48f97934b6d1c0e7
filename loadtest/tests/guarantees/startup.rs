//! A worker starts against what it finds, or says what is wrong and what to do, with an exit code that says which.

use crate::support::{
    sale::{private_servers, rabbitmqctl, said},
    shop::{Shop, purchase_program, until},
};
use lapin::{
    Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use shared::{
    amqp,
    devstack::{Fixture, Folder, Servers, Signal},
    topology::Topology,
};
use std::{process::Output, time::Duration};
use tokio::net::UnixDatagram;

const UNREACHABLE: i32 = 69;
const CONFIGURATION: i32 = 78;

#[tokio::test]
async fn the_broker_imports_the_definitions_and_the_declared_topology_agrees() {
    let servers = Servers::start(&["declared"]).await.unwrap();
    let definitions = concat!(env!("CARGO_MANIFEST_DIR"), "/../rabbitmq/definitions.json");
    rabbitmqctl(&servers.rabbitmq, &["import_definitions", definitions]).await;

    // Where it was imported, declaring finds everything as it would have made it: a difference is an error.
    declare(&servers.rabbitmq.url("/")).await.unwrap();
    // And where it was only declared, the broker lists the same.
    declare(&servers.rabbitmq.url("declared")).await.unwrap();
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
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_queue_that_differs_is_named_with_what_to_do() {
    let shop = Shop::open(&[]).await;
    shop.channel.queue_delete("purchase.3".into(), QueueDeleteOptions::default()).await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    shop.channel.queue_declare("purchase.3".into(), durable, FieldTable::default()).await.unwrap();
    let output = run(&shop.amqp_url, &shop.database_url, &[]).await;
    assert_eq!(output.status.code(), Some(CONFIGURATION), "{output:?}");
    assert!(said(&output).contains("rabbitmqctl delete_queue purchase.3"), "{output:?}");
}

#[tokio::test]
async fn a_worker_deletes_verdicts_past_their_time_beside_its_work() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let old = "INSERT INTO verdicts SELECT 'days-' || days, 'ticket', gen_random_uuid(), 'sold_out', '{}',
               now() - make_interval(days => days) FROM unnest(ARRAY[1, 3]) AS days";
    shop.execute(old).await;
    let worker = shop.worker("keeper", &[("KEEP_VERDICTS_DAYS", "2")]).await;
    assert_eq!(shop.purchase("now").await.code(), "reserved");
    until("the old verdict is gone", async || shop.count("SELECT count(*) FROM verdicts").await == 2).await;
    assert_eq!(shop.count("SELECT count(*) FROM verdicts WHERE request_id = 'days-3'").await, 0);
    drop(worker);
}

#[tokio::test]
async fn a_broker_without_the_plugin_is_told_apart() {
    let (servers, endpoints) = private_servers(1).await;
    let forget = "rabbit_registry:unregister(exchange, <<\"x-consistent-hash\">>), rabbit_registry:lookup_module(exchange, 'x-consistent-hash').";
    rabbitmqctl(&servers.rabbitmq, &["eval", forget]).await;
    let output = run(&endpoints.amqp_url, &endpoints.database_url, &[]).await;
    assert_eq!(output.status.code(), Some(CONFIGURATION), "{output:?}");
    assert!(said(&output).contains("rabbitmq-plugins enable rabbitmq_consistent_hash_exchange"), "{output:?}");
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn servers_that_are_not_there_or_say_no_are_told_apart_by_exit_code() {
    let fixture = Fixture::new().await;
    let (amqp, database) = (fixture.amqp_url.as_str(), fixture.database_url.as_str());
    let stranger = amqp.replace("guest:guest", "guest:wrong");
    let no_role = database.replace("turnstile@", "nobody@");
    let nowhere = "postgres://nobody@127.0.0.1:1/none";
    for (amqp_url, database_url, code, hint) in [
        ("amqp://127.0.0.1:1/%2f", database, UNREACHABLE, "AMQP_URL"),
        ("amqp://127.0.0.1:1/%2f,amqp://127.0.0.1:2/%2f", database, UNREACHABLE, "127.0.0.1:1: "),
        ("amqp://127.0.0.1:1/%2f,amqp://127.0.0.1:2/%2f", database, UNREACHABLE, "127.0.0.1:2: "),
        ("amqp://127.0.0.1:1/%2f,nonsense", database, CONFIGURATION, "with commas between them"),
        (stranger.as_str(), database, CONFIGURATION, "check the user, the password"),
        ("http://somewhere", database, CONFIGURATION, "amqp://USER:PASSWORD@HOST:PORT/VHOST"),
        (amqp, nowhere, UNREACHABLE, "DATABASE_URL"),
        (amqp, no_role.as_str(), CONFIGURATION, "DATABASE_URL"),
        (amqp, "nonsense", CONFIGURATION, "DATABASE_URL"),
    ] {
        let output = run(amqp_url, database_url, &["--startup-seconds-max", "0"]).await;
        assert_eq!(output.status.code(), Some(code), "{amqp_url} {database_url}: {output:?}");
        assert!(said(&output).contains(hint), "{amqp_url} {database_url}: {output:?}");
    }
    let output = run(amqp, database, &["--batch-max", "0"]).await;
    assert_eq!(output.status.code(), Some(2), "usage");
}

#[tokio::test]
async fn operators_recognise_the_connections_of_a_worker() {
    let (servers, mut shop) = Shop::private(&[("ticket", 1)]).await;
    let _worker = shop.worker("purchase-7", &[]).await;
    shop.purchase("r").await;
    until("the broker lists the connections", async || {
        let text = rabbitmqctl(&servers.rabbitmq, &["list_connections", "client_properties"]).await;
        ["turnstile-purchase purchase-7 consume", "turnstile-purchase purchase-7 publish"]
            .iter()
            .all(|name| text.contains(name))
    })
    .await;
    let in_database = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'turnstile-purchase purchase-7'";
    assert!(shop.count(in_database).await >= 1);
    servers.stop().await.unwrap();
}

async fn declare(amqp_url: &str) -> Result<(), amqp::Error> {
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await.unwrap();
    amqp::declare(&connection.create_channel().await.unwrap(), &Topology::read()).await
}

/// Runs a worker that is expected to give up by itself.
async fn run(amqp_url: &str, database_url: &str, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(purchase_program().await);
    command.args(arguments).env("AMQP_URL", amqp_url).env("DATABASE_URL", database_url).env("NO_COLOR", "1");
    command.kill_on_drop(true).output().await.unwrap()
}

/// Arguments come in the order in which they were given, which means nothing.
fn sorted_arguments(line: &str) -> String {
    let mut characters: Vec<_> = line.split(['[', ']', ',', '{', '}']).map(str::trim).collect();
    characters.sort_unstable();
    characters.join(" ")
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
    worker.send(Signal::Terminate).unwrap();
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
