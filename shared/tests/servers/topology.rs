//! A worker whose queues and exchanges are deleted, or whose user may not do everything: what is missing costs what needs
//! it, and nothing else.

use crate::buyer::{Buyer, Text, confirming, options, send, until};
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{BasicProperties, Channel};
use serde_json::Value;
use shared::amqp::{self, Nodes};
use shared::config::WorkerOptions;
use shared::devstack::fixture::rabbitmq;
use shared::devstack::{Folder, as_user};
use shared::error::Error;
use shared::handler::{Answer, Handler};
use shared::worker;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

const PARTITIONS: usize = 8;
/// A request that is held while the database is away.
const NEEDS_THE_DATABASE: &str = "needs the database";
static IS_AWAY: AtomicBool = AtomicBool::new(true);

pub(crate) struct Echo;

impl Handler for Echo {
    type Request = Text;

    async fn handle(&self, requests: &[Text]) -> Result<Vec<Answer>, Error> {
        if requests.iter().any(|request| request.0 == NEEDS_THE_DATABASE) && IS_AWAY.load(Ordering::Relaxed) {
            return Err(Error::Away("as the test wants it".to_owned()));
        }
        Ok(requests.iter().map(|request| Answer::Verdict(request.0.clone())).collect())
    }
}

#[tokio::test]
async fn padding_does_not_pile_up_where_enough_waits() {
    let buyer = Buyer::new().await;
    let nodes = Nodes::read(&buyer.amqp_url).unwrap();
    for waiting in [1, 20, 20, 5, 30] {
        amqp::fill(&nodes, "test", &[("purchase.0".to_owned(), waiting)]).await.unwrap();
    }
    assert_eq!(buyer.depth("purchase.0").await, 30);
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again_and_the_other_partitions_never_notice() {
    let mut shop = Shop::new().await;
    let _worker = shop.serve("one", &shop.buyer.amqp_url).await;
    let connections = shop.connections("one").await;
    shop.delete_queue("purchase.3").await;
    shop.until_ready("one", false).await;
    shop.assert_served((0..PARTITIONS).filter(|partition| *partition != 3)).await;
    shop.until_ready("one", true).await;
    shop.assert_served(0..PARTITIONS).await;
    assert_eq!(shop.connections("one").await, connections, "nobody had to connect again");
}

#[tokio::test]
async fn a_queue_that_is_deleted_while_the_database_is_away_costs_the_worker_its_session_and_nobody_an_answer() {
    let mut shop = Shop::new().await;
    let _worker = shop.serve("held", &shop.buyer.amqp_url).await;
    let connections = shop.connections("held").await;
    assert!(shop.send("", "purchase.1", NEEDS_THE_DATABASE).await);
    shop.until_ready("held", false).await;
    shop.delete_queue("purchase.3").await;
    until("it has connected again", async || ![vec![], connections.clone()].contains(&shop.connections("held").await))
        .await;
    IS_AWAY.store(false, Ordering::Relaxed);
    assert_eq!(shop.reply().await, NEEDS_THE_DATABASE);
    shop.assert_served(0..PARTITIONS).await;
    shop.until_ready("held", true).await;
}

#[tokio::test]
async fn without_the_right_to_declare_the_other_partitions_are_served_until_somebody_puts_it_right() {
    let mut shop = Shop::new().await;
    shop.delete_queue("purchase.3").await;
    let _worker = shop.spawn("few", &as_user(&shop.buyer.amqp_url, "worker"));
    shop.assert_served((0..PARTITIONS).filter(|partition| *partition != 3)).await;
    assert!(!shop.ready_file("few").exists(), "it does not serve all");
    shop.delete_queue("purchase.5").await;
    shop.assert_served((0..PARTITIONS).filter(|partition| ![3, 5].contains(partition))).await;
    shop.buyer.declare().await;
    shop.until_ready("few", true).await;
    shop.assert_served(0..PARTITIONS).await;
}

#[tokio::test]
async fn deleted_exchanges_are_declared_and_bound_again_and_dead_letters_wait_for_theirs() {
    let mut shop = Shop::new().await;
    let _worker = shop.serve("one", &shop.buyer.amqp_url).await;
    let connections = shop.connections("one").await;
    for exchange in ["dead", "events", "purchase.workers", "purchase"] {
        shop.buyer.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }
    shop.delete_queue("dead.invalid").await;
    for body in ["{", "behind it"] {
        shop.send("", "purchase.0", body).await;
    }
    // A reply may come more than once.
    let mut told = BTreeSet::new();
    while told.len() < 2 {
        told.insert(shop.reply().await);
    }
    assert!(told.contains("behind it") && told.iter().any(|reply| reply.contains("malformed")), "{told:?}");
    shop.until_depth("dead.invalid", 1).await;
    // Whoever sends to an exchange that is not there loses the channel.
    until("purchases find a partition again", async || {
        let channel = confirming(&shop.buyer.connection).await;
        send(&channel, "purchase", "item", "routed", BasicProperties::default()).await
    })
    .await;
    let nodes = Nodes::read(&shop.buyer.amqp_url).unwrap();
    until("the workers count each other again", async || {
        let heard = amqp::listen(&nodes, "test", "purchase.workers", Duration::from_secs(1)).await;
        heard.is_ok_and(|workers| workers.len() == 1)
    })
    .await;
    assert_eq!(shop.connections("one").await, connections, "nobody had to connect again");
}

#[tokio::test]
async fn who_may_not_reply_to_anybody_holds_all_replies_until_they_may() {
    let mut shop = Shop::new().await;
    let [configure, write, read] = rights("worker");
    let _worker = shop.serve("mute", &shop.user(&rights("worker")).await).await;
    shop.user(&[configure.clone(), write.replace("amq\\.default", "nothing"), read.clone()]).await;
    for number in 0..25 {
        shop.send("", "purchase.0", &format!("r-{number}")).await;
    }
    shop.until_ready("mute", false).await;
    shop.user(&[configure, write, read]).await;
    for number in 0..25 {
        assert_eq!(shop.reply().await, format!("r-{number}"));
    }
    shop.until_ready("mute", true).await;
    shop.until_depth("purchase.0", 0).await;
}

#[tokio::test]
async fn a_user_that_lacks_rights_is_told_all_of_them_and_the_command_that_gives_them() {
    let shop = Shop::new().await;
    let url = shop.user(&["^amq\\.gen-.*$", "^purchase\\.workers$", ".*"].map(str::to_owned)).await;
    let said = worker::serve(Echo, &options("few", &url)).await.unwrap_err().to_string();
    for exchange in ["'dead'", "'amq.default'", "'amq.gen-"] {
        assert!(said.contains(exchange), "{said}");
    }
    let command = said.split('`').nth(1).unwrap().replace('\'', "");
    rabbitmqctl(&command.split(' ').skip(1).collect::<Vec<_>>()).await;
    let _worker = shop.serve("all", &url).await;
    // The user may be the relay's, too.
    amqp::try_rights(&Nodes::read(&url).unwrap(), "relay", "relay").await.unwrap();
}

/// What `rabbitmq/users.json` gives to this user: configure, write, read.
fn rights(user: &str) -> [String; 3] {
    let users: Value = serde_json::from_str(include_str!("../../../rabbitmq/users.json")).unwrap();
    let rights = users["permissions"].as_array().unwrap().iter().find(|rights| rights["user"] == user).unwrap();
    ["configure", "write", "read"].map(|right| rights[right].as_str().unwrap().to_owned())
}

/// A buyer, and the operator of the broker.
struct Shop {
    buyer: Buyer,
    vhost: String,
    folder: Folder,
    /// Replies come through the first of them.
    before: Vec<Channel>,
}

impl Shop {
    async fn new() -> Self {
        // What a worker says is shown where its test fails.
        drop(tracing_subscriber::fmt().with_test_writer().with_ansi(false).try_init());
        let buyer = Buyer::new().await;
        let vhost = buyer.amqp_url.rsplit('/').next().unwrap().to_owned();
        Self { buyer, vhost, folder: Folder::create().unwrap(), before: Vec::new() }
    }

    /// What is sent from then on goes through a new channel: RabbitMQ tells one that has published to a queue late that it is
    /// gone, and loses what the channel publishes meanwhile to another queue of that name.
    async fn delete_queue(&mut self, queue: &str) {
        self.buyer.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
        let channel = confirming(&self.buyer.connection).await;
        self.before.push(std::mem::replace(&mut self.buyer.channel, channel));
    }

    /// Gives a user of this virtual host's name these rights, and makes it where it is new; the URL by which it connects.
    async fn user(&self, [configure, write, read]: &[String; 3]) -> String {
        let user = &self.vhost;
        let _is_new = rabbitmq().await.rabbitmqctl().args(["add_user", user, user]).output().await.unwrap();
        rabbitmqctl(&["set_permissions", "-p", &self.vhost, user, configure, write, read]).await;
        self.buyer.amqp_url.replace("guest:guest", &format!("{user}:{user}"))
    }

    fn ready_file(&self, id: &str) -> PathBuf {
        self.folder.path().join(id)
    }

    async fn until_ready(&self, id: &str, is_ready: bool) {
        let what = if is_ready { "the worker is ready" } else { "the worker is not ready" };
        until(what, async || self.ready_file(id).exists() == is_ready).await;
    }

    /// Starts a worker, and waits until it is ready.
    async fn serve(&self, id: &str, amqp_url: &str) -> JoinHandle<()> {
        let worker = self.spawn(id, amqp_url);
        self.until_ready(id, true).await;
        worker
    }

    fn spawn(&self, id: &str, amqp_url: &str) -> JoinHandle<()> {
        let options = WorkerOptions { ready_file: Some(self.ready_file(id)), ..options(id, amqp_url) };
        tokio::spawn(async move { worker::serve(Echo, &options).await.unwrap() })
    }

    /// The worker's connection to consume on, as the broker knows it.
    async fn connections(&self, id: &str) -> Vec<String> {
        let listed = rabbitmqctl(&["list_connections", "vhost", "pid", "client_properties"]).await;
        let name = format!("turnstile-purchase {id} consume");
        let ours = |line: &&str| line.starts_with(&format!("{}\t", self.vhost)) && line.contains(&name);
        listed.lines().filter(ours).map(ToOwned::to_owned).collect()
    }

    /// Each of these partitions answers.
    async fn assert_served(&mut self, partitions: impl Iterator<Item = usize>) {
        for partition in partitions {
            let queue = format!("purchase.{partition}");
            until("there is the queue", async || self.send("", &queue, &queue).await).await;
            eprintln!("asking {queue}");
            assert_eq!(self.reply().await, queue);
        }
    }

    /// Whether it found a queue.
    async fn send(&self, exchange: &str, key: &str, body: &str) -> bool {
        self.buyer.send(exchange, key, body, BasicProperties::default()).await
    }

    async fn reply(&mut self) -> String {
        self.buyer.reply().await.0
    }

    async fn until_depth(&self, queue: &str, depth: u32) {
        until("the queue is as deep as that", async || self.buyer.depth(queue).await == depth).await;
    }
}

async fn rabbitmqctl(arguments: &[&str]) -> String {
    let output = rabbitmq().await.rabbitmqctl().arg("--silent").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
