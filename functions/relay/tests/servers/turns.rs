//! One at a time has the turn, takes as much as a round holds, and loses it when it stands still.

use crate::{Servers, WITHIN};
use relay::store::{EVENTS_MAX, ROWS_MAX};
use relay::{Older, Round, publish_round};
use shared::amqp::{self, Error, Nodes, Publisher};
use shared::devstack::as_mapped;
use shared::messages::EVENTS_EXCHANGE;
use sqlx::Connection;

const LEFT: &str = "SELECT count(*) FROM outbox";

#[tokio::test]
async fn while_another_has_the_turn_nothing_is_told() {
    let servers = Servers::open().await;
    servers.add_rows(3).await;
    let mut instance = servers.instance().await;
    let mut other = servers.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM outbox_turn FOR UPDATE").execute(&mut *other).await.unwrap();
    assert_eq!((instance.round().await, servers.count(LEFT).await), (Round::OthersTurn, 3));
    other.rollback().await.unwrap();
    assert_eq!((instance.round().await, servers.count(LEFT).await), (Round::AllSettled, 0));
}

#[tokio::test]
async fn whoever_stands_still_loses_the_turn_and_can_delete_nothing() {
    let servers = Servers::open().await;
    servers.add_rows(1).await;
    let mut sleeper = servers.connect(1).await;
    let mut transaction = sleeper.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM outbox_turn FOR UPDATE").execute(&mut *transaction).await.unwrap();

    let mut next = servers.instance().await;
    while next.round().await == Round::OthersTurn {
        tokio::task::yield_now().await;
    }
    assert_eq!(servers.count(LEFT).await, 0);
    servers.add_rows(1).await;
    assert!(sqlx::query("DELETE FROM outbox").execute(&mut *transaction).await.is_err());
    drop(transaction);
    assert_eq!(servers.count(LEFT).await, 1);
}

#[tokio::test]
async fn a_round_is_bounded_by_rows_and_by_events_and_takes_one_row_at_least() {
    let servers = Servers::open().await;
    let mut instance = servers.instance().await;
    servers.add_rows(ROWS_MAX + 1).await;
    assert_eq!((instance.round().await, servers.count(LEFT).await), (Round::MoreToPublish, 1));
    assert_eq!(instance.round().await, Round::AllSettled);

    // The row that brings it to the limit is the last; one that is larger than the limit is a round by itself.
    servers.add_rows_of_orders(5, EVENTS_MAX / 2 + 1).await;
    servers.add_rows_of_orders(2, EVENTS_MAX + 1).await;
    for left in [5, 3, 1, 0] {
        assert_eq!((instance.round().await, servers.count(LEFT).await), (Round::MoreToPublish, left));
    }
    assert_eq!(instance.round().await, Round::AllSettled);
    assert_eq!(servers.count("SELECT count(*) FROM outbox_failed").await, 0);
}

#[tokio::test]
async fn a_row_that_was_put_back_and_fails_again_is_kept_with_its_latest_reason() {
    let servers = Servers::open().await;
    let mut instance = servers.instance().await;
    for detail in ["{", "[]"] {
        let insert =
            "INSERT INTO outbox (id, kind, item, detail) OVERRIDING SYSTEM VALUE VALUES (7, 'item.opened', 'a', $1)";
        sqlx::query(insert).bind(detail).execute(&servers.pool).await.unwrap();
        assert_eq!((instance.round().await, servers.count(LEFT).await), (Round::AllSettled, 0));
    }
    let kept = "SELECT count(*) FROM outbox_failed WHERE id = 7 AND reason LIKE '%invalid type: sequence%'";
    assert_eq!(servers.count(kept).await, 1);
}

