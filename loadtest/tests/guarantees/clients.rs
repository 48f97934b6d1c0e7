//! The programs in rabbitmq/clients, which engineers copy, do what they say, as they stand.
//!
//! Their libraries are installed under the target folder, by the ordinary means of their languages, or with the language
//! itself as Debian's packages, where we are root. Where that cannot be, the test says so on stderr and passes: it has shown
//! nothing then. With `CI` set it fails. It never passes over a client that misbehaves.

use crate::contract;
use crate::support::sale::said;
use crate::support::shop::Shop;
use crate::support::{not_shown, queue};
use futures_util::StreamExt;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions};
use lapin::types::{FieldTable, ShortString};
use serde_json::Value;
use shared::devstack::{Supervised, as_user};
use shared::messages::{Code, Status, Verdict};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../rabbitmq/clients");
/// Where no broker is.
const NOWHERE: &str = "amqp://guest:guest@127.0.0.1:1/%2f";
/// Longer than the clients' own limits.
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(60);
/// A registry that takes longer counts as out of reach.
const INSTALL_WAIT_MAX: Duration = Duration::from_secs(180);

#[tokio::test]
async fn the_python_client_buys_one_and_is_refused_the_next() {
    let (folder, _lock) = folder("python");
    if let Some(client) = python_client(folder, "pika", "buy.py").await {
        works(&client).await;
    }
}

/// Each with a reply queue that is named as its library does it.
#[tokio::test]
async fn the_other_python_clients_buy_and_are_refused() {
    for (name, package, script) in [("aio-pika", "aio_pika", "buy_aio_pika.py"), ("kombu", "kombu", "buy_kombu.py")] {
        let (folder, _lock) = folder(name);
        if let Some(client) = python_client(folder, package, script).await {
            buys(&client).await;
        }
    }
}

#[tokio::test]
async fn the_ruby_client_buys_and_is_refused() {
    let (folder, _lock) = folder("ruby");
    let install = apt(&["ruby-bunny"]);
    if let Some(client) = client(folder, &["ruby"], "buy.rb", &["ruby", "-e", "require 'bunny'"], &install).await {
        buys(&client).await;
    }
}

#[tokio::test]
async fn the_go_client_buys_and_is_refused() {
    let (folder, _lock) = folder("go");
    // Debian's libraries are in a tree of their own, and what is compiled stays in ours.
    let cache = format!("GOCACHE={}", folder.join("cache").display());
    let go = ["env", "GO111MODULE=off", "GOPATH=/usr/share/gocode", &cache, "go"];
    let install = apt(&["golang-go", "golang-github-rabbitmq-amqp091-go-dev"]);
    let (run, loads) = ([&go[..], &["run"]].concat(), [&go[..], &["list", "github.com/rabbitmq/amqp091-go"]].concat());
    if let Some(client) = client(folder, &run, "buy.go", &loads, &install).await {
        buys(&client).await;
    }
}

#[tokio::test]
async fn the_java_client_buys_and_is_refused() {
    const JARS: &str = "/usr/share/java/amqp-client.jar:/usr/share/java/slf4j-api.jar";
    let (folder, _lock) = folder("java");
    let install = apt(&["default-jdk-headless", "librabbitmq-client-java", "libslf4j-java"]);
    // By two commands: of several classes, the exit code tells of the last alone.
    let loads = format!("javap -cp {JARS} com.rabbitmq.client.ConnectionFactory && javap -cp {JARS} org.slf4j.Logger");
    let loads = ["sh", "-c", &loads];
    if let Some(client) = client(folder, &["java", "-cp", JARS], "Buy.java", &loads, &install).await {
        buys(&client).await;
    }
}

/// The folder with a Python that has what `buy.py` imports; `None` where it cannot be had, which is said.
pub(crate) async fn python() -> Option<PathBuf> {
    let (folder, _lock) = folder("python");
    python_client(folder.clone(), "pika", "buy.py").await.map(|_client| folder.join("bin"))
}

async fn python_client(folder: PathBuf, package: &str, script: &str) -> Option<Client> {
    let python = folder.join("bin/python").display().to_string();
    let install = [vec!["python3", "-m", "venv", "."], vec![&python, "-m", "pip", "install", package]];
    client(folder, &[&python], script, &[&python, "-c", &format!("import {package}")], &install).await
}

/// How Debian's packages are installed, with lists of its own for a machine that has none.
fn apt<'a>(packages: &[&'a str]) -> [Vec<&'a str>; 2] {
    let apt_get = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=170"];
    let install = [&["install", "--no-install-recommends"], packages].concat();
    [&["update"][..], &install].map(|command| [&apt_get[..], command].concat())
}

#[tokio::test]
async fn the_node_client_buys_one_and_is_refused_the_next() {
    let (folder, _lock) = folder("node");
    let loads = ["node", "--input-type=module", "--eval", "import 'amqplib'"];
    let install = [vec!["npm", "install", "amqplib", "--prefix", "."]];
    if let Some(client) = client(folder, &["node"], "buy.mjs", &loads, &install).await {
        works(&client).await;
    }
}

