//! Private servers serve, keep their data through restarts, and leave nothing behind.

mod forwarder;
mod owner;
mod supervise;

use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use shared::devstack::{Folder, Postgres, RabbitMq, Servers};
use sqlx::{Connection as _, PgConnection};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long anything here may take to end.
const END_WAIT_MAX: Duration = Duration::from_secs(30);

#[tokio::test]
async fn servers_serve_beside_others_and_leave_nothing_behind() {
    let (mut servers, other) = tokio::try_join!(Servers::start(&["shop/one", "two"]), Servers::start(&[])).unwrap();
    for vhost in ["/", "shop/one", "two"] {
        let connection = connect(&servers.rabbitmq.url(vhost)).await;
        assert_eq!(connection.status().vhost().as_str(), vhost);
    }
    servers.postgres.create_database("shop").await.unwrap();
    assert_eq!(ask(&servers.postgres.url("shop"), "SELECT current_database()::text").await, "shop");
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let shown = ask(&servers.postgres.url("shop"), &format!("SELECT current_setting('{setting}')")).await;
        assert_eq!(shown, "on", "{setting}");
    }

    PgConnection::connect(&other.postgres.url("shop")).await.unwrap_err();
    Connection::connect(&other.rabbitmq.url("two"), ConnectionProperties::default()).await.unwrap_err();

    assert!(servers.redis.is_none(), "nobody has asked for it");
    let redis_pid = servers.start_redis().await.unwrap().pid();
    assert_eq!(servers.start_redis().await.unwrap().pid(), redis_pid, "one is enough");

    let folder = servers.folder().to_path_buf();
    let pids = [servers.rabbitmq.pid(), servers.postgres.pid(), redis_pid];
    assert!(folder.exists() && pids.into_iter().all(is_running));
    servers.stop().await.unwrap();
    assert!(!folder.exists() && !pids.into_iter().any(is_running));
    other.postgres.create_database("still_served").await.unwrap();
    connect(&other.rabbitmq.url("/")).await;
    other.stop().await.unwrap();
}

#[tokio::test]
async fn a_broker_keeps_its_messages_and_its_address_when_it_starts_again() {
    let folder = Arc::new(Folder::create().unwrap());
    let mut rabbitmq = RabbitMq::start(&folder, &["shop"], 1).await.unwrap();
    let (url, first_pid) = (rabbitmq.url("shop"), rabbitmq.pid());
    let channel = channel(&url).await;
    channel.queue_declare("kept".into(), durable(), quorum()).await.unwrap();
    for body in ["before the restart", "before the kill"] {
        publish(&channel, "kept", body).await;
    }

    rabbitmq.restart().await.unwrap();
    let second_pid = rabbitmq.pid();
    assert_ne!(second_pid, first_pid);
    assert_eq!(take(&url, "kept").await, "before the restart");
    rabbitmq.kill_and_restart().await.unwrap();
    assert_ne!(rabbitmq.pid(), second_pid);
    assert_eq!(take(&url, "kept").await, "before the kill");
    assert_eq!(rabbitmq.url("shop"), url);

    // Through rabbitmqctl: the project's settings and the private node's own, as the node has them.
    let question =
        "[node() | [element(2, application:get_env(rabbit, Name)) || Name <- [heartbeat, disk_free_limit]]].";
    let said = rabbitmq.rabbitmqctl().args(["--quiet", "eval", question]).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "[turnstile@localhost,20,\"50MB\"]", "{said:?}");
    rabbitmq.stop().await.unwrap();
    Arc::into_inner(folder).unwrap().remove().await.unwrap();
}

