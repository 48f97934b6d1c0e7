//! Whole sales by the load generator, in this process or as a program.

use super::shop::purchase_program;
use loadtest::result::Outcome;
use loadtest::run::{self, Running, Sale};
use loadtest::schedule::Scenario;
use loadtest::servers::Endpoints;
use loadtest::workers::WorkerSpec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use shared::devstack::{Fixture, RabbitMq, Servers, fixture};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// Nothing here takes this long; buyers who wait longer have lost something.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(120);
/// The load generator's program.
pub(crate) const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

/// Servers that the tests share.
pub(crate) async fn endpoints() -> Endpoints {
    let fixture = Fixture::new().await;
    at(fixture.amqp_url, fixture.database_url)
}

pub(crate) fn at(amqp_url: impl Into<String>, database_url: impl Into<String>) -> Endpoints {
    Endpoints { amqp_url: amqp_url.into(), database_url: database_url.into(), redis_url: None, is_private: true }
}

/// No servers are given: the load generator starts its own.
pub(crate) fn none_given() -> Endpoints {
    at("", "")
}

/// Servers that do not answer.
pub(crate) fn unreachable() -> Endpoints {
    at("amqp://guest:guest@127.0.0.1:1/%2f", "postgres://nobody@127.0.0.1:1/nothing")
}

/// Servers of this test alone, a broker of so many nodes among them.
pub(crate) async fn private_servers(nodes: usize) -> (Servers, Endpoints) {
    private(Servers::start_cluster(&[], nodes, false).await.unwrap()).await
}

/// The same, reached by TLS alone.
pub(crate) async fn tls_servers() -> (Servers, Endpoints) {
    private(Servers::start_cluster(&[], 1, true).await.unwrap()).await
}

async fn private(servers: Servers) -> (Servers, Endpoints) {
    servers.postgres.create_database("sale").await.unwrap();
    let endpoints = at(servers.rabbitmq.url("/"), servers.postgres.url("sale"));
    (servers, endpoints)
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

/// The messages were half full at least; whoever had no verdict when the broker was lost was in another one.
pub(crate) fn assert_in_arrays(outcome: &Outcome) {
    let (sale, messages) = (&outcome.scenario.sale, outcome.messages);
    let sent_max = u64::from(sale.buyers) * u64::from(outcome.reconnects + 1);
    let most = u64::from(sale.requests_per_message);
    assert!(sent_max * 2 >= messages * most, "{sent_max} requests in {messages} messages of up to {most}");
}

/// Runs the program with these arguments, which contain no blanks.
pub(crate) async fn run(endpoints: &Endpoints, arguments: &str) -> Output {
    command(endpoints, arguments).await.output().await.unwrap()
}

pub(crate) async fn command(endpoints: &Endpoints, arguments: &str) -> Command {
    // It takes the workers that this test has built.
    purchase_program().await;
    let mut command = Command::new(LOADTEST);
    command.args(arguments.split_whitespace()).env_remove("CARGO").stdin(Stdio::null()).kill_on_drop(true);
    command.env("AMQP_URL", &endpoints.amqp_url).env("DATABASE_URL", &endpoints.database_url);
    command.env("REDIS_URL", endpoints.redis_url.as_deref().unwrap_or_default());
    command
}

/// What it printed, where it ended well.
pub(crate) async fn result_of(endpoints: &Endpoints, arguments: &str) -> Value {
    let output = run(endpoints, arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    json(&output)
}

pub(crate) async fn assert_fails(endpoints: &Endpoints, arguments: &str, code: i32, reason: &str) {
    let output = run(endpoints, arguments).await;
    assert_eq!(output.status.code(), Some(code), "{arguments}: {output:?}");
    assert!(said(&output).contains(reason), "{arguments}: {output:?}");
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

pub(crate) fn script(path: &Path, body: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A worker program that leaves its process id in the file beside it.
pub(crate) async fn script_with_pid(path: &Path) {
    let worker = purchase_program().await;
    script(path, &format!("echo $$ > {}.pid; exec {} \"$@\"", path.display(), worker.display()));
}

/// Interrupts the program; it exits with 130, and the worker whose process id is in the file is gone.
pub(crate) async fn assert_interrupted(mut running: tokio::process::Child, pid_file: &Path) {
    signal(running.id().unwrap(), Signal::SIGINT);
    assert_eq!(running.wait().await.unwrap().code(), Some(130));
    let worker = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    super::shop::until("the worker is gone", async || !is_running(worker)).await;
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

pub(crate) fn is_running(pid: u32) -> bool {
    kill(Pid::from_raw(pid.try_into().unwrap()), None).is_ok()
}

/// What `rabbitmqctl --silent` says.
pub(crate) async fn rabbitmqctl(rabbitmq: &RabbitMq, arguments: &[&str]) -> String {
    let output = rabbitmq.rabbitmqctl().arg("--silent").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A user of the shared broker who may do everything in this virtual host, and is called as it and this name.
pub(crate) async fn add_user(vhost: &str, name: &str) -> String {
    let (user, rabbitmq) = (format!("{vhost}-{name}"), fixture::rabbitmq().await);
    rabbitmqctl(rabbitmq, &["add_user", &user, &user]).await;
    rabbitmqctl(rabbitmq, &["set_permissions", "-p", vhost, &user, ".*", ".*", ".*"]).await;
    user
}
