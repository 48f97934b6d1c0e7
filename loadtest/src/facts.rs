//! What the database says about a sale: read by SQL, independently of every reply.
//!
//! Also puts the sale's items there at its beginning, as an operator's SQL would. Knows nothing of messages.
//! Invariant: reads whole rows as they are, also impossible ones; judging is the auditor's.

use std::time::Duration;

use serde::Serialize;
use shared::messages::Status;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::schedule::{ItemOnSale, Schedule};

/// Longer than any sale: unless holds are to run out, none may while the auditor counts on a stock that only shrinks.
const HOLD_MS: i64 = 24 * 60 * 60 * 1_000;

/// Everything recorded about a sale.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The sale's items.
    pub items: Vec<RecordedItem>,
    /// Verdicts on the sale's items or of its requests.
    pub verdicts: Vec<RecordedVerdict>,
    /// Orders of the sale's items or requests.
    pub orders: Vec<RecordedOrder>,
}

/// An item's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedItem {
    /// The item's id.
    pub id: String,
    /// Units that exist.
    pub stock: i64,
    /// Units that can be reserved.
    pub available: i64,
    /// Units kept by orders.
    pub held: i64,
    /// Units paid for.
    pub sold: i64,
    /// Decisions committed.
    pub version: i64,
    /// Decisions made again because the version had moved on.
    pub conflicts: i64,
}

/// A verdict's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedVerdict {
    /// The request's id.
    pub request_id: String,
    /// The item's id.
    pub item: String,
    /// How the request ended.
    pub status: Status,
    /// The reply as it was to be sent.
    pub reply: String,
}

/// An order's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedOrder {
    /// The order's id.
    pub id: Uuid,
    /// The request's id.
    pub request_id: String,
    /// The item's id.
    pub item: String,
    /// Units.
    pub quantity: i64,
    /// `reserved`, `paying`, `paid`, `expired` or `cancelled`.
    pub state: String,
}

impl Recorded {
    /// Decisions that were tried: those that were committed and those that met a conflict.
    #[must_use]
    pub fn attempts(&self) -> i64 {
        self.items.iter().map(|item| item.version).sum::<i64>() + self.conflicts()
    }

    /// Decisions that met a conflict.
    #[must_use]
    pub fn conflicts(&self) -> i64 {
        self.items.iter().map(|item| item.conflicts).sum()
    }
}

const PUT_ON_SALE: &str = "
    INSERT INTO items (id, stock, available, hold_ms)
    SELECT id, stock, stock, $3 FROM UNNEST($1::text[], $2::bigint[]) AS on_sale (id, stock)";

/// Inserts the sale's items, each with its stock available; orders hold units for this time, or for longer than any sale.
///
/// # Errors
/// Whatever the database says; an item that exists already is an error.
pub async fn put_on_sale(database: &PgPool, items: &[ItemOnSale], hold: Option<Duration>) -> sqlx::Result<()> {
    let hold_ms = hold.map_or(HOLD_MS, |hold| i64::try_from(hold.as_millis()).unwrap_or(HOLD_MS));
    let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let stocks: Vec<i64> = items.iter().map(|item| i64::try_from(item.stock).unwrap_or(i64::MAX)).collect();
    sqlx::query(PUT_ON_SALE).bind(ids).bind(stocks).bind(hold_ms).execute(database).await?;
    Ok(())
}

// A worker's statements take milliseconds, and are limited; these read whole tables.
pub(crate) const WITHOUT_LIMIT: &str = "SET LOCAL statement_timeout = 0";

/// Reads everything recorded about the sale.
///
/// # Errors
/// Whatever the database says.
pub async fn read(database: &PgPool, schedule: &Schedule) -> sqlx::Result<Recorded> {
    let items: Vec<String> = schedule.items.iter().map(|item| item.id.clone()).collect();
    let requests: Vec<String> = schedule.requests.iter().map(|due| due.request_id.to_string()).collect();
    let mut transaction = database.begin().await?;
    sqlx::query(WITHOUT_LIMIT).execute(&mut *transaction).await?;
    Ok(Recorded {
        items: read_items(&mut transaction, &items).await?,
        verdicts: read_verdicts(&mut transaction, &items, &requests).await?,
        orders: read_orders(&mut transaction, &items, &requests).await?,
    })
}

