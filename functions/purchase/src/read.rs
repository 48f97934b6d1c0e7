//! What a decision needs to know, read from the database. Decides nothing, changes nothing.
//!
//! Invariant: a decision on what is no longer so cannot be committed: what it rests on moves the item's version on when it
//! changes, or stands in the verdicts' key. Tiers alone do not; [`read`] says why.

use crate::{
    decide::{Item, Recorded, Snapshot},
    rules::{BuyerHistory, Rules},
};
use shared::messages::PurchaseRequest;
use sqlx::{PgConnection, Row, postgres::PgRow};
use std::{collections::HashMap, time::Duration};

/// The items with their rules, and the time: one row at least, also where no item is known. And, behind them, the verdicts on
/// record for the request ids: in one statement, because a round trip costs as much as what it asks for.
const READ: &str = "
SELECT clock.now, items.id, items.version, items.available, items.hold_ms, items.opens_at, items.closes_at,
       items.tiers, items.cooldown_ms, items.max_per_buyer, NULL AS request_id, NULL::uuid AS fingerprint, NULL AS reply
FROM (SELECT clock_timestamp() AS now) AS clock
LEFT JOIN items ON items.id = ANY($1)
UNION ALL
SELECT clock_timestamp(), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, request_id, fingerprint, reply
FROM verdicts WHERE request_id = ANY($2)";

/// $1 and $2 belong together: the item, and the buyer. One row for each pair that has an order which counts. Those are
/// the orders of the index `orders_by_buyer`, word for word. Each pair is looked up in it by itself, whatever the planner
/// thinks of the table: an aggregate in a lateral subquery cannot be turned into a join that reads the index whole.
pub const READ_HISTORIES: &str = "
SELECT pair.item, pair.buyer, history.units, history.last_at
FROM UNNEST($1::text[], $2::text[]) AS pair (item, buyer)
CROSS JOIN LATERAL (
    SELECT sum(orders.quantity)::bigint AS units, max(orders.created_at) AS last_at FROM orders
    WHERE orders.item = pair.item AND orders.buyer = pair.buyer
      AND orders.is_counted AND orders.state IN ('reserved', 'paying', 'paid')
) AS history
WHERE history.units IS NOT NULL";

/// The tiers of those buyers who have one.
pub const READ_TIERS: &str = "
SELECT id, tier FROM buyers WHERE id = ANY($1)";

/// Held until the transaction ends; in the order of ids, so that two of these cannot wait for each other.
const LOCK_ITEMS: &str = "
SELECT id FROM items WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// Reads what is known of the requests' items, buyers and ids. Only where an item's rules ask for it is anything read of
/// its buyers: a sale without rules pays nothing for them.
///
/// Items and verdicts first, as they are at one moment:
/// * Whoever records one of the ids after that also moves an item's version on, or collides with us in the verdicts'
///   key, so the commit finds out.
/// * What a buyer has of an item changes when an order is reserved, expires or is cancelled, and each of these moves the
///   item's version on in the same transaction. One that is committed before the item's row is read is in the history
///   as well, which is read later; one that is committed after that, whether the history has it or not, has moved on the
///   version that was read, so the commit finds out. A payment changes nothing here: reserved, paying and paid orders
///   count alike, and a statement sees an order in one state at a time.
/// * Rules are part of the item's row, and who sets them moves its version on. Tiers are not, and nothing fences them:
///   nothing adds up over them, and a purchase at the instant of the change may go by the old one or the new one.
///
/// # Errors
/// The database's.
pub async fn read(connection: &mut PgConnection, requests: &[&PurchaseRequest]) -> Result<Snapshot, sqlx::Error> {
    let mut snapshot = read_items_and_verdicts(connection, requests).await?;
    let items = &mut snapshot.items;
    let pairs = pairs_asked_about(requests, items);
    if !pairs.is_empty() {
        read_histories(connection, &pairs, items).await?;
    }
    let buyers = buyers_asked_about(requests, items);
    if !buyers.is_empty() {
        snapshot.tiers = read_tiers(connection, &buyers).await?;
    }
    Ok(snapshot)
}

/// Runs every statement of [`read`] on nothing, so that this connection has them parsed and planned, and a role that may
/// not read one of the tables is found out.
///
/// # Errors
/// The database's.
pub async fn warm_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    read(connection, &[]).await?;
    read_histories(connection, &[], &mut HashMap::new()).await?;
    read_tiers(connection, &[]).await.map(|_| ())
}

