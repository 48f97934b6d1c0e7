//! The HTTP server, as shops write theirs: a pool of open connections, limits on every wait, the listen backlog tokio's own.
//! A purchase that was begun is finished, also where its buyer is gone.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use clap::ValueEnum;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use shared::retry::RetryPolicy;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use uuid::Uuid;

use super::process::received;
use crate::failure::Failure;
use crate::strategy::Strategy;

/// Connections to the database.
const POOL_CONNECTIONS: u32 = 50;
/// How long a request waits for one of them.
const POOL_WAIT_MAX: Duration = Duration::from_secs(5);
/// What the database ends by itself.
const LIMITS: [(&str, &str); 2] = [("lock_timeout", "5s"), ("statement_timeout", "10s")];
/// lock_not_available: the row's lock did not come in time.
const LOCK_TIMEOUT: &str = "55P03";

/// How the server decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// What the server's process is sent first.
#[derive(Serialize, Deserialize)]
pub(super) struct Serve {
    pub(super) baseline: Baseline,
    pub(super) database_url: String,
}

/// What the server counts while it sells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Requests that are being decided: figures are final where there is none.
    pub(super) in_flight: u64,
    pub(super) attempts: u64,
    pub(super) conflicts: u64,
    pub(super) rollbacks: u64,
    pub(super) pool_timeouts: u64,
    pub(super) lock_timeouts: u64,
    pub(super) pool_wait: Duration,
}

/// What a buyer sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Purchase {
    pub(super) request_id: Uuid,
    pub(super) item: String,
    pub(super) buyer: String,
    pub(super) quantity: i64,
}

/// Serves until its standard input ends, with its address as the first line of its output.
pub(crate) async fn serve() -> Result<(), Failure> {
    let Serve { baseline, database_url } = received()?;
    let pool = open_pool(&database_url).await?;
    let handler = Arc::new(Handler { pool, baseline, counts: Mutex::default() });
    let routes = Router::new().route("/purchase", post(purchase)).route("/counts", get(counts)).with_state(handler);
    let serving = async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen on a loopback port")?;
        println!("{}", serde_json::to_string(&listener.local_addr()?)?);
        // An answer is one small packet, and somebody waits for it.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let input_ends = spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        tokio::select! {
            served = axum::serve(listener, routes) => Ok(served?),
            ended = input_ends => Ok(ended?.map(drop)?),
        }
    };
    serving.await.map_err(Failure::Broken)
}

/// With every connection open: the first buyer does not wait for that.
async fn open_pool(database_url: &str) -> Result<PgPool, Failure> {
    let options: PgConnectOptions =
        database_url.parse().context("DATABASE_URL cannot be read").map_err(Failure::Configuration)?;
    let pool = PgPoolOptions::new()
        .max_connections(POOL_CONNECTIONS)
        .acquire_timeout(POOL_WAIT_MAX)
        // A round trip before every use, otherwise.
        .test_before_acquire(false)
        .connect_lazy_with(options.application_name("loadtest baseline server").options(LIMITS));
    let opened = try_join_all((0..POOL_CONNECTIONS).map(|_| pool.acquire())).await;
    opened.map_err(|error| {
        Failure::Unreachable(anyhow!(
            "the HTTP server's {POOL_CONNECTIONS} connections to the database cannot be opened ({error}); is PostgreSQL \
             running, does DATABASE_URL name it, and does its max_connections leave room for them?"
        ))
    })?;
    Ok(pool)
}

async fn purchase(State(handler): State<Arc<Handler>>, Json(purchase): Json<Purchase>) -> (StatusCode, String) {
    // On its own, so that a buyer who hangs up cuts no transaction in half: a request thread would go on, too.
    let selling = tokio::spawn(async move { handler.handle(&purchase).await });
    selling.await.unwrap_or_else(|panic| (StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()))
}

async fn counts(State(handler): State<Arc<Handler>>) -> Json<Counts> {
    Json(*handler.counts())
}

/// How a purchase ends that could be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Sold,
    SoldOut,
    Conflict,
}

struct Handler {
    pool: PgPool,
    baseline: Baseline,
    counts: Mutex<Counts>,
}

