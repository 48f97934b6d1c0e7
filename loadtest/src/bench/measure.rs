//! One measured sale: what the database counts and what CPU time everybody took, read around it.
//!
//! Between the two readings nobody does anything but the sale: schema, items and audit are outside of them.

use super::cpu::{self, CpuTimes};
use crate::database::{self, EVERYBODY, OURS};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::queues::await_no_consumers;
use crate::result::Outcome;
use crate::run::{self, Running, Sale};
use crate::servers::Endpoints;
use crate::stats::medians;
use crate::workers::{WorkerSpec, Workers};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx_macros::FromRow;
use std::ops::Sub;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Between two looks at whether there are workers left.
const WATCH_PAUSE: Duration = Duration::from_millis(250);
/// How often is measured what is caused without a buyer: how long a start takes varies.
pub(super) const IDLE_REPETITIONS: u32 = 3;

/// A sale that is over, and what it took.
pub(super) struct Measured {
    pub(super) outcome: Outcome,
    /// What was on sale.
    pub(super) items: Vec<String>,
    /// `None` where no database took part.
    pub(super) counted: Option<Counted>,
    pub(super) cpu: CpuTimes,
}

/// Runs a sale from beginning to end, and returns when its workers are gone.
pub(super) async fn sale(
    endpoints: &Endpoints,
    sale: Sale<'_>,
    servers: ServerPids,
    (progress, what): (&Progress, &str),
) -> Result<Measured, Failure> {
    progress.stage(format!("{what}: starting the workers"));
    let (buyers, limit, has_database) = (sale.scenario.buyers, sale.timeout, sale.workers.strategy.is_some());
    let mut running = run::start(endpoints, sale).await?;
    let limit = limit + running.schedule().last();
    let items = running.schedule().items.iter().map(|item| item.id.clone()).collect();
    let workers = running.workers.pids();
    let before = counted(endpoints, &OURS, has_database).await?;
    let cpu_before = servers.cpu(&workers);
    let following = progress.follow(what.to_owned(), running.answered(), buyers);
    running.open();
    last_verdict(&mut running, limit).await;
    let at_last_verdict = servers.cpu(&workers);
    let drained = running.drain().await?;
    drop(following);
    // The servers still have something to do after the last verdict; the workers are gone by now.
    let CpuTimes { workers, buyers, .. } = at_last_verdict;
    let cpu_after = CpuTimes { workers, buyers, ..servers.cpu(&[]) };
    let after = counted(endpoints, &EVERYBODY, has_database).await?;
    progress.stage(format!("{what}: auditing"));
    let outcome = drained.audit().await?;
    await_no_consumers(&endpoints.amqp_url).await?;
    let counted = after.zip(before).map(|(after, before)| after - before);
    let cpu = cpu_after.zip(cpu_before, |after, before| (after - before).max(0.0));
    Ok(Measured { outcome, items, counted, cpu })
}

/// Waits for it, or for the end of the time, or of the workers: what came of the sale, its audit says.
async fn last_verdict(running: &mut Running<'_>, limit: Duration) {
    let (mut answered, started, all) = (running.answered(), Instant::now(), running.schedule().requests.len());
    while timeout(WATCH_PAUSE, answered.wait_for(|answered| *answered == all)).await.is_err() {
        if started.elapsed() > limit || running.workers.all_ended() {
            return;
        }
    }
}

/// What is counted although nobody buys: of starting and stopping these workers, and of the readings themselves.
pub(super) async fn idle(endpoints: &Endpoints, spec: &WorkerSpec) -> Result<Counted, Failure> {
    let mut idle = Vec::new();
    for _ in 0..IDLE_REPETITIONS {
        let workers = Workers::start(vec![spec.clone()], endpoints).await?;
        let before = Counted::read(&endpoints.database_url, &OURS).await?;
        workers.drain().await;
        idle.push(Counted::read(&endpoints.database_url, &EVERYBODY).await? - before);
        await_no_consumers(&endpoints.amqp_url).await?;
    }
    medians(&idle)
}

