//! Holds that ran out: reserved orders whose `hold_until` has passed become expired, and their units go back.
//!
//! Every instance looks every quarter of a second or so, and takes batches for as long as they are full. Invariants: the
//! clock is the database's; an order that somebody else has in hand is passed over, not waited for; and an item that is not
//! sound keeps no other item's orders.

use crate::store::{BATCH_ORDERS_MAX, Batch, expire_batch};
use shared::{db, outbox::Notifier, upkeep::Upkeep};
use sqlx::{PgConnection, PgPool, postgres::PgConnectOptions};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The longest pause between two looks: a hold ends within a second of its time.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long an item that does not hold what its orders hold is passed over, before it is looked at again: somebody must put
/// it right by hand.
const PASSED_OVER_SECONDS: u64 = 60;
/// How long the database may take for a batch; longer than it allows itself for a statement.
const BATCH_SECONDS_MAX: u64 = 30;
/// What is due is found in the order of its index, and all else by key: that is the one good plan however the tables
/// grow, and compiling it would take longer than running it. The commit waits for the disk, as everywhere: what is
/// visible is published, and must not be lost then.
pub const SETTINGS: [(&str, &str); 4] =
    [("jit", "off"), ("enable_bitmapscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")];

/// Ends holds, on a connection of its own.
#[derive(Debug)]
pub struct Expirer {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    passed_over: PassedOver,
    notifier: Notifier,
}

impl Expirer {
    /// `pool` only says where.
    #[must_use]
    pub fn new(pool: &PgPool, notifier: Notifier) -> Self {
        let options = PgConnectOptions::clone(&pool.connect_options()).options(SETTINGS);
        Self { options, connection: None, passed_over: PassedOver::default(), notifier }
    }
}

impl Upkeep for Expirer {
    const PAUSE_MAX: Duration = PAUSE_MAX;
    const FAILING: &'static str = "holds cannot be ended; trying again until they can";
    type Error = sqlx::Error;

    async fn look(&mut self) -> Result<(), sqlx::Error> {
        let mut connection = match self.connection.take() {
            Some(connected) => connected,
            None => db::connect(&self.options).await?,
        };
        self.passed_over.forget_in_time();
        let expired = expire(&mut connection, &mut self.passed_over).await?;
        // One that failed is not used again.
        self.connection = Some(connection);
        if expired > 0 {
            self.notifier.notify();
            tracing::info!(expired, "holds ran out; their units are on sale again");
        }
        Ok(())
    }
}

/// Ends every hold that is due, batch by batch; not of items that are passed over, or come to be. Returns how many orders
/// expired.
///
/// # Errors
/// The database's; an I/O error (timed out) where a batch takes too long. The connection is of no more use then.
pub async fn expire(connection: &mut PgConnection, passed_over: &mut PassedOver) -> Result<usize, sqlx::Error> {
    let mut expired = 0;
    loop {
        let items = passed_over.items.iter().map(String::as_str).collect();
        let batch = tokio::time::timeout(Duration::from_secs(BATCH_SECONDS_MAX), expire_batch(connection, items));
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
    fn forget_in_time(&mut self) {
        if self.since.elapsed() > Duration::from_secs(PASSED_OVER_SECONDS) {
            *self = Self::default();
        }
    }

    fn add(&mut self, items: Vec<String>) {
        tracing::error!(?items, "hold fewer units than their orders; their holds do not end until that is put right");
        self.items.extend(items);
    }
}
