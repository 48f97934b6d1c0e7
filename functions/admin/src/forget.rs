//! `forget`: a buyer's id is taken out of the database. What they bought stays, under a name that says nothing.
//!
//! Nothing finds a buyer's orders or verdicts by an index, which each purchase would pay for: so both tables are walked, a few
//! milliseconds at a time and half of the time asleep. Whose a verdict is says its fingerprint, made anew for each item and
//! quantity, or the order that it names.
//!
//! Invariants: an order that is open, or whose events are still to be published, is not touched, nor is its verdict; what is
//! forgotten keeps its units, its state and its charge. And a repeat of what the buyer asked for buys nothing, for as long as
//! its request id is on record: it is `request_id_reused`, as nobody can tell any more what was asked.

mod theirs;

use crate::NAME;
use crate::failure::Failure;
use crate::report::{Drawn, Layout};
use anyhow::anyhow;
use clap::Args;
use serde_json::json;
use shared::config::StoreOptions;
use shared::db::{self, on_connection};
use shared::messages::is_opaque_id;
use shared::order::store::lock_orders;
use shared::transaction::{self, Transaction};
use sqlx::{PgConnection, PgPool};
use std::collections::{HashMap, HashSet};
use std::time::Instant;
use theirs::{Row, Theirs, order_of};
use uuid::Uuid;

/// Orders, and pages of verdicts, that one step reads: some milliseconds.
pub const STEP_ORDERS: i64 = 4_000;
pub const STEP_PAGES: i64 = 64;
/// Orders that one transaction changes.
const ORDERS_AT_ONCE: usize = 500;
/// So many open orders are named.
const NAMED_MAX: usize = 5;

/// Of the next $2 orders after $1: the last one, if there are that many, and those of the buyer $3.
pub const LOOK: &str = "
SELECT (array_agg(id ORDER BY id))[$2::bigint] AS last, coalesce(array_agg(id ORDER BY id) FILTER (WHERE buyer = $3), '{}')
FROM (SELECT id, buyer FROM orders WHERE id > $1 ORDER BY id LIMIT $2::bigint) AS step";

/// Those of the orders $1 that something may still become of, or that the relay has yet to publish: an event is the same each
/// time that it comes.
const OPEN: &str = "
SELECT id FROM orders
WHERE id = ANY($1) AND (
    state IN ('reserved', 'paying')
    OR id = ANY(ARRAY(
        SELECT waiting FROM (
            SELECT unnest(order_ids) AS waiting FROM outbox UNION ALL SELECT unnest(order_ids) FROM outbox_failed
        ) AS events WHERE waiting IN (SELECT unnest($1))
    ))
    OR EXISTS (SELECT FROM payments WHERE order_id = orders.id AND is_under_way))
ORDER BY id";

/// $1 are orders of a buyer, locked; a text that matches $2 names them. The order's id stands in for the buyer's: it is unique, so that no limit adds up over
/// it, and known already.
pub const FORGET_ORDERS: [&str; 3] = [
    "UPDATE orders SET buyer = id::text, request_id = CASE WHEN request_id ~ $2 THEN id::text ELSE request_id END
     WHERE id = ANY($1)",
    "UPDATE order_history SET request_id = order_id::text WHERE order_id = ANY($1) AND request_id ~ $2",
    "UPDATE payments SET payment_method = 'forgotten', fingerprint = '00000000-0000-0000-0000-000000000000',
         request_id = CASE WHEN request_id ~ $2 THEN order_id::text ELSE request_id END
     WHERE order_id = ANY($1)",
];

const PAGES: &str = "SELECT pg_relation_size('verdicts') / current_setting('block_size')::bigint";

/// On $2 pages from $1 on; by row addresses, as retention reads them. Content of zero is of before there was one (0008): no row
/// is forgotten by that.
pub const READ_VERDICTS: &str = "
SELECT request_id, item, coalesce(nullif(content, '00000000-0000-0000-0000-000000000000'), fingerprint) AS fingerprint,
       CASE WHEN status <> 'sold_out' THEN reply ELSE '' END AS reply, request_id ~ $3 AS is_named
FROM verdicts WHERE ctid >= format('(%s,0)', $1::bigint)::tid AND ctid < format('(%s,0)', $1 + $2::bigint)::tid";

/// Which of the orders $1 are others' than the buyer $2's, and whether they are forgotten ones, which may have been theirs.
const OWNERS: &str = "SELECT id, buyer = id::text FROM orders WHERE id = ANY($1) AND buyer <> $2";

