//! The transactions of a payment: before the gateway is asked, after it has answered, and where somebody else says how it ends.
//!
//! Orders are locked first, then items, and verdicts are recorded last, as everywhere. Invariant: a transition is made only
//! from the state that it leads from.

use crate::Terms;
use crate::decide::{self, Ask, Begun, Finished, Payment, Snapshot};
use crate::gateway::Outcome;
use shared::handler::Answer;
use shared::idempotency::{self, Verdicts};
use shared::messages::{EndRequest, Identity, PaymentRequest, Sender};
use shared::order::Cause;
use shared::order::store::{Destination, Order, Transition, Units, lock_items, lock_orders, move_on};
use shared::transaction::Transaction;
use sqlx::PgConnection;
use std::borrow::Cow;
use std::collections::HashMap;
use uuid::Uuid;

/// Of the orders $1, and of the requests $2, by all keys that they may have, where they pay for another one.
pub const READ_PAYMENTS: &str = "
SELECT request_id, order_id, payment_method, sender, is_under_way, said IS NOT NULL OR void_at <= now()
FROM payments WHERE order_id = ANY($1)
UNION
SELECT request_id, order_id, payment_method, sender, is_under_way, said IS NOT NULL OR void_at <= now()
FROM payments WHERE is_under_way AND request_id = ANY($2)";

/// $1 to $5 belong together; an order that was paid for before, in vain, has a row. $7 is how many seconds later it counts as
/// lost, $8 after how many it is voided.
pub const PUT_UNDER_WAY: &str = "
INSERT INTO payments (order_id, request_id, fingerprint, payment_method, sender, asked_at, next_ask_at, void_at)
SELECT new.order_id, new.request_id, new.fingerprint, new.payment_method, new.sender, $6::timestamptz,
       $6 + make_interval(secs => least($7::float8, $8::float8)), $6 + make_interval(secs => $8)
FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[])
     AS new (order_id, request_id, fingerprint, payment_method, sender)
ON CONFLICT (order_id) DO UPDATE SET
    request_id     = EXCLUDED.request_id,
    fingerprint    = EXCLUDED.fingerprint,
    payment_method = EXCLUDED.payment_method,
    sender         = EXCLUDED.sender,
    asked_at       = EXCLUDED.asked_at,
    next_ask_at    = EXCLUDED.next_ask_at,
    void_at        = EXCLUDED.void_at,
    said           = NULL,
    is_under_way   = true";

/// Not for each time that a message comes round while the gateway is away: only that somebody still asks must show. $3 is how
/// many seconds later it counts as lost.
pub const ASK_AGAIN: &str = "
UPDATE payments SET asked_at = $2, next_ask_at = least($2 + make_interval(secs => $3), void_at)
WHERE order_id = ANY($1) AND asked_at < $2::timestamptz - interval '5 s'";

/// $1 to $3 belong together: the order, the request that pays for it, and what the gateway said of it that is no outcome. Those
/// of whom it said something new.
pub const PUT_OFF: &str = "
UPDATE payments SET said = new.said, next_ask_at = CASE
    WHEN payments.said IS NULL THEN least(now() + interval '2 s', greatest(payments.void_at, now()))
    ELSE payments.next_ask_at END
FROM UNNEST($1::uuid[], $2::text[], $3::text[]) AS new (order_id, request_id, said)
WHERE payments.order_id = new.order_id AND split_part(payments.request_id, ' ', 1) = new.request_id
  AND payments.said IS DISTINCT FROM new.said
RETURNING payments.order_id";

/// The payments of the orders $1 are voided from $2 on; also where one has ended, and there may be money to give back.
pub const VOID: &str = "
UPDATE payments SET is_under_way = true, void_at = $2, next_ask_at = $2, said = coalesce(said, 'nothing yet')
WHERE order_id = ANY($1)";

/// $1 and $2 belong together: the order, and its charge, where there is one.
pub const END: &str = "
UPDATE payments SET is_under_way = false, said = NULL, charge_id = coalesce(ended.charge_id, payments.charge_id)
FROM UNNEST($1::uuid[], $2::text[]) AS ended (order_id, charge_id)
WHERE payments.order_id = ended.order_id";

/// Before the gateway is asked: orders become `paying`.
pub(crate) struct Begin<'a>(pub(crate) &'a [PaymentRequest], pub(crate) &'a Terms);

impl<'a> Transaction for Begin<'a> {
    const CONTENDED: &'static str = "orders or request ids";
    type Done = Begun<'a>;

    async fn attempt(&self, connection: &mut PgConnection) -> Result<Begun<'a>, sqlx::Error> {
        let Self(requests, terms) = *self;
        let (lost_seconds, seconds_max) = (f64::from(terms.lost_seconds), f64::from(terms.seconds_max));
        let mut snapshot = read(connection, requests.iter()).await?;
        let begun = decide::begin(requests, &mut snapshot);
        let now = snapshot.verdicts.now;
        let (new, again): (Vec<&Ask<'_>>, Vec<&Ask<'_>>) = begun.asks.values().partition(|ask| ask.is_new);
        if !new.is_empty() {
            sqlx::query(PUT_UNDER_WAY)
                .bind(new.iter().map(|ask| ask.request.order_id).collect::<Vec<_>>())
                .bind(new.iter().map(|ask| &*ask.key).collect::<Vec<_>>())
                .bind(new.iter().map(|ask| ask.request.fingerprint()).collect::<Vec<_>>())
                .bind(new.iter().map(|ask| ask.request.payment_method.as_str()).collect::<Vec<_>>())
                .bind(new.iter().map(|ask| ask.request.user()).collect::<Vec<_>>())
                .bind(now)
                .bind(lost_seconds)
                .bind(seconds_max)
                .execute(&mut *connection)
                .await?;
        }
        if !again.is_empty() {
            let orders: Vec<Uuid> = again.iter().map(|ask| ask.request.order_id).collect();
            sqlx::query(ASK_AGAIN).bind(orders).bind(now).bind(lost_seconds).execute(&mut *connection).await?;
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
        write(connection, &finished, &snapshot.verdicts).await?;
        Ok(finished)
    }
}

