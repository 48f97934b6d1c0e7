//! How a door decides a purchase: the three strategies, as they are written in shops, on a pool of connections.
//!
//! Knows nothing of HTTP. Invariant: whoever begins a transaction ends it, with a COMMIT where the purchase is sold and a
//! ROLLBACK everywhere else, and every statement is counted.

use std::time::{Duration, Instant};

use shared::retry::RetryPolicy;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use tokio::time::sleep;
use uuid::Uuid;

use super::counts::{Counting, microseconds};
use crate::doors::DoorStrategy;

/// lock_not_available: the row's lock did not come in time.
const LOCK_TIMEOUT: &str = "55P03";

/// A request, checked.
#[derive(Debug, Clone)]
pub(super) struct Purchase {
    pub(super) request_id: Uuid,
    pub(super) item: String,
    pub(super) buyer: String,
    pub(super) quantity: i64,
}

/// How a purchase ends that could be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The order is committed.
    Sold,
    /// Too little is left.
    SoldOut,
    /// Somebody else was faster.
    Conflict,
}

/// Why a purchase could not be decided.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// No connection, or no lock, in time: the same request may do better later.
    #[error("{0}")]
    Busy(sqlx::Error),
    /// Whatever else the database said.
    #[error("{0}")]
    Broken(sqlx::Error),
}

/// What all requests share.
pub(super) struct Desk {
    pub(super) pool: PgPool,
    pub(super) strategy: DoorStrategy,
    pub(super) payment: Duration,
    pub(super) retry: RetryPolicy,
    pub(super) counting: Counting,
}

impl Desk {
    /// Decides one purchase, to its end: whoever asked may be gone meanwhile.
    pub(super) async fn sell(&self, purchase: &Purchase) -> Result<Decision, Fault> {
        self.counting.now().in_flight += 1;
        let sold = match self.strategy {
            DoorStrategy::Optimistic | DoorStrategy::Pessimistic => self.sell_in_transaction(purchase).await,
            DoorStrategy::Atomic => self.take_pay_order(purchase).await,
        };
        self.counting.now().in_flight -= 1;
        sold.map_err(|error| self.fault(error))
    }

    /// Tries until there is no conflict, or no attempt is left.
    async fn sell_in_transaction(&self, purchase: &Purchase) -> sqlx::Result<Decision> {
        let mut waits = self.retry.waits();
        loop {
            let decision = self.attempt(purchase).await?;
            if decision != Decision::Conflict {
                return Ok(decision);
            }
            self.counting.now().conflicts += 1;
            match waits.next() {
                Some(wait) => sleep(wait).await,
                None => return Ok(Decision::Conflict),
            }
        }
    }

    /// One transaction. The payment runs inside it, as in the originals.
    async fn attempt(&self, purchase: &Purchase) -> sqlx::Result<Decision> {
        let mut held = self.connection().await?;
        self.counting.now().attempts += 1;
        let mut transaction = self.counted(held.connection.begin()).await?;
        let decided = match self.strategy {
            DoorStrategy::Pessimistic => self.pessimistic(&mut transaction, purchase).await,
            DoorStrategy::Optimistic | DoorStrategy::Atomic => self.optimistic(&mut transaction, purchase).await,
        };
        if matches!(decided, Ok(Decision::Sold)) {
            self.counted(transaction.commit()).await?;
        } else {
            self.counting.now().rollbacks += 1;
            self.counted(transaction.rollback()).await?;
        }
        decided
    }

