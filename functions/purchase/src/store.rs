//! What a batch reads, and the one statement that makes its decisions durable.
//!
//! Invariant: a verdict that was decided on an item's row is recorded, with its effect on the stock, if and only if it is
//! right on that row as it is when it is committed.

use crate::decide::{Change, Decided, Item, Snapshot};
use crate::rules::{BuyerHistory, Rules};
use shared::idempotency::{self, Recorded, Verdicts};
use shared::messages::{EventKind, Identity, PurchaseRequest};
use sqlx::{FromRow, PgConnection, Row};
use std::collections::HashMap;

/// The items with their rules, and the time: one row at least, also where no item is known. And, behind them, the verdicts on
/// record under the requests' keys: in one statement, because a round trip costs as much as what it asks for.
const READ: &str = "
SELECT clock.now, items.id, items.version, items.available, items.hold_ms, items.opens_at, items.closes_at,
       items.tiers, items.cooldown_ms, items.max_per_buyer,
       NULL AS request_id, NULL::uuid AS fingerprint, NULL::uuid AS content, NULL AS sender, NULL AS item, NULL AS reply
FROM (SELECT clock_timestamp() AS now) AS clock
LEFT JOIN items ON items.id = ANY($1)
UNION ALL
SELECT clock_timestamp(), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       request_id, fingerprint, content, sender, item, reply
FROM verdicts WHERE request_id = ANY($2)";

/// Who has the orders of these verdicts. Each order is looked up by itself: a subquery in the list cannot become a join.
pub const READ_OWNERS: &str = "
SELECT request_id, (SELECT buyer FROM orders WHERE id = (reply::json #>> '{order,id}')::uuid) AS buyer
FROM verdicts WHERE request_id = ANY($1) AND status = 'reserved'";

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

/// `decided` holds the items whose decisions are right on the row as it is by now, waited for where somebody else had it
/// locked. Orders and verdicts of any other item are left out.
///
/// * With a version ($4), they are right if the row still has it. Without one, if the row gives the same answers: enough units
///   for those who got some, as many as were read where somebody got none ($5), the same sale, and no rules about buyers.
/// * The changes come sorted by item and are joined in that order, so two workers lock rows in the same order. Should the
///   planner choose another one, a deadlock is reported, and handled like any conflict.
/// * Order ids are made in the order of the requests, so that is their order in the outbox, too; its row gets its number
///   when the last of the items is locked.
/// * A reply names the version of the row that it is right on: by it, an audit puts the decisions on an item in order. It is
///   known only here, so a reply comes in two parts, what stands before the number and behind it. A reply without one rests
///   on no row: nothing to check, so always recorded.
const COMMIT: &str = "
WITH decided AS (
    UPDATE items SET
        available = items.available - change.units,
        held      = items.held + change.units,
        version   = items.version + 1,
        conflicts = items.conflicts + change.conflicts
    FROM UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::timestamptz[],
                $8::bigint[])
         AS change (item, units, conflicts, version, exactly, opens_at, closes_at, hold_ms)
    WHERE items.id = change.item AND CASE
        WHEN change.version IS NOT NULL THEN items.version = change.version
        ELSE items.available >= change.units AND items.available = coalesce(change.exactly, items.available)
            AND (items.opens_at, items.closes_at, items.hold_ms)
                IS NOT DISTINCT FROM (change.opens_at, change.closes_at, change.hold_ms)
            AND num_nonnulls(items.tiers, items.cooldown_ms, items.max_per_buyer) = 0
    END
    RETURNING items.id, items.version - 1 AS version, items.counts_orders
), ordered AS (
    INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at, is_counted, sender)
    SELECT new.id, new.request_id, new.item, new.buyer, new.quantity, new.hold_until, $9, decided.counts_orders, new.sender
    FROM UNNEST($10::uuid[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::timestamptz[], $16::text[])
         AS new (id, request_id, item, buyer, quantity, hold_until, sender)
    JOIN decided ON decided.id = new.item
    RETURNING id
), published AS (
    INSERT INTO outbox (kind, order_ids) SELECT $17, array_agg(id ORDER BY id) FROM ordered HAVING count(*) > 0
), recorded AS (
    INSERT INTO verdicts (request_id, item, fingerprint, content, status, reply, decided_at, sender)
    SELECT new.request_id, new.item, new.fingerprint, new.content, new.status,
           concat(new.before, decided.version, new.behind), $9, new.sender
    FROM UNNEST($18::text[], $19::text[], $20::uuid[], $21::uuid[], $22::text[], $23::text[], $24::text[], $25::text[])
         AS new (request_id, item, fingerprint, content, status, before, behind, sender)
    LEFT JOIN decided ON decided.id = new.item
    WHERE decided.id IS NOT NULL OR new.behind IS NULL
)
SELECT id, version FROM decided";

/// What stands before the number of an item's version, in a reply that has one.
const ITEM_VERSION: &str = "\"item_version\":";

/// How often each item of a batch conflicted so far.
pub type Conflicts<'a> = HashMap<&'a str, i64>;

/// How a commit finds out whether its decisions are right on the rows as they are by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// A row still has the version that was read.
    Version,
    /// A row gives the same answers; of items with rules about buyers, whose orders stand elsewhere, the version.
    Answers,
}

