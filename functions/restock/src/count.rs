//! Counting orders: those of an item are put into the index of orders by buyer, so that a rule finds them all.
//!
//! Invariant: an item that counts orders, and is no longer counting, has no order that counts outside the index. First the item says
//! that its orders are counted, and every order from then on is: a purchase takes the item's row to write one. Then the
//! orders from before are walked by their ids, a few at a time, while the sale goes on. By ids, because an order that is
//! paid or expires meanwhile may move to any page of its table, but its id stays where it is: none is missed. A walk that
//! was left half done is made again, from its beginning; what it has marked stays marked. An item of which nothing is held
//! and nothing sold has no order that a rule would count, nor will one from before ever be one: it is not walked for.

use shared::error::Error;
use shared::transaction::{self, Transaction};
use sqlx::{PgConnection, PgPool};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Orders that one step reads: some milliseconds, so that whoever wants one of them hardly waits.
pub const STEP_ORDERS: i64 = 4_000;

/// Locked in the order of their ids, as everywhere.
pub const BEGIN: &str = "
WITH locked AS MATERIALIZED (
    SELECT id FROM items WHERE id = ANY($1) AND NOT counts_orders ORDER BY id FOR NO KEY UPDATE
)
UPDATE items SET counts_orders = true, is_counting = items.held + items.sold > 0, version = items.version + 1
FROM locked WHERE items.id = locked.id";

/// Whether some of the items $1 have orders from before that may not be in the index yet.
pub const IS_COUNTING: &str = "SELECT EXISTS (SELECT FROM items WHERE id = ANY($1) AND is_counting)";

/// Of the next $2 orders after $1: the last one, if there are that many, and those of the items $3 that are not in the index.
/// An order never changes its item, nor leaves the index: what is read here still holds in [`MARK`].
pub const LOOK: &str = "
SELECT (array_agg(id ORDER BY id))[$2::bigint] AS last,
       coalesce(array_agg(id ORDER BY id) FILTER (WHERE item = ANY($3) AND NOT is_counted), '{}') AS uncounted
FROM (SELECT id, item, is_counted FROM orders WHERE id > $1 ORDER BY id LIMIT $2::bigint) AS step";

/// Waits for whoever has one of them in hand, and marks what they made of it. In the order of ids, as those lock them who
/// cancel several, so that nobody waits in a circle.
pub const MARK: &str = "
WITH locked AS MATERIALIZED (
    SELECT id FROM orders WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE
)
UPDATE orders SET is_counted = true FROM locked WHERE orders.id = locked.id";

/// The items $1 find all of their orders. No version moves on: nothing is decided by it.
pub const END: &str = "UPDATE items SET is_counting = false WHERE id = ANY($1) AND is_counting";

/// Counts all orders of these items.
pub async fn count(pool: &PgPool, items: &BTreeSet<String>) -> Result<(), Error> {
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    tracing::info!(?items, "counting the orders of items that get rules about them");
    let (mut marked, mut next) = (0, Some(Work::Begin));
    while let Some(work) = next {
        let (more, then) = transaction::run(pool, &Step { items: &items, work }).await?;
        (marked, next) = (marked + more, then);
    }
    tracing::info!(?items, marked, "every order of these items is found by its buyer");
    Ok(())
}

/// One transaction of a count. It comes to how many orders it marked, and what is to be done next.
struct Step<'a> {
    items: &'a [&'a str],
    work: Work,
}

#[derive(Clone, Copy)]
enum Work {
    /// Orders are counted from now on.
    Begin,
    /// The orders after this one are looked at.
    Walk(Uuid),
    /// All are counted.
    End,
}

impl Transaction for Step<'_> {
    const CONTENDED: &'static str = "items or orders";
    type Done = (u64, Option<Work>);

    async fn attempt(&self, connection: &mut PgConnection) -> Result<Self::Done, sqlx::Error> {
        match self.work {
            Work::Begin => {
                sqlx::query(BEGIN).bind(self.items).execute(&mut *connection).await?;
                let is_counting = sqlx::query_scalar(IS_COUNTING).bind(self.items).fetch_one(connection).await?;
                // The id of no order: they are UUIDv7.
                Ok((0, if is_counting { Some(Work::Walk(Uuid::nil())) } else { None }))
            }
            Work::Walk(after) => {
                let look = sqlx::query_as(LOOK).bind(after).bind(STEP_ORDERS).bind(self.items);
                let (last, uncounted): (Option<Uuid>, Vec<Uuid>) = look.fetch_one(&mut *connection).await?;
                let mut marked = 0;
                if !uncounted.is_empty() {
                    marked = sqlx::query(MARK).bind(uncounted).execute(connection).await?.rows_affected();
                }
                // The last one of a step that is not full is the last of all: an order that comes now is counted as it
                // is written.
                Ok((marked, Some(last.map_or(Work::End, Work::Walk))))
            }
            Work::End => {
                sqlx::query(END).bind(self.items).execute(connection).await?;
                Ok((0, None))
            }
        }
    }
}
