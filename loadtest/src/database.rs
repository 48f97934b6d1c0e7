//! The load generator's own connections to the database, and readings of what it counts by itself, between sales.
//!
//! A backend reports what it did when it ends, or at most once a second: so a reading first waits until the backends that
//! have gone are gone.

use crate::failure::Failure;
use anyhow::anyhow;
use shared::config::{Migrate, StoreOptions};
use shared::db;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const DATABASE_WAIT_SECONDS_MAX: u64 = 30;
/// How we sign our connections.
pub(crate) const NAME: &str = "turnstile-readings";
/// What the names of our own connections begin with, the sale's among them, ...
pub(crate) const OURS: [&str; 2] = [NAME, "turnstile-loadtest"];
/// ... and those of everybody, workers as well.
pub(crate) const EVERYBODY: [&str; 1] = ["turnstile-"];
/// How long backends may take to end after their clients.
const GONE_WAIT_MAX: Duration = Duration::from_secs(30);
const GONE_POLL: Duration = Duration::from_millis(10);

/// One connection, to a database that has the schema then.
pub(crate) async fn open(url: &str) -> Result<PgPool, Failure> {
    let options = StoreOptions { database_url: url.to_owned(), database_connections_max: 1 };
    Ok(db::open(&options, "turnstile-loadtest", DATABASE_WAIT_SECONDS_MAX, Migrate::Auto).await?)
}

// Within one transaction, what was seen first is seen again.
const LOOK_AGAIN: &str = "SELECT pg_stat_clear_snapshot()";
const COUNT_CONNECTED: &str = "
    SELECT count(*) FROM pg_stat_activity, UNNEST($1::text[]) AS gone (name)
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND starts_with(application_name, gone.name)";

/// Reads once nobody is connected whose name begins with one of `gone`.
pub(crate) async fn once_gone<T>(
    database_url: &str,
    gone: &[&str],
    read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    at_once(database_url, async |connection| {
        let started = Instant::now();
        while sqlx::query_scalar::<_, i64>(COUNT_CONNECTED).bind(gone).fetch_one(&mut *connection).await? > 0 {
            if started.elapsed() > GONE_WAIT_MAX {
                let text = "other workers are connected to this database, and what they do would be counted; \
                    measure on a database that nobody else uses";
                return Err(Failure::Configuration(anyhow!(text)));
            }
            sleep(GONE_POLL).await;
            sqlx::query(LOOK_AGAIN).execute(&mut *connection).await?;
        }
        read(connection).await
    })
    .await
}

// A worker's statements take milliseconds, and are limited; some of these read whole tables.
const WITHOUT_LIMIT: &str = "SET LOCAL statement_timeout = 0";

/// Reads in one transaction on a connection that is gone afterwards.
pub(crate) async fn at_once<T>(
    database_url: &str,
    read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let pool: PgPool = db::pool(database_url, NAME, 1)?;
    let done = async {
        let mut transaction = pool.begin().await?;
        sqlx::query(WITHOUT_LIMIT).execute(&mut *transaction).await?;
        let done = read(&mut transaction).await?;
        transaction.commit().await?;
        Ok(done)
    }
    .await;
    pool.close().await;
    done
}
