//! Payments that nobody asks about any more: their message is gone, the queue was purged for one.
//!
//! Every instance looks now and then, takes them up again by their own requests, and ends them as their messages would
//! have: so no unit is held for ever. Invariant: the clock is the database's, and an order that somebody else has in hand is
//! passed over, not waited for.

use crate::{asks::ASK_SECONDS_MAX, pay::Till};
use shared::{
    error::{Error, Settlement},
    handler::Answer,
    messages::PaymentRequest,
    retry::RetryPolicy,
};
use sqlx::{PgPool, Row};
use std::time::Duration;

/// The most that are taken up in one go.
pub const BATCH_PAYMENTS_MAX: u16 = 100;
/// The pause between two looks: at random, so that instances do not look in step.
const LOOKS: RetryPolicy = RetryPolicy { wait_ms: 4_000, factor: 1.0, wait_ms_max: 4_000, attempts_max: u32::MAX };

/// At most $2 that nobody has asked about for $1 seconds. Who comes second finds that they were asked about just now.
pub const TAKE_UP: &str = "
WITH lost AS MATERIALIZED (
    SELECT orders.id FROM orders JOIN payments ON payments.order_id = orders.id
    WHERE orders.state = 'paying' AND payments.asked_at < now() - make_interval(secs => $1)
    ORDER BY orders.id LIMIT $2
    FOR NO KEY UPDATE OF orders SKIP LOCKED
)
UPDATE payments SET asked_at = clock_timestamp() FROM lost
WHERE payments.order_id = lost.id AND payments.asked_at < now() - make_interval(secs => $1)
RETURNING payments.order_id, payments.request_id, payments.payment_method";

/// Looks for lost payments for as long as it is polled.
pub async fn upkeep(till: &Till, lost_seconds: u32) {
    let mut is_away = false;
    for wait in LOOKS.waits() {
        match take_up(till, lost_seconds).await {
            Ok(ended) => {
                is_away = false;
                if ended > 0 {
                    tracing::warn!(payments = ended, "payments whose messages were lost are ended");
                }
            }
            Err(error) => {
                // Once for each outage.
                if !is_away {
                    is_away = true;
                    tracing::warn!(%error, "lost payments cannot be looked for; trying again until they can");
                }
            }
        }
        tokio::time::sleep(wait).await;
    }
}

/// Takes up what nobody has asked about for so long, batch by batch. Returns how many have ended.
///
/// # Errors
/// The database's; what is not ended is found again later.
pub async fn take_up(till: &Till, lost_seconds: u32) -> Result<usize, Error> {
    let mut ended = 0;
    loop {
        let lost = find(&till.pool, lost_seconds).await?;
        ended += end(till, &lost).await?;
        if lost.len() < usize::from(BATCH_PAYMENTS_MAX) {
            return Ok(ended);
        }
    }
}

/// Returns how many have ended. One that cannot be ended costs the others nothing.
async fn end(till: &Till, lost: &[PaymentRequest]) -> Result<usize, Error> {
    // Nobody waits for these, so there is time to hear the gateway out.
    let patience = Duration::from_secs(2 * ASK_SECONDS_MAX);
    let error = match till.pay(lost, patience).await {
        Ok(answers) => return Ok(answers.iter().filter(|answer| **answer != Answer::Requeue).count()),
        Err(error) => error,
    };
    match (error.settlement(), lost) {
        (Settlement::Hold, _) => Err(error),
        (Settlement::Isolate, [PaymentRequest { order_id, request_id, .. }]) => {
            tracing::error!(%order_id, request_id, %error, "a payment cannot be ended; trying again later");
            Ok(0)
        }
        (Settlement::Isolate, several) => {
            let mut ended = 0;
            for one in several {
                // One level deep, as a batch of one goes no further.
                ended += Box::pin(end(till, std::slice::from_ref(one))).await?;
            }
            Ok(ended)
        }
    }
}

async fn find(pool: &PgPool, lost_seconds: u32) -> Result<Vec<PaymentRequest>, Error> {
    let rows =
        sqlx::query(TAKE_UP).bind(f64::from(lost_seconds)).bind(i64::from(BATCH_PAYMENTS_MAX)).fetch_all(pool).await?;
    let request = |row: &sqlx::postgres::PgRow| {
        Ok(PaymentRequest {
            order_id: row.try_get("order_id")?,
            request_id: row.try_get("request_id")?,
            payment_method: row.try_get("payment_method")?,
        })
    };
    rows.iter().map(request).collect::<Result<_, sqlx::Error>>().map_err(Error::from)
}
