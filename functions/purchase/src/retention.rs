//! How long verdicts are kept, and orders that are over: those past their time are deleted, beside the hot path and unnoticed by it.
//!
//! A table is walked from its first page to its last, once a day, a few pages at a time and with long pauses, by
//! whichever worker comes by when a step is due. How far the walk has come stands in the database. Invariants: who
//! decides never waits for the walk, nor the walk for anybody; and what is not past its time, by the database's clock, stays.

use shared::db;
use shared::upkeep::Upkeep;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// The days that verdicts are kept, unless the operator says otherwise.
pub const KEEP_VERDICTS_DAYS: u16 = 30;
/// A step's pause, in units of the time that the step took: the walk has at most a tenth of a processor, or of a disk.
const PAUSE_FACTOR: i32 = 9;
/// From the end of a walk to the beginning of the next.
const WALK_EVERY_SECONDS: i32 = 24 * 60 * 60;
/// What is lost in a crash is deleted again, so no step waits for a disk. And what belongs to an order is found by key, however
/// many the planner expects on a few pages.
pub const SETTINGS: [(&str, &str); 3] =
    [("synchronous_commit", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")];

/// What is deleted when its time is past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Verdicts,
    /// And their history and payments. Those that are over: paid, expired or cancelled.
    Orders,
}

/// The next step, where one is due and nobody else is making it: deletes what is older than $2 days from $1 pages. A range
/// of row addresses is read page by page (a TID range scan), so this needs no index.
///
/// Behind the last page the walk is over, and the next one due in $3 seconds. Else the pause is $4 times what the step took:
/// now() is when it began.
const STEP: &str = "
WITH turn AS (
    SELECT next_page + $1 AS next_page, format('(%s,0)', next_page)::tid AS first, format('(%s,0)', next_page + $1)::tid AS behind,
           next_page + $1 >= pg_relation_size('{table}') / current_setting('block_size')::bigint AS is_last
    FROM {walk} WHERE is_only AND due_at <= clock_timestamp() FOR UPDATE SKIP LOCKED
), {delete}
UPDATE {walk} AS walk SET
    next_page = CASE WHEN turn.is_last THEN 0 ELSE turn.next_page END,
    due_at = clock_timestamp()
        + CASE WHEN turn.is_last THEN make_interval(secs => $3) ELSE $4 * (clock_timestamp() - now()) END
FROM turn, (SELECT count(*) AS deleted FROM gone) AS step
WHERE walk.is_only
RETURNING step.deleted, CASE WHEN NOT turn.is_last
    THEN ceil(extract(epoch FROM walk.due_at - clock_timestamp()) * 1000)::bigint END AS pause_ms";

const DELETE_VERDICTS: &str = "gone AS (
    DELETE FROM verdicts
    WHERE ctid >= (SELECT first FROM turn) AND ctid < (SELECT behind FROM turn)
      AND decided_at < now() - make_interval(days => $2)
    RETURNING 1
)";

/// An order's time runs from when its hold was to end, or from when it ended, where that is later. One that is over changes no
/// more, but for a payment under way whose money is given back; and it is read once more, for what the relay has yet to publish.
/// What an item's limits count stays; each item is looked up by itself, where EXISTS has PostgreSQL 18 read them all. What others
/// have in hand is passed over.
const DELETE_ORDERS: &str = "past AS MATERIALIZED (
    SELECT least(now(), (SELECT at FROM outbox ORDER BY id LIMIT 1), (SELECT at FROM outbox_failed ORDER BY id LIMIT 1))
        - make_interval(days => $2) AS before
), due AS MATERIALIZED (
    SELECT id FROM orders
    WHERE ctid >= (SELECT first FROM turn) AND ctid < (SELECT behind FROM turn)
      AND state IN ('paid', 'expired', 'cancelled')
      AND hold_until < (SELECT before FROM past)
      AND NOT EXISTS (SELECT FROM order_history WHERE order_id = orders.id AND at >= (SELECT before FROM past))
      AND NOT EXISTS (SELECT FROM payments WHERE order_id = orders.id AND is_under_way)
      AND NOT (is_counted AND state = 'paid' AND coalesce(
          (SELECT num_nonnulls(max_per_buyer, cooldown_ms) > 0 FROM items WHERE id = orders.item), false))
    FOR UPDATE SKIP LOCKED
), payments_gone AS (
    DELETE FROM payments USING due WHERE order_id = due.id AND NOT is_under_way
), history_gone AS (
    DELETE FROM order_history USING due WHERE order_id = due.id
), gone AS (
    DELETE FROM orders USING due WHERE orders.id = due.id RETURNING orders.item, orders.quantity, orders.state
), sold AS (
    INSERT INTO orders_gone (item, sold)
    SELECT item, sum(quantity) FROM gone WHERE state = 'paid' GROUP BY item
    ON CONFLICT (item) DO UPDATE SET sold = orders_gone.sold + EXCLUDED.sold
)";