/// No request has this fingerprint, so it is nobody's any more. A row that is changed moves on to where the walk comes by again.
pub const FORGET_VERDICTS: &str = "
WITH locked AS MATERIALIZED (
    SELECT request_id FROM verdicts WHERE request_id = ANY($1) ORDER BY request_id FOR UPDATE
)
UPDATE verdicts SET fingerprint = '00000000-0000-0000-0000-000000000000', content = NULL
FROM locked WHERE verdicts.request_id = locked.request_id AND fingerprint <> '00000000-0000-0000-0000-000000000000'";

const DELETE_VERDICTS: &str = "DELETE FROM verdicts WHERE request_id = ANY($1)";

/// Kept by whoever knows the buyers, who has forgotten them by now.
const FORGET_TIER: &str = "DELETE FROM buyers WHERE id = $1";

#[derive(Debug, Args)]
pub struct Options {
    /// The buyer's id, as purchases name it.
    #[arg(value_name = "BUYER", value_parser = buyer)]
    buyer: String,
    /// Delete verdicts whose request id has the buyer's id in it. Without them, a repeat of that request is decided anew, and
    /// may buy again; so by default they stay until their time is over (purchase's --keep-verdicts-days).
    #[arg(long)]
    with_request_ids: bool,
    #[command(flatten)]
    store: StoreOptions,
}

/// What a text matches that names the buyer: their id, and no letter or digit beside it, which would make it another one.
fn named(buyer: &str) -> String {
    let escape = |c: char| if c.is_ascii_alphanumeric() { String::from(c) } else { format!("\\{c}") };
    format!("(^|[^A-Za-z0-9]){}($|[^A-Za-z0-9])", buyer.chars().map(escape).collect::<String>())
}

fn buyer(text: &str) -> Result<String, String> {
    let wrong = "a buyer's id is 1 to 128 characters of printable ASCII but space, \" and \\";
    if is_opaque_id(text) { Ok(text.to_owned()) } else { Err(wrong.to_owned()) }
}

pub(crate) async fn run(Options { buyer, with_request_ids, store }: Options) -> Result<Drawn, Failure> {
    let pool = db::open_as_it_is(&store, NAME).await?;
    let (orders, named) = (find_orders(&pool, &buyer).await?, named(&buyer));
    let Count { verdicts, left, unknown } = forget_verdicts(&pool, &buyer, &orders, with_request_ids).await?;
    for chunk in orders.chunks(ORDERS_AT_ONCE) {
        refuse_open(transaction::run(&pool, &Forget { named: &named, orders: chunk }).await?)?;
    }
    on_connection(&pool, async |connection| Ok(sqlx::query(FORGET_TIER).bind(&buyer).execute(connection).await?))
        .await?;
    let document = json!({
        "orders": orders.len(), "verdicts": verdicts, "verdicts_left": left, "verdicts_unknown": unknown
    });
    let mut drawn = Layout { lines: "orders verdicts verdicts_left verdicts_unknown", tables: &[] }.of(document);
    drawn.is_well = left + unknown == 0;
    if left > 0 {
        drawn.notes.push(
            "The buyer's id stays in the request ids of verdicts_left, until their time is over (KEEP_VERDICTS_DAYS): \
             without them, a repeat would buy again. --with-request-ids deletes them now."
                .to_owned(),
        );
    }
    if unknown > 0 {
        drawn.notes.push(
            "The buyer's id stays in the request ids of verdicts_unknown, too, until their time is over: nothing says whose \
             these are."
                .to_owned(),
        );
    }
    drawn.notes.push(
        "Not reached: messages in queues (`admin dead list`), events that were published, logs, backups. \
         functions/README.md has the list."
            .to_owned(),
    );
    Ok(drawn)
}

/// All orders of the buyer; none of them is open.
async fn find_orders(pool: &PgPool, buyer: &str) -> Result<Vec<Uuid>, Failure> {
    // The id of no order: they are UUIDv7.
    let (mut orders, mut next) = (Vec::new(), Some(Uuid::nil()));
    while let Some(after) = next {
        let look = sqlx::query_as(LOOK).bind(after).bind(STEP_ORDERS).bind(buyer);
        let (last, theirs): (Option<Uuid>, Vec<Uuid>) =
            in_turn(pool, async |connection| look.fetch_one(connection).await).await?;
        orders.extend(theirs);
        next = last;
    }
    for chunk in orders.chunks(ORDERS_AT_ONCE) {
        refuse_open(in_turn(pool, async |connection| open(connection, chunk).await).await?)?;
    }
    Ok(orders)
}

async fn open(connection: &mut PgConnection, orders: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(OPEN).bind(orders).fetch_all(connection).await
}

