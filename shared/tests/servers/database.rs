//! What becomes of connections to the database that cannot be had, or lead nowhere; and who may do what to it.

use futures_util::future::join_all;
use shared::config::{Migrate, StoreOptions};
use shared::db::{self, Migrated, OpenError, SCHEMA_VERSION};
use shared::devstack::seed::execute;
use shared::devstack::{Disturbance, FUNCTIONS, Forwarder, PgBouncer, PoolMode, as_role, fixture};
use shared::error::Error;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use std::time::Duration;
use tokio::net::TcpListener;

#[tokio::test]
async fn a_role_that_may_have_no_more_connections_is_told_so_by_the_servers_own_words() {
    let pool = db::pool(&fixture::database().await, "test", 1).unwrap();
    sqlx::raw_sql("CREATE ROLE limited LOGIN CONNECTION LIMIT 1").execute(&pool).await.unwrap();
    let options = PgConnectOptions::clone(&pool.connect_options()).username("limited");
    let _only = db::connect(&options, &[]).await.unwrap();
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(100)).connect_lazy_with(options);
    let error = db::acquire(&pool).await.unwrap_err().to_string();
    assert!(error.contains("too many connections for role \"limited\""), "{error}");
}

#[tokio::test]
async fn through_a_pooler_that_keeps_no_sessions_nobody_starts_and_through_one_that_does_all_settings_hold() {
    let url = fixture::database().await;
    let (pooler, pooled) = PgBouncer::before(&url, PoolMode::Transaction).await.unwrap();
    let connect = async || PgConnection::connect_with(&db::read(&pooled).unwrap()).await.unwrap();
    let (mut one, mut other) = (connect().await, connect().await);
    // It has one connection in store at first, which both ends of the trial have in turn; then two, and each end has another.
    for statement in ["BEGIN", "COMMIT"] {
        let opened = db::open(&store(&pooled, TURNSTILE), "test", 60, Migrate::Auto).await;
        assert!(matches!(opened, Err(OpenError::Pooled)), "{opened:?}");
        for connection in [&mut one, &mut other] {
            sqlx::raw_sql(statement).execute(connection).await.unwrap();
        }
    }
    let opened = db::open(&store(&pooled, TURNSTILE), "test", 60, Migrate::Auto).await;
    assert!(matches!(opened, Err(OpenError::Pooled)), "{opened:?}");
    pooler.stop().await.unwrap();
    let (pooler, pooled) = PgBouncer::before(&url, PoolMode::Session).await.unwrap();
    let pool = db::open(&store(&pooled, TURNSTILE), "test", 0, Migrate::Auto).await.unwrap();
    let shows = async |pool: PgPool, name| sqlx::query_scalar::<_, String>(name).fetch_one(&pool).await.unwrap();
    assert_eq!(shows(pool.clone(), "SELECT current_setting('lock_timeout')").await, "250ms");
    assert_eq!(shows(pool.clone(), "SELECT current_setting('enable_seqscan')").await, "off");
    assert_eq!(shows(db::isolated(&pool), "SELECT current_setting('lock_timeout')").await, "100ms");
    let given = db::pool(&format!("{url}&options=-c%20lock_timeout%3D7s"), "test", 1).unwrap();
    assert_eq!(shows(given, "SELECT current_setting('lock_timeout')").await, "7s", "what the URL says stays");
    let said = start(&format!("{pooled}&options=-c%20lock_timeout%3D7s"), FUNCTIONS, Migrate::Auto).await.unwrap_err();
    assert!(said.contains("what `options` sets") && said.contains("leave it out of DATABASE_URL"), "{said}");
    pooler.stop().await.unwrap();
}

