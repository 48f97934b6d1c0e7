//! What senders, operators and scripts remember, by the real programs, compared with golden files.

mod script;

use crate::support::sale::json;
use crate::support::shop::{Shop, purchase_program, until};
use crate::support::{free_address, get, queue};
use lapin::options::BasicGetOptions;
use script::{Script, mask};
use serde_json::Value;
use shared::devstack::{Fixture, fixture, urls_of};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use tokio::net::TcpStream;
use tokio::process::Command;

#[path = "../../../shared/tests/golden/compare.rs"]
mod compare;

const FUNCTIONS: [&str; 4] = ["purchase", "payment", "release", "restock"];
const PROGRAMS: [&str; 8] = ["purchase", "payment", "release", "restock", "relay", "web", "admin", "loadtest"];
/// Objects whose keys are data.
const MAPS: [&str; 5] = ["failures", "attempts_histogram", "reasons", "headers", "settings"];

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn assert_golden(name: &str, actual: &str) {
    compare::assert_golden(&file(name), actual);
}

/// The text with each line's answer below it, instead of the indented lines of before.
async fn annotated(text: &str, mut answer: impl AsyncFnMut(&str) -> Vec<String>) -> String {
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        lines.push(line.to_owned());
        if !line.is_empty() && !line.starts_with('#') {
            lines.extend(answer(line).await);
        }
    }
    lines.join("\n") + "\n"
}

