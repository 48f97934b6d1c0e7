//! How long verdicts are kept: those past their time are deleted, beside the hot path and unnoticed by it.
//!
//! The table is walked from its first page to its last, once a day, a few pages at a time and with long pauses, by
//! whichever worker comes by when a step is due. How far the walk has come stands in the database. Invariants: who
//! decides never waits for the walk, nor the walk for anybody; and a verdict that is not past its time, by the
//! database's clock, stays.

use shared::{db, upkeep::Upkeep};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use std::{convert::Infallible, sync::Arc, time::Duration};

/// The days that verdicts are kept, unless the operator says otherwise.
pub const KEEP_VERDICTS_DAYS: u16 = 30;
/// Pages (of 8 KiB) that one step reads: some milliseconds, also where every verdict on them goes.
pub const STEP_PAGES: i64 = 256;
/// A step's pause, in units of the time that the step took: the walk has at most a tenth of a processor, or of a disk.
const PAUSE_FACTOR: i32 = 9;
/// From the end of a walk to the beginning of the next.
const WALK_EVERY_SECONDS: i32 = 24 * 60 * 60;
/// What is lost in a crash is deleted again, so no step waits for a disk.
const SETTINGS: [(&str, &str); 1] = [("synchronous_commit", "off")];

/// The next step, where one is due and nobody else is making it: deletes what is older than $2 days from $1 pages. A range
/// of row addresses is read page by page (a TID range scan), so this needs no index.
///
/// Behind the last page the walk is over, and the next one due in $3 seconds. Else the pause is $4 times what the step took:
/// now() is when it began.
pub const STEP: &str = "
WITH turn AS (
    SELECT next_page + $1 AS next_page, format('(%s,0)', next_page)::tid AS first, format('(%s,0)', next_page + $1)::tid AS behind,
           next_page + $1 >= pg_relation_size('verdicts') / current_setting('block_size')::bigint AS is_last
    FROM verdict_walk WHERE is_only AND due_at <= clock_timestamp() FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM verdicts
    WHERE ctid >= (SELECT first FROM turn) AND ctid < (SELECT behind FROM turn)
      AND decided_at < now() - make_interval(days => $2)
    RETURNING 1
)
UPDATE verdict_walk AS walk SET
    next_page = CASE WHEN turn.is_last THEN 0 ELSE turn.next_page END,
    due_at = clock_timestamp()
        + CASE WHEN turn.is_last THEN make_interval(secs => $3) ELSE $4 * (clock_timestamp() - now()) END
FROM turn, (SELECT count(*) AS deleted FROM gone) AS step
WHERE walk.is_only
RETURNING step.deleted, CASE WHEN NOT turn.is_last
    THEN ceil(extract(epoch FROM walk.due_at - clock_timestamp()) * 1000)::bigint END AS pause_ms";

/// Deletes verdicts whose time is past, on connections of its own.
pub(crate) struct Walker {
    options: Arc<PgConnectOptions>,
    days: u16,
}

impl Walker {
    /// `pool` only says where.
    pub(crate) fn new(pool: &PgPool, days: u16) -> Self {
        Self { options: pool.connect_options(), days }
    }

    async fn delete(&self) -> Result<i64, sqlx::Error> {
        let mut connection = db::connect(&self.options, &SETTINGS).await?;
        let deleted = walk(&mut connection, self.days).await?;
        connection.close().await?;
        Ok(deleted)
    }
}

impl Upkeep for Walker {
    const PAUSE_MAX: Duration = Duration::from_secs(600);
    const FAILING: &'static str = "verdicts past their time cannot be deleted";
    type Error = Infallible;

    /// Where it fails, that is only logged: no request waits for it, so the worker is as ready as ever.
    async fn look(&mut self) -> Result<(), Infallible> {
        match self.delete().await {
            Ok(0) => (),
            Ok(deleted) => tracing::info!(deleted, days = self.days, "verdicts past their time are deleted"),
            Err(error) => tracing::warn!(%error, "{}; trying again later", Self::FAILING),
        }
        Ok(())
    }
}

/// Makes the steps that are due, one after another with their pauses, until the walk is over or somebody else makes
/// them. Returns how many verdicts went. Where it fails, the connection is of no more use.
pub async fn walk(connection: &mut PgConnection, days: u16) -> Result<i64, sqlx::Error> {
    let mut all = 0;
    loop {
        let (deleted, pause_ms) = db::answered(step(connection, days)).await?.unwrap_or_default();
        all += deleted;
        match pause_ms {
            Some(pause_ms) => tokio::time::sleep(Duration::from_millis(pause_ms.unsigned_abs())).await,
            None => return Ok(all),
        }
    }
}

/// Makes the next step: how many verdicts went, and how long it is until the one after it, unless the walk is over. `None`:
/// it is too early for a step, or another worker is making it.
pub async fn step(connection: &mut PgConnection, days: u16) -> Result<Option<(i64, Option<i64>)>, sqlx::Error> {
    let step = sqlx::query_as(STEP).bind(STEP_PAGES).bind(i32::from(days)).bind(WALK_EVERY_SECONDS).bind(PAUSE_FACTOR);
    step.fetch_optional(connection).await
}
