//! Holds that ran out: reserved orders whose `hold_until` has passed become expired, and their units go back.
//!
//! Every instance looks every quarter of a second or so, and takes batches for as long as they are full. Invariants: the
//! clock is the database's; an order that somebody else has in hand is passed over, not waited for; and an item that is not
//! sound keeps no other item's orders.

use crate::store::{BATCH_ORDERS_MAX, expire_batch};
use shared::{db, outbox::Notifier, upkeep::Upkeep};
use sqlx::{PgConnection, PgPool, postgres::PgConnectOptions};
use std::time::{Duration, Instant};

/// How long an item that does not hold what its orders hold is passed over, before it is looked at again: somebody must put
/// it right by hand.
const PASSED_OVER_MAX: Duration = Duration::from_secs(60);
/// How long the database may take for a batch; longer than it allows itself for a statement.
const BATCH_TIME_MAX: Duration = Duration::from_secs(30);
/// What is due is found in the order of its index, and all else by key: that is the one good plan however the tables
/// grow, and compiling it would take longer than running it. The commit waits for the disk, as everywhere: what is
/// visible is published, and must not be lost then.
pub const SETTINGS: [(&str, &str); 4] =
    [("jit", "off"), ("enable_bitmapscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")];

/// Ends holds, on a connection of its own.
pub struct Expirer {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    /// Items that do not hold what their orders hold.
    passed_over: Vec<String>,
    passed_over_since: Instant,
    notifier: Notifier,
}

impl Expirer {
    /// `pool` only says where.
    pub fn new(pool: &PgPool, notifier: Notifier) -> Self {
        let options = PgConnectOptions::clone(&pool.connect_options()).options(SETTINGS);
        Self { options, connection: None, passed_over: Vec::new(), passed_over_since: Instant::now(), notifier }
    }

    /// Ends every hold that is due, batch by batch; not of items that are passed over, or come to be. Returns how many orders
    /// expired.
    pub async fn expire(&mut self) -> Result<usize, sqlx::Error> {
        if self.passed_over_since.elapsed() > PASSED_OVER_MAX {
            (self.passed_over, self.passed_over_since) = (Vec::new(), Instant::now());
        }
        // One that fails is not used again.
        let mut connection = match self.connection.take() {
            Some(connected) => connected,
            None => db::connect(&self.options).await?,
        };
        let mut expired = 0;
        loop {
            let batch = tokio::time::timeout(BATCH_TIME_MAX, expire_batch(&mut connection, &self.passed_over));
            match batch.await.map_err(|_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))?? {
                Ok(orders) => {
                    expired += orders;
                    // Fewer: what is left is not due, or in somebody else's hands.
                    if orders < usize::from(BATCH_ORDERS_MAX) {
                        self.connection = Some(connection);
                        return Ok(expired);
                    }
                }
                Err(items) => {
                    let text = "hold fewer units than their orders; their holds do not end until that is put right";
                    tracing::error!(?items, "{text}");
                    self.passed_over.extend(items);
                }
            }
        }
    }
}

impl Upkeep for Expirer {
    /// A hold ends within a second of its time.
    const PAUSE_MAX: Duration = Duration::from_millis(500);
    const FAILING: &'static str = "holds cannot be ended; trying again until they can";
    type Error = sqlx::Error;

    async fn look(&mut self) -> Result<(), sqlx::Error> {
        let expired = self.expire().await?;
        if expired > 0 {
            self.notifier.notify();
            tracing::info!(expired, "holds ran out; their units are on sale again");
        }
        Ok(())
    }
}
