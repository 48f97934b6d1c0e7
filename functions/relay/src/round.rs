//! One round: take the turn, read the first rows, have them told, delete them, in one transaction.
//!
//! Never sees the broker: it gets what tells. Invariants: of all instances one at a time has the turn, for as long as its
//! transaction lives; a row is deleted only after it was told, or is kept with its reason; and rows are taken from the
//! front, by number, whatever was seen before: a number that turns up late is not passed over.

use crate::{
    tell::{Order, Poison, Row, Told, What, tell},
    teller::{Outcome, Teller},
};
use anyhow::Context;
use shared::{fail_point::pause_at, messages::EventOrder};
use sqlx::{Connection, PgConnection, Row as _};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

/// The most rows of a round.
pub const ROWS_MAX: i64 = 500;
/// A round ends with the row that brings it to this many events: enough for the disk to be written for many at once, and
/// told within a fraction of a second, so that what comes meanwhile does not wait long.
pub const EVENTS_MAX: i64 = 2_000;

/// A row's lock, held until the transaction ends; it makes no new version of the row.
const TAKE_TURN: &str = "SELECT 1 FROM outbox_turn FOR UPDATE SKIP LOCKED";

/// The first rows, $1 at most, up to the one that brings them to $2 events. `told_before` is made of numbers alone: the
/// arrays of ids are not touched until their row is taken.
pub const READ: &str = "
SELECT id, kind, order_ids, item, detail, at, told_before + events >= $2 AS fills FROM (
    SELECT front.*, sum(events) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) - events AS told_before
    FROM (SELECT * FROM outbox ORDER BY id LIMIT $1) AS front
) AS counted
WHERE told_before < $2
ORDER BY id";

/// What orders are told as; it never changes, so it does not matter when it is read.
pub const READ_ORDERS: &str = "
SELECT id, item, request_id, buyer, quantity, hold_until FROM orders WHERE id = ANY($1)";

/// Rows that are told.
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

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Another instance has the turn.
    OthersTurn,
    /// What was there is settled.
    AllSettled,
    /// More is there.
    MoreToTell,
}

/// What is to become of the rows of a round.
struct Settled {
    /// To be deleted.
    told: Vec<i64>,
    /// To be kept elsewhere, with the reason.
    given_up: Vec<(i64, String)>,
}

/// Goes one round, on a connection with [`crate::settings`]; telling is done `within` this time.
///
/// # Errors
/// The database or the broker is away, or takes nothing. Nothing is deleted then, and all is told again.
pub async fn round(connection: &mut PgConnection, teller: &mut Teller, within: Duration) -> anyhow::Result<Round> {
    let mut transaction = connection.begin().await.context("the database")?;
    let outcome = go_round(&mut transaction, teller, within).await;
    if matches!(outcome, Ok(Round::AllSettled | Round::MoreToTell)) {
        transaction.commit().await.context("the database")?;
    } else {
        // At once, and not when the connection is used next: the turn must not wait for that.
        transaction.rollback().await.ok();
    }
    outcome
}

async fn go_round(connection: &mut PgConnection, teller: &mut Teller, within: Duration) -> anyhow::Result<Round> {
    if sqlx::query(TAKE_TURN).fetch_optional(&mut *connection).await.context("the database")?.is_none() {
        return Ok(Round::OthersTurn);
    }
    let (rows, is_full) = read(connection).await.context("the database")?;
    if rows.is_empty() {
        return Ok(Round::AllSettled);
    }
    let orders = read_orders(connection, &rows).await.context("the database")?;
    let settled = have_told(&rows, &orders, teller, within).await?;
    pause_at("published").await;
    settle(connection, &settled).await.context("the database")?;
    let is_done = settled.told.len() + settled.given_up.len() == rows.len() && !is_full;
    Ok(if is_done { Round::AllSettled } else { Round::MoreToTell })
}

/// The rows of the round, and whether there may be more.
async fn read(connection: &mut PgConnection) -> Result<(Vec<Row>, bool), sqlx::Error> {
    let read = sqlx::query(READ).bind(ROWS_MAX).bind(EVENTS_MAX).fetch_all(connection).await?;
    let mut is_full = i64::try_from(read.len()).is_ok_and(|rows| rows == ROWS_MAX);
    let mut rows = Vec::with_capacity(read.len());
    for row in read {
        is_full |= row.try_get::<bool, _>("fills")?;
        let what = match row.try_get("order_ids")? {
            Some(ids) => What::Orders(ids),
            None => What::Item { id: row.try_get("item")?, detail: row.try_get("detail")? },
        };
        rows.push(Row { id: row.try_get("id")?, kind: row.try_get("kind")?, what, at: row.try_get("at")? });
    }
    Ok((rows, is_full))
}

async fn read_orders(connection: &mut PgConnection, rows: &[Row]) -> Result<HashMap<Uuid, Order>, sqlx::Error> {
    let of_row = |row: &Row| match &row.what {
        What::Orders(ids) => ids.iter().flatten().copied().collect(),
        What::Item { .. } => Vec::new(),
    };
    let ids: Vec<Uuid> = rows.iter().flat_map(of_row).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut orders = HashMap::with_capacity(ids.len());
    for row in sqlx::query(READ_ORDERS).bind(ids).fetch_all(connection).await? {
        let id = row.try_get("id")?;
        let quantity = u32::try_from(row.try_get::<i64, _>("quantity")?);
        let order = EventOrder {
            id,
            request_id: row.try_get("request_id")?,
            buyer: row.try_get("buyer")?,
            quantity: quantity.map_err(|error| sqlx::Error::Decode(error.into()))?,
            hold_until: row.try_get("hold_until")?,
        };
        orders.insert(id, Order { item: row.try_get("item")?, order });
    }
    Ok(orders)
}

/// Has rows told in their order; those that cannot be are passed over.
async fn have_told(
    rows: &[Row],
    orders: &HashMap<Uuid, Order>,
    teller: &mut Teller,
    within: Duration,
) -> anyhow::Result<Settled> {
    let events: Vec<(i64, Result<Vec<Told>, Poison>)> = rows.iter().map(|row| (row.id, tell(row, orders))).collect();
    let mut settled = Settled { told: Vec::new(), given_up: Vec::new() };
    let mut sound = Vec::new();
    for (id, told) in &events {
        match told {
            Ok(told) => sound.push((*id, told.as_slice())),
            Err(poison) => settled.given_up.push((*id, poison.to_string())),
        }
    }
    let told: Vec<&[Told]> = sound.iter().map(|(_, told)| *told).collect();
    if !told.is_empty() {
        for ((id, _), outcome) in sound.iter().zip(teller.tell(&told, within).await?) {
            match outcome {
                Outcome::Told => settled.told.push(*id),
                Outcome::Refused(reason) => settled.given_up.push((*id, reason)),
            }
        }
    }
    Ok(settled)
}

async fn settle(connection: &mut PgConnection, settled: &Settled) -> Result<(), sqlx::Error> {
    if !settled.told.is_empty() {
        sqlx::query(DELETE).bind(&settled.told).execute(&mut *connection).await?;
    }
    if !settled.given_up.is_empty() {
        let (ids, reasons): (Vec<i64>, Vec<&str>) =
            settled.given_up.iter().map(|(id, reason)| (*id, reason.as_str())).unzip();
        sqlx::query(GIVE_UP).bind(ids).bind(reasons).execute(connection).await?;
        for (row, reason) in &settled.given_up {
            tracing::error!(row, reason, "a row of the outbox cannot be told; it is kept in outbox_failed");
        }
    }
    Ok(())
}
