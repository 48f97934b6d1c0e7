//! Servers end with their owner, however that ends.
//!
//! The owner is this test binary once more, running the one ignored test below.

use super::await_all_gone;
use shared::devstack::Servers;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// What the owner does once its servers run.
const END: &str = "TURNSTILE_TEST_OWNER";
/// The line that tells of its servers: folder and process ids follow.
const SERVERS: &str = "servers ";

#[tokio::test]
async fn an_owner_that_is_killed_or_panics_leaves_no_server_and_no_folder() {
    // A panic ends with a failed test's code.
    for (end, code) in [("wait", None), ("panic", Some(101))] {
        let (mut owner, folder, pids) = start_owner(end).await;
        if code.is_none() {
            owner.start_kill().unwrap();
        }
        await_all_gone(&folder, &pids).await;
        assert_eq!(owner.wait().await.unwrap().code(), code);
    }
}

#[tokio::test]
#[ignore = "runs only as the process that the tests above end"]
async fn an_owner() {
    let end = std::env::var(END).unwrap();
    let servers = Servers::start(&[]).await.unwrap();
    // The harness has written the test's name without an end of line.
    println!("\n{SERVERS}{} {} {}", servers.rabbitmq.pid(), servers.postgres.pid(), servers.folder().display());
    match end.as_str() {
        "wait" => std::future::pending().await,
        _panic => panic!("on purpose"),
    }
}

/// The process, and the folder and process ids of its servers.
async fn start_owner(end: &str) -> (Child, PathBuf, Vec<u32>) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "devstack::owner::an_owner", "--ignored", "--nocapture"])
        .env(END, end)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(rest) = line.strip_prefix(SERVERS) {
            let words: Vec<&str> = rest.splitn(3, ' ').collect();
            let pids = words[..2].iter().map(|pid| pid.parse().unwrap()).collect();
            return (owner, PathBuf::from(words[2]), pids);
        }
    }
    panic!("the owner ended before its servers ran")
}