/// It buys the only ticket, is refused another, and gets its verdict again.
async fn buys(client: &Client) -> (Shop, Supervised, Output) {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let worker = shop.worker("w", &[]).await;

    let sold = client.buy(&shop, &["ticket", "b-1", "1", "r-1"]).await;
    assert_eq!(sold.status.code(), Some(0), "{}: {sold:?}", client.script.display());
    assert_eq!(verdict(&sold).status, Status::Reserved, "{sold:?}");
    assert_eq!(shop.count("SELECT count(*) FROM orders WHERE buyer = 'b-1' AND quantity = 1").await, 1);

    let refused = client.buy(&shop, &["ticket", "b-2", "1", "r-2"]).await;
    assert_eq!((refused.status.code(), verdict(&refused).code), (Some(1), Code::SoldOut), "{refused:?}");

    let again = client.buy(&shop, &["ticket", "b-1", "1", "r-1"]).await;
    assert_eq!((again.status.code(), &again.stdout), (Some(0), &sold.stdout), "the same request, the same verdict");
    (shop, worker, sold)
}

async fn works(client: &Client) {
    let (shop, _worker, sold) = buys(client).await;
    let unnamed = client.buy(&shop, &["ticket", "b-3", "1"]).await;
    assert_eq!(verdict(&unnamed).code, Code::SoldOut, "it makes an id of its own: {unnamed:?}");

    let cluster = format!("{NOWHERE},{}", shop.amqp_url);
    let elsewhere = client.run(&cluster, &["ticket", "b-1", "1", "r-1"], Stdio::null()).await;
    assert_eq!((elsewhere.status.code(), &elsewhere.stdout), (Some(0), &sold.stdout), "by the node that answers");

    let misused = client.buy(&shop, &["ticket"]).await;
    assert_eq!(misused.status.code(), Some(1));
    assert!(said(&misused).contains("ITEM BUYER QUANTITY"), "{misused:?}");

    let nowhere = client.run(NOWHERE, &["ticket", "b-1", "1"], Stdio::null()).await;
    assert_eq!((nowhere.status.code(), nowhere.stdout.as_slice()), (Some(1), &b""[..]), "{nowhere:?}");
    assert!(said(&nowhere).contains("Ask again with the same request id: "), "{nowhere:?}");

    takes_care_of_its_message(client, &shop).await;
    buys_for_many(client).await;
}

/// Many buyers in one message, as arguments and as a file: a verdict each, in their order.
async fn buys_for_many(client: &Client) {
    let shop = Shop::open(&[("ticket", 5)]).await;
    let _worker = shop.worker("w", &[]).await;
    let codes = |output: &Output| {
        let lines = output.stdout.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| described(line, output).code).collect::<Vec<_>>()
    };

    let many = ["ticket", "b-1", "1", "b-2", "1000", "b-3", "2"];
    let nowhere = client.run(NOWHERE, &many, Stdio::null()).await;
    assert_eq!((nowhere.status.code(), nowhere.stdout.as_slice()), (Some(1), &b""[..]), "{nowhere:?}");
    let said = said(&nowhere);
    let (_, requests) = said.split_once("Ask again with the same requests (--file -): ").expect(&said);
    let file = client.script.with_file_name("requests.json");
    fs::write(&file, requests).unwrap();
    let from_file = ["--file", file.to_str().unwrap()];
    let some = client.buy(&shop, &from_file).await;
    let expected = [Code::Reserved, Code::SoldOut, Code::Reserved];
    assert_eq!((some.status.code(), codes(&some)), (Some(1), expected.into()), "{some:?}");
    let piped = client.run(&shop.amqp_url, &["--file", "-"], File::open(&file).unwrap().into()).await;
    assert_eq!(piped.stdout, some.stdout, "the same requests, the same verdicts: {piped:?}");

    let all = client.buy(&shop, &["ticket", "b-4", "1", "b-5", "1"]).await;
    assert_eq!((all.status.code(), codes(&all)), (Some(0), vec![Code::Reserved; 2]), "{all:?}");
    assert_eq!(shop.count("SELECT sum(quantity)::bigint FROM orders").await, 5);

    fs::write(&file, r#"[{"request_id":"r-1","item":"ticket"},[]]"#).unwrap();
    let invalid = client.buy(&shop, &from_file).await;
    assert_eq!((invalid.status.code(), codes(&invalid)), (Some(1), vec![Code::InvalidArray]), "{invalid:?}");
    fs::write(&file, "[]").unwrap();
    let misused = client.buy(&shop, &from_file).await;
    assert_eq!((misused.status.code(), misused.stdout.as_slice()), (Some(1), &b""[..]), "{misused:?}");
}

