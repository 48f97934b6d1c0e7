//! What a network does to connections that exist: their client hears of it, and the server may have done its work.

use super::{ask, durable, quorum, take};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use shared::devstack::{Disturbance, Forwarder, fixture};
use sqlx::{Connection as _, PgConnection};
use std::time::{Duration, Instant};

const A_WHILE: Duration = Duration::from_millis(100);
/// Each, and whether the server does what is asked while the client is told of an error.
const ENDS: [(Disturbance, bool); 4] = [
    (Disturbance::Cut, false),
    (Disturbance::CutInMidFrame, false),
    (Disturbance::HalfOpen(A_WHILE), false),
    (Disturbance::CutInDoubt, true),
];

#[tokio::test]
async fn a_disturbed_connection_to_the_database_ends_before_the_work_is_done_or_in_doubt() {
    let direct = fixture::database().await;
    let (forwarder, url) = Forwarder::before(&direct).await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE done (what text)").execute(&mut connection).await.unwrap();
    for (disturbance, is_done) in ENDS {
        assert!(forwarder.disturb(disturbance, None));
        let insert = sqlx::raw_sql("INSERT INTO done VALUES ('it')");
        insert.execute(&mut connection).await.unwrap_err();
        connection = PgConnection::connect(&url).await.unwrap();
        let mut count = ask(&direct, "SELECT count(*)::text FROM done").await;
        // The server may still be at it.
        let until = Instant::now() + Duration::from_secs(10);
        while is_done && count == "0" && Instant::now() < until {
            count = ask(&direct, "SELECT count(*)::text FROM done").await;
        }
        assert_eq!(count == "1", is_done, "{disturbance:?}");
    }

    assert!(forwarder.disturb(Disturbance::Delay { each: A_WHILE, lasting: Duration::MAX }, Some(7)));
    let started = Instant::now();
    connection.ping().await.unwrap();
    assert!(started.elapsed() >= A_WHILE * 2, "there and back");
    forwarder.calm();
    assert!(forwarder.disturb(Disturbance::HalfOpen(Duration::MAX), None));
    forwarder.calm();
    connection.ping().await.unwrap_err();
}

#[tokio::test]
async fn a_publish_to_the_broker_is_lost_with_its_connection_or_in_doubt() {
    let direct = fixture::rabbitmq().await.url("/");
    let (forwarder, url) = Forwarder::before(&direct).await.unwrap();
    for (number, (disturbance, is_done)) in ENDS.into_iter().enumerate() {
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let queue = format!("disturbed-{number}");
        let declared = channel.queue_declare(queue.as_str().into(), durable(), quorum()).await.unwrap();
        assert_eq!(declared.message_count(), 0);
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        assert!(forwarder.disturb(disturbance, None));
        let options = BasicPublishOptions::default();
        let published =
            channel.basic_publish("".into(), queue.as_str().into(), options, b"it", BasicProperties::default()).await;
        let confirmed = async { published?.await };
        confirmed.await.unwrap_err();
        if is_done {
            assert_eq!(take(&direct, &queue).await, "it");
        }
        let connection = Connection::connect(&direct, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let left = channel.queue_declare(queue.as_str().into(), durable(), quorum()).await.unwrap();
        assert_eq!(left.message_count(), 0, "{disturbance:?}");
    }
}
