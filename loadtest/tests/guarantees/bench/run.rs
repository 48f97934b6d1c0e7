//! `loadtest run`, as a program.

use crate::support::sale::{
    assert_fails, assert_interrupted, command, endpoints, number, result_of, script, script_with_pid,
};
use serde_json::Value;
use shared::devstack::Folder;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn a_sale_is_set_beside_the_ceiling() {
    for (of, messages) in [("", 200), ("--requests-per-message 10", 20)] {
        let sale = format!("run --buyers 200 --stock 20 --with-ceiling --json - {of}");
        let json = result_of(&endpoints().await, &sale).await;
        assert_eq!((&json["verdicts"]["reserved"], &json["passed"]), (&Value::from(20), &Value::from(true)));
        assert!(number(&json["ceiling"]["ratio"]) > 0.0);
        assert_eq!(json["messages"], messages);

        let json = result_of(&endpoints().await, &format!("ceiling --buyers 200 --json - {of}")).await;
        assert_eq!((&json["verdicts"]["reserved"], &json["messages"]), (&Value::from(200), &Value::from(messages)));
        assert_eq!((&json["scenario"]["strategy"], &json["passed"]), (&Value::from("none"), &Value::from(true)));
    }
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
async fn ctrl_c_in_mid_sale_stops_everything_and_exits_with_130() {
    for arguments in ["run --workers 1 --rate 1", "compare --strategy=optimistic --form=one-by-one --buyers=20000"] {
        let folder = Folder::create().unwrap();
        let worker = folder.path().join("worker");
        script_with_pid(&worker).await;
        let arguments = format!("{arguments} --worker-program {}", worker.display());
        let mut command = command(&endpoints().await, &arguments).await;
        command.env("RUST_LOG", "loadtest=info").stderr(Stdio::piped()).stdout(Stdio::null());
        let mut running = command.spawn().unwrap();
        let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
        let pid_file = worker.with_extension("pid");
        // The first sale of a comparison is the ceiling's, which this worker has no part in.
        while !lines.next_line().await.unwrap().expect("it says when it is open").contains("the sale is open")
            || !pid_file.exists()
        {}
        assert_interrupted(running, &pid_file).await;
    }
}
