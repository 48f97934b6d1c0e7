//! A long life, put into the database in bulk: items sold out, their verdicts and orders, and tables that were vacuumed.
//!
//! Never part of a sale, and never on servers that others use. Stock, orders and verdicts agree as if each had been
//! bought and paid for; only their age is not true: all of it is in the newest part of the tables, where it is most in
//! the way.

use std::str::FromStr;

use anyhow::Context;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

use crate::database::{self, NAME};
use crate::failure::Failure;
use crate::progress::Progress;

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

// Also leaves a dead version of each item behind, as a life of sales does.
const SELL_OLD_ITEMS: &str = "
    UPDATE items SET stock = sums.units, sold = sums.units, version = sums.orders
    FROM (SELECT item, sum(quantity)::bigint AS units, count(*) AS orders FROM orders GROUP BY item) AS sums
    WHERE items.id = sums.item";

/// Each by itself, none of them in a transaction. The checkpoint belongs to the load, not to the sale that comes next.
const SETTLE: [&str; 4] =
    ["VACUUM (ANALYZE) items", "VACUUM (ANALYZE) orders", "VACUUM (ANALYZE) verdicts", "CHECKPOINT"];

/// How much is in the tables.
const READ_SIZE: &str = "SELECT (SELECT count(*) FROM verdicts), (SELECT count(*) FROM orders)";

/// Fills new tables with this many verdicts on this many items, and about half as many orders.
pub(super) async fn load(database_url: &str, verdicts: u32, items: u32, progress: &Progress) -> Result<(), Failure> {
    database::open(database_url).await?.close().await;
    let mut connection = connect(database_url).await?;
    let items = i64::from(items);
    sqlx::query(PUT_OLD_ITEMS).bind(items).execute(&mut connection).await.map_err(database::failed)?;
    let mut first = 0;
    while first < verdicts {
        progress.stage(format!("filling tables: {first} of {verdicts} verdicts"));
        let next = first.saturating_add(VERDICTS_PER_STATEMENT).min(verdicts);
        let put = sqlx::query(PUT_OLD_VERDICTS).bind(i64::from(first)).bind(i64::from(next));
        let put = put.bind(i64::from(verdicts)).bind(items);
        put.execute(&mut connection).await.map_err(database::failed)?;
        first = next;
    }
    progress.stage("filling tables: vacuum and checkpoint");
    sqlx::query(SELL_OLD_ITEMS).execute(&mut connection).await.map_err(database::failed)?;
    for statement in SETTLE {
        sqlx::query(statement).execute(&mut connection).await.map_err(database::failed)?;
    }
    let size = sqlx::query_as(READ_SIZE).fetch_one(&mut connection).await;
    let (verdicts, orders): (i64, i64) = size.map_err(database::failed)?;
    tracing::info!(verdicts, orders, "the tables are full");
    connection.close().await.map_err(database::failed)
}

// What refers to them goes with them.
const EMPTY: &str = "TRUNCATE items, orders, verdicts CASCADE";

/// Takes everything out of the tables.
pub(super) async fn empty(database_url: &str) -> Result<(), Failure> {
    let mut connection = connect(database_url).await?;
    sqlx::query(EMPTY).execute(&mut connection).await.map_err(database::failed)?;
    connection.close().await.map_err(database::failed)
}

/// Without the limits of the purchase function: filling, and vacuum, take their time.
async fn connect(database_url: &str) -> Result<PgConnection, Failure> {
    let options = PgConnectOptions::from_str(database_url).context("DATABASE_URL").map_err(Failure::Configuration)?;
    options.application_name(NAME).connect().await.map_err(database::failed)
}
