//! What `loadtest compare` measures, on runs that are as small as can be: every figure is there, and who breaks a promise is
//! found.

use crate::support::sale::{LOADTEST, endpoints, json, none_given, number, result_of, run, script};
use crate::support::shop::purchase_program;
use serde_json::Value;
use shared::devstack::Folder;
use std::path::Path;

/// A comparison that is as small as can be.
fn small(worker_program: &Path, arguments: &str) -> String {
    let program = worker_program.display();
    format!("compare --json=- --repetitions=1 --buyers=60 --worker-program {program} {arguments}")
}

#[tokio::test]
async fn two_strategies_are_run_in_every_form_beside_the_ceiling_and_every_figure_is_there() {
    let arguments = small(
        &purchase_program().await,
        "--strategy=pessimistic --strategy=redis --payment-ms=1 --requests-per-message=7",
    );
    let comparison = result_of(&none_given(), &arguments).await;
    assert!(comparison["servers"]["redis"].is_string(), "{}", comparison["servers"]);

    let rows = comparison["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let expected = [
        "ceiling",
        "pessimistic, batched",
        "redis, batched",
        "pessimistic, 7 a message",
        "redis, 7 a message",
        "pessimistic, one by one",
        "redis, one by one",
        "pessimistic, competing",
        "redis, competing",
        "pessimistic, HTTP",
    ];
    assert_eq!(names, expected);
    for row in rows {
        assert_row(row);
    }
}

#[tokio::test]
async fn the_door_is_measured_beside_the_ceiling() {
    let arguments = small(&purchase_program().await, "--strategy=optimistic --form=web");
    let comparison = result_of(&endpoints().await, &arguments).await;
    let rows = comparison["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ceiling", "optimistic, web"]);
    let row = &rows[1];
    assert_eq!([&row["sold"], &row["refused"], &row["failed"], &row["oversold"]], [30, 30, 0, 0], "{row:#}");
    assert!(number(&row["purchases_per_second"]) > 0.0, "{row:#}");
}

/// Figures that fit each other.
fn assert_row(row: &Value) {
    assert_eq!(number(&row["sold"]) + number(&row["refused"]) + number(&row["failed"]), 60.0, "{row:#}");
    assert_eq!(row["runs"][0], row["purchases_per_second"], "{row:#}");
    assert_eq!(row["oversold"], 0, "{row:#}");
    let form = row["form"].as_str().unwrap();
    assert_eq!((row["strategy"].is_null(), row["ratio"].is_null()), (form == "ceiling", form == "ceiling"), "{row:#}");
    for key in ["stalled", "crowd_lag_ms", "door"] {
        assert_eq!(row[key].is_null(), form != "http", "{key}: {row:#}");
    }
    if form == "ceiling" {
        return assert!(row["attempts_per_sale"].is_null() && row["round_trips_per_purchase"].is_null(), "{row:#}");
    }
    if row["failed"] == 0 {
        assert_eq!(row["sold"], 30, "{row:#}");
    }
    // BEGIN, the lock, at least one statement more, COMMIT; Redis decides, and one statement confirms.
    let (round_trips, attempts) = (number(&row["round_trips_per_purchase"]), number(&row["attempts_per_sale"]));
    let each = if row["strategy"] == "redis" { 1.0 } else { 4.0 };
    match form {
        "batched" => assert!(round_trips > 0.0 && round_trips < each && attempts < 2.0, "{row:#}"),
        "one_by_one" | "competing" => assert!(round_trips >= each && attempts >= 2.0, "{row:#}"),
        _http => assert!(round_trips >= 3.0 && number(&row["connection_ms_per_purchase"]) > 0.0, "{row:#}"),
    }
}

#[tokio::test]
async fn workers_that_sell_what_is_not_there_break_every_row_that_they_decide() {
    let folder = Folder::create().unwrap();
    let liar = folder.path().join("liar");
    script(&liar, &format!("exec {LOADTEST} ceiling-worker \"$@\""));
    let arguments = small(&liar, "--strategy=optimistic --form=batched --form=competing --stock=10");
    let output = run(&endpoints().await, &arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let comparison = json(&output);
    assert_eq!(comparison["passed"], false);
    let broken: Vec<&str> =
        comparison["broken"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    for row in ["optimistic, batched", "optimistic, competing"] {
        let found = format!("{row}, 60 buyers, repetition 1: never_oversold");
        assert!(broken.iter().any(|text| text.starts_with(&found)), "{broken:#?}");
    }
    assert!(!broken.iter().any(|text| text.starts_with("ceiling")), "{broken:#?}");
    // Servers of others count as they were set up to.
    let row = &comparison["rows"][1];
    assert_eq!((&row["oversold"], row["round_trips_per_purchase"].is_null()), (&Value::from(50), true), "{row:#}");
}
