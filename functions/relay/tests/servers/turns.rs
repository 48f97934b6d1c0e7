//! One at a time has the turn, takes as much as a round holds, and loses it when it stands still.

use crate::{Servers, TURN_SECONDS_MAX};
use relay::round::{EVENTS_MAX, ROWS_MAX, Round};
use sqlx::Connection;

const LEFT: &str = "SELECT count(*) FROM outbox";

#[tokio::test]
async fn while_another_has_the_turn_nothing_is_told() {
    let servers = Servers::open().await;
    servers.say(3).await;
    let mut instance = servers.instance(TURN_SECONDS_MAX).await;
    let mut other = servers.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM outbox_turn FOR UPDATE").execute(&mut *other).await.unwrap();
    assert_eq!(instance.round().await.unwrap(), Round::OthersTurn);
    assert_eq!(servers.count(LEFT).await, 3);
    other.rollback().await.unwrap();
    assert_eq!(instance.round().await.unwrap(), Round::AllSettled);
    assert_eq!(servers.count(LEFT).await, 0);
}

#[tokio::test]
async fn whoever_stands_still_loses_the_turn_and_can_delete_nothing() {
    let servers = Servers::open().await;
    servers.say(1).await;
    let mut sleeper = servers.instance(1).await;
    let mut transaction = sleeper.rounds.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM outbox_turn FOR UPDATE").execute(&mut *transaction).await.unwrap();

    let mut next = servers.instance(TURN_SECONDS_MAX).await;
    while next.round().await.unwrap() == Round::OthersTurn {
        tokio::task::yield_now().await;
    }
    assert_eq!(servers.count(LEFT).await, 0);
    servers.say(1).await;
    assert!(sqlx::query("DELETE FROM outbox").execute(&mut *transaction).await.is_err());
    drop(transaction);
    assert_eq!(servers.count(LEFT).await, 1);
}

#[tokio::test]
async fn a_round_is_bounded_by_rows_and_by_events_and_takes_one_row_at_least() {
    let servers = Servers::open().await;
    let mut instance = servers.instance(TURN_SECONDS_MAX).await;
    servers.say(ROWS_MAX + 1).await;
    assert_eq!(instance.round().await.unwrap(), Round::MoreToTell);
    assert_eq!(servers.count(LEFT).await, 1);
    assert_eq!(instance.round().await.unwrap(), Round::AllSettled);

    // The row that brings it to the limit is the last; one that is larger than the limit is a round by itself.
    servers.say_orders(5, EVENTS_MAX / 2 + 1).await;
    servers.say_orders(2, EVENTS_MAX + 1).await;
    for left in [5, 3, 1, 0] {
        let expected = Round::MoreToTell;
        assert_eq!((instance.round().await.unwrap(), servers.count(LEFT).await), (expected, left));
    }
    assert_eq!(instance.round().await.unwrap(), Round::AllSettled);
    assert_eq!(servers.count("SELECT count(*) FROM outbox_failed").await, 0);
}

#[tokio::test]
async fn a_row_that_was_put_back_and_fails_again_is_kept_with_its_latest_reason() {
    let servers = Servers::open().await;
    let mut instance = servers.instance(TURN_SECONDS_MAX).await;
    for detail in ["{", "[]"] {
        let insert =
            "INSERT INTO outbox (id, kind, item, detail) OVERRIDING SYSTEM VALUE VALUES (7, 'item.opened', 'a', $1)";
        sqlx::query(insert).bind(detail).execute(&servers.pool).await.unwrap();
        assert_eq!(instance.round().await.unwrap(), Round::AllSettled);
        assert_eq!(servers.count(LEFT).await, 0);
    }
    let kept = "SELECT count(*) FROM outbox_failed WHERE id = 7 AND reason LIKE '%invalid type: sequence%'";
    assert_eq!(servers.count(kept).await, 1);
}

#[tokio::test]
async fn no_hold_ends_at_a_time_that_cannot_be_told() {
    let servers = Servers::open().await;
    servers.say_orders(1, 1).await;
    for until in ["infinity", "-infinity", "10000-01-01Z"] {
        let prolong = sqlx::query("UPDATE orders SET hold_until = $1::text::timestamptz").bind(until);
        let error = prolong.execute(&servers.pool).await.unwrap_err().to_string();
        assert!(error.contains("hold_ends_at_a_time"), "{error}");
    }
    // The last time that there is.
    let prolong = "UPDATE orders SET hold_until = '9999-01-01Z'";
    sqlx::query(prolong).execute(&servers.pool).await.unwrap();
    let mut instance = servers.instance(TURN_SECONDS_MAX).await;
    assert_eq!(instance.round().await.unwrap(), Round::AllSettled);
    assert_eq!(servers.count("SELECT count(*) FROM outbox").await, 0);
}
