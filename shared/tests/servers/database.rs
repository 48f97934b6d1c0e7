//! What is said where the database gives no connection.

use shared::{db, devstack::fixture};
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
