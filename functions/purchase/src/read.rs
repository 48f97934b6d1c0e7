//! What a decision needs to know, read from the database. Decides nothing, changes nothing.

use crate::decide::{Item, Recorded, Snapshot};
use shared::contract::PurchaseRequest;
use sqlx::{PgConnection, Row};
use std::{collections::HashMap, time::Duration};
use time::OffsetDateTime;

/// The items, and the time: one row at least, also where no item is known.
const READ_ITEMS: &str = "
SELECT clock.now, items.id, items.version, items.available, items.hold_ms, items.opens_at, items.closes_at
FROM (SELECT clock_timestamp() AS now) AS clock
LEFT JOIN items ON items.id = ANY($1)";

const READ_VERDICTS: &str = "
SELECT request_id, fingerprint, reply FROM verdicts WHERE request_id = ANY($1)";

/// Held until the transaction ends; in the order of ids, so that two of these cannot wait for each other.
const LOCK_ITEMS: &str = "
SELECT id FROM items WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// Reads what is known of the requests' items and ids.
///
/// Items first: whoever records one of these ids after that also moves an item's version on, or collides with us in
/// the verdicts' key, so the commit finds out.
///
/// # Errors
/// The database's.
pub async fn read(connection: &mut PgConnection, requests: &[&PurchaseRequest]) -> Result<Snapshot, sqlx::Error> {
    let rows = sqlx::query(READ_ITEMS).bind(item_ids(requests)).fetch_all(&mut *connection).await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("now")?;
    let mut items = HashMap::with_capacity(rows.len());
    for row in rows {
        if let Some(id) = row.try_get::<Option<String>, _>("id")? {
            let hold_ms: i64 = row.try_get("hold_ms")?;
            let item = Item {
                version: row.try_get("version")?,
                available: row.try_get("available")?,
                hold: Duration::from_millis(hold_ms.unsigned_abs()),
                opens_at: row.try_get::<Option<OffsetDateTime>, _>("opens_at")?,
                closes_at: row.try_get::<Option<OffsetDateTime>, _>("closes_at")?,
            };
            items.insert(id, item);
        }
    }
    let ids: Vec<&str> = requests.iter().map(|request| request.request_id.as_str()).collect();
    let rows = sqlx::query(READ_VERDICTS).bind(ids).fetch_all(&mut *connection).await?;
    let mut recorded = HashMap::with_capacity(rows.len());
    for row in rows {
        let verdict = Recorded { fingerprint: row.try_get("fingerprint")?, reply: row.try_get("reply")? };
        recorded.insert(row.try_get("request_id")?, verdict);
    }
    Ok(Snapshot { now, items, recorded })
}

/// Locks the requests' items until the transaction ends.
///
/// # Errors
/// The database's.
pub async fn lock(connection: &mut PgConnection, requests: &[&PurchaseRequest]) -> Result<(), sqlx::Error> {
    sqlx::query(LOCK_ITEMS).bind(item_ids(requests)).execute(connection).await.map(|_| ())
}

fn item_ids<'a>(requests: &[&'a PurchaseRequest]) -> Vec<&'a str> {
    let mut ids: Vec<_> = requests.iter().map(|request| request.item.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
