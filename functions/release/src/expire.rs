//! Holds that ran out: reserved orders whose `hold_until` has passed become expired, and their units go back.
//!
//! Every instance looks every quarter of a second or so, and takes batches for as long as they are full. Invariants: the
//! clock is the database's; an order that somebody else has in hand is passed over, not waited for; and an item that is not
//! sound keeps no other item's orders.

use crate::store::{BATCH_ORDERS_MAX, due_items, expire_batch};
use shared::db;
use shared::error::Error;
use shared::isolation::Isolation;
use shared::outbox::Notifier;
use shared::upkeep::Upkeep;
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgConnection, PgPool};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an item whose holds cannot be ended is passed over, before it is looked at again: somebody must put it right by
/// hand.
const PASSED_OVER_MAX: Duration = Duration::from_secs(60);
/// What is due is found in the order of its index, and all else by key: that is the one good plan however the tables
/// grow, and compiling it would take longer than running it. The commit waits for the disk, as everywhere: what is
/// visible is published, and must not be lost then.
pub const SETTINGS: [(&str, &str); 4] =
    [("jit", "off"), ("enable_bitmapscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")];

/// Ends holds, on a connection of its own.
pub struct Expirer {
    options: Arc<PgConnectOptions>,
    connection: Option<PgConnection>,
    isolation: Isolation,
    /// Items whose holds cannot be ended.
    passed_over: Vec<String>,
    passed_over_since: Instant,
    /// Items that somebody else has locked.
    locked: Vec<String>,
    notifier: Notifier,
}

impl Expirer {
    /// `pool` only says where.
    pub fn new(pool: &PgPool, isolation: Isolation, notifier: Notifier) -> Self {
        Self {
            options: pool.connect_options(),
            connection: None,
            isolation,
            passed_over: Vec::new(),
            passed_over_since: Instant::now(),
            locked: Vec::new(),
            notifier,
        }
    }

    /// Ends every hold that is due, batch by batch; not of items that are passed over, or come to be. Returns how many orders
    /// expired.
    pub async fn expire(&mut self) -> Result<usize, Error> {
        if self.passed_over_since.elapsed() > PASSED_OVER_MAX {
            (self.passed_over, self.passed_over_since) = (Vec::new(), Instant::now());
        }
        if !self.locked.is_empty() {
            self.locked = self.isolation.locked_items(&self.locked).await?;
        }
        // One that fails is not used again.
        let mut connection = match self.connection.take() {
            Some(connected) => connected,
            None => db::connect(&self.options, &SETTINGS).await?,
        };
        let mut expired = 0;
        loop {
            match self.batch(&mut connection, None).await {
                Ok(Some(orders)) => {
                    expired += orders;
                    // Fewer: what is left is not due, or in somebody else's hands.
                    if orders < usize::from(BATCH_ORDERS_MAX) {
                        self.connection = Some(connection);
                        return Ok(expired);
                    }
                }
                Ok(None) => (),
                Err(Error::Row(reason)) => {
                    let (before, left_out) = (expired, self.left_out().len());
                    expired += self.expire_item_by_item(&mut connection).await?;
                    if expired == before && self.left_out().len() == left_out {
                        return Err(Error::Row(reason));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Leaves out what is locked, ends the other items' holds, and passes over an item that fails.
    async fn expire_item_by_item(&mut self, connection: &mut PgConnection) -> Result<usize, Error> {
        let due = db::answered(due_items(connection, &self.left_out())).await?;
        let locked = self.isolation.locked_items(&due).await?;
        let mut expired = 0;
        for item in due.into_iter().filter(|item| !locked.contains(item)) {
            match self.batch(connection, Some(&item)).await {
                Err(Error::Row(reason)) => {
                    match self.isolation.locked_items(std::slice::from_ref(&item)).await?.pop() {
                        Some(item) => self.locked.push(item),
                        None => {
                            tracing::error!(
                                item,
                                reason,
                                "its holds cannot be ended, and are tried again; all others go on"
                            );
                            self.passed_over.push(item);
                        }
                    }
                }
                ended => expired += ended?.unwrap_or_default(),
            }
        }
        self.locked.extend(locked);
        Ok(expired)
    }

    /// Returns how many orders expired; `None`: items are passed over that were not before.
    async fn batch(&mut self, connection: &mut PgConnection, alone: Option<&str>) -> Result<Option<usize>, Error> {
        let left_out = self.left_out();
        match db::answered(expire_batch(connection, &left_out, alone)).await? {
            Ok(orders) => Ok(Some(orders)),
            Err(items) => {
                let text = "hold fewer units than their orders; their holds do not end until that is put right";
                tracing::error!(?items, "{text}");
                self.passed_over.extend(items);
                Ok(None)
            }
        }
    }

    fn left_out(&self) -> Vec<String> {
        [&self.passed_over[..], &self.locked].concat()
    }
}

impl Upkeep for Expirer {
    /// A hold ends within a second of its time.
    const PAUSE_MAX: Duration = Duration::from_millis(500);
    const FAILING: &'static str = "holds cannot be ended";
    type Error = Error;

    async fn look(&mut self) -> Result<(), Error> {
        let expired = self.expire().await?;
        if expired > 0 {
            self.notifier.notify();
            tracing::info!(expired, "holds ran out; their units are on sale again");
        }
        Ok(())
    }
}
