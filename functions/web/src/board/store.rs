//! What the board reads of the database, by statements that take no lock that a sale would feel.

use crate::store::on_sale;
use serde::Serialize;
use shared::db;
use shared::items::Item;
use sqlx::PgPool;
use sqlx_macros::FromRow;

/// Of the first rows, and no more: it is read again and again.
const OUTBOX: &str = "
SELECT coalesce(sum(events), 0)::bigint AS events, coalesce(extract(epoch FROM now() - min(at)) * 1000, 0)::bigint AS lag_ms
FROM (SELECT events, at FROM outbox ORDER BY id LIMIT 10000) AS first";

#[derive(Debug, Default, Serialize)]
pub(super) struct Database {
    pub(super) items: Vec<Item>,
    pub(super) outbox: Outbox,
}

/// What waits to be published.
#[derive(Debug, Default, Serialize, FromRow)]
pub(super) struct Outbox {
    events: i64,
    /// How long the oldest has waited.
    lag_ms: i64,
}

pub(super) async fn look(pool: &PgPool) -> Result<Database, sqlx::Error> {
    let items = on_sale(pool).await?;
    let outbox = db::answered(sqlx::query_as(OUTBOX).fetch_one(pool)).await?;
    Ok(Database { items, outbox })
}