impl Handler {
    async fn handle(&self, purchase: &Purchase) -> (StatusCode, String) {
        self.counts().in_flight += 1;
        let decided = match self.baseline.strategy {
            BaselineStrategy::Optimistic | BaselineStrategy::Pessimistic => self.sell_in_transaction(purchase).await,
            BaselineStrategy::Atomic => self.take_pay_order(purchase).await,
        };
        let answer = match decided {
            Ok(Decision::Sold) => (StatusCode::OK, "sold".to_owned()),
            Ok(Decision::SoldOut) => (StatusCode::GONE, "nothing is left".to_owned()),
            Ok(Decision::Conflict) => (StatusCode::CONFLICT, "somebody was faster".to_owned()),
            Err(error) => (self.status_of(&error), error.to_string()),
        };
        self.counts().in_flight -= 1;
        answer
    }

    /// Tries until there is no conflict, or no attempt is left.
    async fn sell_in_transaction(&self, purchase: &Purchase) -> sqlx::Result<Decision> {
        let mut waits = self.baseline.retry.waits();
        loop {
            let decision = self.attempt(purchase).await?;
            if decision != Decision::Conflict {
                return Ok(decision);
            }
            self.counts().conflicts += 1;
            match waits.next() {
                Some(wait) => sleep(wait).await,
                None => return Ok(Decision::Conflict),
            }
        }
    }

    async fn attempt(&self, purchase: &Purchase) -> sqlx::Result<Decision> {
        let mut connection = self.connection().await?;
        self.counts().attempts += 1;
        let mut transaction = connection.begin().await?;
        let decided = self.decide(&mut transaction, purchase).await;
        if matches!(decided, Ok(Decision::Sold)) {
            transaction.commit().await?;
        } else {
            self.counts().rollbacks += 1;
            transaction.rollback().await?;
        }
        decided
    }

    /// Within a transaction, the payment too, as in the originals.
    async fn decide(&self, transaction: &mut PgConnection, purchase: &Purchase) -> sqlx::Result<Decision> {
        const READ: &str = "SELECT quantity, version FROM baseline.items WHERE id = $1";
        const READ_LOCKED: &str = "SELECT quantity, version FROM baseline.items WHERE id = $1 FOR UPDATE";
        // An entity is written as it was read and changed, with every column.
        const WRITE: &str = "UPDATE baseline.items SET quantity = $2, version = $3 + 1 WHERE id = $1 AND version = $3";
        let is_locked = self.baseline.strategy == BaselineStrategy::Pessimistic;
        let reading = sqlx::query_as(if is_locked { READ_LOCKED } else { READ }).bind(&purchase.item);
        let (quantity, version): (i64, i64) = reading.fetch_one(&mut *transaction).await?;
        if quantity < purchase.quantity {
            return Ok(Decision::SoldOut);
        }
        sleep(self.baseline.payment).await;
        order(transaction, purchase).await?;
        let writing = sqlx::query(WRITE).bind(&purchase.item).bind(quantity - purchase.quantity).bind(version);
        let is_written = writing.execute(transaction).await?.rows_affected() == 1;
        Ok(if is_written { Decision::Sold } else { Decision::Conflict })
    }

    /// Two statements that commit by themselves, and the payment between them without a connection: what ends in there
    /// leaves units that nobody has.
    async fn take_pay_order(&self, purchase: &Purchase) -> sqlx::Result<Decision> {
        const TAKE: &str = "UPDATE baseline.items SET quantity = quantity - $2 WHERE id = $1 AND quantity >= $2";
        let mut connection = self.connection().await?;
        self.counts().attempts += 1;
        let taking = sqlx::query(TAKE).bind(&purchase.item).bind(purchase.quantity);
        let is_taken = taking.execute(&mut *connection).await?.rows_affected() == 1;
        drop(connection);
        if !is_taken {
            // Why, the statement cannot say: too little is left, or there is no such item.
            return Ok(Decision::SoldOut);
        }
        sleep(self.baseline.payment).await;
        order(&mut *self.connection().await?, purchase).await?;
        Ok(Decision::Sold)
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
        let (is_lock, is_pool) =
            (code.is_some_and(|code| code == LOCK_TIMEOUT), matches!(error, sqlx::Error::PoolTimedOut));
        let mut counts = self.counts();
        counts.lock_timeouts += u64::from(is_lock);
        counts.pool_timeouts += u64::from(is_pool);
        if is_lock || is_pool { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR }
    }

    /// To add to them; held for an addition, never across a wait.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing that holds the lock can leave them half changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ORDER: &str = "INSERT INTO baseline.orders (request_id, item, buyer, quantity) VALUES ($1, $2, $3, $4)";

async fn order(database: &mut PgConnection, purchase: &Purchase) -> sqlx::Result<()> {
    let order = sqlx::query(ORDER).bind(purchase.request_id).bind(&purchase.item);
    order.bind(&purchase.buyer).bind(purchase.quantity).execute(database).await?;
    Ok(())
}