#[tokio::test]
async fn no_hold_ends_at_a_time_that_cannot_be_told() {
    let servers = Servers::open().await;
    servers.add_rows_of_orders(1, 1).await;
    let prolong = "UPDATE orders SET hold_until = $1::text::timestamptz";
    for until in ["infinity", "-infinity", "10000-01-01Z"] {
        let error = sqlx::query(prolong).bind(until).execute(&servers.pool).await.unwrap_err().to_string();
        assert!(error.contains("hold_ends_at_a_time"), "{error}");
    }
    // The last time that there is.
    sqlx::query(prolong).bind("9999-01-01Z").execute(&servers.pool).await.unwrap();
    let mut instance = servers.instance().await;
    assert_eq!((instance.round().await, servers.count(LEFT).await), (Round::AllSettled, 0));
}

#[tokio::test]
async fn an_exchange_that_is_gone_is_no_rows_fault() {
    let servers = Servers::open().await;
    servers.add_rows(3).await;
    let mut instance = servers.instance().await;
    let operator = Publisher::open(&servers.nodes, "test", "test").await.unwrap();
    operator.channel().exchange_delete(EVENTS_EXCHANGE.into(), Default::default()).await.unwrap();
    let ended = publish_round(&mut instance.store, &mut instance.publisher, WITHIN).await.unwrap_err();
    assert!(matches!(ended.downcast_ref(), Some(Error::Missing(_))), "not looked for in each row: {ended:#}");
    assert_eq!(servers.count(LEFT).await, 3);
    amqp::declare(operator.channel()).await.unwrap();
    let mut instance = servers.instance().await;
    assert_eq!((instance.round().await, servers.count(LEFT).await), (Round::AllSettled, 0));
    assert_eq!(servers.count("SELECT count(*) FROM outbox_failed").await, 0);
}

const SET_BACK: &str = "UPDATE outbox_turn SET marked_at = marked_at - interval '1 us'";
const MARK: &str = "SELECT (extract(epoch FROM marked_at) * 1000000)::bigint FROM outbox_turn";

#[tokio::test]
async fn what_is_published_moves_the_mark_in_both_servers_at_once_or_within_a_second() {
    let servers = Servers::open().await;
    let operator = Publisher::open(&servers.nodes, "test", "test").await.unwrap();
    let (mut instance, mut before) = (servers.instance().await, servers.count(MARK).await);
    assert_eq!((instance.round().await, operator.mark().await.unwrap().is_some()), (Round::AllSettled, true));
    assert!(servers.count(MARK).await > before, "who connects does not know what was published before");
    before = servers.count(MARK).await;
    for _ in 0..3 {
        servers.add_rows(1).await;
        while servers.count(MARK).await == before {
            instance.round().await;
        }
        before = servers.count(MARK).await;
        for _ in 0..2 {
            let left = operator.mark().await.unwrap().unwrap().unix_timestamp_nanos();
            assert_eq!(left, i128::from(before) * 1_000, "the last one stays where it is");
        }
        assert_eq!(servers.count(LEFT).await, 0);
    }
    instance.round().await;
    assert_eq!(servers.count(MARK).await, before, "nothing was published since");
}

#[tokio::test]
async fn an_older_database_is_published_nothing_of_and_takes_nothing_from_any_function() {
    let servers = Servers::open().await;
    let mut known = servers.instance().await;
    servers.add_rows(1).await;
    assert_eq!(known.round().await, Round::AllSettled);
    servers.add_rows_of_orders(1, 1).await;
    let paying = "INSERT INTO payments SELECT id, request_id, id, 'card', now() FROM orders";
    sqlx::query(paying).execute(&servers.pool).await.unwrap();
    sqlx::query(SET_BACK).execute(&servers.pool).await.unwrap();
    // One that left the mark itself, and one that RabbitMQ tells.
    for mut instance in [known, servers.instance().await] {
        let ended = publish_round(&mut instance.store, &mut instance.publisher, WITHIN).await.unwrap_err();
        assert!(ended.is::<Older>(), "{ended:#}");
    }
    assert_eq!(servers.count(LEFT).await, 1);
    for change in [
        "INSERT INTO outbox (kind) VALUES ('item.opened')",
        "INSERT INTO verdicts SELECT 'r', gen_random_uuid()",
        "INSERT INTO payments SELECT gen_random_uuid()",
        "UPDATE payments SET asked_at = now()",
    ] {
        let error = sqlx::query(change).execute(&servers.pool).await.unwrap_err();
        assert!(matches!(shared::error::Error::from(error), shared::error::Error::Unfit(_)), "held, as in an outage");
    }
    let nothing = "INSERT INTO verdicts SELECT * FROM verdicts WHERE false";
    sqlx::query(nothing).execute(&servers.pool).await.unwrap();
}

