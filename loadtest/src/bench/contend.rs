//! What conflicts cost: many version-checked updates of one item at once, with the product's own retry, twice: its waits
//! drawn at random, and the same waits without the draw.
//!
//! An update moves no stock, only the version, so a sale that goes on beside it only tries again once more often. Whatever
//! is counted as a success is an increment of the version that is no other's.

mod race;
mod table;

use super::table::number;
use crate::audit::database_state::{self, RecordedItem};
use crate::cli::ContendOptions;
use crate::failure::Failure;
use crate::output;
use crate::progress::Progress;
use crate::schedule::ItemOnSale;
use crate::servers::{or_interrupted, with_private_postgres};
use crate::stats::{median, round};
use anyhow::anyhow;
use race::Update;
use serde::Serialize;
use shared::config::{Migrate, StoreOptions};
use shared::db;
use shared::retry::{RetryPolicy, Waits};
use shared::table::Style;
use sqlx::PgPool;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Units of the item that is made on private servers; nothing is sold of it.
const STOCK: u64 = 1_000;
/// How long a private server may take until it answers.
const START_SECONDS_MAX: u64 = 30;
/// How we sign our connections.
const NAME: &str = "loadtest contend";

/// The result, in the keys that loadtest/README.md documents.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Contention {
    /// The item, before the first update.
    item: RecordedItem,
    /// Updates of each race.
    updates: u32,
    /// How many of them made a round, and began at once.
    concurrency: u32,
    retry: RetryPolicy,
    postgresql: String,
    with_jitter: Figures,
    without_jitter: Figures,
    /// What did not come out as it must, for people.
    broken: Vec<String>,
    passed: bool,
}

/// What came of a race.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Figures {
    successes: u64,
    /// Updates whose attempts were used up. A worker would decide under a row lock now.
    given_up: u64,
    /// How far the item's version moved.
    version_increments: i64,
    /// Those that are not of this race.
    increments_of_others: i64,
    attempts: u64,
    /// Attempts that found the version moved.
    conflicts: u64,
    /// How many updates took so many attempts.
    attempts_histogram: BTreeMap<u64, u64>,
    slept: SleptReport,
    /// From the moment when everybody began to the end of the last update.
    seconds: f64,
    /// Successes by seconds.
    updates_per_second: f64,
}

/// The waits between attempts, as they really were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct SleptReport {
    waits: u64,
    sum_ms: f64,
    median_ms: f64,
    max_ms: f64,
}

/// Races, and prints; returns whether every success is an increment of its own.
pub(crate) async fn execute(options: &ContendOptions) -> Result<bool, Failure> {
    output::assert_writable(options.json.as_deref(), None)?;
    let progress = Progress::new();
    let contention = match options.database_url.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => or_interrupted(contend(url, true, options, &progress)).await,
        None => with_private_postgres(&progress, async |url| contend(&url, false, options, &progress).await).await,
    };
    progress.clear();
    let contention = contention?;
    output::write(&contention, options.json.as_deref(), || table::render(&contention, Style::of_stdout()))?;
    Ok(contention.passed)
}