/// Runs a program of the workspace, with nothing in its environment but this.
async fn run(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(purchase_program().await.with_file_name(program));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    // The servers' folders are where this program's are, and private servers are started as anywhere else.
    for name in ["HOME", "TMPDIR", "USER"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.args(arguments).envs(environment.iter().copied()).kill_on_drop(true).output().await.unwrap()
}

#[tokio::test]
async fn replies_to_purchases_are_what_they_were_whatever_the_strategy() {
    let text = read("purchases.txt");
    let mut played = Vec::new();
    for strategy in ["optimistic", "pessimistic", "atomic", "redis"] {
        let mut shop = Shop::open(&[]).await;
        let url = fixture::redis().await.url();
        let worker = shop.worker_of("purchase", "w-purchase", &[("STRATEGY", strategy), ("REDIS_URL", &url)]).await;
        played.push(Script::new(&mut shop).play(&text).await);
        assert_eq!(played[0], played[played.len() - 1], "{strategy}");
        drop(worker);
    }
    assert_golden("purchases.txt", &played[0]);
}

#[tokio::test]
async fn replies_events_metrics_and_the_operators_documents_are_what_they_were() {
    let mut shop = Shop::open(&[]).await;
    let events = queue::exclusive(&shop.channel).await;
    queue::bind(&shop.channel, events.as_str(), "events", "#").await;
    let mut addresses = Vec::new();
    let mut workers = String::from("worker relay\n");
    for function in FUNCTIONS {
        addresses.push(free_address().await);
        workers += &format!("worker {function} METRICS_ADDRESS={} GATEWAY=simulated\n", addresses.last().unwrap());
    }
    let door = free_address().await;
    let _door = shop.worker_of("web", "door", &[("LISTEN", &door)]).await;
    until("the door is open", async || TcpStream::connect(&door).await.is_ok()).await;
    get(&door, "/livez").await;
    let mut script = Script::new(&mut shop);
    script.play(&workers).await;
    // The payment worker is another one for a while.
    let text = read("replies.txt").replace("<payment>", &addresses[1]);
    let played = script.play(&text).await.replace(&addresses[1], "<payment>");
    let mut shown = String::new();
    for (function, address) in FUNCTIONS.into_iter().zip(&addresses) {
        shown += &metrics(function, address).await;
    }
    shown += &metrics("web", &door).await;
    let shop = &*script.shop;
    assert_golden("events.txt", &published(shop, events.as_str()).await);
    let documents = admin_documents(shop).await;
    assert_golden("replies.txt", &played);
    assert_golden("metrics.txt", &shown);
    assert_golden("admin_json.txt", &documents);
}

/// The events so far: routing key and body.
async fn published(shop: &Shop, queue: &str) -> String {
    shop.outbox_is_empty().await;
    let mut lines = String::new();
    while let Some(event) = shop.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap() {
        let body = mask(&String::from_utf8(event.delivery.data).unwrap());
        let (_, after_id) = body.strip_prefix(r#"{"event_id":""#).unwrap().split_once('"').unwrap();
        lines += &format!("{} {{\"event_id\":\"<id>\"{after_id}\n", event.delivery.routing_key);
    }
    lines
}

/// Types, names and label names of what a function shows.
async fn metrics(function: &str, address: &str) -> String {
    let response = get(address, "/metrics").await;
    let mut lines = BTreeSet::new();
    for line in response.lines().filter(|line| line.starts_with("turnstile_") || line.starts_with("# TYPE")) {
        let (name, rest) = line.split_once('{').unwrap_or((line.trim_end_matches(|last| last != ' '), ""));
        let name = if line.starts_with('#') { line } else { name };
        let labels: Vec<_> = rest.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
        lines.insert(format!("{function} {} {}\n", name.trim_end(), labels.join(",")));
    }
    lines.into_iter().map(|line| line.replace(" \n", "\n")).collect()
}

async fn admin_documents(shop: &Shop) -> String {
    let [amqp_url, database_url] = urls_of("admin", &shop.amqp_url, &shop.database_url);
    let environment = [("AMQP_URL", &*amqp_url), ("DATABASE_URL", &*database_url)];
    let order: String = sqlx::query_scalar("SELECT id::text FROM orders WHERE state = 'paid' LIMIT 1")
        .fetch_one(&shop.pool)
        .await
        .unwrap();
    for id in 0..3 {
        shop.send_to("", "restock", format!("[{id}]").as_bytes(), shop.properties("c")).await;
    }
    until("they are in dead", async || shop.dead_depth().await == 3).await;
    let mut dead = String::new();
    annotated(&read("admin_json.txt"), async |line| {
        let command = line.replace("<order>", &order).replace("<dead>", &dead);
        let arguments: Vec<_> = command.split(' ').chain(["--json"]).collect();
        let output = run("admin", &arguments, &environment).await;
        let document = json(&output);
        dead = document["messages"][0]["id"].as_str().map_or_else(|| dead.clone(), str::to_owned);
        described(&output, &document)
    })
    .await
}

/// The exit code, and the paths of the document.
fn described(output: &Output, document: &Value) -> Vec<String> {
    let mut paths = BTreeSet::new();
    collect(document, "  ", &mut paths);
    [format!("  exit code {}", output.status.code().unwrap())].into_iter().chain(paths).collect()
}

/// The paths of all that is in a document, of each element of an array alike.
fn collect(value: &Value, path: &str, paths: &mut BTreeSet<String>) {
    let fields = value.as_object().filter(|_| !MAPS.iter().any(|map| path.ends_with(&format!(".{map}"))));
    let elements = value.as_array().filter(|elements| !elements.is_empty());
    if fields.is_none() && elements.is_none() {
        // What is checked goes by a word, too.
        let name = value.as_str().filter(|_| path.ends_with("[].name")).map(|name| format!("={name}"));
        paths.insert(format!("{path}{}", name.unwrap_or_default()));
    }
    for (name, field) in fields.into_iter().flatten() {
        collect(field, &format!("{path}.{name}"), paths);
    }
    for element in elements.into_iter().flatten() {
        collect(element, &format!("{path}[]"), paths);
    }
}

#[tokio::test]
async fn the_documents_of_the_load_generator_have_the_keys_that_they_had() {
    let text = annotated(&read("loadtest_json.txt"), async |line| {
        let fixture = Fixture::new().await;
        let given = [("AMQP_URL", &*fixture.amqp_url), ("DATABASE_URL", &fixture.database_url)];
        let (environment, command) = line.strip_prefix("private ").map_or((&given[..], line), |command| (&[], command));
        let arguments: Vec<_> = command.split(' ').chain(["--json=-"]).collect();
        let output = run("loadtest", &arguments, environment).await;
        described(&output, &json(&output))
    })
    .await;
    assert_golden("loadtest_json.txt", &text);
}

#[tokio::test]
async fn exit_codes_are_what_they_were() {
    let fixture = Fixture::new().await;
    let shop = Shop::open(&[("ticket", 1)]).await;
    let text = annotated(&read("exit_codes.txt"), async |line| {
        let command = line.replace("<amqp>", &shop.amqp_url).replace("<database>", &shop.database_url);
        let command = command.replace("<empty>", &fixture.database_url);
        let words: Vec<_> = command.split(' ').collect();
        let program = words.iter().position(|word| !word.contains('=')).unwrap();
        let environment: Vec<_> = words[..program].iter().map(|word| word.split_once('=').unwrap()).collect();
        let output = run(words[program], &words[program + 1..], &environment).await;
        // Why, where a code differs.
        print!("{line}: {}", String::from_utf8_lossy(&output.stderr));
        vec![format!("  {}", output.status.code().unwrap())]
    })
    .await;
    assert_golden("exit_codes.txt", &text);
}

#[tokio::test]
async fn options_and_variables_are_what_they_were() {
    let mut lines = Vec::new();
    let mut commands: Vec<String> = PROGRAMS.map(str::to_owned).into();
    while let Some(command) = commands.pop() {
        let (program, arguments) = command.split_once(' ').unwrap_or((&command, ""));
        let arguments: Vec<&str> = arguments.split_whitespace().chain(["-h"]).collect();
        let help = String::from_utf8(run(program, &arguments, &[]).await.stdout).unwrap();
        let mut option = "";
        for line in help.lines().skip_while(|line| !line.starts_with("Usage:")) {
            let mut words = line.split_whitespace().take(5);
            let Some(first) = words.next() else { continue };
            if line.starts_with("  ") && option == "Commands:" {
                if first != "help" {
                    commands.push(format!("{command} {first}"));
                }
            } else if first.starts_with('-') || !line.starts_with(' ') {
                let long = std::iter::once(first).chain(words).find(|word| word.starts_with("--"));
                option = long.unwrap_or(first).trim_end_matches(',');
                lines.extend(option.starts_with("--").then(|| format!("{command} {option}")));
            }
            for note in ["[env: ", "[default: ", "[possible values: "] {
                let Some((_, text)) = line.split_once(note) else { continue };
                let text = text.split(if note == "[env: " { ['=', ']'] } else { [']', ']'] }).next().unwrap();
                let is_wording = note == "[default: " && text.contains(' ') && text.contains(char::is_alphabetic);
                let is_told = option != "--worker-id" && !is_wording;
                lines.extend(is_told.then(|| format!("{command} {option} {note}{text}]")));
            }
        }
    }
    lines.sort();
    assert_golden("options.txt", &(lines.join("\n") + "\n"));
}