/// An exchange of our own instead of the real one shows what the client sends, and what it does when nobody takes it.
async fn takes_care_of_its_message(client: &Client, shop: &Shop) {
    let channel = &shop.channel;
    channel.exchange_delete("purchase".into(), ExchangeDeleteOptions::default()).await.unwrap();
    let (options, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    channel.exchange_declare("purchase".into(), ExchangeKind::Fanout, options, none).await.unwrap();
    let lost = client.buy(shop, &["ticket", "b-3", "1"]).await;
    assert_eq!((lost.status.code(), lost.stdout.as_slice()), (Some(1), &b""[..]), "{lost:?}");
    assert!(!said(&lost).contains("no verdict within"), "it learns at once that its message came back: {lost:?}");

    let queue = queue::exclusive(channel).await;
    queue::bind(channel, queue.as_str(), "purchase", "").await;
    let mut sent = queue::consume(channel, queue.as_str()).await;
    for (arguments, request_id, buyers) in [
        (&["ticket", "b-4", "2", "r-4"][..], "/request_id", &["/buyer"][..]),
        (&["ticket", "b-4", "2", "b-5", "1"], "/0/request_id", &["/0/buyer", "/1/buyer"]),
    ] {
        let sent = tokio::select! {
            output = client.buy(shop, arguments) => panic!("it waits for its verdict: {output:?}"),
            sent = sent.next() => sent.unwrap().unwrap(),
        };
        assert_eq!(sent.routing_key.as_str(), "ticket");
        assert_eq!(sent.properties.delivery_mode(), &Some(2), "persistent");
        assert_eq!(sent.properties.content_type().as_ref().map(ShortString::as_str), Some("application/json"));
        let body: Value = serde_json::from_slice(&sent.data).unwrap();
        let id = body.pointer(request_id).unwrap().as_str();
        assert_eq!(sent.properties.correlation_id().as_ref().map(ShortString::as_str), id);
        assert!(buyers.iter().zip(["b-4", "b-5"]).all(|(at, buyer)| body.pointer(at).unwrap() == buyer), "{body}");
    }
}

fn verdict(output: &Output) -> Verdict {
    described(&output.stdout, output)
}

fn described(line: &[u8], output: &Output) -> Verdict {
    let verdict = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    contract::assert_describes(&verdict);
    serde_json::from_value(verdict).unwrap()
}

/// One of the programs, ready to run.
struct Client {
    /// The interpreter, with what it is told first.
    command: Vec<String>,
    script: PathBuf,
}

/// `None` where what it stands on cannot be had, which is said.
async fn client(
    folder: PathBuf,
    command: &[&str],
    script: &str,
    loads: &[&str],
    install: &[Vec<&str>],
) -> Option<Client> {
    if !is_had(&folder, script, loads, install).await {
        return None;
    }
    // A module's imports are looked for beside it, so it runs as a copy.
    let copy = folder.join(script);
    fs::copy(Path::new(CLIENTS).join(script), &copy).unwrap();
    Some(Client { command: command.iter().map(ToString::to_string).collect(), script: copy })
}

impl Client {
    async fn buy(&self, shop: &Shop, arguments: &[&str]) -> Output {
        self.run(&shop.amqp_url, arguments, Stdio::null()).await
    }

    async fn run(&self, amqp_url: &str, arguments: &[&str], stdin: Stdio) -> Output {
        // With a queue as its library names it, one needs a user with the right to that.
        let is_direct = ["buy.py", "buy.mjs"].iter().any(|script| self.script.ends_with(script));
        let amqp_url = if is_direct { as_user(amqp_url, "buyer") } else { amqp_url.to_owned() };
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .arg(&self.script)
            .args(arguments)
            .env("AMQP_URL", amqp_url)
            .stdin(stdin)
            .kill_on_drop(true);
        tokio::time::timeout(CLIENT_WAIT_MAX, command.output()).await.expect("the client ends").unwrap()
    }
}

/// A folder that outlives the test, so that the next run need not install again, and a lock on it.
pub(crate) fn folder(name: &str) -> (PathBuf, File) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(name);
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    (folder, lock)
}

/// Whether what a script stands on loads, or does once it is installed; where not, that is said.
pub(crate) async fn is_had(folder: &Path, script: &str, loads: &[&str], install: &[Vec<&str>]) -> bool {
    if succeeds(folder, loads).await.is_ok() {
        return true;
    }
    for command in install.iter().map(Vec::as_slice).chain([loads]) {
        if let Err(reason) = succeeds(folder, command).await {
            assert!(std::env::var_os("CI").is_none(), "what {script} needs cannot be had: {reason}");
            not_shown(&format!("that {script} works"), &reason);
            return false;
        }
    }
    true
}

async fn succeeds(folder: &Path, command: &[&str]) -> Result<(), String> {
    let mut running = Command::new(command[0]);
    running.args(&command[1..]).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(INSTALL_WAIT_MAX, running.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(said(&output)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not done within {} s", INSTALL_WAIT_MAX.as_secs())),
    }
}
