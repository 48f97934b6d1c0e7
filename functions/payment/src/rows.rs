//! The rows of a payment: locked and read, then written, by the transactions of [`crate::pay`].
//!
//! Invariants: orders are locked first, in the order of their ids, then items, likewise, and verdicts are inserted last; and
//! a transition is made only from the state that it leads from.

use crate::decide::{Order, Payment, Recorded, Snapshot, Verdicts};
use shared::{
    messages::{PaymentRequest, Request},
    order::{Cause, State},
    outbox::{kind_of, record_orders},
};
use sqlx::{PgConnection, Row, postgres::PgRow};
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;
use uuid::Uuid;

/// Held until the transaction ends; in the order of ids, so that two of these cannot wait for each other.
pub const LOCK_ORDERS: &str = "
SELECT id, state, item, quantity, hold_until FROM orders WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// Of the orders $1, and of the requests $2 where they pay for another one.
pub const READ_PAYMENTS: &str = "
SELECT order_id, request_id, fingerprint, is_under_way FROM payments WHERE order_id = ANY($1)
UNION
SELECT order_id, request_id, fingerprint, is_under_way FROM payments WHERE is_under_way AND request_id = ANY($2)";

/// The verdicts, and the time: one row at least, also where nothing is recorded.
pub const READ_VERDICTS: &str = "
SELECT clock.now, verdicts.request_id, verdicts.fingerprint, verdicts.reply
FROM (SELECT clock_timestamp() AS now) AS clock
LEFT JOIN verdicts ON verdicts.request_id = ANY($1)";

/// $1 and $2 belong together: the order, and the request. From the state $3 to $4, because of $5, at $6.
pub const MOVE_ON: &str = "
WITH moved AS (
    UPDATE orders SET state = $4
    FROM UNNEST($1::uuid[], $2::text[]) AS change (order_id, request_id)
    WHERE orders.id = change.order_id AND orders.state = $3
    RETURNING orders.id, change.request_id
)
INSERT INTO order_history (order_id, from_state, to_state, cause, request_id, at)
SELECT id, $3, $4, $5, request_id, $6 FROM moved";

/// $1 to $4 belong together; an order that was paid for before, in vain, has a row.
pub const PUT_UNDER_WAY: &str = "
INSERT INTO payments (order_id, request_id, fingerprint, payment_method, asked_at)
SELECT new.order_id, new.request_id, new.fingerprint, new.payment_method, $5
FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS new (order_id, request_id, fingerprint, payment_method)
ON CONFLICT (order_id) DO UPDATE SET
    request_id     = EXCLUDED.request_id,
    fingerprint    = EXCLUDED.fingerprint,
    payment_method = EXCLUDED.payment_method,
    asked_at       = EXCLUDED.asked_at,
    is_under_way   = true";

/// Not for each time that a message comes round while the gateway is away: only that somebody still asks must show.
pub const ASK_AGAIN: &str = "
UPDATE payments SET asked_at = $2 WHERE order_id = ANY($1) AND asked_at < $2 - interval '5 s'";

/// $1 and $2 belong together: the order, and its charge, where there is one.
pub const END: &str = "
UPDATE payments SET is_under_way = false, charge_id = coalesce(ended.charge_id, payments.charge_id)
FROM UNNEST($1::uuid[], $2::text[]) AS ended (order_id, charge_id)
WHERE payments.order_id = ended.order_id";

/// Held until the transaction ends; in the order of ids, as everybody locks them.
pub const LOCK_ITEMS: &str = "
SELECT id FROM items WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// $1 and $2 belong together: the item, and its units. The version stays: it says what can be reserved, and that is the
/// same before and after. So a purchase that was decided meanwhile holds, and payments cost it no second round.
pub const SELL: &str = "
UPDATE items SET held = items.held - change.units, sold = items.sold + change.units
FROM UNNEST($1::text[], $2::bigint[]) AS change (item, units)
WHERE items.id = change.item";

/// By request id, so that two of these cannot wait for each other.
const RECORD: &str = "
INSERT INTO verdicts (request_id, fingerprint, status, reply, decided_at)
SELECT new.request_id, new.fingerprint, new.status, new.reply, $5
FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::text[]) AS new (request_id, fingerprint, status, reply)
ORDER BY new.request_id";

/// Locks the orders first: whoever else has one of these payments in hand has committed by the time that the rest is read.
pub async fn read<'a>(
    connection: &mut PgConnection,
    requests: impl Iterator<Item = &'a PaymentRequest> + Clone + Send,
) -> Result<Snapshot, sqlx::Error> {
    let order_ids: Vec<Uuid> = requests.clone().map(|request| request.order_id).collect();
    let request_ids: Vec<&str> = requests.map(|request| request.request_id.as_str()).collect();
    let mut orders = HashMap::new();
    for row in sqlx::query(LOCK_ORDERS).bind(&order_ids).fetch_all(&mut *connection).await? {
        orders.insert(row.try_get("id")?, order(&row)?);
    }
    let mut payments = HashMap::new();
    for row in sqlx::query(READ_PAYMENTS).bind(&order_ids).bind(&request_ids).fetch_all(&mut *connection).await? {
        payments.insert(row.try_get("order_id")?, payment(&row)?);
    }
    let rows = sqlx::query(READ_VERDICTS).bind(&request_ids).fetch_all(connection).await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("now")?;
    let mut recorded = HashMap::new();
    for row in rows {
        if let Some(id) = row.try_get::<Option<String>, _>("request_id")? {
            recorded.insert(id, Recorded { fingerprint: row.try_get("fingerprint")?, reply: row.try_get("reply")? });
        }
    }
    Ok(Snapshot { now, orders, payments, recorded })
}

