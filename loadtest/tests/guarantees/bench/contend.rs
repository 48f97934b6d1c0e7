//! `loadtest contend`, as a program: on a private server, in a database that is given, and where it cannot run.

use crate::support::sale::{assert_fails, json, none_given, result_of, run};
use crate::support::shop::{Shop, until};
use loadtest::servers::Endpoints;
use serde_json::Value;
use shared::devstack::seed::lock;

/// Updates that wait longer for a lock than a worker would.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'loadtest contend'
    AND datname = current_database() AND wait_event_type = 'Lock' AND now() - query_start > interval '500 ms'";

#[tokio::test]
async fn on_a_private_server_every_success_is_an_increment_and_every_figure_is_there() {
    let contention = result_of(&none_given(), "contend --item=hot --updates=50 --concurrency=8 --json=-").await;
    assert_eq!((&contention["item"]["id"], contention["passed"].as_bool()), (&Value::from("hot"), Some(true)));
    assert_eq!((contention["updates"].as_u64(), contention["concurrency"].as_u64()), (Some(50), Some(8)));
    assert_eq!(contention["retry"]["attempts_max"].as_u64(), Some(8), "a worker's own");
    for race in ["with_jitter", "without_jitter"] {
        let race = &contention[race];
        let figure = |key: &str| race[key].as_u64().unwrap_or_else(|| panic!("{key}: {race:#}"));
        assert_eq!(figure("successes") + figure("given_up"), 50, "{race:#}");
        assert_eq!(figure("successes"), figure("version_increments"), "{race:#}");
        assert_eq!(figure("attempts"), figure("successes") + figure("conflicts"), "{race:#}");
        let histogram = race["attempts_histogram"].as_object().unwrap();
        let by = |value: &Value, times: u64| value.as_u64().unwrap() * times;
        assert_eq!(histogram.values().map(|updates| by(updates, 1)).sum::<u64>(), 50, "{race:#}");
        let attempts = histogram.iter().map(|(attempts, updates)| by(updates, attempts.parse().unwrap()));
        assert_eq!(attempts.sum::<u64>(), figure("attempts"), "{race:#}");
        assert!(race["seconds"].as_f64() > Some(0.0) && race["updates_per_second"].is_f64(), "{race:#}");
    }
}

#[tokio::test]
async fn in_a_database_that_is_given_only_the_version_moves() {
    let shop = Shop::open(&[("ticket", 5)]).await;
    let given = Endpoints { database_url: shop.database_url.clone(), ..none_given() };
    assert_fails(&given, "contend --item=nothing", 78, "there is no item nothing").await;
    let row = "SELECT stock * 1000 + available * 100 + held * 10 + sold FROM items";
    let before = shop.count(row).await;
    let output = run(&given, "contend --item=ticket --updates=20 --concurrency=4").await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text.contains("ticket · stock 5 · available 5 · held 0 · sold 0 · version 0"), "{text}");
    assert!(text.contains("ATTEMPTS OF AN UPDATE"), "{text}");
    assert_eq!(shop.count(row).await, before);
    // Two races, and the one before them that warms up; with 8 attempts each, some may have been given up.
    assert!((1..=60).contains(&shop.count("SELECT version FROM items").await));
}

#[tokio::test]
async fn who_has_the_row_for_a_moment_is_waited_for() {
    let shop = Shop::open(&[("ticket", 5)]).await;
    let patient = format!("{}&options=-c%20statement_timeout%3D60s", shop.database_url);
    let given = Endpoints { database_url: patient, ..none_given() };
    let somebody = lock(&shop.pool, "items", "ticket").await;
    let let_go = async {
        until("both updates wait", async || shop.count(WAITING).await == 2).await;
        somebody.rollback().await.unwrap();
    };
    let (output, ()) = tokio::join!(run(&given, "contend --item=ticket --updates=4 --concurrency=2 --json=-"), let_go);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(json(&output)["passed"].as_bool(), Some(true));
}