const READ_VERSION: &str = "SHOW server_version";

/// The server's version, such as `15.18`.
///
/// # Errors
/// Whatever the database says.
pub async fn server_version(database: &PgPool) -> sqlx::Result<String> {
    let version: String = sqlx::query_scalar(READ_VERSION).fetch_one(database).await?;
    // Debian's says `15.18 (Debian 15.18-0+deb12u1)`.
    Ok(version.split_whitespace().next().unwrap_or(&version).to_owned())
}

const READ_ITEMS: &str = "
    SELECT id, stock, available, held, sold, version, conflicts FROM items WHERE id = ANY($1) ORDER BY id";

pub(crate) async fn read_items(database: &mut PgConnection, items: &[String]) -> sqlx::Result<Vec<RecordedItem>> {
    let rows = sqlx::query(READ_ITEMS).bind(items).fetch_all(database).await?;
    let read = |row: &sqlx::postgres::PgRow| {
        Ok(RecordedItem {
            id: row.try_get("id")?,
            stock: row.try_get("stock")?,
            available: row.try_get("available")?,
            held: row.try_get("held")?,
            sold: row.try_get("sold")?,
            version: row.try_get("version")?,
            conflicts: row.try_get("conflicts")?,
        })
    };
    rows.iter().map(read).collect()
}

// The two conditions find what nobody asked for (by item) and what went astray (by request id). `IN (SELECT …)` is looked
// up in a hash table; `= ANY` would compare each row with each element.
const READ_VERDICTS: &str = "
    SELECT request_id, item, status, reply FROM verdicts
    WHERE item IN (SELECT UNNEST($1::text[])) OR request_id IN (SELECT UNNEST($2::text[]))";

async fn read_verdicts(
    database: &mut PgConnection,
    items: &[String],
    requests: &[String],
) -> sqlx::Result<Vec<RecordedVerdict>> {
    let rows = sqlx::query(READ_VERDICTS).bind(items).bind(requests).fetch_all(database).await?;
    let read = |row: &sqlx::postgres::PgRow| {
        let status: String = row.try_get("status")?;
        Ok(RecordedVerdict {
            request_id: row.try_get("request_id")?,
            item: row.try_get("item")?,
            status: read_status(&status)?,
            reply: row.try_get("reply")?,
        })
    };
    rows.iter().map(read).collect()
}

const READ_ORDERS: &str = "
    SELECT id, request_id, item, quantity, state FROM orders
    WHERE item IN (SELECT UNNEST($1::text[])) OR request_id IN (SELECT UNNEST($2::text[]))";

async fn read_orders(
    database: &mut PgConnection,
    items: &[String],
    requests: &[String],
) -> sqlx::Result<Vec<RecordedOrder>> {
    let rows = sqlx::query(READ_ORDERS).bind(items).bind(requests).fetch_all(database).await?;
    let read = |row: &sqlx::postgres::PgRow| {
        Ok(RecordedOrder {
            id: row.try_get("id")?,
            request_id: row.try_get("request_id")?,
            item: row.try_get("item")?,
            quantity: row.try_get("quantity")?,
            state: row.try_get("state")?,
        })
    };
    rows.iter().map(read).collect()
}

fn read_status(word: &str) -> sqlx::Result<Status> {
    [Status::Reserved, Status::SoldOut, Status::Refused, Status::Done, Status::Invalid]
        .into_iter()
        .find(|status| status.as_str() == word)
        .ok_or_else(|| sqlx::Error::Decode(format!("`{word}` is not a verdict's status").into()))
}
