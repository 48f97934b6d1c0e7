//! The transactional outbox: a change writes what happened in its own transaction, and the relay function publishes it.
//!
//! Invariants: an event is in the outbox if and only if its change is committed; and whoever moves
//! an item's stock writes here after the item's row is locked, so that the events of an item are numbered in the order in
//! which they were committed.

use crate::db::on_connection;
use crate::messages::EventKind;
use crate::order::Cause;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use tokio::sync::mpsc;
use uuid::Uuid;

/// The channel that the relay listens to.
pub const CHANNEL: &str = "outbox";
/// The least time between two notifications of a process, in milliseconds.
const NOTIFY_MS_MIN: u64 = 5;

const RECORD_ORDERS: &str = "INSERT INTO outbox (kind, order_ids) SELECT $1, $2 WHERE cardinality($2) > 0";

/// Numbered in the order of the arrays.
const RECORD_ITEMS: &str = "
INSERT INTO outbox (kind, item, detail)
SELECT new.kind, new.item, new.detail
FROM UNNEST($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS new (kind, item, detail, place)
ORDER BY new.place";

/// Reaches the relay, and nobody else: no table is touched.
const NOTIFY: &str = "SELECT pg_notify($1, '')";

/// Records that these orders were moved on, in this order. To be called after their items' rows are locked, where they are.
pub async fn record_orders(connection: &mut PgConnection, kind: EventKind, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query(RECORD_ORDERS).bind(kind.as_str()).bind(ids).execute(connection).await.map(|_| ())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemChange {
    pub kind: EventKind,
    pub item: String,
    /// The item as it is now: a JSON object.
    pub detail: String,
}

/// Records that items were changed, in this order. To be called after their rows are locked.
pub async fn record_items(connection: &mut PgConnection, changes: &[ItemChange]) -> Result<(), sqlx::Error> {
    sqlx::query(RECORD_ITEMS)
        .bind(changes.iter().map(|change| change.kind.as_str()).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.item.as_str()).collect::<Vec<_>>())
        .bind(changes.iter().map(|change| change.detail.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(|_| ())
}

/// The event that an order's transition is.
pub fn kind_of(cause: Cause) -> EventKind {
    match cause {
        Cause::HoldPassed | Cause::PaymentVoided => EventKind::OrderExpired,
        Cause::Cancel => EventKind::OrderCancelled,
        Cause::PaymentBegun => EventKind::OrderPaying,
        Cause::PaymentCaptured => EventKind::OrderPaid,
        Cause::PaymentDeclined => EventKind::OrderDeclined,
    }
}

/// Notifies the relay that there is something to publish. It only saves time: the relay also looks by itself, now and then.
///
/// Not part of the transaction: PostgreSQL lets one notifying transaction commit at a time, and that would have every
/// batch of every worker wait for the disk in line.
#[derive(Debug, Clone)]
pub struct Notifier(mpsc::Sender<()>);

impl Notifier {
    pub fn start(pool: &PgPool) -> Self {
        // One notification that is still to be sent is as good as many.
        let (wanted, mut wants) = mpsc::channel(1);
        let pool = pool.clone();
        tokio::spawn(async move {
            while wants.recv().await.is_some() {
                let notify = async |connection: &mut PgConnection| {
                    Ok(sqlx::query(NOTIFY).bind(CHANNEL).execute(connection).await?)
                };
                if let Err(error) = on_connection(&pool, notify).await {
                    tracing::debug!(%error, "the relay is not notified; it looks by itself");
                }
                tokio::time::sleep(Duration::from_millis(NOTIFY_MS_MIN)).await;
            }
        });
        Self(wanted)
    }

    /// To be called after the commit; it waits for nothing.
    pub fn notify(&self) {
        // Full: a notification is about to be sent anyway.
        self.0.try_send(()).ok();
    }
}
