//! Units that go back to their items: from held to available.
//!
//! Invariant: an item's version goes up with it, so a purchase that was decided on what was there before is decided
//! again, on what is there now.

use sqlx::PgConnection;
use std::collections::BTreeMap;

/// Held until the transaction ends; in the order of ids, as purchases lock them, so that nobody waits in a circle.
pub const LOCK_ITEMS: &str = "
SELECT id FROM items WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// $1 and $2 belong together: the item, and its units.
pub const GIVE_BACK: &str = "
UPDATE items SET
    available = items.available + change.units,
    held      = items.held - change.units,
    version   = items.version + 1
FROM UNNEST($1::text[], $2::bigint[]) AS change (item, units)
WHERE items.id = change.item";

/// Gives each item these units back. To be called late in a transaction: the items' rows are hot, and locked from
/// here to its end.
///
/// # Errors
/// The database's; a check violation where an item does not hold that many units.
pub async fn give_back(connection: &mut PgConnection, units: &BTreeMap<String, i64>) -> Result<(), sqlx::Error> {
    let items: Vec<&str> = units.keys().map(String::as_str).collect();
    sqlx::query(LOCK_ITEMS).bind(&items).execute(&mut *connection).await?;
    let units: Vec<i64> = units.values().copied().collect();
    sqlx::query(GIVE_BACK).bind(items).bind(units).execute(connection).await?;
    Ok(())
}