/// Reads what is known of the requests' items, buyers and ids. Only where an item's rules ask for it is anything read of
/// its buyers: a sale without rules pays nothing for them.
///
/// Items and verdicts first, as they are at one moment:
/// * Whoever records one of the ids after that collides with us in the verdicts' key, so the commit finds out.
/// * What a buyer has of an item changes when an order is reserved, expires or is cancelled, and each of these moves the
///   item's version on in the same transaction. One that is committed before the item's row is read is in the history
///   as well, which is read later; one that is committed after that, whether the history has it or not, has moved on the
///   version that was read, so the commit finds out. A payment changes nothing here: reserved, paying and paid orders
///   count alike, and a statement sees an order in one state at a time.
/// * Rules are part of the item's row, and the commit looks at them. Tiers are not, and nothing fences them: nothing adds up
///   over them, and a purchase at the instant of the change may go by the old one or the new one.
pub async fn read<'a>(
    connection: &mut PgConnection,
    requests: &[&'a PurchaseRequest],
) -> Result<(Snapshot, Verdicts<'a>), sqlx::Error> {
    let keys: Vec<_> = requests.iter().flat_map(|request| idempotency::keys(*request)).collect();
    let rows = sqlx::query(READ).bind(item_ids(requests)).bind(keys).fetch_all(&mut *connection).await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("now")?;
    let (mut items, mut recorded) = (HashMap::with_capacity(rows.len()), HashMap::new());
    for row in &rows {
        if let Some(id) = row.try_get::<Option<String>, _>("id")? {
            items.insert(id, Item::from_row(row)?);
        } else if let Some(key) = row.try_get("request_id")? {
            recorded.insert(key, Recorded::from_row(row)?);
        }
    }
    let mut verdicts = Verdicts::at(now, recorded);
    let others = verdicts.of_others(requests);
    if !others.is_empty() {
        for (key, buyer) in read_owners(connection, others).await? {
            verdicts.note_buyer(&key, buyer);
        }
    }
    let (mut pairs, mut buyers) = (Vec::new(), Vec::new());
    if items.values().any(|item| item.rules.look_at_buyers()) {
        for request in requests {
            let rules = items.get(&request.item).map(|item| &item.rules);
            if rules.is_some_and(Rules::look_at_history) {
                pairs.push((request.item.as_str(), request.buyer.as_str()));
            }
            if rules.is_some_and(Rules::look_at_tier) {
                buyers.push(request.buyer.as_str());
            }
        }
    }
    if !pairs.is_empty() {
        read_histories(connection, distinct(pairs), &mut items).await?;
    }
    let tiers = if buyers.is_empty() { HashMap::new() } else { read_tiers(connection, distinct(buyers)).await? };
    Ok((Snapshot { items, tiers }, verdicts))
}

/// Locks the requests' items until the transaction ends.
pub async fn lock(connection: &mut PgConnection, requests: &[&PurchaseRequest]) -> Result<(), sqlx::Error> {
    sqlx::query(LOCK_ITEMS).bind(item_ids(requests)).execute(connection).await.map(|_| ())
}

/// Commits a decided batch; `conflicts` says how often each item had to be decided again. Returns the items whose decisions
/// hold, each with the version of its row that they are right on; those of the other items left no trace. A unique violation:
/// another worker recorded one of the request ids meanwhile.
pub async fn commit<'a>(
    connection: &mut PgConnection,
    decided: &Decided<'a, '_>,
    verdicts: &Verdicts<'a>,
    check: Check,
    conflicts: &Conflicts<'a>,
) -> Result<HashMap<String, i64>, sqlx::Error> {
    let (changes, orders, new) = (&decided.changes, &decided.orders, verdicts.all_added());
    let version = |change: &Change| {
        let is_checked = check == Check::Version || change.item.rules.look_at_buyers();
        is_checked.then_some(change.item.version)
    };
    let (before, behind): (Vec<&str>, Vec<Option<&str>>) =
        new.iter().map(|new| around_version(&new.recorded.reply)).unzip();
    let rows: Vec<(String, i64)> = sqlx::query_as(COMMIT)
        .bind(changes.keys().copied().collect::<Vec<_>>())
        .bind(changes.values().map(|change| change.units).collect::<Vec<_>>())
        .bind(changes.keys().map(|item| conflicts.get(item).copied().unwrap_or(0)).collect::<Vec<_>>())
        .bind(changes.values().map(version).collect::<Vec<_>>())
        .bind(changes.values().map(|change| change.is_exact.then_some(change.item.available)).collect::<Vec<_>>())
        .bind(changes.values().map(|change| change.item.rules.opens_at).collect::<Vec<_>>())
        .bind(changes.values().map(|change| change.item.rules.closes_at).collect::<Vec<_>>())
        .bind(changes.values().map(|change| change.item.hold_ms).collect::<Vec<_>>())
        .bind(verdicts.now)
        .bind(orders.iter().map(|order| order.id).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.request.request_id.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.request.item.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.request.buyer.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| i64::from(order.request.quantity)).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.hold_until).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.request.user().unwrap_or_default()).collect::<Vec<_>>())
        .bind(EventKind::OrderReserved.as_str())
        .bind(new.iter().map(|new| &*new.key).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.about.item).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.recorded.fingerprint).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.recorded.content).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.status.as_str()).collect::<Vec<_>>())
        .bind(before)
        .bind(behind)
        .bind(new.iter().map(|new| new.sender).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().collect())
}

