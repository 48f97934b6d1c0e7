//! Whole sales, by the load generator itself: what it says of good ones, and of bad ones.

use crate::shop::purchase_program;
use loadtest::{
    result::Outcome,
    run::{self, Running, Sale},
    schedule::Scenario,
    servers::Endpoints,
    workers::WorkerSpec,
};
use serde_json::Value;
use shared::devstack::{Fixture, Folder, Servers, Signal};
use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Nothing here takes this long; buyers who wait longer have lost something.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(120);
/// The load generator's program.
const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

const ONE_TICKET: Scenario = Scenario { buyers: 1_000, items: 1, stock: 1, quantities: 1..=1, rate: 0.0, seed: 42 };

pub(crate) async fn endpoints() -> Endpoints {
    let fixture = Fixture::new().await;
    Endpoints { amqp_url: fixture.amqp_url, database_url: fixture.database_url, redis_url: None }
}

pub(crate) async fn workers(count: u32, batch_max: Option<u32>) -> WorkerSpec {
    WorkerSpec::purchase(purchase_program().await, count, batch_max)
}

/// A sale that is ready, and not open.
pub(crate) async fn start(endpoints: &Endpoints, scenario: &Scenario, workers: WorkerSpec) -> Running<'static> {
    run::start(endpoints, Sale::of(scenario.clone(), workers, TIME_MAX)).await.unwrap()
}

/// A sale that is open.
pub(crate) async fn open(endpoints: &Endpoints, scenario: &Scenario, workers: WorkerSpec) -> Running<'static> {
    let mut sale = start(endpoints, scenario, workers).await;
    sale.open();
    sale
}

pub(crate) async fn verdicts_reach(sale: &Running<'_>, count: usize) {
    sale.answered().wait_for(|answered| *answered >= count).await.unwrap();
}

pub(crate) fn assert_passed(outcome: &Outcome) {
    assert!(outcome.passed, "{}", serde_json::to_string_pretty(outcome).unwrap());
}

#[tokio::test]
async fn a_thousand_buyers_for_one_ticket_one_gets_it_and_everybody_else_is_told() {
    let sale = open(&endpoints().await, &ONE_TICKET, workers(2, None).await).await;
    let outcome = sale.finish().await.unwrap();
    assert_passed(&outcome);
    let verdicts = outcome.verdicts;
    assert_eq!((verdicts.reserved, verdicts.sold_out, verdicts.refused, verdicts.invalid), (1, 999, 0, 0));
    assert_eq!((outcome.lost, outcome.oversold, outcome.order_inversions), (0, 0, 0));
    assert_eq!(outcome.workers.iter().map(|worker| worker.verdicts).sum::<u64>(), 1_000);
    assert!(outcome.workers.iter().all(|worker| worker.rss_mib.is_some()));
    assert!(outcome.attempts >= 1);
}

#[tokio::test]
async fn many_items_and_mixed_quantities_are_sold_in_order() {
    let scenario = Scenario { buyers: 3_000, items: 17, stock: 2_000, quantities: 1..=5, rate: 0.0, seed: 7 };
    let outcome = open(&endpoints().await, &scenario, workers(2, Some(50)).await).await.finish().await.unwrap();
    assert_passed(&outcome);
    assert!(outcome.verdicts.sold_out > 0 && outcome.verdicts.reserved > 0);
}

#[tokio::test]
async fn a_worker_killed_in_mid_sale_costs_nobody_a_verdict_or_a_place() {
    let scenario = Scenario { buyers: 4_000, items: 3, stock: 3_000, quantities: 1..=1, rate: 0.0, seed: 7 };
    let mut sale = open(&endpoints().await, &scenario, workers(2, Some(20)).await).await;
    verdicts_reach(&sale, 200).await;
    sale.workers.kill(0).await.unwrap();
    verdicts_reach(&sale, 2_000).await;
    sale.workers.start_another().await.unwrap();
    sale.workers.signal(1, Signal::Stop).unwrap();
    sale.workers.signal(1, Signal::Continue).unwrap();
    assert_passed(&sale.finish().await.unwrap());
}