#[tokio::test]
async fn a_database_keeps_its_rows_and_its_address_when_it_starts_again_and_counts_statements_where_it_is_asked_to() {
    let folder = Arc::new(Folder::create().unwrap());
    let mut postgres = Postgres::start(&folder).await.unwrap();
    postgres.create_database("a \"shop\"?").await.unwrap();
    let (url, first_pid) = (postgres.url("a \"shop\"?"), postgres.pid());
    // A connection that stays open has a server process that outlives a killed postmaster for a moment.
    let mut open = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (name text)").execute(&mut open).await.unwrap();

    sqlx::raw_sql("INSERT INTO kept VALUES ('restart')").execute(&mut open).await.unwrap();
    postgres.restart().await.unwrap();
    let second_pid = postgres.pid();
    assert_ne!(second_pid, first_pid);
    assert_eq!(ask(&url, "SELECT string_agg(name, ' ' ORDER BY name) FROM kept").await, "restart");

    let mut open = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("INSERT INTO kept VALUES ('kill')").execute(&mut open).await.unwrap();
    postgres.kill_and_restart().await.unwrap();
    assert_ne!(postgres.pid(), second_pid);
    assert_eq!(ask(&url, "SELECT string_agg(name, ' ' ORDER BY name) FROM kept").await, "kill restart");

    if postgres.count_statements().await.unwrap() {
        postgres.create_database("counted").await.unwrap();
        let url = postgres.url("counted");
        ask(&url, "SELECT 'this' AS once").await;
        let counted = "SELECT sum(calls)::text FROM pg_stat_statements WHERE query LIKE 'SELECT % AS once'";
        assert_eq!(ask(&url, counted).await, "1");
    }
    postgres.stop().await.unwrap();
    Arc::into_inner(folder).unwrap().remove().await.unwrap();
}

#[tokio::test]
async fn a_folder_of_a_run_that_vanished_is_removed_by_the_next() {
    let first = Folder::create().unwrap();
    let parent = first.path().parent().unwrap().to_path_buf();
    let abandoned = parent.join(format!("abandoned-{}", std::process::id()));
    std::fs::create_dir(&abandoned).unwrap();
    std::fs::write(abandoned.join("lock"), "").unwrap();
    let second = Folder::create().unwrap();
    assert!(!abandoned.exists());
    assert!(first.path().exists(), "a folder in use stays");
    first.remove().await.unwrap();
    second.remove().await.unwrap();
}

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.unwrap()
}

async fn channel(url: &str) -> Channel {
    connect(url).await.create_channel().await.unwrap()
}

async fn publish(channel: &Channel, queue: &str, body: &str) {
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let (options, persistent) = (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
    let published = channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), persistent).await;
    assert!(published.unwrap().await.unwrap().is_ack());
}

/// The body of the next message of a queue, which is then gone.
async fn take(url: &str, queue: &str) -> String {
    let limit = Instant::now() + END_WAIT_MAX;
    // A quorum queue elects its leader after the node accepts connections, and after the death of another one; until then
    // it seems empty, or asking is an error that ends the connection.
    loop {
        let options = BasicGetOptions { no_ack: true };
        match channel(url).await.basic_get(queue.into(), options).await {
            Ok(Some(message)) => return String::from_utf8(message.delivery.data).unwrap(),
            Ok(None) | Err(_) => assert!(Instant::now() < limit, "{queue} stays empty"),
        }
    }
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

async fn ask(url: &str, question: &str) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(question).fetch_one(&mut connection).await.unwrap()
}

fn is_running(pid: u32) -> bool {
    kill(Pid::from_raw(pid.try_into().unwrap()), None) != Err(Errno::ESRCH)
}

/// Waits for what a watchdog does after its owner has gone; nothing else tells of that.
async fn await_gone(what: &str, gone: impl Fn() -> bool) {
    let limit = Instant::now() + END_WAIT_MAX;
    while !gone() {
        assert!(Instant::now() < limit, "{what} is still there after {END_WAIT_MAX:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn await_all_gone(folder: &Path, pids: &[u32]) {
    await_gone("a server", || !pids.iter().any(|pid| is_running(*pid))).await;
    await_gone("the folder", || !folder.exists()).await;
}
