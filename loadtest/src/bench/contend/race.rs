//! One race: so many version-checked updates of an item, in rounds of some at once, each on a connection of its own.
//!
//! A round begins for all at one moment, when everybody is connected and has their statements prepared; the next one begins
//! when its last update is done or given up. Whoever was served does not come again meanwhile, which would keep the row.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use futures_util::future::try_join_all;
use shared::db;
use shared::retry::{RetryPolicy, Waits};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cli::ContendOptions;
use crate::database;
use crate::failure::Failure;

/// How one update went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Update {
    /// The first included.
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

/// What those who race share.
struct Shared {
    options: ContendOptions,
    waits: fn(&RetryPolicy) -> Waits,
    start: Barrier,
}

pub(super) async fn run(url: &str, options: &ContendOptions, waits: fn(&RetryPolicy) -> Waits) -> Result<Run, Failure> {
    let database = PgConnectOptions::from_str(url).context("DATABASE_URL cannot be read");
    let database = database.map_err(Failure::Configuration)?.application_name("loadtest contend");
    let connecting = (0..options.concurrency).map(|_| db::connect(&database));
    let connections = try_join_all(connecting).await.map_err(|error| {
        let text = format!("{} connections to PostgreSQL cannot be opened: lower --concurrency", options.concurrency);
        Failure::Unreachable(anyhow!(error).context(text))
    })?;
    let shared = Arc::new(Shared { options: options.clone(), waits, start: Barrier::new(connections.len()) });
    let mut racers = JoinSet::new();
    for (place, connection) in (0..).zip(connections) {
        racers.spawn(race(connection, place, Arc::clone(&shared)));
    }
    let mut all = Run::default();
    while let Some(raced) = racers.join_next().await {
        let raced = raced.context("an update broke").map_err(Failure::Broken)?.map_err(database::failed)?;
        all.updates.extend(raced.updates);
        all.slept.extend(raced.slept);
        all.took = all.took.max(raced.took);
    }
    Ok(all)
}

/// Does one update in each round; `place` is among those who race.
async fn race(mut connection: PgConnection, place: u32, shared: Arc<Shared>) -> sqlx::Result<Run> {
    let mut run = Run::default();
    let ContendOptions { item, updates, concurrency, .. } = &shared.options;
    // Parsed and planned before the start; there is no version before 0.
    write(&mut connection, item, -1).await?;
    read(&mut connection, item).await?;
    shared.start.wait().await;
    let started = Instant::now();
    for round in 0..updates.div_ceil(*concurrency) {
        shared.start.wait().await;
        // The last round may have less than one for everybody.
        if round * concurrency + place < *updates {
            let update = update(&mut connection, &shared, &mut run.slept).await?;
            run.updates.push(update);
        }
    }
    run.took = started.elapsed();
    connection.close().await?;
    Ok(run)
}

async fn update(connection: &mut PgConnection, shared: &Shared, slept: &mut Vec<Duration>) -> sqlx::Result<Update> {
    let mut waits = (shared.waits)(&shared.options.retry);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let version = read(connection, &shared.options.item).await?;
        if write(connection, &shared.options.item, version).await? {
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
