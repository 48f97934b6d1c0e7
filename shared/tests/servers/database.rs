//! What becomes of connections to the database that cannot be had, or lead nowhere; and who may do what to it.

use futures_util::future::join_all;
use shared::{
    config::{Migrate, StoreOptions},
    db::{self, Migrated, OpenError, SCHEMA_VERSION},
    devstack::{Disturbance, FUNCTIONS, Forwarder, as_role, fixture, seed::execute},
    error::Error,
};
use sqlx::{
    AssertSqlSafe,
    postgres::{PgConnectOptions, PgPoolOptions},
};
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

const MIGRATOR: &str = "turnstile_migrator";
const READER: &str = "turnstile_reader";

fn store(url: &str, role: &str) -> StoreOptions {
    StoreOptions { database_url: as_role(url, role), database_connections_max: 1 }
}

async fn start(url: &str, role: &str, migrate: Migrate) -> Result<(), String> {
    db::open(&store(url, role), "test", 0, migrate).await.map(drop).map_err(|error| match error {
        OpenError::Configuration(text) => text,
        OpenError::Unreachable(text) => panic!("{text}"),
    })
}

#[tokio::test]
async fn only_a_migration_needs_the_tables_owner_and_whoever_may_not_is_told_what_to_run() {
    let url = fixture::database().await;
    for (role, migrate) in [(FUNCTIONS, Migrate::Auto), (FUNCTIONS, Migrate::Never), (MIGRATOR, Migrate::Never)] {
        let said = start(&url, role, migrate).await.unwrap_err();
        assert!(said.contains("no schema of ours") && said.contains("run `admin migrate`"), "{said}");
    }
    for found in [0, SCHEMA_VERSION] {
        let migrated = db::open_and_migrate(&store(&url, MIGRATOR), "test").await.unwrap();
        assert_eq!(migrated, Migrated { found, left: SCHEMA_VERSION });
    }
    for migrate in [Migrate::Auto, Migrate::Never] {
        start(&url, FUNCTIONS, migrate).await.unwrap();
    }
    let reader = db::open_as_it_is(&store(&url, READER), "test").await.unwrap();
    let functions = db::pool(&as_role(&url, FUNCTIONS), "test", 1).unwrap();
    for (pool, statement) in [
        (&functions, "CREATE TABLE more ()"),
        (&functions, "ALTER TABLE items DISABLE TRIGGER ALL"),
        (&functions, "UPDATE verdicts SET reply = ''"),
        (&functions, "DELETE FROM orders"),
        (&reader, "DELETE FROM outbox_failed"),
        (&reader, "SELECT hold_until_restored(true)"),
    ] {
        let error = sqlx::query(statement).execute(pool).await.unwrap_err().to_string();
        assert!(error.contains("permission denied") || error.contains("must be owner"), "{statement}: {error}");
    }
    sqlx::query("SELECT count(*) FROM orders").execute(&reader).await.unwrap();
    let pool = db::pool(&url, "test", 1).unwrap();
    execute(&pool, "DELETE FROM _sqlx_migrations WHERE version = 11").await;
    let said = start(&url, FUNCTIONS, Migrate::Auto).await.unwrap_err();
    assert!(
        said.contains(&format!("this program needs version {SCHEMA_VERSION}")) && said.contains("admin migrate"),
        "{said}"
    );
}

#[tokio::test]
async fn a_role_that_lacks_rights_is_told_all_of_them_as_they_are_granted() {
    let url = fixture::database().await;
    let pool = db::pool(&url, "test", 1).unwrap();
    db::migrate(&pool).await.unwrap();
    execute(&pool, "CREATE ROLE few LOGIN; GRANT SELECT ON items TO few").await;
    let said = start(&url, "few", Migrate::Auto).await.unwrap_err();
    for lacking in ["INSERT, UPDATE ON items", "SELECT ON buyers", "EXECUTE ON FUNCTION hold_until_restored(boolean)"] {
        assert!(said.contains(&format!("GRANT {lacking} TO few")), "{said}");
    }
    for grant in said.split("; ").filter_map(|part| part.find("GRANT ").map(|at| part[at..].to_owned())) {
        sqlx::query(AssertSqlSafe(grant)).execute(&pool).await.unwrap();
    }
    start(&url, "few", Migrate::Never).await.unwrap();
}

#[tokio::test]
async fn the_roles_take_over_what_is_there_already() {
    let url = fixture::database().await;
    execute(&db::pool(&url, "test", 1).unwrap(), "CREATE DATABASE older TEMPLATE template0").await;
    let (path, query) = url.split_once('?').unwrap();
    let older = format!("{}/older?{query}", path.rsplit_once('/').unwrap().0);
    let pool = db::pool(&older, "test", 1).unwrap();
    db::migrate(&pool).await.unwrap();
    for _ in 0..2 {
        execute(&pool, include_str!("../../../migrations/roles.sql")).await;
    }
    assert!(start(&older, FUNCTIONS, Migrate::Auto).await.is_err());
    db::open_and_migrate(&store(&older, MIGRATOR), "test").await.unwrap();
    start(&older, FUNCTIONS, Migrate::Auto).await.unwrap();
}
