//! What is looked up in the database, and nothing else is done there.

use serde::Serialize;
use shared::db;
use shared::items::{ITEM, ITEMS, Item};
use shared::messages::key_of;
use sqlx::PgPool;
use sqlx_macros::FromRow;
use std::collections::HashMap;
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// As the function that decided it recorded it; under a request's id, or, where another sender has that, under `ID USER`. And who has
/// the order, where there is one.
const VERDICTS: &str = "
SELECT verdicts.request_id, verdicts.reply, orders.buyer
FROM verdicts
LEFT JOIN orders ON orders.id = (CASE WHEN status = 'reserved' THEN reply::jsonb #>> '{order,id}' END)::uuid
WHERE verdicts.request_id = ANY($1) AND verdicts.sender IN ($2, '')";
const ORDERS: &str = "
SELECT id, item, buyer, quantity, state, hold_until FROM orders WHERE id = ANY($1)";

/// The most items that are shown, the hottest.
const ITEMS_MAX: i64 = 50;
/// What is read again and again, and takes long, is read less often, so that it costs a tenth of the time.
const SHARE: u32 = 10;
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A verdict on record.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) reply: String,
    pub(crate) buyer: Option<String>,
}

/// An order as it is now.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    item: String,
    #[serde(skip)]
    pub(crate) buyer: String,
    quantity: i64,
    pub(crate) state: String,
    #[serde(with = "shared::messages::time")]
    hold_until: OffsetDateTime,
}

/// The verdicts on these requests of ours, by their ids; `user` is who we are to the broker.
pub(crate) async fn verdicts(
    pool: PgPool,
    user: String,
    ids: Vec<String>,
) -> Result<HashMap<String, Recorded>, sqlx::Error> {
    let keys: Vec<String> = ids.iter().cloned().chain(ids.iter().map(|id| key_of(id, &user))).collect();
    let rows: Vec<(String, String, Option<String>)> =
        sqlx::query_as(VERDICTS).bind(keys).bind(user).fetch_all(&pool).await?;
    let id_of = |key: String| key.split_once(' ').map_or(key.clone(), |(id, _)| id.to_owned());
    Ok(rows.into_iter().map(|(key, reply, buyer)| (id_of(key), Recorded { reply, buyer })).collect())
}

pub(crate) async fn orders(pool: PgPool, ids: Vec<Uuid>) -> Result<HashMap<Uuid, Order>, sqlx::Error> {
    let rows: Vec<Order> = sqlx::query_as(ORDERS).bind(ids).fetch_all(&pool).await?;
    Ok(rows.into_iter().map(|order| (order.id, order)).collect())
}

/// Each as it is shown.
pub(crate) async fn items(pool: PgPool, ids: Vec<String>) -> Result<HashMap<String, String>, sqlx::Error> {
    let rows: Vec<Item> = sqlx::query_as(ITEM).bind(ids).fetch_all(&pool).await?;
    let shown = |item: &Item| serde_json::to_string(item).expect("an item is representable as JSON");
    Ok(rows.into_iter().map(|item| (item.item.clone(), shown(&item))).collect())
}

/// What is on sale.
pub(crate) async fn on_sale(pool: &PgPool) -> Result<Vec<Item>, sqlx::Error> {
    db::answered(sqlx::query_as(ITEMS).bind(ITEMS_MAX).fetch_all(pool)).await
}

/// How long until what took so long is read again: `every` so often at most.
pub(crate) fn pause_behind(took: Duration, every: Duration) -> Duration {
    (took * SHARE).clamp(every, PAUSE_MAX)
}
