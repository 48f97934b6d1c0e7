//! The HTTP baselines: real servers, real clients, and every way in which a buyer can leave.

use crate::support::sale::LOADTEST;
use crate::support::shop::until;
use clap::ValueEnum;
use loadtest::bench::baseline::{Baseline, BaselineResult, BaselineStrategy, Opened, run};
use loadtest::bench::compare::Row;
use shared::devstack::Fixture;
use shared::retry::RetryPolicy;
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Statements of the server's that wait for a row's lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'loadtest baseline server' AND wait_event_type = 'Lock' AND datname = current_database()";

#[tokio::test]
async fn every_server_sells_the_stock_and_no_more_and_counts_every_buyer_once() {
    let fixture = Fixture::new().await;
    for strategy in BaselineStrategy::value_variants().iter().copied() {
        // Who has lost five races has seen five sales: with five units nobody is turned away while one is left.
        let baseline = Baseline::new(strategy, 200, 5);
        let result = run(Path::new(LOADTEST), &fixture.database_url, &baseline).await.unwrap();
        // Five were told so, each of them has an order, and nobody else has one.
        let row = &result.row;
        assert_eq!((row.sold, result.sold_without_order, untold_and_zombies(row)), (5, 0, (0, 0)), "{result:#?}");
        assert_eq!((row.oversold, row.sold + row.refused + row.failed), (0, 200), "{result:#?}");
        let given_up = row.failures.get("conflict").copied().unwrap_or(0);
        assert_eq!(result.attempts, 200 + result.conflicts - given_up, "{result:#?}");
        // Each attempt ends in one way; the third server has no transactions.
        let rollbacks = if strategy == BaselineStrategy::Atomic { 0 } else { result.attempts - row.sold };
        assert_eq!(result.rollbacks, rollbacks, "{result:#?}");
        assert!(row.latency_ms.max > 0.0 && row.purchases_per_second > 0.0, "{result:#?}");
    }
}

#[tokio::test]
async fn whoever_loses_every_race_is_answered_a_conflict() {
    let fixture = Fixture::new().await;
    let retry = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    let baseline = Baseline { retry, ..Baseline::new(BaselineStrategy::Optimistic, 10, 100) };
    let result = overtaken(&fixture, &baseline).await;
    assert_eq!(result.row.failures, failures("conflict", 10), "{result:#?}");
    assert_eq!((result.attempts, result.conflicts, result.rollbacks), (10, 10, 10), "{result:#?}");
    assert_eq!(untold_and_zombies(&result.row), (0, 0), "what was rolled back leaves nothing");
}

#[tokio::test]
async fn whoever_loses_a_race_and_tries_again_is_served() {
    let fixture = Fixture::new().await;
    let baseline = Baseline::new(BaselineStrategy::Optimistic, 1, 1);
    let result = overtaken(&fixture, &baseline).await;
    assert_eq!((result.row.sold, result.attempts, result.conflicts, result.rollbacks), (1, 2, 1, 1), "{result:#?}");
}

#[tokio::test]
async fn where_a_lock_is_kept_the_pool_runs_dry_and_everybody_is_answered_to_come_later() {
    let fixture = Fixture::new().await;
    let timeout = Duration::from_secs(60);
    let baseline = Baseline { timeout, ..Baseline::new(BaselineStrategy::Pessimistic, 60, 60) };
    let opened = Opened::new(&fixture.database_url, &baseline).await.unwrap();
    let mut keeping = PgPool::connect(&fixture.database_url).await.unwrap().begin().await.unwrap();
    let lock = "SELECT 1 FROM baseline.items WHERE id = $1 FOR UPDATE";
    sqlx::query(lock).bind(opened.item()).execute(&mut *keeping).await.unwrap();
    let row = opened.run(Path::new(LOADTEST)).await.unwrap().row;
    assert_eq!(row.failures, failures("unavailable", 60), "{row:#?}");
    let server = row.at_server.unwrap();
    assert_eq!(server.pool_timeouts + server.lock_timeouts, 60, "{row:#?}");
    assert!(server.lock_timeouts >= 50, "each of the pool's connections waited: {row:#?}");
    assert!(server.pool_wait_ms_per_purchase > 0.0, "{row:#?}");
    keeping.rollback().await.unwrap();
}

#[tokio::test]
async fn whoever_leaves_before_the_answer_may_have_bought_all_the_same() {
    let fixture = Fixture::new().await;
    let (payment, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
    let baseline = Baseline { payment, timeout, ..Baseline::new(BaselineStrategy::Atomic, 3, 3) };
    let row = run(Path::new(LOADTEST), &fixture.database_url, &baseline).await.unwrap().row;
    assert_eq!(row.failures, failures("timed_out", 3), "{row:#?}");
    assert_eq!((row.sold, untold_and_zombies(&row)), (0, (3, 0)), "{row:#?}");
    assert_eq!((row.purchases_per_second, row.stalled), (0.0, Some(0)), "{row:#?}");
}

#[tokio::test]
async fn a_server_that_cannot_open_says_why() {
    let baseline = Baseline::new(BaselineStrategy::Atomic, 1, 1);
    let failure = run(Path::new(LOADTEST), "postgres://nobody@127.0.0.1:1/none", &baseline).await.unwrap_err();
    assert!(failure.to_string().contains("DATABASE_URL"), "{failure}");
}

fn failures(kind: &str, number: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(kind.to_owned(), number)])
}

fn untold_and_zombies(row: &Row) -> (u64, u64) {
    let server = row.at_server.unwrap();
    (server.untold, server.zombie_units)
}

/// Has somebody else move the version between the moment when everybody has read it and the one when they write.
async fn overtaken(fixture: &Fixture, baseline: &Baseline) -> BaselineResult {
    let opened = Opened::new(&fixture.database_url, baseline).await.unwrap();
    let database = PgPool::connect(&fixture.database_url).await.unwrap();
    let mut race = database.begin().await.unwrap();
    let win = "UPDATE baseline.items SET version = version + 1 WHERE id = $1";
    sqlx::query(win).bind(opened.item()).execute(&mut *race).await.unwrap();
    let running = tokio::spawn(opened.run(Path::new(LOADTEST)));
    until("everybody waits for the lock", async || {
        sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&database).await.unwrap() == i64::from(baseline.buyers)
    })
    .await;
    race.commit().await.unwrap();
    running.await.unwrap().unwrap()
}
