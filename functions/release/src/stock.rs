//! Units that go back to their items: from held to available.
//!
//! Invariant: an item's version goes up with it, so a purchase that was decided on what was there before is decided
//! again, on what is there now.

use sqlx::{PgConnection, Row};
use std::collections::{BTreeMap, HashMap};

/// Held until the transaction ends; in the order of ids, as purchases lock them, so that nobody waits in a circle.
pub const LOCK_ITEMS: &str = "
SELECT id, held FROM items WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// $1 and $2 belong together: the item, and its units.
pub const GIVE_BACK: &str = "
UPDATE items SET
    available = items.available + change.units,
    held      = items.held - change.units,
    version   = items.version + 1
FROM UNNEST($1::text[], $2::bigint[]) AS change (item, units)
WHERE items.id = change.item";

/// Locks the items whose units go back, and returns those that do not hold as many: somebody altered them by hand. To be
/// called late in a transaction: the items' rows are hot, and locked from here to its end.
///
/// # Errors
/// The database's.
pub async fn lock(connection: &mut PgConnection, units: &BTreeMap<String, i64>) -> Result<Vec<String>, sqlx::Error> {
    let items: Vec<&str> = units.keys().map(String::as_str).collect();
    let mut held = HashMap::new();
    for row in sqlx::query(LOCK_ITEMS).bind(items).fetch_all(connection).await? {
        held.insert(row.try_get::<String, _>("id")?, row.try_get::<i64, _>("held")?);
    }
    let is_short = |(item, units): &(&String, &i64)| held.get(*item).is_none_or(|held| held < *units);
    Ok(units.iter().filter(is_short).map(|(item, _)| item.clone()).collect())
}

/// Gives each item these units back; they are locked.
///
/// # Errors
/// The database's; a check violation where an item does not hold that many units.
pub async fn give_back(connection: &mut PgConnection, units: &BTreeMap<String, i64>) -> Result<(), sqlx::Error> {
    let items: Vec<&str> = units.keys().map(String::as_str).collect();
    let units: Vec<i64> = units.values().copied().collect();
    sqlx::query(GIVE_BACK).bind(items).bind(units).execute(connection).await?;
    Ok(())
}
