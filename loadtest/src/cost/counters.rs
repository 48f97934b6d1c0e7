//! What the database counts by itself, read between sales. Knows nothing of messages and processes.
//!
//! A backend reports its transactions when it ends, or at most once a second: so a reading first waits until the
//! backends that have gone are gone. Invariant: a reading is one transaction of its own, whatever it waited for.

use std::time::Duration;

use anyhow::anyhow;
use shared::store;
use sqlx::{PgConnection, PgPool, Row};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;
use crate::sale::database_failed;

/// How we sign our connections.
pub(super) const NAME: &str = "turnstile-cost";
/// What the names of our own connections begin with, the sale's among them, ...
pub(super) const OURS: [&str; 2] = [NAME, "turnstile-loadtest"];
/// ... and those of everybody, workers as well.
pub(super) const EVERYBODY: [&str; 1] = ["turnstile-"];
/// How long backends may take to end after their clients.
const GONE_WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks.
const GONE_POLL: Duration = Duration::from_millis(10);

/// Counted since the cluster was made; only differences mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    /// Transactions of this database, also those that only read. Of the statements outside of a transaction, which the
    /// workers' are, each is one, and one round trip.
    pub(super) transactions: i64,
    /// Bytes of write-ahead log, of the whole cluster.
    pub(super) wal_bytes: i64,
}

const READ_COUNTERS: &str = "
    SELECT xact_commit + xact_rollback AS transactions,
           pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal_bytes
    FROM pg_stat_database WHERE datname = current_database()";

/// Reads the counters once nobody is connected whose name begins with one of `gone`.
///
/// # Errors
/// The database is away, or somebody stays.
pub(super) async fn read(database_url: &str, gone: &[&str]) -> Result<Counters, Failure> {
    with_connection(database_url, async |connection| {
        let started = Instant::now();
        while count_connected(connection, gone).await.map_err(database_failed)? > 0 {
            if started.elapsed() > GONE_WAIT_MAX {
                let text = "other workers are connected to this database, and what they do would be counted; \
                    give `cost` a database of its own";
                return Err(Failure::Configuration(anyhow!(text)));
            }
            sleep(GONE_POLL).await;
        }
        let row = sqlx::query(READ_COUNTERS).fetch_one(connection).await.map_err(database_failed)?;
        let read = |column| row.try_get(column).map_err(database_failed);
        Ok(Counters { transactions: read("transactions")?, wal_bytes: read("wal_bytes")? })
    })
    .await
}

// Within one transaction, what was seen first is seen again.
const LOOK_AGAIN: &str = "SELECT pg_stat_clear_snapshot()";
const COUNT_CONNECTED: &str = "
    SELECT count(*) FROM pg_stat_activity, UNNEST($1::text[]) AS gone (name)
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND starts_with(application_name, gone.name)";

async fn count_connected(connection: &mut PgConnection, gone: &[&str]) -> sqlx::Result<i64> {
    sqlx::query(LOOK_AGAIN).execute(&mut *connection).await?;
    sqlx::query_scalar(COUNT_CONNECTED).bind(gone).fetch_one(connection).await
}

// Who wrote a row is on it, so rows of one commit are known by it.
const COUNT_BATCHES: &str = "SELECT count(DISTINCT xmin::text) FROM verdicts WHERE item IN (SELECT UNNEST($1::text[]))";

/// In how many transactions the verdicts on these items were committed.
///
/// # Errors
/// The database is away.
pub(super) async fn batches(database_url: &str, items: &[String]) -> Result<i64, Failure> {
    with_connection(database_url, async |connection| {
        sqlx::query_scalar(COUNT_BATCHES).bind(items).fetch_one(connection).await.map_err(database_failed)
    })
    .await
}

const COUNT_VERDICTS: &str = "SELECT count(*) FROM verdicts";

/// How many verdicts are on record.
///
/// # Errors
/// The database is away.
pub(super) async fn verdicts(database_url: &str) -> Result<i64, Failure> {
    with_connection(database_url, async |connection| {
        sqlx::query_scalar(COUNT_VERDICTS).fetch_one(connection).await.map_err(database_failed)
    })
    .await
}

// A worker's statements take milliseconds, and are limited; some of these read whole tables.
const WITHOUT_LIMIT: &str = "SET LOCAL statement_timeout = 0";

/// Runs in one transaction on a connection that is gone afterwards.
async fn with_connection<T>(
    database_url: &str,
    run: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let pool: PgPool = store::pool(database_url, NAME, 1).map_err(|error| Failure::Configuration(error.into()))?;
    let done = async {
        let mut transaction = pool.begin().await.map_err(database_failed)?;
        sqlx::query(WITHOUT_LIMIT).execute(&mut *transaction).await.map_err(database_failed)?;
        let done = run(&mut transaction).await?;
        transaction.commit().await.map_err(database_failed)?;
        Ok(done)
    }
    .await;
    pool.close().await;
    done
}
