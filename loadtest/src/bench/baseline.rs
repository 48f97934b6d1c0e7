//! What Turnstile replaces: purchases over HTTP, decided in the request, as shops are commonly built. A baseline only: tuned
//! as a competent user would, and nothing is done to make it fail. All clients come at once, a connection each.

pub(crate) mod clients;
mod lua;
mod result;
pub(crate) mod serve;

use crate::failure::Failure;
use crate::stats::round;
use crate::strategy::Strategy;
use anyhow::{Context, anyhow};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use clap::ValueEnum;
use clients::{Clients, Purchase, exchange};
pub use result::BaselineResult;
use result::{Counts, Recorded, syns};
use shared::db;
use shared::retry::RetryPolicy;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, Executor, PgConnection, PgPool, Postgres};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Connections to the database, and how long a request waits for one of them.
const POOL_CONNECTIONS: u32 = 50;
const POOL_WAIT_MAX: Duration = Duration::from_secs(5);
/// What the database ends by itself. A statement may wait for a row twice: for its turn, and for the lock.
const LIMITS: &str = "SET lock_timeout = '5s'; SET statement_timeout = '15s'";
/// lock_not_available: the row's lock did not come in time.
const LOCK_TIMEOUT: &str = "55P03";
/// How long the server may take to finish what it has begun, once the clients are gone: a request waits for the pool, and
/// for locks, in each of its attempts.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(180);
const QUIET_POLL: Duration = Duration::from_millis(20);
/// Looks in a row that must find nothing new: what is still to be accepted, or read, is not in flight yet.
const QUIET_LOOKS: u32 = 5;

/// How the server decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BaselineStrategy {
    /// JPA's `@Version`, TypeORM's version column: read, pay, write where the version is still the same, all in one
    /// transaction; a conflict rolls it back, and it is tried again after a wait with full jitter.
    Optimistic,
    /// `SELECT … FOR UPDATE`, pay, write, commit.
    Pessimistic,
    /// `UPDATE … SET quantity = quantity - n WHERE quantity >= n`, then pay, then write the order: no transaction around it.
    Atomic,
}

impl BaselineStrategy {
    /// The one of this name, where there is one.
    pub(crate) fn of(strategy: Strategy) -> Option<Self> {
        match strategy {
            Strategy::Optimistic => Some(Self::Optimistic),
            Strategy::Pessimistic => Some(Self::Pessimistic),
            Strategy::Atomic => Some(Self::Atomic),
            Strategy::Redis => None,
        }
    }
}

/// Everybody comes at once, on a connection of their own, for one unit of the same item.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    pub strategy: BaselineStrategy,
    /// Each sends one request.
    pub buyers: u32,
    pub stock: u64,
    /// How long the simulated payment takes.
    pub payment: Duration,
    /// How long a buyer waits, for the connection and for the answer together.
    pub timeout: Duration,
    /// How the optimistic server spaces its attempts, and when it gives up (409).
    pub retry: RetryPolicy,
}

impl Baseline {
    /// What the originals did: a payment of 20 ms, clients that wait for 10 s, and five attempts where there is a version
    /// to check, the first wait drawn from up to 50 ms, then twice that each time.
    pub fn new(strategy: BaselineStrategy, buyers: u32, stock: u64) -> Self {
        let retry = RetryPolicy { wait_ms: 50, factor: 2.0, wait_ms_max: 1_000, attempts_max: 5 };
        let (payment, timeout) = (Duration::from_millis(20), Duration::from_secs(10));
        Self { strategy, buyers, stock, payment, timeout, retry }
    }
}

/// Opens a server on this database, lets the buyers at it, closes it, and says what happened. `program` is this program,
/// which is started as clients.
pub async fn run(program: &Path, database_url: &str, baseline: &Baseline) -> Result<BaselineResult, Failure> {
    Opened::new(database_url, baseline).await?.run(program).await
}

/// A server that is open, and to which nobody has come yet: for tests that disturb it.
pub struct Opened {
    handler: Arc<Handler>,
    address: SocketAddr,
    item: String,
    /// Ends with us.
    _serving: JoinSet<std::io::Result<()>>,
}

impl Opened {
    /// Puts an item of its own on sale, with tables where they are missing, and starts the server.
    pub async fn new(database_url: &str, baseline: &Baseline) -> Result<Self, Failure> {
        let pool = open_pool(database_url).await?;
        let item = format!("sale-{}", Uuid::now_v7().simple());
        pool.execute(TABLES).await?;
        let units = i64::try_from(baseline.stock).unwrap_or(i64::MAX);
        sqlx::query(PUT_ON_SALE).bind(&item).bind(units).execute(&pool).await?;
        let handler = Arc::new(Handler { pool, baseline: baseline.clone(), counts: Mutex::default() });
        let routes = Router::new().route("/purchase", post(purchase)).with_state(Arc::clone(&handler));
        let mut serving = JoinSet::new();
        let address = serve_on_loopback(&mut serving, routes).await?;
        Ok(Self { handler, address, item, _serving: serving })
    }