    async fn optimistic(&self, database: &mut PgConnection, purchase: &Purchase) -> sqlx::Result<Decision> {
        const READ: &str = "SELECT quantity, version FROM doors.items WHERE id = $1";
        // An entity is written as it was read and changed, with every column.
        const WRITE: &str = "UPDATE doors.items SET quantity = $2, version = $3 + 1 WHERE id = $1 AND version = $3";
        let reading = sqlx::query_as(READ).bind(&purchase.item).fetch_one(&mut *database);
        let (quantity, version): (i64, i64) = self.counted(reading).await?;
        if quantity < purchase.quantity {
            return Ok(Decision::SoldOut);
        }
        sleep(self.payment).await;
        self.order(database, purchase).await?;
        let left = quantity - purchase.quantity;
        let writing = sqlx::query(WRITE).bind(&purchase.item).bind(left).bind(version).execute(database);
        let is_written = self.counted(writing).await?.rows_affected() == 1;
        Ok(if is_written { Decision::Sold } else { Decision::Conflict })
    }

    async fn pessimistic(&self, database: &mut PgConnection, purchase: &Purchase) -> sqlx::Result<Decision> {
        const LOCK: &str = "SELECT quantity FROM doors.items WHERE id = $1 FOR UPDATE";
        const WRITE: &str = "UPDATE doors.items SET quantity = $2 WHERE id = $1";
        let locking = sqlx::query_scalar(LOCK).bind(&purchase.item).fetch_one(&mut *database);
        let quantity: i64 = self.counted(locking).await?;
        if quantity < purchase.quantity {
            return Ok(Decision::SoldOut);
        }
        sleep(self.payment).await;
        self.order(database, purchase).await?;
        let writing = sqlx::query(WRITE).bind(&purchase.item).bind(quantity - purchase.quantity).execute(database);
        self.counted(writing).await?;
        Ok(Decision::Sold)
    }

    /// Two statements that commit by themselves, and the payment between them without a connection: whoever ends in there
    /// leaves units that nobody has.
    async fn take_pay_order(&self, purchase: &Purchase) -> sqlx::Result<Decision> {
        const TAKE: &str = "UPDATE doors.items SET quantity = quantity - $2 WHERE id = $1 AND quantity >= $2";
        let mut held = self.connection().await?;
        self.counting.now().attempts += 1;
        let taking = sqlx::query(TAKE).bind(&purchase.item).bind(purchase.quantity);
        let is_taken = self.counted(taking.execute(&mut *held.connection)).await?.rows_affected() == 1;
        drop(held);
        if !is_taken {
            // Why, the statement cannot say: too little is left, or there is no such item.
            return Ok(Decision::SoldOut);
        }
        sleep(self.payment).await;
        let mut held = self.connection().await?;
        self.order(&mut held.connection, purchase).await?;
        Ok(Decision::Sold)
    }

    async fn order(&self, database: &mut PgConnection, purchase: &Purchase) -> sqlx::Result<()> {
        const ORDER: &str = "INSERT INTO doors.orders (request_id, item, buyer, quantity) VALUES ($1, $2, $3, $4)";
        let order = sqlx::query(ORDER).bind(purchase.request_id).bind(&purchase.item);
        self.counted(order.bind(&purchase.buyer).bind(purchase.quantity).execute(database)).await?;
        Ok(())
    }

    async fn counted<T>(&self, statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        self.counting.now().round_trips += 1;
        statement.await
    }

    async fn connection(&self) -> sqlx::Result<Held<'_>> {
        let asked = Instant::now();
        let acquired = self.pool.acquire().await;
        self.counting.now().pool_wait_us += microseconds(asked.elapsed());
        Ok(Held { connection: acquired?, since: Instant::now(), counting: &self.counting })
    }

    fn fault(&self, error: sqlx::Error) -> Fault {
        let is_lock = error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == LOCK_TIMEOUT);
        let is_pool = matches!(error, sqlx::Error::PoolTimedOut);
        let mut counts = self.counting.now();
        counts.lock_timeouts += u64::from(is_lock);
        counts.pool_timeouts += u64::from(is_pool);
        if is_lock || is_pool { Fault::Busy(error) } else { Fault::Broken(error) }
    }
}

/// A connection from the pool; how long it is held is counted when it goes back.
struct Held<'a> {
    connection: PoolConnection<Postgres>,
    since: Instant,
    counting: &'a Counting,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.counting.now().connection_us += microseconds(self.since.elapsed());
    }
}