/// The same reply, for the row of this version.
pub(crate) fn at_version(reply: &str, version: i64) -> String {
    match around_version(reply) {
        (before, Some(behind)) => format!("{before}{version}{behind}"),
        (reply, None) => reply.to_owned(),
    }
}

/// Runs every statement on nothing, so that this connection has them parsed and planned, and a role that may not read one of
/// the tables is found out.
pub(crate) async fn warm_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let (mut nothing, verdicts) = read(connection, &[]).await?;
    read_histories(connection, Vec::new(), &mut nothing.items).await?;
    read_tiers(connection, Vec::new()).await?;
    read_owners(connection, Vec::new()).await?;
    commit(connection, &Decided::default(), &verdicts, Check::Version, &HashMap::new()).await.map(|_| ())
}

/// What a reply says before the number of its item's version, and behind it; all of it, where it names none.
fn around_version(reply: &str) -> (&str, Option<&str>) {
    // The last one: nothing that a sender chose stands behind it.
    let start = reply.rfind(ITEM_VERSION).map(|name| name + ITEM_VERSION.len());
    let Some((start, length)) = start.and_then(|start| Some((start, reply[start..].find(',')?))) else {
        return (reply, None);
    };
    (&reply[..start], Some(&reply[start + length..]))
}

/// Adds to the items what these buyers have of them.
async fn read_histories(
    connection: &mut PgConnection,
    pairs: Vec<(&str, &str)>,
    items: &mut HashMap<String, Item>,
) -> Result<(), sqlx::Error> {
    let (of_items, buyers): (Vec<&str>, Vec<&str>) = pairs.into_iter().unzip();
    for row in sqlx::query(READ_HISTORIES).bind(of_items).bind(buyers).fetch_all(connection).await? {
        if let Some(item) = items.get_mut(row.try_get::<&str, _>("item")?) {
            item.histories.insert(row.try_get("buyer")?, BuyerHistory::from_row(&row)?);
        }
    }
    Ok(())
}

async fn read_owners(
    connection: &mut PgConnection,
    keys: Vec<String>,
) -> Result<Vec<(String, Option<String>)>, sqlx::Error> {
    sqlx::query_as(READ_OWNERS).bind(keys).fetch_all(connection).await
}

async fn read_tiers(connection: &mut PgConnection, buyers: Vec<&str>) -> Result<HashMap<String, String>, sqlx::Error> {
    let rows: Vec<(String, String)> = sqlx::query_as(READ_TIERS).bind(buyers).fetch_all(connection).await?;
    Ok(rows.into_iter().collect())
}

fn item_ids<'a>(requests: &[&'a PurchaseRequest]) -> Vec<&'a str> {
    distinct(requests.iter().map(|request| request.item.as_str()).collect())
}

/// Sorted, each once.
fn distinct<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::messages::{Code, Verdict};
    use time::OffsetDateTime;

    #[test]
    fn a_reply_is_for_the_version_that_its_row_has_and_otherwise_as_it_was() {
        let message = "a \"item_version\":7, is sold out.";
        let verdict = Verdict::decided("r:-1..item_version:7", Code::SoldOut, message, OffsetDateTime::UNIX_EPOCH);
        let of = |item_version| serde_json::to_string(&Verdict { item_version, ..verdict.clone() }).unwrap();
        assert_eq!(at_version(&of(Some(7)), 1_234_567), of(Some(1_234_567)));
        assert_eq!(at_version(&of(Some(i64::MAX)), 0), of(Some(0)));
        assert_eq!(at_version(&of(None), 5), of(None), "it rests on no row");
    }
}
