//! The transactions that give units back: orders are locked, moved on, and their items after them.
//!
//! Orders are locked and not checked by a version: who was first must be known before anything is said. Invariant: a verdict
//! is recorded by the transaction that has its effect, and nothing is answered before that is committed.

use crate::decide::decide;
use shared::handler::Answer;
use shared::idempotency;
use shared::messages::ReleaseRequest;
use shared::order::Cause;
use shared::order::store::{Destination, Transition, Units, lock_items, lock_orders, move_on, move_units};
use shared::outbox::{kind_of, record_orders};
use shared::transaction::Transaction;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// The most orders of one batch. Each batch moves its items' versions on once, which costs a purchase that is being
/// decided another round; so few and large.
pub const BATCH_ORDERS_MAX: u16 = 2_000;

/// Moves at most $1 due orders from $2 to $3, because of $4; but for those of the items $5, or of this item alone: $6.
/// Whether an order is still reserved is checked where it is locked; to ask again would only tempt the planner to look orders up in the index of
/// holds, and not by their key. `now()` is when the transaction began; a volatile clock could not be looked up in an index.
pub const EXPIRE: &str = "
WITH due AS MATERIALIZED (
    SELECT id FROM orders
    WHERE state = 'reserved' AND hold_until <= now() AND item <> ALL($5) AND item = coalesce($6, item)
    ORDER BY hold_until LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
), expired AS (
    UPDATE orders SET state = $3 FROM due WHERE orders.id = due.id
    RETURNING orders.id, orders.item, orders.quantity
), recorded AS (
    INSERT INTO order_history (order_id, from_state, to_state, cause, at)
    SELECT id, $2, $3, $4, clock_timestamp() FROM expired
)
SELECT item, array_agg(id ORDER BY id) AS orders, sum(quantity)::bigint AS units FROM expired GROUP BY item";

/// Answers requests, in order.
pub(crate) struct Cancel<'a>(pub(crate) &'a [ReleaseRequest]);

impl Transaction for Cancel<'_> {
    const CONTENDED: &'static str = "orders or request ids";
    type Done = Vec<Answer>;

    async fn attempt(&self, connection: &mut PgConnection) -> Result<Vec<Answer>, sqlx::Error> {
        let ids: Vec<Uuid> = self.0.iter().map(|request| request.order_id).collect();
        let orders = lock_orders(connection, &ids).await?;
        let mut verdicts = idempotency::store::read(connection, self.0.iter()).await?;
        let plan = decide(self.0, orders, &mut verdicts);
        let cancelled = Transition { cause: Cause::Cancel, orders: plan.cancelled, at: verdicts.now };
        move_on(connection, &[cancelled], &plan.units, Destination::Available).await?;
        idempotency::store::record(connection, &verdicts).await?;
        Ok(plan.answers)
    }
}

/// The items of the orders that [`EXPIRE`] would move.
pub const DUE_ITEMS: &str = "
SELECT DISTINCT item FROM (
    SELECT item FROM orders WHERE state = 'reserved' AND hold_until <= now() AND item <> ALL($2)
    ORDER BY hold_until LIMIT $1
) AS due";

pub(crate) async fn due_items(
    connection: &mut PgConnection,
    passed_over: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(DUE_ITEMS).bind(i64::from(BATCH_ORDERS_MAX)).bind(passed_over).fetch_all(connection).await
}

/// Ends the holds that are due longest, but for those of the items that are passed over, or of one item alone. Returns how
/// many orders expired; or, where none did, the items that hold fewer units than their orders. There are fewer such items
/// each time.
pub(crate) async fn expire_batch(
    connection: &mut PgConnection,
    passed_over: &[String],
    alone: Option<&str>,
) -> Result<Result<usize, Vec<String>>, sqlx::Error> {
    let cause = Cause::HoldPassed;
    let (from, to) = cause.transition();
    let mut transaction = connection.begin().await?;
    let expire = sqlx::query_as(EXPIRE).bind(i64::from(BATCH_ORDERS_MAX)).bind(from.as_str()).bind(to.as_str());
    let expire = expire.bind(cause.as_str()).bind(passed_over).bind(alone);
    let expired: Vec<(String, Vec<Uuid>, i64)> = expire.fetch_all(&mut *transaction).await?;
    let orders: Vec<Uuid> = expired.iter().flat_map(|(_, orders, _)| orders.iter().copied()).collect();
    let units: Units = expired.into_iter().map(|(item, _, units)| (item, units)).collect();
    let short = if units.is_empty() { Vec::new() } else { lock_items(&mut transaction, &units).await? };
    if units.is_empty() || !short.is_empty() {
        transaction.rollback().await?;
        return Ok(if short.is_empty() { Ok(0) } else { Err(short) });
    }
    move_units(&mut transaction, &units, Destination::Available).await?;
    record_orders(&mut transaction, kind_of(cause), &orders).await?;
    transaction.commit().await?;
    Ok(Ok(orders.len()))
}