fn refuse_open(open: Vec<Uuid>) -> Result<(), Failure> {
    if open.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = open.iter().take(NAMED_MAX).map(Uuid::to_string).collect();
    let more = if open.len() > NAMED_MAX { ", and more" } else { "" };
    Err(Failure::Broken(anyhow!(
        "the buyer has orders that are not over, or whose events are still to be published: {}{more}; `admin order ID` says \
         more. Cancel them, or wait, and forget the buyer then",
        named.join(", ")
    )))
}

#[derive(Default)]
struct Count {
    /// That are forgotten.
    verdicts: usize,
    /// Of these, those that stay under a request id that names the buyer.
    left: usize,
    /// Whose request id names the buyer, and whose they are nothing says.
    unknown: usize,
}

async fn forget_verdicts(
    pool: &PgPool,
    buyer: &str,
    orders: &[Uuid],
    with_request_ids: bool,
) -> Result<Count, Failure> {
    let mut theirs = Theirs { buyer, orders: orders.iter().copied().collect(), fingerprints: HashMap::new() };
    // Each once, however often the walk comes by.
    let (mut count, mut all_named) = (Count::default(), HashSet::new());
    let (pages, pattern): (i64, _) =
        (in_turn(pool, async |connection| sqlx::query_scalar(PAGES).fetch_one(connection).await).await?, named(buyer));
    let mut page = 0;
    while page < pages {
        let read = sqlx::query_as(READ_VERDICTS).bind(page).bind(STEP_PAGES).bind(&pattern);
        let rows: Vec<Row> = in_turn(pool, async |connection| read.fetch_all(connection).await).await?;
        let (mut rows, mut others): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| theirs.has(row));
        others.retain(|row| row.is_named);
        let owners = owners(pool, buyer, &others).await?;
        let owner = |row: &Row| order_of(&row.reply).and_then(|order| owners.get(&order));
        count.unknown += others.iter().filter(|row| owner(row).is_none()).count();
        rows.extend(others.into_iter().filter(|row| owner(row) == Some(&true)));
        let (named, rest): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.is_named);
        let (mut to_forget, mut to_delete) = (keys(&rest), Vec::new());
        all_named.extend(keys(&named));
        count.verdicts += rest.len();
        if with_request_ids { &mut to_delete } else { &mut to_forget }.extend(keys(&named));
        if !named.is_empty() || !rest.is_empty() {
            transaction::run(pool, &ForgetVerdicts { to_forget, to_delete }).await?;
        }
        page += STEP_PAGES;
    }
    count.verdicts += all_named.len();
    count.left = if with_request_ids { 0 } else { all_named.len() };
    Ok(count)
}

/// Of orders that others' verdicts name: whether they are forgotten.
async fn owners(pool: &PgPool, buyer: &str, others: &[Row]) -> Result<HashMap<Uuid, bool>, Failure> {
    let orders: Vec<Uuid> = others.iter().filter_map(|row| order_of(&row.reply)).collect();
    if orders.is_empty() {
        return Ok(HashMap::new());
    }
    let find = sqlx::query_as(OWNERS).bind(orders).bind(buyer);
    let found: Vec<(Uuid, bool)> = in_turn(pool, async |connection| find.fetch_all(connection).await).await?;
    Ok(found.into_iter().collect())
}

/// Does a step, and then sleeps for as long as it took.
async fn in_turn<T>(
    pool: &PgPool,
    step: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, Failure> {
    let started = Instant::now();
    let done = on_connection(pool, async |connection| Ok(step(connection).await?)).await?;
    tokio::time::sleep(started.elapsed()).await;
    Ok(done)
}

fn keys(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.request_id.clone()).collect()
}

struct ForgetVerdicts {
    to_forget: Vec<String>,
    to_delete: Vec<String>,
}

impl Transaction for ForgetVerdicts {
    const CONTENDED: &'static str = "verdicts";
    type Done = ();

    async fn attempt(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query(FORGET_VERDICTS).bind(&self.to_forget).execute(&mut *connection).await?;
        sqlx::query(DELETE_VERDICTS).bind(&self.to_delete).execute(connection).await.map(|_| ())
    }
}

struct Forget<'a> {
    /// What matches texts that name the buyer.
    named: &'a str,
    orders: &'a [Uuid],
}

impl Transaction for Forget<'_> {
    const CONTENDED: &'static str = "orders";
    /// Those that are open; none is forgotten then.
    type Done = Vec<Uuid>;

    async fn attempt(&self, connection: &mut PgConnection) -> Result<Vec<Uuid>, sqlx::Error> {
        lock_orders(connection, self.orders).await?;
        let open = open(connection, self.orders).await?;
        if open.is_empty() {
            for statement in FORGET_ORDERS {
                sqlx::query(statement).bind(self.orders).bind(self.named).execute(&mut *connection).await?;
            }
        }
        Ok(open)
    }
}
