//! Which rows somebody else has locked, and who.

use super::Row;
use crate::db::{acquire, on_connection};
use crate::error::Error;
use sqlx::PgPool;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Of the orders $1 and of the items $2, and of the items of those orders: whether somebody else has them locked. It waits for
/// nobody, and lets go at its end of what it gets.
const LOOK: &str = "
WITH asked AS MATERIALIZED (
    SELECT id, item FROM orders WHERE id = ANY($1)
    UNION ALL
    SELECT NULL, item FROM UNNEST($2::text[]) AS named (item)
), free_orders AS MATERIALIZED (
    SELECT id FROM orders WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
), free_items AS MATERIALIZED (
    SELECT id FROM items WHERE id = ANY(ARRAY(SELECT item FROM asked)) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
), locked_items AS MATERIALIZED (
    SELECT id FROM items WHERE id = ANY(ARRAY(SELECT item FROM asked)) EXCEPT SELECT id FROM free_items
)
SELECT asked.id, asked.item, asked.id IS NOT NULL AND free_orders.id IS NULL, locked_items.id IS NOT NULL
FROM asked LEFT JOIN free_orders ON free_orders.id = asked.id LEFT JOIN locked_items ON locked_items.id = asked.item";

/// Waits for a row, for a moment, so that it can be asked who is in the way.
const LOCK_ITEM: &str = "SELECT 1 FROM items WHERE id = $1 FOR NO KEY UPDATE";
const LOCK_ORDER: &str = "SELECT 1 FROM orders WHERE id = $1::text::uuid FOR NO KEY UPDATE";
const MY_PID: &str = "SELECT pg_backend_pid()";
const BLOCKERS: &str = "
SELECT string_agg(format('pid %s (%s of %s, %s, its transaction open for %s s)', pid, coalesce(nullif(application_name, ''), '?'),
                         usename, coalesce(state, '?'), coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::bigint), '; ')
FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1))";

#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Of the orders that were asked about.
    items: HashMap<Uuid, Row>,
    locked: HashSet<Row>,
}

impl Locks {
    pub(super) async fn look<'a>(pool: &PgPool, rows: impl Iterator<Item = &'a Row>) -> Result<Self, Error> {
        let (mut orders, mut items) = (Vec::new(), Vec::new());
        for row in rows {
            match row {
                Row::Order(id) => orders.push(*id),
                Row::Item(id) => items.push(id.as_str()),
            }
        }
        let found: Vec<(Option<Uuid>, String, bool, bool)> = on_connection(pool, async |connection| {
            Ok(sqlx::query_as(LOOK).bind(orders).bind(items).fetch_all(connection).await?)
        })
        .await?;
        let mut locks = Self::default();
        for (order, item, is_order_locked, is_item_locked) in found {
            let item = Row::Item(item);
            locks.locked.extend(order.filter(|_| is_order_locked).map(Row::Order));
            locks.locked.extend(is_item_locked.then(|| item.clone()));
            locks.items.extend(order.map(|order| (order, item)));
        }
        Ok(locks)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.locked.is_empty()
    }

    /// The locked row that a request for this one has to wait for.
    pub(super) fn of<'a>(&'a self, row: &'a Row) -> Option<&'a Row> {
        self.needed(row).find(|row| self.locked.contains(row))
    }

    /// The row itself, and the item of an order.
    pub(super) fn needed<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = &'a Row> {
        let item = match row {
            Row::Order(id) => self.items.get(id),
            Row::Item(_) => None,
        };
        [row].into_iter().chain(item)
    }
}

/// Who is in the way of somebody who wants this row.
pub(super) async fn blockers(pool: &PgPool, row: &Row) -> Result<String, sqlx::Error> {
    let (lock, id) = match row {
        Row::Item(id) => (LOCK_ITEM, id.clone()),
        Row::Order(id) => (LOCK_ORDER, id.to_string()),
    };
    let (mut waiter, mut observer) = (acquire(pool).await?, acquire(pool).await?);
    let pid: i32 = sqlx::query_scalar(MY_PID).fetch_one(&mut *waiter).await?;
    let looking = async {
        loop {
            let found: Option<String> = sqlx::query_scalar(BLOCKERS).bind(pid).fetch_one(&mut *observer).await?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
    };
    tokio::select! {
        found = looking => {
            // It may wait still; its answer is nobody's.
            waiter.close_on_drop();
            found
        }
        _ = sqlx::query(lock).bind(id).execute(&mut *waiter) => Ok("nobody any more".to_owned()),
    }
}
