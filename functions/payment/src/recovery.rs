//! Payments that are asked about again: the gateway has not decided them, or their messages are gone (the queue was purged).
//!
//! Every instance looks now and then, asks once about each whose turn it is, and ends those that are decided as their
//! messages would have. One that is still undecided when its time is over is voided: so no unit is held for ever.
//! Invariants: the clock is the database's; all instances together ask no faster than [`ASKS_A_SECOND`]; and a payment that
//! somebody else has in hand is passed over, not waited for.

use crate::Payment;
use crate::gateway::Charge;
use crate::pending::Answered;
use crate::processor::Asked;
use crate::store::request_of;
use futures_util::future::join_all;
use shared::db::on_connection;
use shared::error::Error;
use shared::fail_point::pause_at;
use shared::messages::PaymentRequest;
use shared::upkeep::Upkeep;
use std::time::Duration;

/// The pace. Half a second's worth may be asked at once, so it is 49 in any second.
pub const ASKS_A_SECOND: f64 = 33.0;

/// Those whose turn it is, $1 a second and half a second's worth at once; who comes second finds that they were asked about
/// just now. The wait until the next time doubles; it ends when the payment is to be voided, and begins anew then.
pub const TAKE_UP: &str = "
WITH pace AS MATERIALIZED (
    SELECT least(greatest(free_at, now()), now() + interval '0.5 s') AS free_at FROM payment_pace
    WHERE is_only AND EXISTS (
        SELECT FROM payments WHERE is_under_way AND next_ask_at > '-infinity' AND next_ask_at <= now())
    FOR NO KEY UPDATE SKIP LOCKED
), due AS MATERIALIZED (
    SELECT order_id FROM payments WHERE is_under_way AND next_ask_at > '-infinity' AND next_ask_at <= now()
    ORDER BY next_ask_at
    LIMIT coalesce((SELECT greatest(floor(extract(epoch FROM now() + interval '0.5 s' - free_at) * $1::float8), 0)::bigint
                    FROM pace), 0)
    FOR NO KEY UPDATE SKIP LOCKED
), paced AS (
    UPDATE payment_pace SET free_at = pace.free_at + make_interval(secs => (SELECT count(*) FROM due) / $1)
    FROM pace WHERE payment_pace.is_only
), taken AS (
    UPDATE payments SET asked_at = now(), next_ask_at = least(
        now() + least(greatest(2 * (next_ask_at - greatest(asked_at, CASE WHEN void_at <= next_ask_at THEN void_at END)),
                               interval '2 s'), interval '320 s'),
        CASE WHEN void_at > now() THEN void_at END)
    FROM due WHERE payments.order_id = due.order_id
    RETURNING payments.order_id, request_id, payment_method, sender, void_at <= now() AS is_over
)
SELECT order_id, taken.request_id, payment_method, taken.sender, item, quantity, is_over OR orders.state <> 'paying' AS is_to_void
FROM taken JOIN orders ON orders.id = order_id";

/// A payment whose turn it is.
#[derive(sqlx_macros::FromRow)]
struct Due {
    #[sqlx(flatten)]
    charge: Charge,
    request_id: String,
    sender: Option<String>,
    /// Else it is to be charged.
    is_to_void: bool,
}

impl Upkeep for Payment {
    const PAUSE_MAX: Duration = Duration::from_millis(500);
    const FAILING: &'static str = "payments cannot be asked about again";
    type Error = Error;

    async fn look(&mut self) -> Result<(), Error> {
        self.take_up().await.map(|_| ())
    }
}

impl Payment {
    /// Asks once about those whose turn it is. Returns how many have ended.
    pub async fn take_up(&self) -> Result<usize, Error> {
        let take_up = sqlx::query_as(TAKE_UP).bind(ASKS_A_SECOND);
        let due: Vec<Due> =
            on_connection(&self.pool, async |connection| Ok(take_up.fetch_all(connection).await?)).await?;
        if due.is_empty() {
            return Ok(0);
        }
        pause_at("due").await;
        let requests: Vec<PaymentRequest> = due.iter().map(Due::request).collect();
        let asked = join_all(due.iter().map(|due| self.ask_once(due))).await;
        pause_at("asked").await;
        self.end(requests.iter().zip(asked).collect()).await
    }

    async fn ask_once(&self, Due { charge, is_to_void, .. }: &Due) -> Answered {
        match is_to_void {
            true => self.pending.gateway.void(charge.order_id).await,
            false => self.pending.gateway.charge(charge).await,
        }
    }

    /// Returns how many have ended. One that cannot be ended costs the others nothing.
    async fn end(&self, asked: Vec<Asked<'_>>) -> Result<usize, Error> {
        match (self.finish(asked.clone()).await, &asked[..]) {
            (Ok(ended), _) => Ok(ended.len()),
            (Err(error @ (Error::Away(_) | Error::Unfit(_))), _) => Err(error),
            (
                Err(error @ (Error::Row(_) | Error::Unhandled(_))),
                [(PaymentRequest { order_id, request_id, .. }, _)],
            ) => {
                tracing::error!(%order_id, request_id, %error, "a payment cannot be ended; trying again later");
                Ok(0)
            }
            (Err(Error::Row(_) | Error::Unhandled(_)), several) => {
                let mut ended = 0;
                for one in several {
                    // One level deep, as a batch of one goes no further.
                    ended += Box::pin(self.end(vec![one.clone()])).await?;
                }
                Ok(ended)
            }
        }
    }
}

impl Due {
    fn request(&self) -> PaymentRequest {
        let Charge { order_id, payment_method, .. } = &self.charge;
        request_of(self.request_id.clone(), *order_id, payment_method.clone(), self.sender.clone())
    }
}
