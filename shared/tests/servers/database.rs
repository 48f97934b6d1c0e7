//! What becomes of connections to the database that cannot be had, or lead nowhere.

use futures_util::future::join_all;
use shared::{
    db,
    devstack::{Disturbance, Forwarder, fixture},
    error::Error,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::time::Duration;

#[tokio::test]
async fn a_role_that_may_have_no_more_connections_is_told_so_by_the_servers_own_words() {
    let pool = db::pool(&fixture::database().await, "test", 1).unwrap();
    sqlx::raw_sql("CREATE ROLE limited LOGIN CONNECTION LIMIT 1").execute(&pool).await.unwrap();
    let options = PgConnectOptions::clone(&pool.connect_options()).username("limited");
    let _only = db::connect(&options).await.unwrap();
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(100)).connect_lazy_with(options);
    let error = db::acquire(&pool).await.unwrap_err().to_string();
    assert!(error.contains("too many connections for role \"limited\""), "{error}");
}

#[tokio::test]
async fn of_connections_that_lead_nowhere_one_is_waited_for_and_none_is_used_again() {
    const CONNECTIONS: u32 = 4;
    let (forwarder, url) = Forwarder::before(&fixture::database().await).await.unwrap();
    let pool = db::pool(&url, "test", CONNECTIONS).unwrap();
    drop(join_all((0..CONNECTIONS).map(|_| pool.acquire())).await);
    while pool.num_idle() < CONNECTIONS as usize {
        tokio::task::yield_now().await;
    }
    let ask = async || {
        let select = sqlx::query_scalar::<_, i32>("SELECT 1");
        db::on_connection(&pool, async |connection| Ok(select.fetch_one(connection).await?)).await
    };
    assert!(forwarder.disturb(Disturbance::HalfOpen(Duration::MAX), None));
    assert!(matches!(ask().await, Err(Error::Away(_))));
    for _ in 0..CONNECTIONS {
        assert_eq!(ask().await.unwrap(), 1);
    }
}
