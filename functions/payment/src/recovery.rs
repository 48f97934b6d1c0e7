//! Payments that nobody asks about any more: their message is gone, the queue was purged for one.
//!
//! Every instance looks now and then, takes them up again by their own requests, and ends them as their messages would
//! have: so no unit is held for ever. Invariant: the clock is the database's, and an order that somebody else has in hand is
//! passed over, not waited for.

use crate::{Payment, pending::ASK_MAX};
use shared::{db::on_connection, error::Error, handler::Answer, messages::PaymentRequest, upkeep::Upkeep};
use std::time::Duration;
use uuid::Uuid;

/// The most that are taken up in one go.
const BATCH_PAYMENTS_MAX: u16 = 100;

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
RETURNING payments.request_id, payments.order_id, payments.payment_method";

impl Upkeep for Payment {
    const PAUSE_MAX: Duration = Duration::from_secs(4);
    const FAILING: &'static str = "lost payments cannot be looked for; trying again until they can";
    type Error = Error;

    async fn look(&mut self) -> Result<(), Error> {
        let payments = self.take_up().await?;
        if payments > 0 {
            tracing::warn!(payments, "payments whose messages were lost are ended");
        }
        Ok(())
    }
}

impl Payment {
    /// Takes up what is lost, batch by batch. Returns how many have ended.
    pub async fn take_up(&self) -> Result<usize, Error> {
        let mut ended = 0;
        loop {
            let take_up =
                sqlx::query_as(TAKE_UP).bind(f64::from(self.lost_seconds)).bind(i64::from(BATCH_PAYMENTS_MAX));
            let lost: Vec<(String, Uuid, String)> =
                on_connection(&self.pool, async |connection| Ok(take_up.fetch_all(connection).await?)).await?;
            let lost = lost.into_iter().map(|(request_id, order_id, payment_method)| PaymentRequest {
                request_id,
                order_id,
                payment_method,
            });
            let lost: Vec<_> = lost.collect();
            ended += self.end(&lost).await?;
            if lost.len() < usize::from(BATCH_PAYMENTS_MAX) {
                return Ok(ended);
            }
        }
    }

    /// Returns how many have ended. One that cannot be ended costs the others nothing.
    async fn end(&self, lost: &[PaymentRequest]) -> Result<usize, Error> {
        // Nobody waits for these, so there is time to hear the gateway out.
        let error = match self.pay(lost, 2 * ASK_MAX).await {
            Ok(answers) => return Ok(answers.iter().filter(|answer| **answer != Answer::Requeue).count()),
            Err(error) => error,
        };
        match (error, lost) {
            (error @ (Error::Away(_) | Error::Unfit(_)), _) => Err(error),
            (error @ (Error::Row(_) | Error::Unhandled(_)), [PaymentRequest { order_id, request_id, .. }]) => {
                tracing::error!(%order_id, request_id, %error, "a payment cannot be ended; trying again later");
                Ok(0)
            }
            (Error::Row(_) | Error::Unhandled(_), several) => {
                let mut ended = 0;
                for one in several {
                    // One level deep, as a batch of one goes no further.
                    ended += Box::pin(self.end(std::slice::from_ref(one))).await?;
                }
                Ok(ended)
            }
        }
    }
}
