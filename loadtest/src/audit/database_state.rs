//! What the database holds of a sale, read by SQL, independently of every reply: whole rows as they are, also impossible
//! ones, as judging is the audit's. Also puts the sale's items there at its beginning, as an operator's SQL would.

use crate::orders::plan::FollowUp;
use crate::schedule::{ItemOnSale, Schedule};
use serde::Serialize;
use shared::messages::Status;
use sqlx::{PgConnection, PgPool};
use sqlx_macros::FromRow;
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

/// Longer than any sale: unless holds are to run out, none may while the audit counts on a stock that only shrinks.
const HOLD_MS: i64 = 24 * 60 * 60 * 1_000;

/// Everything of a sale's items, or of its requests; and what happened to its orders after their verdicts, where that was
/// read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseState {
    pub items: Vec<RecordedItem>,
    pub verdicts: Vec<RecordedVerdict>,
    pub orders: Vec<RecordedOrder>,
    /// By time.
    pub transitions: Vec<RecordedTransition>,
    /// The gateway's name for the charge, by order; `None` where a payment is under way, or took nothing.
    pub charge_ids: HashMap<Uuid, Option<String>>,
    /// As they were to be sent, by request id.
    pub follow_up_replies: HashMap<String, String>,
    /// Rows of the outbox about the sale's orders.
    pub unpublished: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct RecordedItem {
    pub id: String,
    pub stock: i64,
    pub available: i64,
    pub held: i64,
    pub sold: i64,
    /// Decisions committed, and returns of units.
    pub version: i64,
    /// Decisions made again because the version had moved on.
    pub conflicts: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedVerdict {
    pub request_id: String,
    pub item: String,
    pub status: Status,
    /// As it was to be sent.
    pub reply: String,
}

#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RecordedOrder {
    pub id: Uuid,
    pub request_id: String,
    pub item: String,
    pub buyer: String,
    pub quantity: i64,
    pub state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RecordedTransition {
    pub order_id: Uuid,
    #[sqlx(rename = "from_state")]
    pub from: String,
    #[sqlx(rename = "to_state")]
    pub to: String,
    pub cause: String,
    /// A hold does not run out before its time.
    pub is_in_time: bool,
    /// Who asked for it.
    pub request_id: Option<String>,
}

impl DatabaseState {
    /// Decisions that were tried (those that were committed, and those that met a conflict), and of these the latter.
    #[must_use]
    pub fn attempts_and_conflicts(&self) -> (i64, i64) {
        let conflicts = self.items.iter().map(|item| item.conflicts).sum();
        (self.items.iter().map(|item| item.version).sum::<i64>() + conflicts, conflicts)
    }
}

const PUT_ON_SALE: &str = "
    INSERT INTO items (id, stock, available, hold_ms)
    SELECT id, stock, stock, $3 FROM UNNEST($1::text[], $2::bigint[]) AS on_sale (id, stock)";

/// Orders hold units for this time, or for longer than any sale.
///
/// # Errors
/// Also where an item exists already.
pub async fn put_on_sale(database: &PgPool, items: &[ItemOnSale], hold: Option<Duration>) -> sqlx::Result<()> {
    let hold_ms = hold.map_or(HOLD_MS, |hold| i64::try_from(hold.as_millis()).unwrap_or(HOLD_MS));
    let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let stocks: Vec<i64> = items.iter().map(|item| i64::try_from(item.stock).unwrap_or(i64::MAX)).collect();
    sqlx::query(PUT_ON_SALE).bind(ids).bind(stocks).bind(hold_ms).execute(database).await?;
    Ok(())
}

const READ_VERSION: &str = "SHOW server_version";

/// Such as `15.18`.
pub async fn server_version(database: &PgPool) -> sqlx::Result<String> {
    let version: String = sqlx::query_scalar(READ_VERSION).fetch_one(database).await?;
    // Debian's says `15.18 (Debian 15.18-0+deb12u1)`.
    Ok(version.split_whitespace().next().unwrap_or(&version).to_owned())
}

// A worker's statements take milliseconds, and are limited; these read whole tables.
const WITHOUT_LIMIT: &str = "SET LOCAL statement_timeout = 0";
// The two conditions find what nobody asked for (by item) and what went astray (by request id). `IN (SELECT …)` is looked
// up in a hash table; `= ANY` would compare each row with each element.
const READ_VERDICTS: &str = "
    SELECT request_id, item, status, reply FROM verdicts
    WHERE item IN (SELECT UNNEST($1::text[])) OR request_id IN (SELECT UNNEST($2::text[]))";
const READ_ORDERS: &str = "
    SELECT id, request_id, item, buyer, quantity, state FROM orders
    WHERE item IN (SELECT UNNEST($1::text[])) OR request_id IN (SELECT UNNEST($2::text[]))";

const READ_ITEMS: &str = "
    SELECT id, stock, available, held, sold, version, conflicts FROM items WHERE id = ANY($1) ORDER BY id";
const READ_TRANSITIONS: &str = "
    SELECT order_id, from_state, to_state, cause, order_history.request_id,
           cause <> 'hold_passed' OR order_history.at >= hold_until AS is_in_time
    FROM order_history JOIN orders ON orders.id = order_id
    WHERE item IN (SELECT UNNEST($1::text[]))
    ORDER BY order_history.at";
const READ_CHARGE_IDS: &str = "
    SELECT order_id, charge_id FROM payments JOIN orders ON orders.id = order_id
    WHERE item IN (SELECT UNNEST($1::text[]))";
const READ_REPLIES: &str = "SELECT request_id, reply FROM verdicts WHERE request_id IN (SELECT UNNEST($1::text[]))";
const COUNT_UNPUBLISHED: &str = "
    SELECT count(DISTINCT outbox.id)
    FROM outbox, UNNEST(order_ids) AS published (order_id) JOIN orders ON orders.id = published.order_id
    WHERE orders.item IN (SELECT UNNEST($1::text[]))";

/// With what happened to the orders after their verdicts, where anything did.
pub async fn read(database: &PgPool, schedule: &Schedule, with_history: bool) -> sqlx::Result<DatabaseState> {
    let (items, requests) = (item_ids(schedule), schedule.requests.iter().map(|due| due.request_id));
    let ids: Vec<String> = requests.clone().map(|id| id.to_string()).collect();
    let mut transaction = database.begin().await?;
    let connection = &mut *transaction;
    sqlx::query(WITHOUT_LIMIT).execute(&mut *connection).await?;
    let verdicts: Vec<(String, String, String, String)> =
        sqlx::query_as(READ_VERDICTS).bind(&items).bind(&ids).fetch_all(&mut *connection).await?;
    let verdicts = verdicts.into_iter().map(|(request_id, item, status, reply)| {
        let status = serde_json::from_value(status.into()).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(RecordedVerdict { request_id, item, status, reply })
    });
    let state = DatabaseState {
        verdicts: verdicts.collect::<sqlx::Result<_>>()?,
        items: read_items(connection, &items).await?,
        orders: sqlx::query_as(READ_ORDERS).bind(&items).bind(&ids).fetch_all(&mut *connection).await?,
        ..DatabaseState::default()
    };
    if !with_history {
        return Ok(state);
    }
    let ids: Vec<String> = requests.map(|id| FollowUp::request_id_of(id).to_string()).collect();
    let replies: Vec<_> = sqlx::query_as(READ_REPLIES).bind(&ids).fetch_all(&mut *connection).await?;
    let charge_ids: Vec<_> = sqlx::query_as(READ_CHARGE_IDS).bind(&items).fetch_all(&mut *connection).await?;
    Ok(DatabaseState {
        transitions: sqlx::query_as(READ_TRANSITIONS).bind(&items).fetch_all(&mut *connection).await?,
        charge_ids: charge_ids.into_iter().collect(),
        follow_up_replies: replies.into_iter().collect(),
        unpublished: sqlx::query_scalar(COUNT_UNPUBLISHED).bind(&items).fetch_one(&mut *connection).await?,
        ..state
    })
}

pub(crate) async fn read_items(database: &mut PgConnection, items: &[String]) -> sqlx::Result<Vec<RecordedItem>> {
    sqlx::query_as(READ_ITEMS).bind(items).fetch_all(database).await
}

const COUNT_HELD: &str = "SELECT COALESCE(sum(held), 0)::bigint FROM items WHERE id IN (SELECT UNNEST($1::text[]))";

/// Units of the sale's items that are held.
pub async fn held(database: &PgPool, schedule: &Schedule) -> sqlx::Result<i64> {
    sqlx::query_scalar(COUNT_HELD).bind(item_ids(schedule)).fetch_one(database).await
}

const READ_LAST_UNPUBLISHED: &str = "SELECT max(id) FROM outbox";

/// The last row of the outbox, as it is now; `None` where it is empty.
pub async fn last_unpublished(database: &PgPool) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(READ_LAST_UNPUBLISHED).fetch_one(database).await
}

const READ_FIRST_UNPUBLISHED: &str = "SELECT min(id) FROM outbox WHERE id <= $1";

/// The first row of the outbox up to this one; `None` once all are published.
pub async fn first_unpublished(database: &PgPool, up_to: Option<i64>) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(READ_FIRST_UNPUBLISHED).bind(up_to).fetch_one(database).await
}

fn item_ids(schedule: &Schedule) -> Vec<String> {
    schedule.items.iter().map(|item| item.id.clone()).collect()
}