#[tokio::test]
async fn a_database_may_be_set_to_promise_less_and_our_connections_promise_what_they_did() {
    let url = fixture::database().await;
    execute(
        &db::pool(&url, "test", 1).unwrap(),
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database());
         EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$",
    )
    .await;
    let shows = async |url: &str, settings: &[(&str, &str)], name| {
        let mut connection = db::connect(&db::read(url).unwrap(), settings).await.unwrap();
        sqlx::query_scalar::<_, String>(&format!("SHOW {name}")).fetch_one(&mut connection).await.unwrap()
    };
    assert_eq!(shows(&url, &[], "synchronous_commit").await, "on");
    assert_eq!(shows(&url, &[], "transaction_isolation").await, "read committed");
    let off = [("synchronous_commit", "off")];
    assert_eq!(
        shows(&url, &off, "synchronous_commit").await,
        "off",
        "what asks for less than a commit on the disk has it"
    );
    let options = |set: &str| format!("{url}&options=-c%20{set}");
    assert_eq!(
        shows(&options("synchronous_commit%3Doff"), &[], "synchronous_commit").await,
        "off",
        "what the URL says stays"
    );
    assert_eq!(shows(&options("synchronous_commit%3Dremote_apply"), &[], "synchronous_commit").await, "remote_apply");
    let by_hyphens = format!("{url}&options=--synchronous-commit%3Doff");
    assert_eq!(shows(&by_hyphens, &[], "synchronous_commit").await, "off");
    assert_eq!(shows(&options("application_name%3Djit"), &[], "jit").await, "off", "a value is no name");
    assert_eq!(shows(&options("deadlock_timeout%3D7s"), &[], "lock_timeout").await, "250ms", "another setting's name");
}

#[test]
fn an_address_of_ipv6_is_a_host_and_a_password_is_no_parameter() {
    let options = db::read("postgres://u:target_session_attrs=@[2001:db8::7]:1/d").unwrap();
    assert_eq!(options.get_host(), "2001:db8::7");
}

#[tokio::test]
async fn what_never_answers_is_unreachable_and_may_be_a_pooler_without_room() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("postgres://u@{}/d", listener.local_addr().unwrap());
    let opened = db::open_as_it_is(&StoreOptions { database_url: url, database_connections_max: 1 }, "test").await;
    assert!(matches!(&opened, Err(OpenError::Unreachable(text)) if text.contains("room for two")), "{opened:?}");
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
const TURNSTILE: &str = "turnstile";
const READER: &str = "turnstile_reader";

fn store(url: &str, role: &str) -> StoreOptions {
    StoreOptions { database_url: as_role(url, role), database_connections_max: 1 }
}