    /// The id of what is on sale, in `baseline.items`.
    pub fn item(&self) -> &str {
        &self.item
    }

    /// Lets everybody in, waits until the last one has left and the server has finished, and closes it.
    pub async fn run(self, program: &Path) -> Result<BaselineResult, Failure> {
        let Handler { pool, baseline, .. } = &*self.handler;
        let (address, item) = (self.address, self.item.clone());
        let clients = Clients { address, item, buyers: baseline.buyers, timeout: baseline.timeout };
        let (drops, retransmits) = syns();
        let (visits, lag) = clients::come(program, &clients).await?;
        let (drops_after, retransmits_after) = syns();
        let settled = timeout(QUIET_WAIT_MAX, self.settled()).await;
        let counts = settled.context("the HTTP server is still at work long after the last buyer has left")??;
        let left = sqlx::query_scalar(READ_LEFT).bind(&self.item).fetch_one(pool).await?;
        let orders = sqlx::query_as(READ_ORDERS).bind(&self.item).fetch_all(pool).await?;
        pool.close().await;
        let mut result = BaselineResult::of(&visits, &counts, &Recorded { left, orders }, baseline.stock);
        result.row.lag_ms = Some(round(lag.as_secs_f64() * 1e3, 1e1));
        if let Some(server) = &mut result.row.at_server {
            server.syn_drops = drops_after.saturating_sub(drops);
            server.syn_retransmits = retransmits_after.saturating_sub(retransmits);
        }
        Ok(result)
    }

    /// What the server counted, once it has finished everything that it has begun.
    async fn settled(&self) -> Result<Counts, Failure> {
        let (mut last, mut quiet_looks) = (*self.handler.counts(), 0);
        while quiet_looks < QUIET_LOOKS {
            sleep(QUIET_POLL).await;
            // Asked as buyers ask, so that whoever still waits to be accepted comes first.
            let asked = exchange(self.address, "GET /", &[]).await;
            asked.context("ask the HTTP server whether it is done")?;
            let counts = *self.handler.counts();
            quiet_looks = if counts == last && counts.in_flight == 0 { quiet_looks + 1 } else { 0 };
            last = counts;
        }
        Ok(last)
    }
}

/// On a port that is free; returns the address.
async fn serve_on_loopback(serving: &mut JoinSet<std::io::Result<()>>, routes: Router) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen on a loopback port")?;
    let address = listener.local_addr().map_err(|error| Failure::Broken(error.into()))?;
    // An answer is one small packet, and somebody waits for it.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    serving.spawn(axum::serve(listener, routes).into_future());
    Ok(address)
}

/// With every connection open: the first buyer does not wait for that.
async fn open_pool(database_url: &str) -> Result<PgPool, Failure> {
    let opening = PgPoolOptions::new()
        .min_connections(POOL_CONNECTIONS)
        .max_connections(POOL_CONNECTIONS)
        .acquire_timeout(POOL_WAIT_MAX)
        // Thousands wait; how long, the result says.
        .acquire_slow_threshold(POOL_WAIT_MAX)
        // A round trip before every use, otherwise.
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(async { connection.execute(LIMITS).await.map(drop) }))
        .connect_with(db::read(database_url)?.application_name("loadtest baseline server"));
    opening.await.map_err(|error| {
        Failure::Unreachable(anyhow!(
            "the HTTP server's {POOL_CONNECTIONS} connections to the database cannot be opened ({error}); is PostgreSQL \
             running, does DATABASE_URL name it, and does its max_connections leave room for them?"
        ))
    })
}