/// Ends payments as somebody says who may.
pub(crate) struct Settle<'a>(pub(crate) &'a [EndRequest]);

impl Transaction for Settle<'_> {
    const CONTENDED: &'static str = "orders or request ids";
    type Done = Vec<Answer>;

    async fn attempt(&self, connection: &mut PgConnection) -> Result<Vec<Answer>, sqlx::Error> {
        let order_ids = self.0.iter().map(|request| request.order_id).collect();
        let (orders, payments) = lock(connection, order_ids, Vec::new()).await?;
        let payers: HashMap<Uuid, PaymentRequest> =
            payments.iter().map(|(order_id, payment)| (*order_id, payment.request.clone())).collect();
        let verdicts = idempotency::store::read(connection, payers.values()).await?;
        let mut snapshot = Snapshot { orders, payments, verdicts };
        let mut verdicts = idempotency::store::read(connection, self.0.iter()).await?;
        let finished = decide::settle(self.0, &payers, &mut snapshot, &mut verdicts);
        write(connection, &finished, &snapshot.verdicts).await?;
        idempotency::store::record(connection, &verdicts).await?;
        Ok(finished.answers.into_iter().flatten().collect())
    }
}

/// Writes what became of payments, the verdicts last.
async fn write(
    connection: &mut PgConnection,
    finished: &Finished<'_>,
    verdicts: &Verdicts<'_>,
) -> Result<(), sqlx::Error> {
    if !finished.over.is_empty() {
        let orders: Vec<Uuid> = finished.over.keys().copied().collect();
        let charges: Vec<Option<&str>> = finished.over.values().map(Option::as_deref).collect();
        sqlx::query(END).bind(orders).bind(charges).execute(&mut *connection).await?;
    }
    if !finished.to_void.is_empty() {
        let orders: Vec<Uuid> = finished.to_void.iter().copied().collect();
        sqlx::query(VOID).bind(orders).bind(verdicts.now).execute(&mut *connection).await?;
    }
    let at = verdicts.now + time::Duration::MICROSECOND;
    let transition = |cause, orders: &[_], at| Transition { cause, orders: orders.to_vec(), at };
    if !finished.given_back.is_empty() {
        // All in one order, as everywhere; below, they are locked already.
        let items: Units =
            finished.given_back.iter().chain(&finished.sold).map(|(item, _)| (item.clone(), 0)).collect();
        lock_items(connection, &items).await?;
        let voided = transition(Cause::PaymentVoided, &finished.voided, at);
        move_on(connection, &[voided], &finished.given_back, Destination::Available).await?;
    }
    let transitions = [
        transition(Cause::PaymentBegun, &finished.late, verdicts.now),
        transition(Cause::PaymentCaptured, &finished.captured, at),
        transition(Cause::PaymentDeclined, &finished.declined, at),
    ];
    move_on(connection, &transitions, &finished.sold, Destination::Sold).await?;
    idempotency::store::record(connection, verdicts).await
}

/// What the database says, once these requests' orders are locked.
async fn read<'a>(
    connection: &mut PgConnection,
    requests: impl Iterator<Item = &'a PaymentRequest> + Clone + Send,
) -> Result<Snapshot<'a>, sqlx::Error> {
    let order_ids = requests.clone().map(|request| request.order_id).collect();
    let request_keys = requests.clone().flat_map(idempotency::keys).collect();
    let (orders, payments) = lock(connection, order_ids, request_keys).await?;
    Ok(Snapshot { orders, payments, verdicts: idempotency::store::read(connection, requests).await? })
}

/// Locks orders: whoever else has one of their payments in hand has committed by the time that the rest is read. Their payments,
/// and those that these requests have under way, by order.
async fn lock(
    connection: &mut PgConnection,
    order_ids: Vec<Uuid>,
    request_keys: Vec<Cow<'_, str>>,
) -> Result<(HashMap<Uuid, Order>, HashMap<Uuid, Payment>), sqlx::Error> {
    let orders = lock_orders(connection, &order_ids).await?;
    let payments = sqlx::query_as(READ_PAYMENTS).bind(order_ids).bind(request_keys);
    let payments: Vec<(String, Uuid, String, Option<String>, bool, bool)> = payments.fetch_all(connection).await?;
    let payments =
        payments.into_iter().map(|(request_id, order_id, payment_method, user, is_under_way, is_put_off)| {
            let request = request_of(request_id, order_id, payment_method, user);
            (order_id, Payment { request, is_under_way, is_put_off })
        });
    Ok((orders, payments.collect()))
}

/// The request of a payment, by its row.
pub(crate) fn request_of(key: String, order_id: Uuid, payment_method: String, user: Option<String>) -> PaymentRequest {
    let request_id = key.split_once(' ').map_or(&*key, |(id, _)| id).to_owned();
    PaymentRequest { request_id, order_id, payment_method, sender: user.map(|user| Sender { user, is_trusted: false }) }
}