fn order(row: &PgRow) -> Result<Order, sqlx::Error> {
    let state: &str = row.try_get("state")?;
    let unknown = || sqlx::Error::Decode(format!("an order has the unknown state {state}").into());
    Ok(Order {
        state: State::read(state).ok_or_else(unknown)?,
        item: row.try_get("item")?,
        quantity: row.try_get("quantity")?,
        hold_until: row.try_get("hold_until")?,
    })
}

fn payment(row: &PgRow) -> Result<Payment, sqlx::Error> {
    Ok(Payment {
        request_id: row.try_get("request_id")?,
        fingerprint: row.try_get("fingerprint")?,
        is_under_way: row.try_get("is_under_way")?,
    })
}

/// Moves these orders on, each for its request, with a row of history.
pub async fn move_on(
    connection: &mut PgConnection,
    from: State,
    cause: Cause,
    orders: &[(Uuid, String)],
    at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    if orders.is_empty() {
        return Ok(());
    }
    let to = from.after(cause).expect("whoever decided so has asked the state machine");
    sqlx::query(MOVE_ON)
        .bind(orders.iter().map(|(order, _)| *order).collect::<Vec<_>>())
        .bind(orders.iter().map(|(_, request)| request.as_str()).collect::<Vec<_>>())
        .bind(from.as_str())
        .bind(to.as_str())
        .bind(cause.as_str())
        .bind(at)
        .execute(connection)
        .await
        .map(|_| ())
}

/// Puts it into the outbox that these orders were moved on.
pub async fn tell(connection: &mut PgConnection, cause: Cause, orders: &[(Uuid, String)]) -> Result<(), sqlx::Error> {
    let orders: Vec<Uuid> = orders.iter().map(|(order, _)| *order).collect();
    if orders.is_empty() {
        return Ok(());
    }
    record_orders(connection, kind_of(cause), &orders).await
}

/// Notes that these requests pay for their orders from now on.
pub async fn put_under_way(
    connection: &mut PgConnection,
    requests: &[&PaymentRequest],
    at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    if requests.is_empty() {
        return Ok(());
    }
    sqlx::query(PUT_UNDER_WAY)
        .bind(requests.iter().map(|request| request.order_id).collect::<Vec<_>>())
        .bind(requests.iter().map(|request| request.request_id.as_str()).collect::<Vec<_>>())
        .bind(requests.iter().map(|request| request.fingerprint()).collect::<Vec<_>>())
        .bind(requests.iter().map(|request| request.payment_method.as_str()).collect::<Vec<_>>())
        .bind(at)
        .execute(connection)
        .await
        .map(|_| ())
}

/// Notes that somebody asks about these orders again.
pub async fn ask_again(
    connection: &mut PgConnection,
    orders: impl Iterator<Item = Uuid> + Send,
    at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    let orders: Vec<Uuid> = orders.collect();
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query(ASK_AGAIN).bind(orders).bind(at).execute(connection).await.map(|_| ())
}

/// Notes that these payments are no longer under way; with the charge, where there is one.
pub async fn end(connection: &mut PgConnection, over: &BTreeMap<Uuid, Option<String>>) -> Result<(), sqlx::Error> {
    if over.is_empty() {
        return Ok(());
    }
    let orders: Vec<Uuid> = over.keys().copied().collect();
    let charges: Vec<Option<&str>> = over.values().map(Option::as_deref).collect();
    sqlx::query(END).bind(orders).bind(charges).execute(connection).await.map(|_| ())
}

/// Turns held units into sold ones. To be called late in a transaction: the items' rows are hot, and locked from here to
/// its end.
pub async fn sell(connection: &mut PgConnection, units: &BTreeMap<String, i64>) -> Result<(), sqlx::Error> {
    if units.is_empty() {
        return Ok(());
    }
    let items: Vec<&str> = units.keys().map(String::as_str).collect();
    sqlx::query(LOCK_ITEMS).bind(&items).execute(&mut *connection).await?;
    let units: Vec<i64> = units.values().copied().collect();
    sqlx::query(SELL).bind(items).bind(units).execute(connection).await.map(|_| ())
}

/// Records verdicts: the last thing that a transaction does.
pub async fn record(connection: &mut PgConnection, verdicts: &Verdicts, at: OffsetDateTime) -> Result<(), sqlx::Error> {
    if verdicts.is_empty() {
        return Ok(());
    }
    sqlx::query(RECORD)
        .bind(verdicts.keys().map(String::as_str).collect::<Vec<_>>())
        .bind(verdicts.values().map(|decision| decision.fingerprint).collect::<Vec<_>>())
        .bind(verdicts.values().map(|decision| decision.code.status().as_str()).collect::<Vec<_>>())
        .bind(verdicts.values().map(|decision| decision.reply.as_str()).collect::<Vec<_>>())
        .bind(at)
        .execute(connection)
        .await
        .map(|_| ())
}