/// What the database counts of its own work. The server's word, and not the client's: it has counted what really reached
/// it, also what was rolled back because a connection died, and it counts workers and HTTP servers alike. Only differences
/// mean something.
#[derive(Debug, Clone, Copy, Default, PartialEq, FromRow, Serialize, Deserialize)]
pub(super) struct Counted {
    /// Also those that only read. Of the statements outside of a transaction, which the workers' are, each is one, and
    /// one round trip.
    pub(super) transactions: i64,
    pub(super) rollbacks: i64,
    /// Bytes of write-ahead log, of the whole cluster.
    pub(super) wal_bytes: i64,
    /// Time for which a connection was at work, or kept by an open transaction. Since PostgreSQL 14.
    pub(super) connection_ms: Option<f64>,
    /// Statements that were run to their end, BEGIN and COMMIT among them: each is a round trip, and one that fails is
    /// missing. Where `pg_stat_statements` counts in this database.
    #[sqlx(default)]
    pub(super) statements: Option<i64>,
}

// By way of JSON, so that a column which older servers do not have is NULL and no error.
const COUNT: &str = "
    SELECT xact_commit + xact_rollback AS transactions,
           xact_rollback AS rollbacks,
           pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal_bytes,
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

async fn counted(endpoints: &Endpoints, gone: &[&str], has_database: bool) -> Result<Option<Counted>, Failure> {
    match has_database {
        true => Counted::read(&endpoints.database_url, gone).await.map(Some),
        false => Ok(None),
    }
}

impl Counted {
    /// Reads the counters once nobody is connected whose name begins with one of `gone`.
    pub(super) async fn read(database_url: &str, gone: &[&str]) -> Result<Self, Failure> {
        // Waiting takes a transaction open for as long, and is counted in its turn: so one waits, and the next one counts.
        database::once_gone(database_url, gone, async |_connection| Ok(())).await?;
        database::once_gone(database_url, gone, async |connection| Ok(Self::count(connection).await?)).await
    }

    async fn count(connection: &mut PgConnection) -> sqlx::Result<Self> {
        let counted: Self = sqlx::query_as(COUNT).fetch_one(&mut *connection).await?;
        let statements = match sqlx::query_scalar(COUNTS_STATEMENTS).fetch_one(&mut *connection).await? {
            true => Some(sqlx::query_scalar(COUNT_STATEMENTS).fetch_one(&mut *connection).await?),
            false => None,
        };
        Ok(Self { statements, ..counted })
    }
}

impl Sub for Counted {
    type Output = Self;

    /// What came after `before`; never less than nothing, as the idle that is taken off was measured another time.
    fn sub(self, before: Self) -> Self {
        let connection_ms = self.connection_ms.zip(before.connection_ms);
        Self {
            transactions: (self.transactions - before.transactions).max(0),
            rollbacks: (self.rollbacks - before.rollbacks).max(0),
            wal_bytes: (self.wal_bytes - before.wal_bytes).max(0),
            connection_ms: connection_ms.map(|(after, before)| (after - before).max(0.0)),
            statements: self.statements.zip(before.statements).map(|(after, before)| (after - before).max(0)),
        }
    }
}

/// The servers' first processes, where they are on this machine.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServerPids {
    pub(super) broker: Option<u32>,
    pub(super) database: Option<u32>,
}

impl ServerPids {
    fn cpu(self, workers: &[u32]) -> CpuTimes {
        CpuTimes {
            broker: self.broker.and_then(cpu::of_tree),
            workers: workers.iter().map(|pid| cpu::of_tree(*pid)).sum(),
            database: self.database.and_then(cpu::of_tree),
            buyers: cpu::ours(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(rollbacks: i64, ms: f64, statements: Option<i64>) -> Counted {
        Counted { rollbacks, connection_ms: Some(ms), statements, ..Counted::default() }
    }

    #[test]
    fn what_is_not_counted_stays_unknown_and_nothing_is_less_than_nothing() {
        let taken = counted(7, 5.0, Some(30)) - counted(9, 5.0, Some(10));
        assert_eq!(taken, counted(0, 0.0, Some(20)));
        assert_eq!((counted(7, 5.0, None) - counted(7, 5.0, Some(10))).statements, None);
    }
}
