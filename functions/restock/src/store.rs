//! The transaction that changes items: lock, read, decide, write.
//!
//! Items are locked and not checked by a version: what is removed must not be reserved meanwhile, and purchases that were
//! decided before see that the version has moved on. Items are locked in the order of their ids, then new ones are inserted
//! in that order, and verdicts are recorded last; as everywhere, so nobody waits in a circle.

use crate::decide::decide;
use crate::item::Item;
use serde::Serialize;
use shared::handler::Answer;
use shared::idempotency;
use shared::messages::{RestockRequest, Rules};
use shared::outbox::{ItemChange, record_items};
use shared::transaction::Transaction;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use std::collections::{BTreeSet, HashMap};

/// Held until the transaction ends.
pub const LOCK_ITEMS: &str = "
SELECT id, stock, available, held, sold, version, hold_ms, opens_at, closes_at, max_per_buyer, cooldown_ms, tiers,
       counts_orders AND NOT is_counting AS finds_orders
FROM items WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// $1 is an array of items, as JSON. It fails where another worker has created one meanwhile.
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

/// Answers requests, in order; or names the items whose orders must be counted first.
#[derive(Debug)]
pub struct Change<'a>(pub &'a [RestockRequest]);

impl Transaction for Change<'_> {
    const CONTENDED: &'static str = "items or request ids";
    type Done = Result<Vec<Answer>, BTreeSet<String>>;

    async fn attempt(&self, connection: &mut PgConnection) -> Result<Self::Done, sqlx::Error> {
        let ids: Vec<&str> = self.0.iter().map(|request| request.item.as_str()).collect();
        let rows = sqlx::query(LOCK_ITEMS).bind(ids).fetch_all(&mut *connection).await?;
        let items: HashMap<String, Item> = rows.iter().map(read_item).collect::<Result<_, _>>()?;
        let mut verdicts = idempotency::store::read(connection, self.0.iter()).await?;
        let plan = match decide(self.0, items, &mut verdicts) {
            Ok(plan) => plan,
            Err(uncounted) => return Ok(Err(uncounted)),
        };
        for (statement, items) in [(CREATE, &plan.created), (CHANGE, &plan.changed)] {
            if !items.is_empty() {
                let items = json(&items.values().collect::<Vec<_>>());
                sqlx::query(statement).bind(items).execute(&mut *connection).await?;
            }
        }
        if !plan.events.is_empty() {
            let change = |(kind, item): (_, Item)| ItemChange { kind, detail: json(&item), item: item.id };
            record_items(connection, &plan.events.into_iter().map(change).collect::<Vec<_>>()).await?;
        }
        idempotency::store::record(connection, &verdicts).await?;
        Ok(Ok(plan.answers))
    }
}

fn read_item(row: &PgRow) -> Result<(String, Item), sqlx::Error> {
    let tiers: Option<Vec<String>> = row.try_get("tiers")?;
    let rules = Rules {
        max_per_buyer: row.try_get("max_per_buyer")?,
        cooldown_ms: row.try_get("cooldown_ms")?,
        tiers: tiers.map(BTreeSet::from_iter),
    };
    let item = Item { rules, ..Item::from_row(row)? };
    Ok((item.id.clone(), item))
}

fn json(items: &impl Serialize) -> String {
    serde_json::to_string(items).expect("an item is representable as JSON")
}