impl Kept {
    /// Pages (of 8 KiB) that one step reads: some milliseconds, also where every row on them goes. With an
    /// order go its history and its payment, so it is fewer pages.
    pub fn step_pages(self) -> i64 {
        match self {
            Self::Verdicts => 256,
            Self::Orders => 32,
        }
    }

    /// The statement of a step.
    pub fn step(self) -> String {
        let (table, walk, delete) = match self {
            Self::Verdicts => ("verdicts", "verdict_walk", DELETE_VERDICTS),
            Self::Orders => ("orders", "order_walk", DELETE_ORDERS),
        };
        STEP.replace("{table}", table).replace("{walk}", walk).replace("{delete}", delete)
    }
}

/// Deletes what is past its time, on connections of its own.
pub(crate) struct Walker {
    options: Arc<PgConnectOptions>,
    /// What, and for how many days it is kept.
    kept: Vec<(Kept, u16)>,
}

impl Walker {
    /// `pool` only says where.
    pub(crate) fn new(pool: &PgPool, kept: Vec<(Kept, u16)>) -> Self {
        Self { options: pool.connect_options(), kept }
    }

    async fn delete(&self, kept: Kept, days: u16) -> Result<i64, sqlx::Error> {
        let mut connection = db::connect(&self.options, &SETTINGS).await?;
        let deleted = walk(&mut connection, kept, days).await?;
        connection.close().await?;
        Ok(deleted)
    }
}

impl Upkeep for Walker {
    const PAUSE_MAX: Duration = Duration::from_secs(600);
    const FAILING: &'static str = "what is past its time cannot be deleted";
    type Error = Infallible;

    /// Where it fails, that is only logged: no request waits for it, so the worker is as ready as ever.
    async fn look(&mut self) -> Result<(), Infallible> {
        for (kept, days) in &self.kept {
            match self.delete(*kept, *days).await {
                Ok(0) => (),
                Ok(deleted) => tracing::info!(?kept, deleted, days, "what is past its time is deleted"),
                Err(error) => tracing::warn!(?kept, %error, "{}; trying again later", Self::FAILING),
            }
        }
        Ok(())
    }
}

/// Makes the steps that are due, one after another with their pauses, until the walk is over or somebody else makes
/// them. Returns how many went. Where it fails, the connection is of no more use.
pub async fn walk(connection: &mut PgConnection, kept: Kept, days: u16) -> Result<i64, sqlx::Error> {
    let mut all = 0;
    loop {
        let (deleted, pause_ms) = db::answered(step(connection, kept, days)).await?.unwrap_or_default();
        all += deleted;
        match pause_ms {
            Some(pause_ms) => tokio::time::sleep(Duration::from_millis(pause_ms.unsigned_abs())).await,
            None => return Ok(all),
        }
    }
}

/// Makes the next step: how many went, and how long it is until the one after it, unless the walk is over. `None`:
/// it is too early for a step, or another worker is making it.
pub async fn step(
    connection: &mut PgConnection,
    kept: Kept,
    days: u16,
) -> Result<Option<(i64, Option<i64>)>, sqlx::Error> {
    let step = kept.step();
    let step = sqlx::query_as(&step).bind(kept.step_pages()).bind(i32::from(days));
    step.bind(WALK_EVERY_SECONDS).bind(PAUSE_FACTOR).fetch_optional(connection).await
}
