//! What the database counts of its own work, read around a sale. Knows nothing of rows and forms.
//!
//! The server's word, and not the client's: it has counted what really reached it, also BEGIN and COMMIT, what a library
//! sends by itself, and what was rolled back because a connection died; and it counts workers and HTTP servers alike.
//! Invariant: only differences mean something; and what is not counted by this server is `None`, never 0.

use std::ops::Sub;

use sqlx::{PgConnection, Row};

use crate::database;
use crate::database::failed as database_failed;
use crate::failure::Failure;
use crate::stats::median;

/// Counted in this database since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    /// Transactions that were rolled back.
    pub(super) rollbacks: i64,
    /// Time for which a connection was at work, or kept by an open transaction. Since PostgreSQL 14.
    pub(super) connection_ms: Option<f64>,
    /// Statements that were run to their end, BEGIN and COMMIT among them: each is a round trip, and one that fails is
    /// missing. Where `pg_stat_statements` counts in this database.
    pub(super) statements: Option<i64>,
}

impl Counted {
    /// Of each figure by itself; what was not counted once is unknown.
    pub(super) fn median(all: &[Self]) -> Self {
        let whole = |values: Option<Vec<i64>>| {
            let mut values = values.filter(|values| !values.is_empty())?;
            values.sort_unstable();
            Some(values[values.len() / 2])
        };
        let connection_ms: Option<Vec<f64>> = all.iter().map(|counted| counted.connection_ms).collect();
        Self {
            rollbacks: whole(Some(all.iter().map(|counted| counted.rollbacks).collect())).unwrap_or(0),
            connection_ms: connection_ms.map(|values| median(&values)),
            statements: whole(all.iter().map(|counted| counted.statements).collect()),
        }
    }
}

impl Sub for Counted {
    type Output = Self;

    /// What came after `before`; never less than nothing, as the idle that is taken off was measured another time.
    fn sub(self, before: Self) -> Self {
        Self {
            rollbacks: (self.rollbacks - before.rollbacks).max(0),
            connection_ms: self
                .connection_ms
                .zip(before.connection_ms)
                .map(|(after, before)| (after - before).max(0.0)),
            statements: self.statements.zip(before.statements).map(|(after, before)| (after - before).max(0)),
        }
    }
}

/// Reads the counters once nobody is connected whose name begins with one of `gone`.
///
/// # Errors
/// The database is away, or somebody stays.
pub(super) async fn read(database_url: &str, gone: &[&str]) -> Result<Counted, Failure> {
    // Waiting takes a transaction open for as long, and is counted in its turn: so one waits, and the next one counts.
    database::once_gone(database_url, gone, async |_connection| Ok(())).await?;
    database::once_gone(database_url, gone, async |connection| count(connection).await.map_err(database_failed)).await
}

// By way of JSON, so that a column which older servers do not have is NULL and no error.
const COUNT: &str = "
    SELECT xact_rollback AS rollbacks,
           (to_jsonb(counted) ->> 'active_time')::float8
               + (to_jsonb(counted) ->> 'idle_in_transaction_time')::float8 AS connection_ms
    FROM pg_stat_database AS counted WHERE datname = current_database()";
// The extension may be there without the library that counts for it.
const COUNTS_STATEMENTS: &str = "
    SELECT to_regclass('pg_stat_statements') IS NOT NULL AND current_setting('pg_stat_statements.max', true) IS NOT NULL";
// Readings are not of the sale; how many there are depends on how long they had to wait.
const COUNT_STATEMENTS: &str = "
    SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query NOT LIKE '%pg_stat_%'";

async fn count(connection: &mut PgConnection) -> sqlx::Result<Counted> {
    let row = sqlx::query(COUNT).fetch_one(&mut *connection).await?;
    let statements = match sqlx::query_scalar(COUNTS_STATEMENTS).fetch_one(&mut *connection).await? {
        true => Some(sqlx::query_scalar(COUNT_STATEMENTS).fetch_one(&mut *connection).await?),
        false => None,
    };
    Ok(Counted { rollbacks: row.try_get("rollbacks")?, connection_ms: row.try_get("connection_ms")?, statements })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_each_figure_by_itself() {
        let counted = |rollbacks, ms, statements| Counted { rollbacks, connection_ms: Some(ms), statements };
        let all = [counted(3, 10.0, Some(1)), counted(1, 30.0, Some(5)), counted(2, 20.0, Some(9))];
        assert_eq!(Counted::median(&all), counted(2, 20.0, Some(5)));
        assert_eq!(Counted::median(&[counted(1, 1.0, None), counted(1, 1.0, Some(1))]).statements, None);
    }

    #[test]
    fn what_is_not_counted_stays_unknown_and_nothing_is_less_than_nothing() {
        let counted = |rollbacks, statements| Counted { rollbacks, connection_ms: Some(5.0), statements };
        let taken = counted(7, Some(30)) - counted(9, Some(10));
        assert_eq!(taken, Counted { rollbacks: 0, connection_ms: Some(0.0), statements: Some(20) });
        assert_eq!((counted(7, None) - counted(7, Some(10))).statements, None);
    }
}
