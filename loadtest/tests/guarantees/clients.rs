//! The programs in rabbitmq/clients, which engineers copy, do what they say, as they stand.
//!
//! Their libraries are installed under the target folder, by the ordinary means of their languages. Where python3 (with
//! venv and pip) or node (with npm) is not on this machine, its registry cannot be reached, or the library does not load
//! there, the test says so on stderr and passes: it has shown nothing then. It never passes over a client that misbehaves.

use crate::{
    contract,
    support::{not_shown, queue, sale::said, shop::Shop},
};
use futures_util::StreamExt;
use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::{FieldTable, ShortString},
};
use shared::messages::{Code, Status, Verdict};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::process::Command;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../rabbitmq/clients");
/// Longer than the clients' own limits.
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(60);
/// A registry that takes longer counts as out of reach.
const INSTALL_WAIT_MAX: Duration = Duration::from_secs(180);

#[tokio::test]
async fn the_python_client_buys_one_and_is_refused_the_next() {
    let (folder, _lock) = folder("python");
    let python = folder.join("bin/python").display().to_string();
    let install = [&["python3", "-m", "venv", "."][..], &[&python, "-m", "pip", "install", "pika"]];
    if let Some(client) = client(folder, &python, "buy.py", &["-c", "import pika"], &install).await {
        works(&client).await;
    }
}

#[tokio::test]
async fn the_node_client_buys_one_and_is_refused_the_next() {
    let (folder, _lock) = folder("node");
    let loads = ["--input-type=module", "--eval", "import 'amqplib'"];
    let install = [&["npm", "install", "amqplib", "--prefix", "."][..]];
    if let Some(client) = client(folder, "node", "buy.mjs", &loads, &install).await {
        works(&client).await;
    }
}

async fn works(client: &Client) {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let _worker = shop.worker("w", &[]).await;

    let sold = client.buy(&shop, &["ticket", "b-1", "1"]).await;
    let verdict = verdict(&sold);
    assert_eq!((sold.status.code(), verdict.status), (Some(0), Status::Reserved), "{sold:?}");
    assert_eq!(shop.count("SELECT count(*) FROM orders WHERE buyer = 'b-1' AND quantity = 1").await, 1);

    let refused = client.buy(&shop, &["ticket", "b-2", "1"]).await;
    assert_eq!((refused.status.code(), self::verdict(&refused).code), (Some(1), Code::SoldOut), "{refused:?}");

    let request_id = verdict.request_id.unwrap();
    let again = client.buy(&shop, &["ticket", "b-1", "1", &request_id]).await;
    assert_eq!((again.status.code(), &again.stdout), (Some(0), &sold.stdout), "the same request, the same verdict");

    let cluster = format!("amqp://guest:guest@127.0.0.1:1/%2f,{}", shop.amqp_url);
    let elsewhere = client.run(&cluster, &["ticket", "b-1", "1", &request_id]).await;
    assert_eq!((elsewhere.status.code(), &elsewhere.stdout), (Some(0), &sold.stdout), "by the node that answers");

    let misused = client.buy(&shop, &["ticket"]).await;
    assert_eq!(misused.status.code(), Some(1));
    assert!(said(&misused).contains("ITEM BUYER QUANTITY"), "{misused:?}");

    let nowhere = client.run("amqp://guest:guest@127.0.0.1:1/%2f", &["ticket", "b-1", "1"]).await;
    assert_eq!((nowhere.status.code(), nowhere.stdout.as_slice()), (Some(1), &b""[..]), "{nowhere:?}");
    assert!(said(&nowhere).contains("Ask again with the same request id: "), "{nowhere:?}");

    takes_care_of_its_message(client, &shop).await;
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
    let sent = tokio::select! {
        output = client.buy(shop, &["ticket", "b-4", "2", "r-4"]) => panic!("it waits for its verdict: {output:?}"),
        sent = sent.next() => sent.unwrap().unwrap(),
    };
    assert_eq!(sent.routing_key.as_str(), "ticket");
    assert_eq!(sent.properties.delivery_mode(), &Some(2), "persistent");
    assert_eq!(sent.properties.content_type().as_ref().map(ShortString::as_str), Some("application/json"));
    assert_eq!(sent.properties.correlation_id().as_ref().map(ShortString::as_str), Some("r-4"));
}

fn verdict(output: &Output) -> Verdict {
    let verdict = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    contract::assert_describes(&verdict);
    serde_json::from_value(verdict).unwrap()
}

/// One of the programs, ready to run.
struct Client {
    interpreter: String,
    script: PathBuf,
}

/// `None` where what it stands on cannot be had, which is said.
async fn client(
    folder: PathBuf,
    interpreter: &str,
    script: &str,
    loads: &[&str],
    install: &[&[&str]],
) -> Option<Client> {
    let loads = [&[interpreter], loads].concat();
    if succeeds(&folder, &loads).await.is_err() {
        for command in install.iter().chain([&loads[..]].iter()) {
            succeeds(&folder, command)
                .await
                .map_err(|reason| not_shown(&format!("that {script} works"), &reason))
                .ok()?;
        }
    }
    // A module's imports are looked for beside it, so it runs as a copy.
    let copy = folder.join(script);
    fs::copy(Path::new(CLIENTS).join(script), &copy).unwrap();
    Some(Client { interpreter: interpreter.to_owned(), script: copy })
}

impl Client {
    async fn buy(&self, shop: &Shop, arguments: &[&str]) -> Output {
        self.run(&shop.amqp_url, arguments).await
    }

    async fn run(&self, amqp_url: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.interpreter);
        command.arg(&self.script).args(arguments).env("AMQP_URL", amqp_url).stdin(Stdio::null()).kill_on_drop(true);
        tokio::time::timeout(CLIENT_WAIT_MAX, command.output()).await.expect("the client ends").unwrap()
    }
}

/// A folder that outlives the test, so that the next run need not install again, and a lock on it.
fn folder(name: &str) -> (PathBuf, File) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(name);
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    (folder, lock)
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