#[tokio::test]
async fn a_mark_that_somebody_has_in_hand_is_asked_for_once_more() {
    let servers = Servers::open().await;
    assert_eq!(servers.instance().await.round().await, Round::AllSettled);
    for _ in 0..10 {
        if let Err(error) = round_while_in_hand(&servers).await {
            assert!(error.is::<Older>());
            return;
        }
    }
    panic!("it does not ask once more");
}

/// A round during which an operator has the mark in hand, and gives it back. It is in time, unless this process stands still.
async fn round_while_in_hand(servers: &Servers) -> anyhow::Result<Round> {
    sqlx::query(SET_BACK).execute(&servers.pool).await.unwrap();
    let operator = Publisher::open(&servers.nodes, "test", "test").await.unwrap();
    let in_hand = operator.channel().basic_get("events.mark".into(), Default::default()).await.unwrap();
    assert!(in_hand.is_some());
    let mut instance = servers.instance().await;
    let given_back = async {
        while servers.count("SELECT count(*) FROM pg_locks WHERE relation = 'outbox_turn'::regclass").await == 0 {}
        // It has the turn, and asks now. Should it be slower than this, it finds the mark at once.
        tokio::time::sleep(WITHIN / 100).await;
        operator.close().await;
    };
    let round = publish_round(&mut instance.store, &mut instance.publisher, WITHIN);
    tokio::join!(round, given_back).0
}

#[tokio::test]
async fn a_relay_that_the_broker_calls_otherwise_than_its_url_leaves_its_mark_and_knows_it_again() {
    let mut servers = Servers::open().await;
    let operator = Publisher::open(&servers.nodes, "test", "test").await.unwrap();
    let url = as_mapped(&servers.amqp_url).await.unwrap();
    servers.nodes = Nodes::read(&url).unwrap();
    let mut instance = servers.instance().await;
    while operator.mark().await.unwrap().is_none() {
        instance.round().await;
    }
    sqlx::query(SET_BACK).execute(&servers.pool).await.unwrap();
    // One that is started anew, and has been told nothing.
    servers.nodes = Nodes::read(&url).unwrap();
    let mut next = servers.instance().await;
    let ended = publish_round(&mut next.store, &mut next.publisher, WITHIN).await.unwrap_err();
    assert!(ended.is::<Older>(), "{ended:#}");
}

#[tokio::test]
async fn whatever_becomes_of_the_mark_events_are_published() {
    let servers = Servers::open().await;
    let operator = Publisher::open(&servers.nodes, "test", "test").await.unwrap();
    for of_nobody in ["2999-01-01T00:00:00.000000Z", "{", ""] {
        let (name, body) = ("events.mark".into(), of_nobody.as_bytes());
        let publishing =
            operator.channel().basic_publish("".into(), name, Default::default(), body, Default::default());
        publishing.await.unwrap().await.unwrap();
        servers.add_rows(1).await;
        assert_eq!((operator.mark().await.unwrap(), servers.instance().await.round().await), (None, Round::AllSettled));
        assert!(servers.count(LEFT).await == 0 && operator.mark().await.unwrap().is_some(), "{of_nobody}");
    }
    let mut known = servers.instance().await;
    operator.channel().queue_delete("events.mark".into(), Default::default()).await.unwrap();
    for instance in [&mut known, &mut servers.instance().await] {
        for _ in 0..2 {
            servers.add_rows(1).await;
            assert_eq!((instance.round().await, servers.count(LEFT).await), (Round::AllSettled, 0));
        }
    }
    amqp::declare(operator.channel()).await.unwrap();
    servers.instance().await.round().await;
    assert!(operator.mark().await.unwrap().is_some());
}
