//! One race: so many version-checked updates of an item, in rounds of some at once, each on a connection of its own.
//!
//! A round begins for all at one moment, as a crowd does, and the next one begins when its last update is done or given up:
//! whoever was served does not come again meanwhile, which would keep the row for himself. Counts nothing and judges
//! nothing. Invariant: no round begins before everybody is connected and has its statements prepared.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use futures_util::future::try_join_all;
use shared::db;
use shared::retry::RetryPolicy;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cli::ContendOptions;
use crate::database::failed as database_failed;
use crate::failure::Failure;

/// Whether waits are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Jitter {
    /// From zero to their ceiling, as workers do.
    Full,
    /// They are their ceiling.
    None,
}

/// How one update went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Update {
    /// Attempts, the first included.
    pub(super) attempts: u32,
    /// The version that it wrote; `None` where it gave up.
    pub(super) wrote: Option<i64>,
}

/// How all of them went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) updates: Vec<Update>,
    /// Each wait between two attempts, as it really was.
    pub(super) slept: Vec<Duration>,
    /// From the moment when everybody began.
    pub(super) took: Duration,
}

/// Runs it.
///
/// # Errors
/// The database is away, or has too few connections.
pub(super) async fn run(url: &str, options: &ContendOptions, jitter: Jitter) -> Result<Run, Failure> {
    let database = PgConnectOptions::from_str(url).context("DATABASE_URL cannot be read");
    let database = database.map_err(Failure::Configuration)?.application_name("loadtest contend");
    let connecting = (0..options.concurrency).map(|_| db::connect(&database));
    let connections = try_join_all(connecting).await.map_err(|error| {
        let text = format!("{} connections to PostgreSQL cannot be opened: lower --concurrency", options.concurrency);
        Failure::Unreachable(anyhow!(error).context(text))
    })?;
    let line = Arc::new(Line {
        item: options.item.clone(),
        updates: options.updates,
        racers: options.concurrency,
        start: Barrier::new(connections.len()),
        retry: options.retry,
        jitter,
    });
    let mut racers = JoinSet::new();
    for (place, connection) in (0..).zip(connections) {
        racers.spawn(race(connection, place, Arc::clone(&line)));
    }
    let mut all = Run::default();
    while let Some(raced) = racers.join_next().await {
        let raced = raced.context("an update broke").map_err(Failure::Broken)?.map_err(database_failed)?;
        all.updates.extend(raced.updates);
        all.slept.extend(raced.slept);
        all.took = all.took.max(raced.took);
    }
    Ok(all)
}

/// What those who race share.
struct Line {
    item: String,
    updates: u32,
    racers: u32,
    start: Barrier,
    retry: RetryPolicy,
    jitter: Jitter,
}

/// Does one update in each round; `place` is among those who race.
async fn race(mut connection: PgConnection, place: u32, line: Arc<Line>) -> sqlx::Result<Run> {
    let mut run = Run::default();
    // Parsed and planned before the start; there is no version before 0.
    write(&mut connection, &line.item, -1).await?;
    read(&mut connection, &line.item).await?;
    line.start.wait().await;
    let started = Instant::now();
    for round in 0..line.updates.div_ceil(line.racers) {
        line.start.wait().await;
        // The last round may have less than one for everybody.
        if round * line.racers + place < line.updates {
            let update = update(&mut connection, &line, &mut run.slept).await?;
            run.updates.push(update);
        }
    }
    run.took = started.elapsed();
    connection.close().await?;
    Ok(run)
}

async fn update(connection: &mut PgConnection, line: &Line, slept: &mut Vec<Duration>) -> sqlx::Result<Update> {
    let mut waits = match line.jitter {
        Jitter::Full => line.retry.waits(),
        Jitter::None => line.retry.waits_without_jitter(),
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let version = read(connection, &line.item).await?;
        if write(connection, &line.item, version).await? {
            return Ok(Update { attempts, wrote: Some(version + 1) });
        }
        let Some(wait) = waits.next() else { return Ok(Update { attempts, wrote: None }) };
        let since = Instant::now();
        sleep(wait).await;
        slept.push(since.elapsed());
    }
}

const READ: &str = "SELECT version FROM items WHERE id = $1";

async fn read(connection: &mut PgConnection, item: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(READ).bind(item).fetch_one(connection).await
}

const WRITE: &str = "UPDATE items SET version = version + 1 WHERE id = $1 AND version = $2";

/// Whether the version was still this one.
async fn write(connection: &mut PgConnection, item: &str, version: i64) -> sqlx::Result<bool> {
    Ok(sqlx::query(WRITE).bind(item).bind(version).execute(connection).await?.rows_affected() == 1)
}
