//! Changing items on request: lock, read, decide, write, in one transaction.
//!
//! The items are locked and not checked by a version: what is removed must not be reserved meanwhile, and purchases that
//! were decided before see that the version has moved on. Invariant: a verdict is recorded by the transaction that has its
//! effect; nothing is answered before that is committed.

use crate::{
    count::count,
    decide::{Plan, Recorded, Snapshot, decide},
    item::Item,
    race::{Race, won},
};
use futures_util::future::BoxFuture;
use shared::{
    db::on_connection,
    error::Error,
    handler::Answer,
    messages::{RestockRequest, Rules},
    outbox::{ItemChange, record_items},
};
use sqlx::{Connection, PgConnection, PgPool, Row, postgres::PgRow};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use time::OffsetDateTime;

/// Held until the transaction ends; in the order of ids, so that nobody waits in a circle.
pub const LOCK_ITEMS: &str = "
SELECT id, stock, available, held, sold, version, hold_ms, opens_at, closes_at, max_per_buyer, cooldown_ms, tiers,
       counts_orders AND NOT is_counting AS finds_orders
FROM items WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// The verdicts, and the time: one row at least, also where nothing is recorded.
const READ_VERDICTS: &str = "
SELECT clock.now, verdicts.request_id, verdicts.fingerprint, verdicts.reply
FROM (SELECT clock_timestamp() AS now) AS clock
LEFT JOIN verdicts ON verdicts.request_id = ANY($1)";

/// $1 is an array of items, as JSON; in the order of their ids, so that two of these cannot wait for each other. It fails
/// where another worker has created one meanwhile.
const CREATE: &str = "
INSERT INTO items (id, stock, available, version, hold_ms, opens_at, closes_at,
                   max_per_buyer, cooldown_ms, tiers, counts_orders)
SELECT new.id, new.stock, new.available, new.version, new.hold_ms, new.opens_at, new.closes_at,
       (new.rules ->> 'max_per_buyer')::bigint, (new.rules ->> 'cooldown_ms')::bigint,
       (SELECT array_agg(tier) FROM json_array_elements_text(new.rules -> 'tiers') AS tier),
       num_nonnulls(new.rules ->> 'max_per_buyer', new.rules ->> 'cooldown_ms') > 0
FROM json_to_recordset($1::text::json) AS new (id text, stock bigint, available bigint, version bigint, hold_ms bigint,
                                               opens_at timestamptz, closes_at timestamptz, rules json)
ORDER BY new.id";

/// $1 is an array of items, as JSON; their rows are locked.
pub const CHANGE: &str = "
UPDATE items SET
    stock         = new.stock,
    available     = new.available,
    version       = new.version,
    opens_at      = new.opens_at,
    closes_at     = new.closes_at,
    max_per_buyer = (new.rules ->> 'max_per_buyer')::bigint,
    cooldown_ms   = (new.rules ->> 'cooldown_ms')::bigint,
    tiers         = (SELECT array_agg(tier) FROM json_array_elements_text(new.rules -> 'tiers') AS tier)
FROM json_to_recordset($1::text::json) AS new (id text, stock bigint, available bigint, version bigint,
                                               opens_at timestamptz, closes_at timestamptz, rules json)
WHERE items.id = new.id";

/// By request id, so that two of these cannot wait for each other.
const RECORD: &str = "
INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at)
SELECT new.request_id, new.item, new.fingerprint, new.status, new.reply, $6
FROM UNNEST($1::text[], $2::text[], $3::uuid[], $4::text[], $5::text[])
     AS new (request_id, item, fingerprint, status, reply)
ORDER BY new.request_id";

/// Answers `requests`, in order.
///
/// # Errors
/// The database is away or unfit, or cannot take one of the requests.
///
/// Boxed, so that the database library's code is compiled here and not in every program that calls it.
pub fn restock<'a>(pool: &'a PgPool, requests: &'a [RestockRequest]) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
    Box::pin(async move {
        // One more item of the batch is counted each time, and stays so.
        for _ in 0..=requests.len() {
            match attempts(pool, requests).await? {
                Ok(answers) => return Ok(answers),
                Err(uncounted) => count(pool, &uncounted).await?,
            }
        }
        Err(Error::Unfit("the database is not fit for use: orders were counted, and are not counted".to_owned()))
    })
}