/// Races for an item that is there, and that others may update meanwhile; or for a new one, in a database of its own.
async fn contend(
    url: &str,
    is_shared: bool,
    options: &ContendOptions,
    progress: &Progress,
) -> Result<Contention, Failure> {
    let store = StoreOptions { database_url: url.to_owned(), database_connections_max: options.concurrency };
    let pool = match is_shared {
        true => db::open_as_it_is(&store, NAME).await?,
        false => db::open(&store, NAME, START_SECONDS_MAX, Migrate::Auto).await?,
    };
    if !is_shared {
        let item = ItemOnSale { id: options.item.clone(), stock: STOCK };
        database_state::put_on_sale(&pool, &[item], None).await?;
    }
    let postgresql = database_state::server_version(&pool).await?;
    let before = item(&pool, &options.item).await?;
    let mut broken = Vec::new();
    let mut race = async |name: &'static str, waits: fn(&RetryPolicy) -> Waits| {
        progress.stage(format!("updating: {name}"));
        let before = item(&pool, &options.item).await?.version;
        let (updates, took) = race::run(&pool, options, waits).await?;
        let versions = (before, item(&pool, &options.item).await?.version);
        let figures = Figures::of(&updates, versions, took);
        broken.extend(lost(&updates, versions, is_shared).map(|lost| format!("{name}: {lost}")));
        Ok::<_, Failure>(figures)
    };
    // Everything is slow when it is done for the first time.
    race("warming up", RetryPolicy::waits).await?;
    let with_jitter = race("with jitter", RetryPolicy::waits).await?;
    let without_jitter = race("without jitter", RetryPolicy::waits_without_jitter).await?;
    pool.close().await;
    let ContendOptions { updates, concurrency, retry, .. } = *options;
    let passed = broken.is_empty();
    Ok(Contention {
        item: before,
        updates,
        concurrency,
        retry,
        postgresql,
        with_jitter,
        without_jitter,
        broken,
        passed,
    })
}

async fn item(pool: &PgPool, id: &str) -> Result<RecordedItem, Failure> {
    let mut connection = pool.acquire().await?;
    let found = database_state::read_items(&mut connection, &[id.to_owned()]).await?;
    found.into_iter().next().ok_or_else(|| {
        Failure::Configuration(anyhow!(
            "there is no item {id} in this database; `admin items` lists what there is, `admin create {id} --stock 1` makes \
             it, and without DATABASE_URL a private server is started, with the item on it"
        ))
    })
}

impl Figures {
    /// `versions` are the item's, before the race and after it.
    fn of(updates: &[Update], (before, after): (i64, i64), took: Duration) -> Self {
        let successes = updates.iter().filter(|update| update.wrote.is_some()).count() as u64;
        let mut attempts_histogram = BTreeMap::new();
        for update in updates {
            *attempts_histogram.entry(update.slept.len() as u64 + 1).or_default() += 1;
        }
        let attempts = attempts_histogram.iter().map(|(attempts, updates): (&u64, &u64)| attempts * updates).sum();
        let seconds = took.as_secs_f64();
        Self {
            successes,
            given_up: updates.len() as u64 - successes,
            version_increments: after - before,
            increments_of_others: after - before - i64::try_from(successes).unwrap_or(i64::MAX),
            attempts,
            conflicts: attempts - successes,
            attempts_histogram,
            slept: SleptReport::of(updates),
            seconds: round(seconds, 1e6),
            updates_per_second: if seconds > 0.0 { round(number(successes) / seconds, 1e1) } else { 0.0 },
        }
    }
}

impl SleptReport {
    fn of(updates: &[Update]) -> Self {
        let slept = updates.iter().flat_map(|update| &update.slept);
        let ms: Vec<f64> = slept.map(|time| time.as_secs_f64() * 1e3).collect();
        Self {
            waits: ms.len() as u64,
            sum_ms: round(ms.iter().sum(), 1e2),
            median_ms: round(median(&ms), 1e2),
            max_ms: round(ms.iter().copied().fold(0.0, f64::max), 1e2),
        }
    }
}

/// What does not hold, for people: each success wrote a version of its own, and the row moved by as many; on an item that
/// others update too, by as many at least.
fn lost(updates: &[Update], (before, after): (i64, i64), is_shared: bool) -> Option<String> {
    let successes = updates.iter().filter(|update| update.wrote.is_some()).count();
    let written = updates.iter().filter_map(|update| update.wrote);
    let own = written.filter(|version| (before + 1..=after).contains(version)).collect::<HashSet<_>>().len();
    let moved = usize::try_from(after - before).unwrap_or(0);
    (own < successes || (moved > own && !is_shared)).then(|| {
        format!(
            "{successes} updates succeeded, of which {own} wrote a version of their own; the version moved by {moved}"
        )
    })
}

#[cfg(test)]
mod tests;
