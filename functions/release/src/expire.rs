//! Holds that ran out: reserved orders whose `hold_until` has passed become expired, and their units go back.
//!
//! Every instance looks every quarter of a second or so, and takes batches for as long as they are full. Invariants: the
//! clock is the database's; an order that somebody else has in hand is passed over, not waited for; an order, its
//! history and its units move together, or not at all; and an item that is not sound keeps no other item's orders.

use crate::stock::{give_back, lock};
use futures_util::future::BoxFuture;
use shared::{
    db,
    order::{Cause, State},
    outbox::{Notifier, kind_of, record_orders},
    retry::RetryPolicy,
};
use sqlx::{Connection, PgConnection, PgPool, Row, postgres::PgConnectOptions};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The most orders of one batch. Each batch moves its items' versions on once, which costs a purchase that is being
/// decided another round; so few and large.
pub const BATCH_ORDERS_MAX: u16 = 2_000;
/// The pause between two looks: at random within half a second, so that a hold ends within a second of its time, and
/// instances do not look in step.
const LOOKS: RetryPolicy = RetryPolicy { wait_ms: 500, factor: 1.0, wait_ms_max: 500, attempts_max: u32::MAX };
/// How long an item that does not hold what its orders hold is passed over, before it is looked at again: somebody must put
/// it right by hand.
const PASSED_OVER_SECONDS: u64 = 60;
/// How long the database may take for a batch; longer than it allows itself for a statement.
const BATCH_SECONDS_MAX: u64 = 30;
/// What is due is found in the order of its index, and all else by key: that is the one good plan however the tables
/// grow, and compiling it would take longer than running it. The commit waits for the disk, as everywhere: what is
/// visible is told to the world, and must not be lost then.
pub const SETTINGS: [(&str, &str); 4] =
    [("jit", "off"), ("enable_bitmapscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")];

/// Moves at most $1 due orders on to $2, because of $3; but for those of the items $4. Whether an order is still reserved is
/// checked where it is locked; to ask again would only tempt the planner to look orders up in the index of holds, and not by
/// their key. `now()` is when the transaction began; a volatile clock could not be looked up in an index.
pub const EXPIRE: &str = "
WITH due AS MATERIALIZED (
    SELECT id FROM orders
    WHERE state = 'reserved' AND hold_until <= now() AND item <> ALL($4)
    ORDER BY hold_until LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
), expired AS (
    UPDATE orders SET state = $2 FROM due WHERE orders.id = due.id
    RETURNING orders.id, orders.item, orders.quantity
), recorded AS (
    INSERT INTO order_history (order_id, from_state, to_state, cause, at)
    SELECT id, 'reserved', $2, $3, clock_timestamp() FROM expired
)
SELECT item, array_agg(id ORDER BY id) AS orders, sum(quantity)::bigint AS units FROM expired GROUP BY item";

/// Items that are passed over, because they do not hold what their orders hold.
#[derive(Debug)]
pub struct PassedOver {
    items: BTreeSet<String>,
    since: Instant,
}

impl Default for PassedOver {
    fn default() -> Self {
        Self { items: BTreeSet::new(), since: Instant::now() }
    }
}

impl PassedOver {
    /// Has them looked at again, when it is time.
    fn forget(&mut self) {
        if self.since.elapsed() > Duration::from_secs(PASSED_OVER_SECONDS) {
            *self = Self::default();
        }
    }

    fn add(&mut self, items: Vec<String>) {
        tracing::error!(?items, "hold fewer units than their orders; their holds do not end until that is put right");
        self.items.extend(items);
    }
}

/// Has holds run out, for as long as it is polled, on a connection of its own; `pool` only says where.
#[must_use]
pub fn upkeep(pool: &PgPool, notifier: Notifier) -> BoxFuture<'static, ()> {
    let options = PgConnectOptions::clone(&pool.connect_options()).options(SETTINGS);
    Box::pin(async move {
        let (mut connection, mut passed_over) = (None, PassedOver::default());
        let mut is_away = false;
        for wait in LOOKS.waits() {
            match look(&mut connection, &options, &mut passed_over).await {
                Ok(expired) => {
                    is_away = false;
                    if expired > 0 {
                        notifier.notify();
                        tracing::info!(expired, "holds ran out; their units are on sale again");
                    }
                }
                Err(error) => {
                    connection = None;
                    // Once for each outage.
                    if !is_away {
                        is_away = true;
                        tracing::warn!(%error, "holds cannot be ended; trying again until they can");
                    }
                }
            }
            tokio::time::sleep(wait).await;
        }
    })
}

/// Ends what is due, on the connection there is, or on a new one.
async fn look(
    connection: &mut Option<PgConnection>,
    options: &PgConnectOptions,
    passed_over: &mut PassedOver,
) -> Result<usize, sqlx::Error> {
    let connected = match connection {
        Some(connected) => connected,
        None => connection.insert(db::connect(options).await?),
    };
    passed_over.forget();
    expire(connected, passed_over).await
}

/// Ends every hold that is due, batch by batch; not of items that are passed over, or come to be. Returns how many orders
/// expired.
///
/// # Errors
/// The database's; an I/O error (timed out) where a batch takes too long. The connection is of no more use then.
pub async fn expire(connection: &mut PgConnection, passed_over: &mut PassedOver) -> Result<usize, sqlx::Error> {
    let mut expired = 0;
    loop {
        let batch = tokio::time::timeout(Duration::from_secs(BATCH_SECONDS_MAX), expire_batch(connection, passed_over));
        match batch.await.map_err(|_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))?? {
            Batch::Expired(orders) => {
                expired += orders;
                // Fewer: what is left is not due, or in somebody else's hands.
                if orders < usize::from(BATCH_ORDERS_MAX) {
                    return Ok(expired);
                }
            }
            Batch::Short(items) => passed_over.add(items),
        }
    }
}

/// What became of a batch.
enum Batch {
    /// So many orders expired.
    Expired(usize),
    /// None did: these items hold fewer units than their orders. There are fewer such items each time.
    Short(Vec<String>),
}

/// Ends the holds that are due longest.
async fn expire_batch(connection: &mut PgConnection, passed_over: &PassedOver) -> Result<Batch, sqlx::Error> {
    let cause = Cause::HoldPassed;
    let to = State::Reserved.after(cause).expect("a reserved order can expire");
    let mut transaction = connection.begin().await?;
    let rows = sqlx::query(EXPIRE)
        .bind(i64::from(BATCH_ORDERS_MAX))
        .bind(to.as_str())
        .bind(cause.as_str())
        .bind(passed_over.items.iter().map(String::as_str).collect::<Vec<_>>())
        .fetch_all(&mut *transaction)
        .await?;
    let mut orders: Vec<Uuid> = Vec::new();
    let mut units = BTreeMap::new();
    for row in rows {
        orders.append(&mut row.try_get("orders")?);
        units.insert(row.try_get("item")?, row.try_get("units")?);
    }
    if units.is_empty() {
        transaction.rollback().await?;
        return Ok(Batch::Expired(0));
    }
    let short = lock(&mut transaction, &units).await?;
    if !short.is_empty() {
        transaction.rollback().await?;
        return Ok(Batch::Short(short));
    }
    give_back(&mut transaction, &units).await?;
    record_orders(&mut transaction, kind_of(cause), &orders).await?;
    transaction.commit().await?;
    Ok(Batch::Expired(orders.len()))
}
