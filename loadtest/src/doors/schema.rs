//! The tables of the doors: made by a run and not by a migration, for they are no part of the product.
//!
//! Also puts a run's item there, and reads what became of it. Knows nothing of how a door decides. Invariant: nothing here
//! names a table of the product.

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::schedule::ItemOnSale;

/// As lean as a competent user would have them. Of the item, no index but the key, so that an update stays on its page, and
/// room on that page for many versions of the hot row, as the product's own table has it; of the orders, no foreign key,
/// which would lock the hot row once more with every order.
const TABLES: &str = "
    BEGIN;
    SELECT pg_advisory_xact_lock(hashtext('turnstile doors'));
    CREATE SCHEMA IF NOT EXISTS doors;
    CREATE TABLE IF NOT EXISTS doors.items (
        id       text COLLATE \"C\" PRIMARY KEY,
        quantity bigint NOT NULL CHECK (quantity >= 0),
        version  bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 25, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
    CREATE TABLE IF NOT EXISTS doors.orders (
        request_id uuid PRIMARY KEY,
        item       text COLLATE \"C\" NOT NULL,
        buyer      text COLLATE \"C\" NOT NULL,
        quantity   bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    COMMIT;";

const PUT_ON_SALE: &str = "INSERT INTO doors.items (id, quantity) VALUES ($1, $2)";

/// Makes the tables where they are missing, and puts the item on sale.
///
/// # Errors
/// Whatever the database says.
pub(super) async fn prepare(database: &mut PgConnection, item: &ItemOnSale) -> sqlx::Result<()> {
    sqlx::raw_sql(TABLES).execute(&mut *database).await?;
    let units = i64::try_from(item.stock).unwrap_or(i64::MAX);
    sqlx::query(PUT_ON_SALE).bind(&item.id).bind(units).execute(database).await?;
    Ok(())
}

/// What the database says about an item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Truth {
    /// Units that are left.
    pub(super) quantity: u64,
    /// Each order's request and units.
    pub(super) orders: Vec<(Uuid, u64)>,
}

const READ_QUANTITY: &str = "SELECT quantity FROM doors.items WHERE id = $1";
const READ_ORDERS: &str = "SELECT request_id, quantity FROM doors.orders WHERE item = $1";

/// Reads it.
///
/// # Errors
/// Whatever the database says.
pub(super) async fn read(database: &mut PgConnection, item: &str) -> sqlx::Result<Truth> {
    let quantity: i64 = sqlx::query_scalar(READ_QUANTITY).bind(item).fetch_one(&mut *database).await?;
    let rows = sqlx::query(READ_ORDERS).bind(item).fetch_all(database).await?;
    let units = |quantity: i64| u64::try_from(quantity).unwrap_or_default();
    let order = |row: &sqlx::postgres::PgRow| Ok((row.try_get("request_id")?, units(row.try_get("quantity")?)));
    Ok(Truth { quantity: units(quantity), orders: rows.iter().map(order).collect::<sqlx::Result<_>>()? })
}
