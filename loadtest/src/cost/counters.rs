//! What the database counts by itself, read between sales: see [`readings`]. Knows nothing of messages and processes.

use sqlx::Row;

use crate::database;
use crate::database::failed as database_failed;
use crate::failure::Failure;

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
    database::once_gone(database_url, gone, async |connection| {
        let row = sqlx::query(READ_COUNTERS).fetch_one(connection).await.map_err(database_failed)?;
        let read = |column| row.try_get(column).map_err(database_failed);
        Ok(Counters { transactions: read("transactions")?, wal_bytes: read("wal_bytes")? })
    })
    .await
}

// Who wrote a row is on it, so rows of one commit are known by it.
const COUNT_BATCHES: &str = "SELECT count(DISTINCT xmin::text) FROM verdicts WHERE item IN (SELECT UNNEST($1::text[]))";

/// In how many transactions the verdicts on these items were committed.
///
/// # Errors
/// The database is away.
pub(super) async fn batches(database_url: &str, items: &[String]) -> Result<i64, Failure> {
    database::at_once(database_url, async |connection| {
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
    database::at_once(database_url, async |connection| {
        sqlx::query_scalar(COUNT_VERDICTS).fetch_one(connection).await.map_err(database_failed)
    })
    .await
}
