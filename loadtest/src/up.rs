//! `up`: a shop that stays until Ctrl-C. Servers, each function, the door with both pages and an item on sale; and lines to paste, which
//! are all that anybody needs to buy there.

use crate::cli::UpOptions;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::queues::Probe;
use crate::servers::{Endpoints, Needs, or_interrupted, with_servers};
use crate::workers::{WorkerSpec, Workers};
use crate::{database, programs};
use anyhow::{Context, anyhow};
use shared::amqp::{self, Nodes, OutgoingRequest, RequestOutcome};
use shared::devstack::urls_of;
use shared::messages::{Code, HOLD_MS_DEFAULT, Operation, RESTOCK_QUEUE, RestockRequest, Rules, Verdict};
use std::future::pending;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

const ITEM: &str = "concert-42";
const STOCK: i64 = 100;
const PURCHASE_WORKERS: u32 = 2;
/// Where the shop and the board are, unless somebody else is there.
const PORTS: [u16; 2] = [8_080, 8_081];
/// How long it may take until the item is on sale.
const VERDICT_WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn execute(options: &UpOptions) -> Result<bool, Failure> {
    or_interrupted(programs::all()).await?;
    let progress = Progress::new();
    let needs = Needs { keep: options.keep.as_deref(), ..Needs::PLAIN };
    with_servers(&options.urls, needs, &progress, async |endpoints, _servers| {
        progress.stage("starting the functions");
        let probe = Probe::connect(&endpoints.amqp_url).await?;
        probe.declare_topology().await?;
        probe.close().await;
        database::open(&endpoints.database_url).await?.close().await;
        let [shop, board] = free_addresses()?;
        let mut workers = Workers::start(functions(endpoints, &shop, &board)?, endpoints).await?;
        put_on_sale(endpoints).await?;
        progress.clear();
        let said = lines(endpoints, [&shop, &board], workers.logs())?;
        // Nobody needs to read it.
        drop(std::io::stdout().write_all(said.as_bytes()));
        tell_who_ends(&mut workers).await
    })
    .await
}

/// Nobody is started again: what a shop does without them may be what somebody wants to see.
async fn tell_who_ends(workers: &mut Workers) -> Result<bool, Failure> {
    let tell = |worker: &str, status| {
        tracing::error!(worker, %status, "a program has ended; the others go on without it, and its log stays");
    };
    workers.each_end(tell).await;
    pending().await
}

/// The usual addresses where they are free, else others.
fn free_addresses() -> Result<[String; 2], Failure> {
    let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    // Both are held until both are known.
    let [shop, board] = PORTS.map(|port| listen(port).or_else(|_| listen(0)));
    let [shop, board] = [shop.context("find a free port")?, board.context("find a free port")?];
    let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
    Ok([address(&shop).context("ask for a port")?, address(&board).context("ask for a port")?])
}

fn functions(endpoints: &Endpoints, shop: &str, board: &str) -> Result<Vec<WorkerSpec>, Failure> {
    let operator = endpoints.of_user("operator");
    // Of servers that are somebody's, whoever is on this machine would change what is on sale.
    let is_private = if endpoints.is_private { "true" } else { "false" };
    let web = [
        ("LISTEN", shop),
        ("BOARD", "true"),
        ("BOARD_ADDRESS", board),
        ("BOARD_AMQP_URL", &operator),
        ("BOARD_CHANGES", is_private),
        ("BOARD_DEMO", is_private),
    ];
    let one = |name: &'static str, environment: &[(&str, &str)]| {
        let environment = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Ok::<_, Failure>(WorkerSpec::one(name, programs::function(name)?, environment.collect()))
    };
    Ok(vec![
        WorkerSpec::purchase(programs::function("purchase")?, PURCHASE_WORKERS, None),
        one("release", &[])?,
        one("payment", &[("GATEWAY", "simulated")])?,
        one("relay", &[])?,
        one("restock", &[])?,
        one("web", &web)?,
    ])
}

/// As any other system would. Where it is there already, it stays as it is.
async fn put_on_sale(endpoints: &Endpoints) -> Result<(), Failure> {
    let request_id = Uuid::now_v7().to_string();
    let (opens_at, closes_at, rules) = (None, None, Rules::default());
    let operation = Operation::Create { stock: STOCK, hold_ms: HOLD_MS_DEFAULT, opens_at, closes_at, rules };
    let request = RestockRequest { request_id: request_id.clone(), item: ITEM.to_owned(), operation };
    let body = serde_json::to_string(&request).expect("a request is representable as JSON");
    let (exchange, routing_key) = (RESTOCK_QUEUE, RESTOCK_QUEUE);
    let request = OutgoingRequest { exchange, routing_key, correlation_id: &request_id, body: &body };
    let nodes = Nodes::read(&endpoints.of_user("operator"))?;
    match amqp::request_reply(&nodes, "turnstile-loadtest up", request, VERDICT_WAIT_MAX).await? {
        RequestOutcome::Verdict(verdict) => {
            let verdict: Verdict = serde_json::from_slice(&verdict).context("a reply is no verdict")?;
            let is_there = [Code::Created, Code::ItemExists].contains(&verdict.code);
            if is_there { Ok(()) } else { Err(anyhow!("{ITEM} is not put on sale: {}", verdict.message).into()) }
        }
        RequestOutcome::NotYet | RequestOutcome::NoQueue => Err(anyhow!("restock does not put {ITEM} on sale").into()),
    }
}

/// What is said once all is there. Each line to paste works by itself, in the project's top folder.
fn lines(endpoints: &Endpoints, [shop, board]: [&str; 2], logs: &Path) -> Result<String, Failure> {
    let [admin, purchase] = [program("admin")?, program("purchase")?];
    let [operator, worker] = ["admin", "purchase"].map(|function| variables(endpoints, function));
    let needs = match endpoints.is_private {
        true => "",
        false => ", where AMQP_URL and DATABASE_URL are set as here",
    };
    let logs = logs.display();
    Ok(format!(
        r#"The shop:   http://{shop}/
The board:  http://{board}/board
The logs:   {logs}

{ITEM} is on sale. To paste in another terminal, in the project's top folder{needs}:

# open the shop
python3 -m webbrowser http://{shop}/
# buy by HTTP
curl -sS http://{shop}/items/{ITEM}/purchases -H 'Content-Type: application/json' -d '{{"buyer":"ann","quantity":1}}'
# buy by a message; needs `pip install pika`
{operator}python3 rabbitmq/clients/buy.py {ITEM} ben 1
# the same for operators, who may pay for the order or cancel it
{operator}{admin} buy {ITEM} cleo
# look at the stock
{operator}{admin} items
# start one more worker
{worker}{purchase}

Ctrl-C stops everything that was started.
"#
    ))
}

/// From here, where that is shorter.
fn program(name: &str) -> Result<String, Failure> {
    let path = programs::function(name)?;
    let here = std::env::current_dir().context("ask for the current folder")?;
    Ok(quoted(&path.strip_prefix(here).unwrap_or(&path).to_string_lossy()))
}

/// What a line begins with. The URLs of somebody's own servers are not ours to show.
fn variables(endpoints: &Endpoints, function: &str) -> String {
    if !endpoints.is_private {
        return String::new();
    }
    let [amqp_url, database_url] = urls_of(function, &endpoints.amqp_url, &endpoints.database_url);
    format!("AMQP_URL={} DATABASE_URL={} ", quoted(&amqp_url), quoted(&database_url))
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-:@%=+,".contains(letter);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
