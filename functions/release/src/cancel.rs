//! Cancelling orders on request: lock, read, decide, write, in one transaction.
//!
//! The orders are locked and not checked by a version: nobody else is after the same order, but for its expiry and its
//! payment, and who was first must be known before anything is said. Invariant: a verdict is recorded by the transaction
//! that has its effect; nothing is answered before that is committed.

use crate::{
    decide::{Order, Plan, Recorded, Snapshot, decide},
    stock::{give_back, lock},
};
use futures_util::future::BoxFuture;
use shared::{
    db::{is_conflict, on_connection},
    error::Error,
    handler::Answer,
    messages::ReleaseRequest,
    order::{Cause, State},
    outbox::{kind_of, record_orders},
    retry::RetryPolicy,
};
use sqlx::{Connection, PgConnection, PgPool, Row};
use std::collections::HashMap;
use uuid::Uuid;

/// Held until the transaction ends; in the order of ids, so that two of these cannot wait for each other.
const LOCK_ORDERS: &str = "
SELECT id, state, item, quantity FROM orders WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// The verdicts, and the time: one row at least, also where nothing is recorded.
const READ_VERDICTS: &str = "
SELECT clock.now, verdicts.request_id, verdicts.fingerprint, verdicts.reply
FROM (SELECT clock_timestamp() AS now) AS clock
LEFT JOIN verdicts ON verdicts.request_id = ANY($1)";

/// $1 and $2 belong together: the order, and the request. From the state $3 to $4, because of $5, at $6.
const CANCEL: &str = "
WITH cancelled AS (
    UPDATE orders SET state = $4
    FROM UNNEST($1::uuid[], $2::text[]) AS request (order_id, request_id)
    WHERE orders.id = request.order_id AND orders.state = $3
    RETURNING orders.id, request.request_id
)
INSERT INTO order_history (order_id, from_state, to_state, cause, request_id, at)
SELECT id, $3, $4, $5, request_id, $6 FROM cancelled";

/// By request id, so that two of these cannot wait for each other.
const RECORD: &str = "
INSERT INTO verdicts (request_id, fingerprint, status, reply, decided_at)
SELECT new.request_id, new.fingerprint, new.status, new.reply, $5
FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::text[]) AS new (request_id, fingerprint, status, reply)
ORDER BY new.request_id";

/// Answers `requests`, in order.
///
/// # Errors
/// The database is away or unfit, or cannot take one of the requests.
///
/// Boxed, so that the database library's code is compiled here and not in every program that calls it.
pub fn cancel<'a>(pool: &'a PgPool, requests: &'a [ReleaseRequest]) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
    Box::pin(async move {
        let mut waits = RetryPolicy::default().waits();
        loop {
            // Where an attempt fails, nothing of it is committed; or it is, and is on record the next time.
            let attempt = on_connection(pool, async |connection| match cancel_batch(connection, requests).await {
                Ok(answers) => Ok(Some(answers)),
                Err(error) if is_conflict(&error) => Ok(None),
                Err(error) => Err(error.into()),
            });
            if let Some(answers) = attempt.await? {
                return Ok(answers);
            }
            let Some(wait) = waits.next() else {
                return Err(Error::Away("an order was contended to the end; trying again".to_owned()));
            };
            let wait_ms = wait.as_millis();
            tracing::info!(requests = requests.len(), wait_ms, "orders or request ids are contended; deciding again");
            tokio::time::sleep(wait).await;
        }
    })
}

async fn cancel_batch(connection: &mut PgConnection, requests: &[ReleaseRequest]) -> Result<Vec<Answer>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let snapshot = read(&mut transaction, requests).await?;
    let now = snapshot.now;
    let plan = decide(requests, snapshot);
    write(&mut transaction, &plan, now).await?;
    transaction.commit().await?;
    Ok(plan.answers)
}

/// Locks the orders first: whoever else has one of these requests in hand has recorded its verdict by then.
async fn read(connection: &mut PgConnection, requests: &[ReleaseRequest]) -> Result<Snapshot, sqlx::Error> {
    let ids: Vec<Uuid> = requests.iter().map(|request| request.order_id).collect();
    let mut orders = HashMap::new();
    for row in sqlx::query(LOCK_ORDERS).bind(ids).fetch_all(&mut *connection).await? {
        let state: &str = row.try_get("state")?;
        let unknown = || sqlx::Error::Decode(format!("an order has the unknown state {state}").into());
        let state = State::read(state).ok_or_else(unknown)?;
        orders.insert(
            row.try_get("id")?,
            Order { state, item: row.try_get("item")?, quantity: row.try_get("quantity")? },
        );
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
    Ok(Snapshot { now, orders, recorded })
}

async fn write(connection: &mut PgConnection, plan: &Plan, now: time::OffsetDateTime) -> Result<(), sqlx::Error> {
    if !plan.cancelled.is_empty() {
        let cause = Cause::Cancel;
        let to = State::Reserved.after(cause).expect("a reserved order can be cancelled");
        let orders: Vec<Uuid> = plan.cancelled.iter().map(|(order, _)| *order).collect();
        sqlx::query(CANCEL)
            .bind(&orders)
            .bind(plan.cancelled.iter().map(|(_, request)| request.as_str()).collect::<Vec<_>>())
            .bind(State::Reserved.as_str())
            .bind(to.as_str())
            .bind(cause.as_str())
            .bind(now)
            .execute(&mut *connection)
            .await?;
        // An item that is short of units fails the update, and its request alone in the end.
        lock(connection, &plan.units).await?;
        give_back(connection, &plan.units).await?;
        record_orders(connection, kind_of(cause), &orders).await?;
    }
    if !plan.verdicts.is_empty() {
        sqlx::query(RECORD)
            .bind(plan.verdicts.keys().map(String::as_str).collect::<Vec<_>>())
            .bind(plan.verdicts.values().map(|decision| decision.fingerprint).collect::<Vec<_>>())
            .bind(plan.verdicts.values().map(|decision| decision.code.status().as_str()).collect::<Vec<_>>())
            .bind(plan.verdicts.values().map(|decision| decision.reply.as_str()).collect::<Vec<_>>())
            .bind(now)
            .execute(connection)
            .await?;
    }
    Ok(())
}
