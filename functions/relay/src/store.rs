//! The outbox in SQL: the turn, the first rows with their orders, and what becomes of them.
//!
//! Rows are taken from the front, by number, whatever was seen before: a number that turns up late is not passed over.

use crate::decide::{Order, Row};
use shared::messages::EventOrder;
use sqlx::{Executor, PgConnection};
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// The most rows of a round.
pub const ROWS_MAX: i64 = 500;
/// A round ends with the row that brings it to this many events: enough for the disk to be written for many at once, and
/// published within a fraction of a second, so that what comes meanwhile does not wait long.
pub const EVENTS_MAX: i64 = 2_000;

/// A row's lock, held until the transaction ends; it makes no new version of the row.
const TAKE_TURN: &str = "SELECT marked_at FROM outbox_turn FOR UPDATE SKIP LOCKED";

/// Moves the mark on. It has to be on disk before RabbitMQ has it: else a crash would make an older database of this one.
const MARK: &str = "
UPDATE outbox_turn SET marked_at = greatest(clock_timestamp(), marked_at + interval '1 us') RETURNING marked_at";
const DURABLE: &str = "SET LOCAL synchronous_commit = on";

/// Has every function hold its messages until `admin restored` is said. A vacuum of one of the tables makes way after a second.
const HOLD: &str = "SET LOCAL lock_timeout = '2s'; SELECT hold_until_restored(true)";

/// The first rows, $1 at most, up to the one that brings them to $2 events. `events_before` is made of numbers alone: the
/// arrays of ids are not touched until their row is taken.
pub const READ: &str = "
SELECT id, kind, order_ids, item, detail, at, events_before + events >= $2 AS fills FROM (
    SELECT front.*, sum(events) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) - events AS events_before
    FROM (SELECT * FROM outbox ORDER BY id LIMIT $1) AS front
) AS counted
WHERE events_before < $2
ORDER BY id";

/// What is published of orders; it never changes, so it does not matter when it is read.
pub const READ_ORDERS: &str = "
SELECT id, item, request_id, buyer, quantity, hold_until FROM orders WHERE id = ANY($1)";

/// Rows that are published.
pub const DELETE: &str = "DELETE FROM outbox WHERE id = ANY($1)";

/// $1 and $2 belong together: the row, and the reason. A row that an operator put back, and that fails again, is there.
pub const GIVE_UP: &str = "
WITH given_up AS (
    DELETE FROM outbox USING UNNEST($1::bigint[], $2::text[]) AS refused (row, reason) WHERE id = refused.row
    RETURNING id, kind, order_ids, item, detail, at, reason
)
INSERT INTO outbox_failed (id, kind, order_ids, item, detail, at, reason)
SELECT id, kind, order_ids, item, detail, at, reason FROM given_up
ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, failed_at = clock_timestamp()";

/// The rows of a round.
pub(crate) struct Batch {
    /// As the database knows it.
    pub(crate) marked_at: OffsetDateTime,
    pub(crate) rows: Vec<Row>,
    /// Those that the rows name, as far as they are there.
    pub(crate) orders: HashMap<Uuid, Order>,
    /// Whether there may be more rows.
    pub(crate) is_full: bool,
}

/// Takes the turn, until the transaction ends, and reads the first rows; `None`: another instance has the turn.
pub(crate) async fn read(connection: &mut PgConnection) -> Result<Option<Batch>, sqlx::Error> {
    let Some(marked_at) = sqlx::query_scalar(TAKE_TURN).fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let rows: Vec<Row> = sqlx::query_as(READ).bind(ROWS_MAX).bind(EVENTS_MAX).fetch_all(&mut *connection).await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == ROWS_MAX) || rows.iter().any(|row| row.fills);
    let orders = read_orders(connection, &rows).await?;
    Ok(Some(Batch { marked_at, rows, orders, is_full }))
}

async fn read_orders(connection: &mut PgConnection, rows: &[Row]) -> Result<HashMap<Uuid, Order>, sqlx::Error> {
    let ids: Vec<Uuid> = rows.iter().filter_map(|row| row.order_ids.as_ref()).flatten().flatten().copied().collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    type Columns = (Uuid, String, String, String, i64, OffsetDateTime);
    let read: Vec<Columns> = sqlx::query_as(READ_ORDERS).bind(ids).fetch_all(connection).await?;
    let order = |(id, item, request_id, buyer, quantity, hold_until): Columns| {
        let quantity = u32::try_from(quantity).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((id, Order { item, order: EventOrder { id, request_id, buyer, quantity, hold_until } }))
    };
    read.into_iter().map(order).collect()
}

/// Deletes what is published, and keeps what is given up with its reason.
pub(crate) async fn settle(
    connection: &mut PgConnection,
    published: &[i64],
    given_up: &[(i64, String)],
) -> Result<(), sqlx::Error> {
    if !published.is_empty() {
        sqlx::query(DELETE).bind(published).execute(&mut *connection).await?;
    }
    if !given_up.is_empty() {
        let (ids, reasons): (Vec<i64>, Vec<&str>) = given_up.iter().map(|(id, reason)| (*id, reason.as_str())).unzip();
        sqlx::query(GIVE_UP).bind(ids).bind(reasons).execute(connection).await?;
    }
    Ok(())
}

/// Moves the mark on, with all that was published until then; durably, once the transaction is committed.
pub(crate) async fn mark(connection: &mut PgConnection) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query(DURABLE).execute(&mut *connection).await?;
    sqlx::query_scalar(MARK).fetch_one(connection).await
}

/// Keeps the functions from recording anything, from the commit on.
pub(crate) async fn hold(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(HOLD).await.map(drop)
}
