//! The HTTP doors: real servers, real crowds, and every way in which a buyer can leave.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use loadtest::doors::{Door, DoorOutcome, DoorScenario, DoorStrategy, FailureKind, run};
use shared::devstack::Fixture;
use shared::retry::RetryPolicy;
use sqlx::{Connection, PgConnection};

use crate::shop::until;

/// The load generator's program.
const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");
/// Statements of the door's that wait for a row's lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'loadtest door' AND wait_event_type = 'Lock' AND datname = current_database()";

#[tokio::test]
async fn every_door_sells_the_stock_and_no_more_and_counts_every_buyer_once() {
    let fixture = Fixture::new().await;
    for strategy in DoorStrategy::ALL {
        // Who has lost five races has seen five sales: with five units nobody is turned away while one is left.
        let scenario = DoorScenario::new(strategy, 200, 5, 42);
        let outcome = run(Path::new(LOADTEST), &fixture.database_url, &scenario).await.unwrap();
        assert_eq!((outcome.sold, outcome.orders), (5, 5), "{outcome:#?}");
        assert_eq!((outcome.oversold, outcome.zombie_units, outcome.untold), (0, 0, 0), "{outcome:#?}");
        assert_eq!(outcome.sold + outcome.sold_out + outcome.failed(), 200, "{outcome:#?}");
        assert_consistent(strategy, &outcome);
    }
}

#[tokio::test]
async fn whoever_loses_every_race_is_told_of_a_conflict() {
    let fixture = Fixture::new().await;
    let retry = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    let scenario = DoorScenario { retry, ..DoorScenario::new(DoorStrategy::Optimistic, 10, 100, 42) };
    let outcome = overtaken(&fixture, &scenario).await;
    assert_eq!(outcome.failures, BTreeMap::from([(FailureKind::Conflict, 10)]), "{outcome:#?}");
    assert_eq!((outcome.attempts, outcome.conflicts, outcome.rollbacks), (10, 10, 10), "{outcome:#?}");
    assert_eq!((outcome.orders, outcome.zombie_units), (0, 0), "what was rolled back leaves nothing");
}

#[tokio::test]
async fn whoever_loses_a_race_and_tries_again_is_served() {
    let fixture = Fixture::new().await;
    let scenario = DoorScenario::new(DoorStrategy::Optimistic, 1, 1, 42);
    let outcome = overtaken(&fixture, &scenario).await;
    assert_eq!((outcome.sold, outcome.attempts, outcome.conflicts, outcome.rollbacks), (1, 2, 1, 1), "{outcome:#?}");
}

#[tokio::test]
async fn where_a_lock_is_kept_the_pool_runs_dry_and_everybody_is_told_to_come_later() {
    let fixture = Fixture::new().await;
    let time_out = Duration::from_secs(60);
    let scenario = DoorScenario { time_out, ..DoorScenario::new(DoorStrategy::Pessimistic, 60, 60, 42) };
    let (door, mut database) = open(&fixture, &scenario).await;
    let mut keeping = database.begin().await.unwrap();
    let lock = "SELECT 1 FROM doors.items WHERE id = $1 FOR UPDATE";
    sqlx::query(lock).bind(door.item()).execute(&mut *keeping).await.unwrap();
    let outcome = door.crowd().await.unwrap();
    assert_eq!(outcome.failures, BTreeMap::from([(FailureKind::Unavailable, 60)]), "{outcome:#?}");
    assert_eq!(outcome.pool_timeouts + outcome.lock_timeouts, 60, "{outcome:#?}");
    assert!(outcome.lock_timeouts >= 50, "each of the pool's connections waited: {outcome:#?}");
    assert!(outcome.pool_wait_ms > 0.0 && outcome.connection_ms > 0.0, "{outcome:#?}");
    keeping.rollback().await.unwrap();
}

#[tokio::test]
async fn whoever_leaves_before_the_answer_may_have_bought_all_the_same() {
    let fixture = Fixture::new().await;
    let (payment, time_out) = (Duration::from_secs(2), Duration::from_secs(1));
    let scenario = DoorScenario { payment, time_out, ..DoorScenario::new(DoorStrategy::Atomic, 3, 3, 42) };
    let outcome = run(Path::new(LOADTEST), &fixture.database_url, &scenario).await.unwrap();
    assert_eq!(outcome.failures, BTreeMap::from([(FailureKind::TimedOut, 3)]), "{outcome:#?}");
    assert_eq!((outcome.orders, outcome.untold, outcome.zombie_units), (3, 3, 0), "{outcome:#?}");
    assert_eq!((outcome.answers_per_second, outcome.stalled), (0.0, 0), "{outcome:#?}");
}

#[tokio::test]
async fn a_door_that_cannot_open_says_why() {
    let scenario = DoorScenario::new(DoorStrategy::Atomic, 1, 1, 42);
    let failure = run(Path::new(LOADTEST), "postgres://nobody@127.0.0.1:1/none", &scenario).await.unwrap_err();
    assert!(failure.to_string().contains("DATABASE_URL"), "{failure}");
}

/// What each door's figures must come to, where everybody was answered.
fn assert_consistent(strategy: DoorStrategy, outcome: &DoorOutcome) {
    let answers = outcome.sold + outcome.sold_out + outcome.failed();
    assert_eq!(outcome.sold_without_order, 0, "{outcome:#?}");
    assert_eq!(outcome.attempts, answers + outcome.conflicts - conflicts_told(outcome), "{outcome:#?}");
    match strategy {
        DoorStrategy::Optimistic | DoorStrategy::Pessimistic => {
            assert_eq!(outcome.attempts, outcome.sold + outcome.rollbacks, "each ends in one way: {outcome:#?}");
        }
        DoorStrategy::Atomic => {
            assert_eq!(outcome.rollbacks, 0);
            assert_eq!(outcome.round_trips, outcome.attempts + outcome.sold, "{outcome:#?}");
        }
    }
    assert!(outcome.latency_ms.max > 0.0 && outcome.answers_per_second > 0.0, "{outcome:#?}");
}

fn conflicts_told(outcome: &DoorOutcome) -> u64 {
    outcome.failures.get(&FailureKind::Conflict).copied().unwrap_or(0)
}

async fn open(fixture: &Fixture, scenario: &DoorScenario) -> (Door, PgConnection) {
    let door = Door::open(Path::new(LOADTEST), &fixture.database_url, scenario).await.unwrap();
    (door, PgConnection::connect(&fixture.database_url).await.unwrap())
}

/// Has somebody else move the version between the moment when everybody has read it and the one when they write.
async fn overtaken(fixture: &Fixture, scenario: &DoorScenario) -> DoorOutcome {
    let (door, mut database) = open(fixture, scenario).await;
    let mut race = database.begin().await.unwrap();
    let win = "UPDATE doors.items SET version = version + 1 WHERE id = $1";
    sqlx::query(win).bind(door.item()).execute(&mut *race).await.unwrap();
    let crowd = tokio::spawn(door.crowd());
    waiting(fixture, scenario.buyers.into()).await;
    race.commit().await.unwrap();
    crowd.await.unwrap().unwrap()
}

/// Waits until so many statements of the door's wait for a lock.
async fn waiting(fixture: &Fixture, number: i64) {
    let pool = sqlx::PgPool::connect(&fixture.database_url).await.unwrap();
    until("the door waits for the lock", async || {
        sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&pool).await.unwrap() == number
    })
    .await;
    pool.close().await;
}
