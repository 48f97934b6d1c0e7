//! The transactions of a payment: before the gateway is asked, and after it has answered.
//!
//! Orders are locked first, then items, and verdicts are recorded last, as everywhere. Invariant: a transition is made only
//! from the state that it leads from.

use crate::{
    decide::{self, Ask, Begun, Finished, Payment, Snapshot},
    gateway::Outcome,
};
use shared::{
    idempotency,
    messages::{PaymentRequest, Request},
    order::{
        Cause,
        store::{Destination, Transition, Units, lock_orders, move_on},
    },
    transaction::Transaction,
};
use sqlx::PgConnection;
use uuid::Uuid;

/// Of the orders $1, and of the requests $2 where they pay for another one.
pub const READ_PAYMENTS: &str = "
SELECT order_id, request_id, fingerprint, is_under_way FROM payments WHERE order_id = ANY($1)
UNION
SELECT order_id, request_id, fingerprint, is_under_way FROM payments WHERE is_under_way AND request_id = ANY($2)";

/// $1 to $4 belong together; an order that was paid for before, in vain, has a row.
pub const PUT_UNDER_WAY: &str = "
INSERT INTO payments (order_id, request_id, fingerprint, payment_method, asked_at)
SELECT new.order_id, new.request_id, new.fingerprint, new.payment_method, $5::timestamptz
FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS new (order_id, request_id, fingerprint, payment_method)
ON CONFLICT (order_id) DO UPDATE SET
    request_id     = EXCLUDED.request_id,
    fingerprint    = EXCLUDED.fingerprint,
    payment_method = EXCLUDED.payment_method,
    asked_at       = EXCLUDED.asked_at,
    is_under_way   = true";

/// Not for each time that a message comes round while the gateway is away: only that somebody still asks must show.
pub const ASK_AGAIN: &str = "
UPDATE payments SET asked_at = $2 WHERE order_id = ANY($1) AND asked_at < $2::timestamptz - interval '5 s'";

/// $1 and $2 belong together: the order, and its charge, where there is one.
pub const END: &str = "
UPDATE payments SET is_under_way = false, charge_id = coalesce(ended.charge_id, payments.charge_id)
FROM UNNEST($1::uuid[], $2::text[]) AS ended (order_id, charge_id)
WHERE payments.order_id = ended.order_id";

/// Before the gateway is asked: orders become `paying`.
pub(crate) struct Begin<'a>(pub(crate) &'a [PaymentRequest]);

impl<'a> Transaction for Begin<'a> {
    const CONTENDED: &'static str = "orders or request ids";
    type Done = Begun<'a>;

    async fn attempt(&self, connection: &mut PgConnection) -> Result<Begun<'a>, sqlx::Error> {
        let requests = self.0;
        let mut snapshot = read(connection, requests.iter()).await?;
        let begun = decide::begin(requests, &mut snapshot);
        let now = snapshot.verdicts.now;
        let (new, again): (Vec<&Ask<'_>>, Vec<&Ask<'_>>) = begun.asks.values().partition(|ask| ask.is_new);
        if !new.is_empty() {
            sqlx::query(PUT_UNDER_WAY)
                .bind(new.iter().map(|ask| ask.request.order_id).collect::<Vec<_>>())
                .bind(new.iter().map(|ask| ask.request.request_id.as_str()).collect::<Vec<_>>())
                .bind(new.iter().map(|ask| ask.request.fingerprint()).collect::<Vec<_>>())
                .bind(new.iter().map(|ask| ask.request.payment_method.as_str()).collect::<Vec<_>>())
                .bind(now)
                .execute(&mut *connection)
                .await?;
        }
        if !again.is_empty() {
            let orders: Vec<Uuid> = again.iter().map(|ask| ask.request.order_id).collect();
            sqlx::query(ASK_AGAIN).bind(orders).bind(now).execute(&mut *connection).await?;
        }
        let orders = new.iter().map(|ask| (ask.request.order_id, ask.request.request_id.as_str())).collect();
        let paying = Transition { cause: Cause::PaymentBegun, orders, at: now };
        move_on(connection, &[paying], &Units::new(), Destination::Sold).await?;
        idempotency::store::record(connection, &snapshot.verdicts).await?;
        Ok(begun)
    }
}

/// After the gateway has answered these requests: orders become `paid`, or `reserved` again.
pub(crate) struct Finish<'a>(pub(crate) &'a [(&'a PaymentRequest, Outcome)]);

impl<'a> Transaction for Finish<'a> {
    const CONTENDED: &'static str = "orders or request ids";
    type Done = Finished<'a>;

    async fn attempt(&self, connection: &mut PgConnection) -> Result<Finished<'a>, sqlx::Error> {
        let mut snapshot = read(connection, self.0.iter().map(|(request, _)| *request)).await?;
        let finished = decide::finish(self.0, &mut snapshot);
        if !finished.over.is_empty() {
            let orders: Vec<Uuid> = finished.over.keys().copied().collect();
            let charges: Vec<Option<&str>> = finished.over.values().map(Option::as_deref).collect();
            sqlx::query(END).bind(orders).bind(charges).execute(&mut *connection).await?;
        }
        let now = snapshot.verdicts.now;
        let at = now + time::Duration::MICROSECOND;
        let transitions = [
            Transition { cause: Cause::PaymentBegun, orders: finished.late.clone(), at: now },
            Transition { cause: Cause::PaymentCaptured, orders: finished.captured.clone(), at },
            Transition { cause: Cause::PaymentDeclined, orders: finished.declined.clone(), at },
        ];
        move_on(connection, &transitions, &finished.sold, Destination::Sold).await?;
        idempotency::store::record(connection, &snapshot.verdicts).await?;
        Ok(finished)
    }
}

/// Locks the orders first: whoever else has one of these payments in hand has committed by the time that the rest is read.
async fn read<'a>(
    connection: &mut PgConnection,
    requests: impl Iterator<Item = &'a PaymentRequest> + Clone + Send,
) -> Result<Snapshot<'a>, sqlx::Error> {
    let order_ids: Vec<Uuid> = requests.clone().map(|request| request.order_id).collect();
    let request_ids: Vec<&str> = requests.clone().map(|request| request.request_id.as_str()).collect();
    let orders = lock_orders(connection, &order_ids).await?;
    let payments = sqlx::query_as(READ_PAYMENTS).bind(order_ids).bind(request_ids);
    let payments: Vec<Payment> = payments.fetch_all(&mut *connection).await?;
    let payments = payments.into_iter().map(|payment| (payment.order_id, payment)).collect();
    Ok(Snapshot { orders, payments, verdicts: idempotency::store::read(connection, requests).await? })
}
