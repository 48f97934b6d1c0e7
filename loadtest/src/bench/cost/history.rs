//! A long life, put into the database in bulk: items sold out, their verdicts and orders, and tables that were vacuumed.
//!
//! Never part of a sale, and never on servers that others use. Stock, orders and verdicts agree as if each had been
//! bought and paid for; only their age is not true: all of it is in the newest part of the tables, where it is most in
//! the way.

use crate::database::{self, at_once};
use crate::failure::Failure;
use crate::progress::Progress;
use sqlx::{Connection, PgConnection};

/// Verdicts of one statement.
const VERDICTS_PER_STATEMENT: u32 = 50_000;

const PUT_OLD_ITEMS: &str = "
    INSERT INTO items (id, stock, available) SELECT 'old-' || number, 0, 0 FROM generate_series(0, $1 - 1) AS number";

// Half of the requests got a unit, and paid for it. Request ids are random, as those of most senders; order ids begin with a time, as
// the purchase function's (UUIDv7). The replies have the length of real ones.
const PUT_OLD_VERDICTS: &str = "
    WITH old AS (
        SELECT gen_random_uuid()::text AS request_id,
               (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - $3 + number), 12, '0')
                || '7' || substr(random_hex, 1, 3) || '8' || substr(random_hex, 5, 15))::uuid AS order_id,
               'old-' || (number % $4) AS item, (number / $4) % 2 = 0 AS is_reserved, number
        FROM (SELECT number, replace(gen_random_uuid()::text, '-', '') AS random_hex
              FROM generate_series($1, $2 - 1) AS number) AS numbered
    ), ordered AS (
        INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
        SELECT order_id, request_id, item, 'buyer-' || number, 1, 'paid', now(), now() FROM old WHERE is_reserved
    )
    INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at)
    SELECT request_id, item, gen_random_uuid(), CASE WHEN is_reserved THEN 'reserved' ELSE 'sold_out' END,
           json_build_object('request_id', request_id, 'status', 'reserved', 'code', 'reserved',
               'message', '1 unit is reserved until ' || now(),
               'order', json_build_object('id', order_id, 'item', item, 'quantity', 1, 'hold_until', now()),
               'item_version', number, 'decided_at', now()), now()
    FROM old";

/// Each by itself, none of them in a transaction. The first one also leaves a dead version of each item behind, as a life of
/// sales does; the checkpoint belongs to the load, not to the sale that comes next.
const SETTLE: [&str; 5] = [
    "UPDATE items SET stock = sums.units, sold = sums.units, version = sums.orders
     FROM (SELECT item, sum(quantity)::bigint AS units, count(*) AS orders FROM orders GROUP BY item) AS sums
     WHERE items.id = sums.item",
    "VACUUM (ANALYZE) items",
    "VACUUM (ANALYZE) orders",
    "VACUUM (ANALYZE) verdicts",
    "CHECKPOINT",
];

/// Fills new tables with this many verdicts on this many items, and about half as many orders.
pub(super) async fn load(database_url: &str, verdicts: u32, items: u32, progress: &Progress) -> Result<(), Failure> {
    database::open(database_url).await?.close().await;
    // Without a worker's limits: filling, and vacuum, take their time.
    let mut connection = PgConnection::connect(database_url).await?;
    let items = i64::from(items);
    sqlx::query(PUT_OLD_ITEMS).bind(items).execute(&mut connection).await?;
    let mut first = 0;
    while first < verdicts {
        progress.stage(format!("filling tables: {first} of {verdicts} verdicts"));
        let next = first.saturating_add(VERDICTS_PER_STATEMENT).min(verdicts);
        let put = sqlx::query(PUT_OLD_VERDICTS).bind(i64::from(first)).bind(i64::from(next));
        put.bind(i64::from(verdicts)).bind(items).execute(&mut connection).await?;
        first = next;
    }
    progress.stage("filling tables: vacuum and checkpoint");
    for statement in SETTLE {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

/// Takes everything out of the tables, and out of those that refer to them.
pub(super) async fn empty(database_url: &str) -> Result<(), Failure> {
    at_once(database_url, async |connection| {
        sqlx::query("TRUNCATE items, orders, verdicts CASCADE").execute(connection).await?;
        Ok(())
    })
    .await
}
