//! How long verdicts are kept: those past their time are deleted, beside the hot path and unnoticed by it.
//!
//! The table is walked from its first page to its last, once a day, a few pages at a time and with long pauses, by
//! whichever worker comes by when a step is due. How far the walk has come stands in the database. Invariants: who
//! decides never waits for the walk, nor the walk for anybody; and a verdict that is not past its time, by the
//! database's clock, stays.

use clap::Args;
use shared::{db, upkeep::Upkeep};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use std::time::Duration;

/// Pages (of 8 KiB) that one step reads: some milliseconds, also where every verdict on them goes.
pub const STEP_PAGES: i64 = 256;
/// A step's pause, in units of the time that the step took: the walk has at most a tenth of a processor, or of a disk.
const PAUSE_FACTOR: i32 = 9;
/// From the end of a walk to the beginning of the next.
const WALK_EVERY_SECONDS: i32 = 24 * 60 * 60;
/// How long the database may take for a step; longer than it allows itself for a statement.
const STEP_SECONDS_MAX: u64 = 30;
/// What is lost in a crash is deleted again, so no step waits for a disk.
const SETTINGS: [(&str, &str); 1] = [("synchronous_commit", "off")];

/// The turn, where a step is due and nobody else is making it; held until the transaction ends.
pub const TAKE_TURN: &str = "
SELECT next_page, pg_relation_size('verdicts') / current_setting('block_size')::bigint AS pages
FROM verdict_walk WHERE is_only AND due_at <= clock_timestamp() FOR UPDATE SKIP LOCKED";

/// Deletes what is older than $3 days from the pages $1 to $2, the last one excluded. A range of row addresses is read
/// page by page (a TID range scan), so this needs no index.
pub const DELETE: &str = "
DELETE FROM verdicts
WHERE ctid >= format('(%s,0)', $1)::tid AND ctid < format('(%s,0)', $2)::tid
  AND decided_at < now() - make_interval(days => $3)";

/// $1 is the page to go on with; zero, after the last one, begins a new walk, after $2 seconds. Else the pause is $3 times
/// what the step took: now() is when it began.
pub const MOVE_ON: &str = "
UPDATE verdict_walk SET next_page = $1, due_at = clock_timestamp()
    + CASE WHEN $1 = 0 THEN make_interval(secs => $2) ELSE $3 * (clock_timestamp() - now()) END
WHERE is_only
RETURNING ceil(extract(epoch FROM due_at - clock_timestamp()) * 1000)::bigint AS pause_ms";

/// How long verdicts are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct Retention {
    /// How long a request id gets its verdict again, in days; then the verdict is deleted, within about a day more, and
    /// the id is as new. Longer than any message can wait in a queue or come again; the same for all workers.
    #[arg(long = "keep-verdicts-days", env = "KEEP_VERDICTS_DAYS", default_value_t = 30, value_name = "DAYS")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=3_650))]
    pub verdicts_days: u16,
}

impl Default for Retention {
    fn default() -> Self {
        Self { verdicts_days: 30 }
    }
}

/// Deletes verdicts whose time is past, on connections of its own.
pub(crate) struct Walker {
    options: PgConnectOptions,
    retention: Retention,
}

impl Walker {
    /// `pool` only says where.
    pub(crate) fn new(pool: &PgPool, retention: Retention) -> Self {
        Self { options: PgConnectOptions::clone(&pool.connect_options()).options(SETTINGS), retention }
    }
}

impl Upkeep for Walker {
    const PAUSE_MAX: Duration = Duration::from_secs(600);
    const FAILING: &'static str = "verdicts past their time cannot be deleted; trying again later";
    type Error = sqlx::Error;

    /// Walks, where it is time to.
    async fn look(&mut self) -> Result<(), sqlx::Error> {
        let mut connection = db::connect(&self.options).await?;
        let deleted = walk(&mut connection, self.retention).await?;
        connection.close().await?;
        if deleted > 0 {
            let days = self.retention.verdicts_days;
            tracing::info!(deleted, days, "verdicts past their time are deleted");
        }
        Ok(())
    }
}

/// Makes the steps that are due, one after another with their pauses, until the walk is over or somebody else makes
/// them. Returns how many verdicts went.
///
/// # Errors
/// The database's; an I/O error (timed out) where a step takes too long. The connection is of no more use then.
pub async fn walk(connection: &mut PgConnection, retention: Retention) -> Result<u64, sqlx::Error> {
    let mut deleted = 0;
    loop {
        let step = tokio::time::timeout(Duration::from_secs(STEP_SECONDS_MAX), step(connection, retention));
        let step = step.await.map_err(|_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))??;
        deleted += step.map_or(0, |step| step.deleted);
        match step.and_then(|step| step.pause) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Ok(deleted),
        }
    }
}

/// A step that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Verdicts that went.
    pub deleted: u64,
    /// Until the next step is due; `None`: the walk is over.
    pub pause: Option<Duration>,
}

/// Makes the next step; `None`: it is too early for one, or another worker is making it.
///
/// # Errors
/// The database's; then nothing was deleted.
pub async fn step(connection: &mut PgConnection, retention: Retention) -> Result<Option<Step>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let turn: Option<(i64, i64)> = sqlx::query_as(TAKE_TURN).fetch_optional(&mut *transaction).await?;
    let Some((first, pages)) = turn else {
        transaction.rollback().await?;
        return Ok(None);
    };
    let end = first + STEP_PAGES;
    let next = if end < pages { end } else { 0 };
    let deletion = sqlx::query(DELETE).bind(first).bind(end).bind(i32::from(retention.verdicts_days));
    let deleted = deletion.execute(&mut *transaction).await?.rows_affected();
    let moved_on = sqlx::query_scalar(MOVE_ON).bind(next).bind(WALK_EVERY_SECONDS).bind(PAUSE_FACTOR);
    let pause_ms: i64 = moved_on.fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Some(Step { deleted, pause: (next != 0).then(|| Duration::from_millis(pause_ms.unsigned_abs())) }))
}