async fn attempts(pool: &PgPool, requests: &[RestockRequest]) -> Result<Result<Vec<Answer>, BTreeSet<String>>, Error> {
    let mut race = Race::start();
    loop {
        let attempt = on_connection(pool, async |connection| won(restock_batch(connection, requests).await));
        match attempt.await? {
            Some(outcome) => return Ok(outcome),
            None => race.lost().await?,
        }
    }
}

/// The answers, or the items whose orders must be counted first.
async fn restock_batch(
    connection: &mut PgConnection,
    requests: &[RestockRequest],
) -> Result<Result<Vec<Answer>, BTreeSet<String>>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let snapshot = read(&mut transaction, requests).await?;
    let now = snapshot.now;
    let plan = match decide(requests, snapshot) {
        Ok(plan) => plan,
        Err(uncounted) => {
            transaction.rollback().await?;
            return Ok(Err(uncounted));
        }
    };
    write(&mut transaction, &plan, now).await?;
    transaction.commit().await?;
    Ok(Ok(plan.answers))
}

/// Locks the items first: whoever else has one of these requests in hand has recorded its verdict by then.
async fn read(connection: &mut PgConnection, requests: &[RestockRequest]) -> Result<Snapshot, sqlx::Error> {
    let ids: Vec<&str> = requests.iter().map(|request| request.item.as_str()).collect();
    let mut items = HashMap::new();
    for row in sqlx::query(LOCK_ITEMS).bind(ids).fetch_all(&mut *connection).await? {
        let item = read_item(&row)?;
        items.insert(item.id.clone(), item);
    }
    let ids: Vec<&str> = requests.iter().map(|request| request.request_id.as_str()).collect();
    let rows = sqlx::query(READ_VERDICTS).bind(ids).fetch_all(connection).await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("now")?;
    let mut recorded = HashMap::new();
    for row in rows {
        if let Some(id) = row.try_get::<Option<String>, _>("request_id")? {
            recorded.insert(id, Recorded { fingerprint: row.try_get("fingerprint")?, reply: row.try_get("reply")? });
        }
    }
    Ok(Snapshot { now, items, recorded })
}

fn read_item(row: &PgRow) -> Result<Item, sqlx::Error> {
    let tiers: Option<Vec<String>> = row.try_get("tiers")?;
    let rules = Rules {
        max_per_buyer: row.try_get("max_per_buyer")?,
        cooldown_ms: row.try_get("cooldown_ms")?,
        tiers: tiers.map(BTreeSet::from_iter),
    };
    Ok(Item {
        id: row.try_get("id")?,
        stock: row.try_get("stock")?,
        available: row.try_get("available")?,
        held: row.try_get("held")?,
        sold: row.try_get("sold")?,
        version: row.try_get("version")?,
        hold_ms: row.try_get("hold_ms")?,
        opens_at: row.try_get("opens_at")?,
        closes_at: row.try_get("closes_at")?,
        rules,
        finds_orders: row.try_get("finds_orders")?,
    })
}

async fn write(connection: &mut PgConnection, plan: &Plan, now: OffsetDateTime) -> Result<(), sqlx::Error> {
    for (statement, items) in [(CREATE, &plan.created), (CHANGE, &plan.changed)] {
        if !items.is_empty() {
            sqlx::query(statement).bind(json(items)).execute(&mut *connection).await?;
        }
    }
    if !plan.events.is_empty() {
        let changes = plan.events.iter().map(|(kind, item)| ItemChange {
            kind: *kind,
            item: item.id.clone(),
            detail: serde_json::to_string(item).expect("an item is representable as JSON"),
        });
        record_items(connection, &changes.collect::<Vec<_>>()).await?;
    }
    if !plan.verdicts.is_empty() {
        sqlx::query(RECORD)
            .bind(plan.verdicts.keys().map(String::as_str).collect::<Vec<_>>())
            .bind(plan.verdicts.values().map(|decision| decision.item.as_str()).collect::<Vec<_>>())
            .bind(plan.verdicts.values().map(|decision| decision.fingerprint).collect::<Vec<_>>())
            .bind(plan.verdicts.values().map(|decision| decision.code.status().as_str()).collect::<Vec<_>>())
            .bind(plan.verdicts.values().map(|decision| decision.reply.as_str()).collect::<Vec<_>>())
            .bind(now)
            .execute(connection)
            .await?;
    }
    Ok(())
}

fn json(items: &BTreeMap<String, Item>) -> String {
    serde_json::to_string(&items.values().collect::<Vec<_>>()).expect("an item is representable as JSON")
}