#[tokio::test]
async fn a_broker_restart_in_mid_sale_costs_nobody_a_verdict_or_a_place() {
    let mut servers = Servers::start(&[]).await.unwrap();
    servers.postgres.create_database("sale").await.unwrap();
    let (amqp_url, database_url) = (servers.rabbitmq.url("/"), servers.postgres.url("sale"));
    let endpoints = Endpoints { amqp_url, database_url, redis_url: None };
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

pub(crate) async fn run(endpoints: &Endpoints, arguments: &[&str]) -> Output {
    command(endpoints, arguments).output().await.unwrap()
}

pub(crate) fn command(endpoints: &Endpoints, arguments: &[&str]) -> Command {
    let mut command = Command::new(LOADTEST);
    command.args(arguments).env("AMQP_URL", &endpoints.amqp_url).env("DATABASE_URL", &endpoints.database_url);
    command.env("REDIS_URL", endpoints.redis_url.as_deref().unwrap_or_default());
    // So that it takes the workers that this test has built.
    command.env_remove("CARGO").stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn the_json_has_the_documented_keys_and_nothing_else_is_printed() {
    purchase_program().await;
    let arguments = ["run", "--buyers", "200", "--stock", "20", "--with-ceiling", "--json", "-"];
    let output = run(&endpoints().await, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json = json(&output);
    for key in [
        "scenario",
        "servers",
        "machine",
        "verdicts",
        "lost",
        "duplicate_replies",
        "conflicting_replies",
        "oversold",
        "order_inversions",
        "seconds",
        "purchases_per_second",
        "latency_ms",
        "latency_curve",
        "attempts",
        "conflicts",
        "queue_depth_peak",
        "events",
        "workers",
        "ceiling",
        "invariants",
        "passed",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
    let scenario = ["batch_max", "buyers", "items", "rate", "seed", "stock", "strategy", "workers"];
    assert_eq!(keys(&json["scenario"]), scenario);
    assert_eq!(keys(&json["servers"]), ["postgresql", "rabbitmq", "redis"]);
    assert_eq!(keys(&json["verdicts"]), ["invalid", "refused", "reserved", "sold_out"]);
    assert_eq!(keys(&json["latency_ms"]), ["max", "min", "p50", "p90", "p95", "p99", "p999"]);
    assert_eq!(keys(&json["workers"][0]), ["id", "rss_mib", "verdicts"]);
    assert_eq!(keys(&json["ceiling"]), ["purchases_per_second", "ratio", "seconds"]);
    assert_eq!(keys(&json["invariants"][0]), ["detail", "holds", "name"]);
    assert_eq!((&json["verdicts"]["reserved"], &json["passed"]), (&Value::from(20), &Value::from(true)));
    assert!(json["ceiling"]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0));
}

#[tokio::test]
async fn what_is_done_to_the_workers_in_mid_sale_costs_nobody_a_verdict_or_a_place_and_is_reported() {
    purchase_program().await;
    let sale = "run --buyers 12000 --items 40 --stock 6000 --quantity 1-2 --rate 3000 --workers 3 --batch-max 50";
    let events = "--freeze-worker-at 60% --kill-worker-at 20% --add-worker-at 40% --stop-worker-at 40% \
                  --freeze-seconds 1 --add-worker-at 100% --json -";
    let arguments: Vec<&str> = sale.split_whitespace().chain(events.split_whitespace()).collect();
    let output = run(&endpoints().await, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json = json(&output);
    assert_eq!((&json["order_inversions"], &json["lost"]), (&Value::from(0), &Value::from(0)));
    let done: Vec<[&str; 3]> = json["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| ["at", "event", "worker"].map(|key| event[key].as_str().unwrap()))
        .collect();
    let expected = [
        ["20%", "kill", "worker-1"],
        ["40%", "add", "worker-4"],
        ["40%", "stop", "worker-2"],
        ["60%", "freeze", "worker-3"],
        ["100%", "add", "worker-5"],
    ];
    assert_eq!(done, expected);
}

#[tokio::test]
async fn two_runs_on_one_database_do_not_disturb_each_other() {
    purchase_program().await;
    let endpoints = endpoints().await;
    let arguments = ["run", "--buyers", "300", "--stock", "30", "--json", "-"];
    let (one, other) = tokio::join!(run(&endpoints, &arguments), run(&endpoints, &arguments));
    for output in [one, other] {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(json(&output)["verdicts"]["reserved"], 30);
    }
}

#[tokio::test]
async fn workers_that_sell_what_is_not_there_are_found_out_and_named() {
    let folder = Folder::create().unwrap();
    let liar = folder.path().join("liar");
    script(&liar, &format!("exec {LOADTEST} ceiling-worker \"$@\""));
    let liar = liar.to_str().unwrap();
    let arguments = ["run", "--buyers", "50", "--worker-program", liar, "--json", "-"];
    let output = run(&endpoints().await, &arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let json = json(&output);
    assert_eq!((&json["oversold"], &json["lost"]), (&Value::from(49), &Value::from(50)));
    let broken: Vec<&str> = json["invariants"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|invariant| invariant["holds"] == false)
        .map(|invariant| invariant["name"].as_str().unwrap())
        .collect();
    assert_eq!(broken, ["never_oversold", "every_request_recorded"]);
}

#[tokio::test]
async fn a_worker_that_does_not_start_says_why() {
    let folder = Folder::create().unwrap();
    let broken = folder.path().join("broken");
    script(&broken, "echo out of paper >&2; exit 78");
    let arguments = ["run", "--worker-program", broken.to_str().unwrap()];
    let output = run(&endpoints().await, &arguments).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("out of paper"), "{output:?}");
}

#[tokio::test]
async fn what_cannot_be_run_has_an_exit_code_of_its_own() {
    let nowhere = "amqp://guest:guest@127.0.0.1:1/%2f".to_owned();
    let half = Endpoints { amqp_url: nowhere.clone(), database_url: String::new(), redis_url: None };
    assert_eq!(run(&half, &["run"]).await.status.code(), Some(78));
    let database_url = "postgres://nobody@127.0.0.1:1/nothing".to_owned();
    let away = Endpoints { amqp_url: nowhere, database_url, redis_url: None };
    assert_eq!(run(&away, &["run"]).await.status.code(), Some(69));
    assert_eq!(run(&away, &["run", "--buyers", "0"]).await.status.code(), Some(2));
    assert_eq!(run(&away, &["run", "--kill-worker-at", "101%"]).await.status.code(), Some(2));
    assert_eq!(run(&away, &["run", "--broker-nodes", "3"]).await.status.code(), Some(2));
    assert_eq!(run(&away, &["run", "--worker-program", "/nowhere"]).await.status.code(), Some(78));
}

#[tokio::test]
async fn ctrl_c_stops_everything_and_exits_with_130() {
    purchase_program().await;
    let folder = Folder::create().unwrap();
    let told = folder.path().join("worker");
    let worker = purchase_program().await;
    script(&told, &format!("echo $$ > {}.pid; exec {} \"$@\"", told.display(), worker.display()));
    let arguments = ["run", "--workers", "1", "--rate", "1", "--worker-program", told.to_str().unwrap()];
    let mut running = command(&endpoints().await, &arguments)
        .env("RUST_LOG", "loadtest=info")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("it says when it is open").contains("the sale is open") {}
    let pid = |text: &str| nix::unistd::Pid::from_raw(text.trim().parse().unwrap());
    let ourselves = pid(&running.id().unwrap().to_string());
    nix::sys::signal::kill(ourselves, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(running.wait().await.unwrap().code(), Some(130));
    let worker = pid(&std::fs::read_to_string(told.with_extension("pid")).unwrap());
    crate::shop::until("the worker is gone", async || nix::sys::signal::kill(worker, None).is_err()).await;
}

pub(crate) fn script(path: &Path, body: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