/// As lean as a competent user would have them. Of the item, no index but the key, so that an update stays on its page, and
/// room on that page for many versions of the hot row, as the product's own table has it; of the orders, no foreign key,
/// which would lock the hot row once more with every order.
const TABLES: &str = "
    BEGIN;
    SELECT pg_advisory_xact_lock(hashtext('turnstile baseline'));
    CREATE SCHEMA IF NOT EXISTS baseline;
    CREATE TABLE IF NOT EXISTS baseline.items (
        id       text COLLATE \"C\" PRIMARY KEY,
        quantity bigint NOT NULL CHECK (quantity >= 0),
        version  bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 25, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
    CREATE TABLE IF NOT EXISTS baseline.orders (
        request_id uuid PRIMARY KEY,
        item       text COLLATE \"C\" NOT NULL,
        buyer      text COLLATE \"C\" NOT NULL,
        quantity   bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    COMMIT;";
const PUT_ON_SALE: &str = "INSERT INTO baseline.items (id, quantity) VALUES ($1, $2)";
const READ: &str = "SELECT quantity, version FROM baseline.items WHERE id = $1";
const READ_LOCKED: &str = "SELECT quantity, version FROM baseline.items WHERE id = $1 FOR UPDATE";
// An entity is written as it was read and changed, with every column.
const WRITE: &str = "UPDATE baseline.items SET quantity = $2, version = $3 + 1 WHERE id = $1 AND version = $3";
const TAKE: &str = "UPDATE baseline.items SET quantity = quantity - $2 WHERE id = $1 AND quantity >= $2";
const ORDER: &str = "INSERT INTO baseline.orders (request_id, item, buyer, quantity) VALUES ($1, $2, $3, $4)";
const READ_LEFT: &str = "SELECT quantity FROM baseline.items WHERE id = $1";
const READ_ORDERS: &str = "SELECT request_id, quantity FROM baseline.orders WHERE item = $1";

struct Handler {
    pool: PgPool,
    baseline: Baseline,
    counts: Mutex<Counts>,
}

async fn purchase(State(handler): State<Arc<Handler>>, Json(purchase): Json<Purchase>) -> StatusCode {
    // On its own, so that a buyer who hangs up cuts no transaction in half: a request thread would go on, too.
    let selling = tokio::spawn(async move { handler.handle(&purchase).await });
    selling.await.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Sold is 200, sold out 410, and a race that was lost 409.
impl Handler {
    async fn handle(&self, purchase: &Purchase) -> StatusCode {
        self.counts().in_flight += 1;
        let decided = match self.baseline.strategy {
            BaselineStrategy::Optimistic | BaselineStrategy::Pessimistic => self.sell_in_transaction(purchase).await,
            BaselineStrategy::Atomic => self.take_pay_order(purchase).await,
        };
        let status = decided.unwrap_or_else(|error| self.status_of(&error));
        self.counts().in_flight -= 1;
        status
    }

    /// Tries until there is no conflict, or no attempt is left.
    async fn sell_in_transaction(&self, purchase: &Purchase) -> sqlx::Result<StatusCode> {
        let mut waits = self.baseline.retry.waits();
        loop {
            let mut connection = self.connection().await?;
            self.counts().attempts += 1;
            let mut transaction = connection.begin().await?;
            let decided = self.decide(&mut transaction, purchase).await;
            if matches!(decided, Ok(StatusCode::OK)) {
                transaction.commit().await?;
                return decided;
            }
            self.counts().rollbacks += 1;
            transaction.rollback().await?;
            drop(connection);
            if !matches!(decided, Ok(StatusCode::CONFLICT)) {
                return decided;
            }
            self.counts().conflicts += 1;
            match waits.next() {
                Some(wait) => sleep(wait).await,
                None => return decided,
            }
        }
    }

    /// Within a transaction, the payment too, as in the originals.
    async fn decide(&self, transaction: &mut PgConnection, purchase: &Purchase) -> sqlx::Result<StatusCode> {
        let is_locked = self.baseline.strategy == BaselineStrategy::Pessimistic;
        let reading = sqlx::query_as(if is_locked { READ_LOCKED } else { READ }).bind(&purchase.item);
        let (quantity, version): (i64, i64) = reading.fetch_one(&mut *transaction).await?;
        if quantity < purchase.quantity {
            return Ok(StatusCode::GONE);
        }
        sleep(self.baseline.payment).await;
        order(transaction, purchase).await?;
        let writing = sqlx::query(WRITE).bind(&purchase.item).bind(quantity - purchase.quantity).bind(version);
        let is_written = writing.execute(transaction).await?.rows_affected() == 1;
        Ok(if is_written { StatusCode::OK } else { StatusCode::CONFLICT })
    }

    /// Two statements that commit by themselves, and the payment between them without a connection: what ends in there
    /// leaves units that nobody has.
    async fn take_pay_order(&self, purchase: &Purchase) -> sqlx::Result<StatusCode> {
        let mut connection = self.connection().await?;
        self.counts().attempts += 1;
        let taking = sqlx::query(TAKE).bind(&purchase.item).bind(purchase.quantity);
        let is_taken = taking.execute(&mut *connection).await?.rows_affected() == 1;
        drop(connection);
        if !is_taken {
            // Why, the statement cannot say: too little is left, or there is no such item.
            return Ok(StatusCode::GONE);
        }
        sleep(self.baseline.payment).await;
        order(&mut *self.connection().await?, purchase).await?;
        Ok(StatusCode::OK)
    }

    async fn connection(&self) -> sqlx::Result<PoolConnection<Postgres>> {
        let asked = Instant::now();
        let acquired = self.pool.acquire().await;
        self.counts().pool_wait += asked.elapsed();
        acquired
    }

    /// 503 where the same request may do better later: no connection, or no lock, in time.
    fn status_of(&self, error: &sqlx::Error) -> StatusCode {
        let code = error.as_database_error().and_then(|error| error.code());
        if code.is_some_and(|code| code == LOCK_TIMEOUT) {
            self.counts().lock_timeouts += 1;
        } else if matches!(error, sqlx::Error::PoolTimedOut) {
            self.counts().pool_timeouts += 1;
        } else {
            tracing::warn!(%error, "the HTTP server answers 500");
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        StatusCode::SERVICE_UNAVAILABLE
    }

    /// To add to them; held for an addition, never across a wait.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing that holds the lock can leave them half changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn order(database: &mut PgConnection, purchase: &Purchase) -> sqlx::Result<()> {
    let order = sqlx::query(ORDER).bind(purchase.request_id).bind(&purchase.item);
    order.bind(&purchase.buyer).bind(purchase.quantity).execute(database).await?;
    Ok(())
}
