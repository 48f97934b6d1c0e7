//! `loadtest run`, as a program.

use crate::support::sale::{
    assert_fails, assert_interrupted, command, endpoints, keys, none_given, result_of, script, script_with_pid,
    unreachable,
};
use loadtest::servers::Endpoints;
use serde_json::Value;
use shared::devstack::Folder;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn the_json_has_the_documented_keys_and_nothing_else_is_printed() {
    let json = result_of(&endpoints().await, "run --buyers 200 --stock 20 --with-ceiling --json -").await;
    let documented = "scenario servers machine verdicts lost duplicate_replies conflicting_replies oversold \
                      order_inversions seconds purchases_per_second latency_ms latency_curve attempts conflicts \
                      queue_depth_peak events workers ceiling invariants passed";
    for key in documented.split_whitespace() {
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
async fn a_worker_that_does_not_start_says_why() {
    let folder = Folder::create().unwrap();
    let broken = folder.path().join("broken");
    script(&broken, "echo out of paper >&2; exit 78");
    let arguments = format!("run --worker-program {}", broken.display());
    assert_fails(&endpoints().await, &arguments, 78, "out of paper").await;
}

#[tokio::test]
async fn what_cannot_be_run_has_an_exit_code_of_its_own() {
    let half = Endpoints { amqp_url: unreachable().amqp_url, ..none_given() };
    assert_fails(&half, "run", 78, "").await;
    for (arguments, code) in [
        ("run", 69),
        ("run --buyers 0", 2),
        ("run --kill-worker-at 101%", 2),
        ("run --broker-nodes 3", 2),
        ("run --worker-program /nowhere", 78),
    ] {
        assert_fails(&unreachable(), arguments, code, "").await;
    }
}

#[tokio::test]
async fn ctrl_c_stops_everything_and_exits_with_130() {
    let folder = Folder::create().unwrap();
    let worker = folder.path().join("worker");
    script_with_pid(&worker).await;
    let arguments = format!("run --workers 1 --rate 1 --worker-program {}", worker.display());
    let mut command = command(&endpoints().await, &arguments).await;
    let mut running =
        command.env("RUST_LOG", "loadtest=info").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("it says when it is open").contains("the sale is open") {}
    assert_interrupted(running, &worker.with_extension("pid")).await;
}
