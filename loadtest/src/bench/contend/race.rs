//! One race: so many version-checked updates of an item, in rounds of some at once, each on a connection of its own.
//!
//! A round begins for all at one moment, when everybody is connected and has their statements prepared; the next one begins
//! when its last update is done or given up. Whoever was served does not come again meanwhile, which would keep the row.

use crate::cli::ContendOptions;
use crate::failure::Failure;
use anyhow::{Context, anyhow};
use futures_util::future::try_join_all;
use shared::retry::{RetryPolicy, Waits};
use sqlx::pool::PoolConnection;
use sqlx::{Executor, PgConnection, PgPool, Postgres};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How one update went: an attempt, and one more after each wait.
#[derive(Debug, Clone)]
pub(super) struct Update {
    /// The waits, as they really were.
    pub(super) slept: Vec<Duration>,
    /// The version that it wrote; `None` where it gave up.
    pub(super) wrote: Option<i64>,
}

/// Returns the updates, and how long they took from the moment when everybody began.
pub(super) async fn run(
    pool: &PgPool,
    options: &ContendOptions,
    waits: fn(&RetryPolicy) -> Waits,
) -> Result<(Vec<Update>, Duration), Failure> {
    let connecting = (0..options.concurrency).map(|_| pool.acquire());
    let mut connections = try_join_all(connecting).await.map_err(|error| {
        let text = format!("{} connections to PostgreSQL cannot be opened: lower --concurrency", options.concurrency);
        Failure::Unreachable(anyhow!(error).context(text))
    })?;
    // Parsed and planned before the start; there is no version before 0.
    for connection in &mut connections {
        connection.execute(NO_LOCK_TIMEOUT).await?;
        read(connection, &options.item).await?;
        write(connection, &options.item, -1).await?;
    }
    let shared = Arc::new(Shared { options: options.clone(), waits, start: Barrier::new(connections.len()) });
    let started = Instant::now();
    // A task each: what waits for its turn in one of all holds a version that is old meanwhile.
    let races = (0..).zip(connections).map(|(place, connection)| race(connection, place, Arc::clone(&shared)));
    let (mut racers, mut updates) = (races.collect::<JoinSet<_>>(), Vec::new());
    while let Some(raced) = racers.join_next().await {
        updates.extend(raced.context("an update broke")??);
    }
    Ok((updates, started.elapsed()))
}

/// What those who race share.
struct Shared {
    options: ContendOptions,
    waits: fn(&RetryPolicy) -> Waits,
    start: Barrier,
}

/// Does one update in each round; `place` is among those who race.
async fn race(mut connection: PoolConnection<Postgres>, place: u32, shared: Arc<Shared>) -> sqlx::Result<Vec<Update>> {
    let ContendOptions { item, updates, concurrency, retry, .. } = &shared.options;
    let mut done = Vec::new();
    for round in 0..updates.div_ceil(*concurrency) {
        shared.start.wait().await;
        // The last round may have less than one for everybody.
        if round * concurrency + place < *updates {
            done.push(update(&mut connection, item, (shared.waits)(retry)).await?);
        }
    }
    Ok(done)
}

async fn update(connection: &mut PgConnection, item: &str, mut waits: Waits) -> sqlx::Result<Update> {
    let mut slept = Vec::new();
    loop {
        let version = read(connection, item).await?;
        if write(connection, item, version).await? {
            return Ok(Update { slept, wrote: Some(version + 1) });
        }
        let Some(wait) = waits.next() else { return Ok(Update { slept, wrote: None }) };
        let since = Instant::now();
        sleep(wait).await;
        slept.push(since.elapsed());
    }
}

/// Whoever has the row may wait for a disk that is slow for a moment, or be another program; statement_timeout bounds it.
const NO_LOCK_TIMEOUT: &str = "SET lock_timeout = 0";
const READ: &str = "SELECT version FROM items WHERE id = $1";

async fn read(connection: &mut PgConnection, item: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(READ).bind(item).fetch_one(connection).await
}

const WRITE: &str = "UPDATE items SET version = version + 1 WHERE id = $1 AND version = $2";

/// Whether the version was still this one.
async fn write(connection: &mut PgConnection, item: &str, version: i64) -> sqlx::Result<bool> {
    Ok(sqlx::query(WRITE).bind(item).bind(version).execute(connection).await?.rows_affected() == 1)
}
