//! Units are sold once: one ticket, two sales in one database; and who sells more is found out.

use crate::support::sale::{LOADTEST, assert_passed, endpoints, json, number, open, result_of, run, script, workers};
use loadtest::schedule::Scenario;
use serde_json::Value;
use shared::devstack::Folder;

#[tokio::test]
async fn a_thousand_buyers_for_one_ticket_one_gets_it_and_everybody_else_is_told() {
    let sale = open(&endpoints().await, &Scenario::default(), workers(2, None).await).await;
    let outcome = sale.finish().await.unwrap();
    assert_passed(&outcome);
    let verdicts = outcome.audit.verdicts;
    assert_eq!((verdicts.reserved, verdicts.sold_out, verdicts.refused, verdicts.invalid), (1, 999, 0, 0));
    assert_eq!((outcome.audit.lost, outcome.audit.oversold, outcome.audit.order_inversions), (0, 0, 0));
    assert_eq!(outcome.workers.iter().map(|worker| worker.verdicts).sum::<u64>(), 1_000);
    assert!(outcome.workers.iter().all(|worker| worker.rss_mib.is_some()));
    assert!(outcome.attempts >= 1);
}

#[tokio::test]
async fn two_runs_on_one_database_do_not_disturb_each_other() {
    let endpoints = endpoints().await;
    let sale = "run --buyers 300 --stock 30 --json -";
    let (one, other) = tokio::join!(result_of(&endpoints, sale), result_of(&endpoints, sale));
    for json in [one, other] {
        assert_eq!(json["verdicts"]["reserved"], 30);
    }
}

#[tokio::test]
async fn the_limit_of_a_sale_counts_from_when_its_last_request_is_due_and_nobody_waits_for_a_message_to_be_full() {
    // Ten seconds of requests.
    let sale = "run --buyers 300 --stock 300 --rate 30 --timeout 8 --requests-per-message 1000 --json -";
    let json = result_of(&endpoints().await, sale).await;
    assert_eq!(json["verdicts"]["reserved"], 300);
    assert!(number(&json["latency_ms"]["p99"]) < 5_000.0, "{}", json["latency_ms"]);
}

#[tokio::test]
async fn workers_that_sell_what_is_not_there_are_found_out_and_named() {
    let folder = Folder::create().unwrap();
    let liar = folder.path().join("liar");
    script(&liar, &format!("exec {LOADTEST} ceiling-worker \"$@\""));
    let arguments = format!("run --buyers 50 --worker-program {} --json -", liar.display());
    let output = run(&endpoints().await, &arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let json = json(&output);
    assert_eq!((&json["oversold"], &json["lost"]), (&Value::from(49), &Value::from(50)));
    let broken = json["invariants"].as_array().unwrap().iter().filter(|invariant| invariant["holds"] == false);
    let broken: Vec<&str> = broken.map(|invariant| invariant["name"].as_str().unwrap()).collect();
    assert_eq!(broken, ["never_oversold", "every_request_recorded"]);
}