/// Locks the requests' items until the transaction ends.
///
/// # Errors
/// The database's.
pub async fn lock(connection: &mut PgConnection, requests: &[&PurchaseRequest]) -> Result<(), sqlx::Error> {
    sqlx::query(LOCK_ITEMS).bind(item_ids(requests)).execute(connection).await.map(|_| ())
}

async fn read_items_and_verdicts(
    connection: &mut PgConnection,
    requests: &[&PurchaseRequest],
) -> Result<Snapshot, sqlx::Error> {
    let ids: Vec<&str> = requests.iter().map(|request| request.request_id.as_str()).collect();
    let rows = sqlx::query(READ).bind(item_ids(requests)).bind(ids).fetch_all(connection).await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("now")?;
    let (mut items, mut recorded) = (HashMap::with_capacity(rows.len()), HashMap::new());
    for row in rows {
        if let Some(id) = row.try_get::<Option<String>, _>("id")? {
            items.insert(id, item(&row)?);
        } else if let Some(request_id) = row.try_get::<Option<String>, _>("request_id")? {
            let verdict = Recorded { fingerprint: row.try_get("fingerprint")?, reply: row.try_get("reply")? };
            recorded.insert(request_id, verdict);
        }
    }
    Ok(Snapshot { now, items, recorded, tiers: HashMap::new() })
}

fn item(row: &PgRow) -> Result<Item, sqlx::Error> {
    let milliseconds = |count: i64| Duration::from_millis(count.unsigned_abs());
    Ok(Item {
        version: row.try_get("version")?,
        available: row.try_get("available")?,
        hold: milliseconds(row.try_get("hold_ms")?),
        rules: Rules {
            opens_at: row.try_get("opens_at")?,
            closes_at: row.try_get("closes_at")?,
            tiers: row.try_get("tiers")?,
            cooldown: row.try_get::<Option<i64>, _>("cooldown_ms")?.map(milliseconds),
            max_per_buyer: row.try_get("max_per_buyer")?,
        },
        histories: HashMap::new(),
    })
}

/// Adds to the items what these buyers have of them.
async fn read_histories(
    connection: &mut PgConnection,
    pairs: &[(&str, &str)],
    items: &mut HashMap<String, Item>,
) -> Result<(), sqlx::Error> {
    let (of_items, buyers): (Vec<&str>, Vec<&str>) = pairs.iter().copied().unzip();
    for row in sqlx::query(READ_HISTORIES).bind(of_items).bind(buyers).fetch_all(connection).await? {
        if let Some(item) = items.get_mut(row.try_get::<&str, _>("item")?) {
            let history = BuyerHistory { units: row.try_get("units")?, last_at: row.try_get("last_at")? };
            item.histories.insert(row.try_get("buyer")?, history);
        }
    }
    Ok(())
}

async fn read_tiers(connection: &mut PgConnection, buyers: &[&str]) -> Result<HashMap<String, String>, sqlx::Error> {
    let rows = sqlx::query(READ_TIERS).bind(buyers).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("tier")?))).collect()
}

fn item_ids<'a>(requests: &[&'a PurchaseRequest]) -> Vec<&'a str> {
    distinct(requests.iter().map(|request| request.item.as_str()))
}

/// The items, with their buyers, whose rules look at what those have already.
fn pairs_asked_about<'a>(requests: &[&'a PurchaseRequest], items: &HashMap<String, Item>) -> Vec<(&'a str, &'a str)> {
    let looks = |request: &&&PurchaseRequest| items.get(&request.item).is_some_and(|item| item.rules.look_at_history());
    distinct(requests.iter().filter(looks).map(|request| (request.item.as_str(), request.buyer.as_str())))
}

/// The buyers of items whose rules look at who they are.
fn buyers_asked_about<'a>(requests: &[&'a PurchaseRequest], items: &HashMap<String, Item>) -> Vec<&'a str> {
    let looks = |request: &&&PurchaseRequest| items.get(&request.item).is_some_and(|item| item.rules.look_at_tier());
    distinct(requests.iter().filter(looks).map(|request| request.buyer.as_str()))
}

/// Sorted, each once.
pub(crate) fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}
