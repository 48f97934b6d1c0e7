//! What the database says of orders after their verdicts: history, payments, and what the buyers' follow-ups were told.
//!
//! Invariant: reads whole rows as they are, also impossible ones; judging is the auditor's.

use std::collections::HashMap;

use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::facts::WITHOUT_LIMIT;
use crate::life::plan::FollowUp;
use crate::schedule::Schedule;

/// Everything recorded about the lives of a sale's orders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedLife {
    /// Every transition, in the order of the times.
    pub transitions: Vec<RecordedTransition>,
    /// Payments, under way or ended.
    pub payments: Vec<RecordedPayment>,
    /// The replies to follow-ups as they were to be sent, by request id.
    pub follow_up_replies: HashMap<String, String>,
    /// Rows of the outbox about the sale's orders that nobody has told.
    pub untold: i64,
}

/// A row of an order's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedTransition {
    /// The order.
    pub order_id: Uuid,
    /// The state it left.
    pub from: String,
    /// The state it came to.
    pub to: String,
    /// Why.
    pub cause: String,
    /// Who asked for it.
    pub request_id: Option<String>,
}

/// A row of payments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedPayment {
    /// The order.
    pub order_id: Uuid,
    /// The gateway's name for the charge.
    pub charge_id: Option<String>,
}

/// Reads everything recorded about the lives of the sale's orders.
///
/// # Errors
/// Whatever the database says.
pub async fn read(database: &PgPool, schedule: &Schedule) -> sqlx::Result<RecordedLife> {
    let items: Vec<&str> = schedule.items.iter().map(|item| item.id.as_str()).collect();
    let mut transaction = database.begin().await?;
    sqlx::query(WITHOUT_LIMIT).execute(&mut *transaction).await?;
    Ok(RecordedLife {
        transitions: read_transitions(&mut transaction, &items).await?,
        payments: read_payments(&mut transaction, &items).await?,
        follow_up_replies: read_replies(&mut transaction, schedule).await?,
        untold: sqlx::query_scalar(COUNT_UNTOLD).bind(&items).fetch_one(&mut *transaction).await?,
    })
}

// `IN (SELECT …)` is looked up in a hash table; `= ANY` would compare each row with each element.
const READ_TRANSITIONS: &str = "
    SELECT order_id, from_state, to_state, cause, order_history.request_id
    FROM order_history JOIN orders ON orders.id = order_id
    WHERE item IN (SELECT UNNEST($1::text[]))
    ORDER BY order_history.at";

async fn read_transitions(database: &mut PgConnection, items: &[&str]) -> sqlx::Result<Vec<RecordedTransition>> {
    let rows = sqlx::query(READ_TRANSITIONS).bind(items).fetch_all(database).await?;
    let read = |row: &sqlx::postgres::PgRow| {
        Ok(RecordedTransition {
            order_id: row.try_get("order_id")?,
            from: row.try_get("from_state")?,
            to: row.try_get("to_state")?,
            cause: row.try_get("cause")?,
            request_id: row.try_get("request_id")?,
        })
    };
    rows.iter().map(read).collect()
}

const READ_PAYMENTS: &str = "
    SELECT order_id, charge_id FROM payments JOIN orders ON orders.id = order_id
    WHERE item IN (SELECT UNNEST($1::text[]))";

async fn read_payments(database: &mut PgConnection, items: &[&str]) -> sqlx::Result<Vec<RecordedPayment>> {
    let rows = sqlx::query(READ_PAYMENTS).bind(items).fetch_all(database).await?;
    let read = |row: &sqlx::postgres::PgRow| {
        Ok(RecordedPayment { order_id: row.try_get("order_id")?, charge_id: row.try_get("charge_id")? })
    };
    rows.iter().map(read).collect()
}

const READ_REPLIES: &str = "SELECT request_id, reply FROM verdicts WHERE request_id IN (SELECT UNNEST($1::text[]))";

async fn read_replies(database: &mut PgConnection, schedule: &Schedule) -> sqlx::Result<HashMap<String, String>> {
    let ids = schedule.requests.iter().map(|due| FollowUp::request_id_of(due.request_id).to_string());
    let rows = sqlx::query(READ_REPLIES).bind(ids.collect::<Vec<_>>()).fetch_all(database).await?;
    rows.iter().map(|row| Ok((row.try_get("request_id")?, row.try_get("reply")?))).collect()
}

const COUNT_UNTOLD: &str = "
    SELECT count(DISTINCT outbox.id) FROM outbox, UNNEST(order_ids) AS told (order_id) JOIN orders ON orders.id = told.order_id
    WHERE orders.item IN (SELECT UNNEST($1::text[]))";

const COUNT_HELD: &str = "SELECT COALESCE(sum(held), 0)::bigint FROM items WHERE id IN (SELECT UNNEST($1::text[]))";

/// Units of the sale's items that are held.
///
/// # Errors
/// Whatever the database says.
pub async fn held(database: &PgPool, items: &[String]) -> sqlx::Result<i64> {
    sqlx::query_scalar(COUNT_HELD).bind(items).fetch_one(database).await
}

const READ_LAST_UNTOLD: &str = "SELECT max(id) FROM outbox";

/// The last row of the outbox, as it is now; `None` where it is empty.
///
/// # Errors
/// Whatever the database says.
pub async fn last_untold(database: &PgPool) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(READ_LAST_UNTOLD).fetch_one(database).await
}

const IS_UNTOLD: &str = "SELECT EXISTS (SELECT FROM outbox WHERE id <= $1)";

/// Whether the outbox still has rows up to this one.
///
/// # Errors
/// Whatever the database says.
pub async fn is_untold(database: &PgPool, up_to: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar(IS_UNTOLD).bind(up_to).fetch_one(database).await
}
