//! What Turnstile replaces: purchases over HTTP, decided in the request, as shops are commonly built. A baseline only.
//!
//! A `server` in a process of its own decides by one of three well-known strategies; `clients`, in
//! processes of their own, come to it at once, a connection each. The server is tuned as a competent user would, and nothing is done to make it fail.

pub(crate) mod clients;
mod process;
mod result;
pub(crate) mod server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use shared::db;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::failure::Failure;
use clients::exchange;
use process::Process;
pub(crate) use process::processes_for;
pub use result::{AtServer, BaselineResult};
use result::{KernelCounters, Recorded};
pub use server::{Baseline, BaselineStrategy};
use server::{Counts, Serve};

/// How long the server may take to finish what it has begun, once the clients are gone: a request waits for the pool, and
/// for locks, in each of its attempts.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(180);
/// Between two looks at that.
const QUIET_POLL: Duration = Duration::from_millis(20);
/// Looks in a row that must find nothing new: what is still to be accepted, or read, is not in flight yet.
const QUIET_LOOKS: u32 = 5;
/// The subcommand that is the server.
const SERVER: &str = "baseline-server";

/// Opens a server on this database, lets the buyers at it, closes it, and says what happened.
///
/// `program` is this program, which is started as server and clients. Its tables are made in the schema `baseline` where
/// they are missing; every run sells an item of its own, and leaves its rows there.
pub async fn run(program: &Path, database_url: &str, baseline: &Baseline) -> Result<BaselineResult, Failure> {
    Opened::new(program, database_url, baseline).await?.run().await
}

/// A server that is open, and to which nobody has come yet: for tests that disturb it.
pub struct Opened {
    server: Process,
    address: SocketAddr,
    program: PathBuf,
    item: String,
    baseline: Baseline,
    database: PgConnectOptions,
}

impl Opened {
    /// Puts an item on sale and starts the server.
    pub async fn new(program: &Path, database_url: &str, baseline: &Baseline) -> Result<Self, Failure> {
        let database: PgConnectOptions =
            database_url.parse().context("DATABASE_URL cannot be read").map_err(Failure::Configuration)?;
        let database = database.application_name("loadtest baseline");
        let item = format!("sale-{}", Uuid::now_v7().simple());
        put_on_sale(&database, &item, baseline.stock).await.map_err(database_failed)?;
        let serve = Serve { baseline: baseline.clone(), database_url: database_url.to_owned() };
        let (server, address) = Process::start(program, SERVER, &serve).await?.receive().await?;
        Ok(Self { server, address, program: program.to_owned(), item, baseline: baseline.clone(), database })
    }

    /// The id of what is on sale, in `baseline.items`.
    pub fn item(&self) -> &str {
        &self.item
    }

    /// Lets everybody in, waits until the last one has left and the server has finished, and closes it.
    pub async fn run(self) -> Result<BaselineResult, Failure> {
        let Self { server, address, program, item, baseline, database } = self;
        let before = KernelCounters::read();
        let visits = clients::come(&program, address, &item, &baseline).await?;
        let kernel = KernelCounters::read() - before;
        let counts = settled_counts(address).await?;
        server.end().await?;
        let recorded = read(&database, &item).await.map_err(database_failed)?;
        Ok(BaselineResult::of(&visits, &counts, &recorded, kernel, baseline.stock))
    }
}

/// What the server counted, once it has finished everything that it has begun. The server is asked as buyers ask it, so
/// that whoever still waits to be accepted comes first.
async fn settled_counts(address: SocketAddr) -> Result<Counts, Failure> {
    let look = async || {
        let asked = exchange(address, "GET /counts", &[], &mut None).await;
        let (_, body) = asked.context("ask the server what it counted").map_err(Failure::Broken)?;
        serde_json::from_str::<Counts>(&body).context("read the server's counts").map_err(Failure::Broken)
    };
    let limit = Instant::now() + QUIET_WAIT_MAX;
    let (mut last, mut quiet_looks) = (look().await?, 0);
    while quiet_looks < QUIET_LOOKS {
        if Instant::now() > limit {
            let text = format!("the HTTP server is still at work {QUIET_WAIT_MAX:?} after the last buyer has left");
            return Err(Failure::Broken(anyhow!(text)));
        }
        sleep(QUIET_POLL).await;
        let counts = look().await?;
        quiet_looks = if counts == last && counts.in_flight == 0 { quiet_looks + 1 } else { 0 };
        last = counts;
    }
    Ok(last)
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

async fn put_on_sale(database: &PgConnectOptions, item: &str, stock: u64) -> sqlx::Result<()> {
    let mut connection = db::connect(database).await?;
    sqlx::raw_sql(TABLES).execute(&mut connection).await?;
    let units = i64::try_from(stock).unwrap_or(i64::MAX);
    sqlx::query(PUT_ON_SALE).bind(item).bind(units).execute(&mut connection).await?;
    connection.close().await
}

const READ_LEFT: &str = "SELECT quantity FROM baseline.items WHERE id = $1";
const READ_ORDERS: &str = "SELECT request_id, quantity FROM baseline.orders WHERE item = $1";

/// What the database holds of the item in the end.
async fn read(database: &PgConnectOptions, item: &str) -> sqlx::Result<Recorded> {
    let mut connection: PgConnection = database.connect().await?;
    let left: i64 = sqlx::query_scalar(READ_LEFT).bind(item).fetch_one(&mut connection).await?;
    let orders: Vec<(Uuid, i64)> = sqlx::query_as(READ_ORDERS).bind(item).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(Recorded { left, orders })
}

fn database_failed(error: sqlx::Error) -> Failure {
    let text = "the database of the HTTP servers; is PostgreSQL running, and does DATABASE_URL name it";
    Failure::Unreachable(anyhow!(error).context(text))
}