async fn start(url: &str, role: &str, migrate: Migrate) -> Result<(), String> {
    db::open(&store(url, role), "test", 0, migrate).await.map(drop).map_err(|error| match error {
        OpenError::Configuration(text) => text,
        error @ (OpenError::Url(_) | OpenError::Pooled | OpenError::Unreachable(_) | OpenError::LockedOut(_)) => {
            panic!("{error}")
        }
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
    let pool = db::pool(&url, "test", 1).unwrap();
    execute(&pool, "GRANT EXECUTE ON FUNCTION hold_until_restored(boolean) TO PUBLIC").await;
    db::open_and_migrate(&store(&url, MIGRATOR), "test").await.unwrap();
    for migrate in [Migrate::Auto, Migrate::Never] {
        start(&url, FUNCTIONS, migrate).await.unwrap();
    }
    let reader = db::open_as_it_is(&store(&url, READER), "test").await.unwrap();
    let functions = db::pool(&as_role(&url, FUNCTIONS), "test", 1).unwrap();
    for (pool, statement) in [
        (&functions, "CREATE TABLE more ()"),
        (&functions, "ALTER TABLE items DISABLE TRIGGER ALL"),
        (&functions, "UPDATE verdicts SET reply = ''"),
        (&functions, "DELETE FROM items"),
        (&reader, "DELETE FROM outbox_failed"),
        (&reader, "SELECT hold_until_restored(true)"),
        (&reader, "SELECT count(*) FROM buyers"),
    ] {
        let error = sqlx::query(statement).execute(pool).await.unwrap_err().to_string();
        assert!(error.contains("permission denied") || error.contains("must be owner"), "{statement}: {error}");
    }
    sqlx::query("SELECT count(*) FROM orders").execute(&reader).await.unwrap();
    execute(&pool, "DELETE FROM _sqlx_migrations WHERE version = 11").await;
    let said = start(&url, FUNCTIONS, Migrate::Auto).await.unwrap_err();
    assert!(
        said.contains(&format!("has version {SCHEMA_VERSION} and lacks version 11")) && said.contains("admin migrate"),
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
        sqlx::query(&grant).execute(&pool).await.unwrap();
    }
    start(&url, "few", Migrate::Never).await.unwrap();
}

/// A database of this name that no roles.sql was run in.
async fn bare(name: &str) -> String {
    let url = fixture::database().await;
    let create = format!("CREATE DATABASE {name} TEMPLATE template0");
    sqlx::query(&create).execute(&db::pool(&url, "test", 1).unwrap()).await.unwrap();
    let (path, query) = url.split_once('?').unwrap();
    format!("{}/{name}?{query}", path.rsplit_once('/').unwrap().0)
}

#[tokio::test]
async fn the_roles_take_over_what_is_there_already_and_nothing_of_anybody_else() {
    let older = bare("older").await;
    let pool = db::pool(&older, "test", 1).unwrap();
    db::migrate(&pool).await.unwrap();
    execute(
        &pool,
        "CREATE ROLE crm LOGIN; ALTER TABLE buyers OWNER TO crm; CREATE TABLE customers (); ALTER TABLE customers OWNER TO crm;
         CREATE FUNCTION greet() RETURNS text RETURN 'hello'; ALTER FUNCTION greet() OWNER TO crm; GRANT USAGE ON SCHEMA public TO crm",
    )
    .await;
    for _ in 0..2 {
        execute(&pool, include_str!("../../../migrations/roles.sql")).await;
    }
    assert!(start(&older, FUNCTIONS, Migrate::Auto).await.is_err());
    db::open_and_migrate(&store(&older, MIGRATOR), "test").await.unwrap();
    start(&older, FUNCTIONS, Migrate::Auto).await.unwrap();

    let owners = "SELECT string_agg(DISTINCT relname || ' ' || relowner::regrole, ', ') FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relowner <> 'turnstile_owner'::regrole";
    assert_eq!(sqlx::query_scalar::<_, String>(owners).fetch_one(&pool).await.unwrap(), "customers crm");
    let functions = "SELECT string_agg(proname || ' ' || proowner::regrole, ', ') FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proowner <> 'turnstile_owner'::regrole";
    assert_eq!(sqlx::query_scalar::<_, String>(functions).fetch_one(&pool).await.unwrap(), "greet crm");
    let crm = db::pool(&as_role(&older, "crm"), "test", 1).unwrap();
    execute(&crm, "INSERT INTO buyers VALUES ('b-1', 'vip'); UPDATE buyers SET tier = 'gold'; DELETE FROM buyers")
        .await;
    let reader = db::pool(&as_role(&older, READER), "test", 1).unwrap();
    for others in ["customers", "buyers"] {
        let select = format!("SELECT count(*) FROM {others}");
        let error = sqlx::query(&select).execute(&reader).await.unwrap_err().to_string();
        assert!(error.contains("permission denied"), "{error}");
    }
}

#[tokio::test]
async fn roles_that_were_made_in_another_database_have_no_part_in_this_one() {
    let owner = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
    let pool = db::pool(&bare("another").await, "test", 1).unwrap();
    // As everybody may until PostgreSQL 15.
    execute(&pool, "GRANT CREATE ON SCHEMA public TO PUBLIC").await;
    db::migrate(&pool).await.unwrap();
    let first: Vec<String> = sqlx::query_scalar(owner).fetch_all(&pool).await.unwrap();
    // Nor where the tables are somebody else's.
    execute(&pool, "GRANT USAGE, CREATE ON SCHEMA public TO turnstile_owner; DROP TABLE redis_fence").await;
    execute(&pool, "DELETE FROM _sqlx_migrations WHERE version = 7").await;
    db::migrate(&pool).await.unwrap();
    let then: Vec<String> = sqlx::query_scalar(owner).fetch_all(&pool).await.unwrap();
    assert!(first == then && first.len() == 1 && first[0] != "turnstile_owner", "{first:?} {then:?}");
}

#[tokio::test]
async fn a_migration_that_gets_no_lock_is_tried_again_and_then_says_so() {
    let url = fixture::database().await;
    let pool = db::pool(&url, "test", 1).unwrap();
    // A sequence counts what is undone, too.
    execute(
        &pool,
        "CREATE SEQUENCE refusals; GRANT USAGE ON refusals TO PUBLIC;
         CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('refusals') <= 100 THEN RAISE 'not now' USING ERRCODE = 'lock_not_available'; END IF;
         END $$;
         CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE FUNCTION', 'GRANT') EXECUTE FUNCTION refuse()",
    )
    .await;
    let error = db::open_and_migrate(&store(&url, MIGRATOR), "test").await.unwrap_err();
    assert!(matches!(error, OpenError::LockedOut(_)) && error.to_string().contains("try again"), "{error}");
    execute(&pool, "SELECT setval('refusals', 98)").await;
    let migrated = db::open_and_migrate(&store(&url, MIGRATOR), "test").await.unwrap();
    assert_eq!(migrated.left, SCHEMA_VERSION);
}
