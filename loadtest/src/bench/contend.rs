//! What conflicts cost: many version-checked updates of one item at once, with the product's own retry, twice: its waits
//! drawn at random, and the same waits without the draw.
//!
//! An update moves no stock, only the version, so a sale that goes on beside it only tries again once more often. Whatever
//! is counted as a success is an increment of the version that is no other's.

mod race;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::anyhow;
use serde::Serialize;
use shared::config::StoreOptions;
use shared::db;
use shared::retry::{RetryPolicy, Waits};
use shared::table::Style;
use sqlx::PgPool;

use crate::audit::database_state::{self, RecordedItem};
use crate::cli::ContendOptions;
use crate::database;
use crate::failure::Failure;
use crate::output;
use crate::progress::Progress;
use crate::schedule::ItemOnSale;
use crate::servers::{or_interrupted, with_private_postgres};
use crate::stats::round;
use race::Run;
pub(crate) use table::render;

/// Units of the item that is made on private servers; nothing is sold of it.
const STOCK: u64 = 1_000;

/// The result, in the keys that loadtest/README.md documents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contention {
    /// The item, before the first update.
    pub item: RecordedItem,
    /// Updates of each race.
    pub updates: u32,
    /// How many of them made a round, and began at once.
    pub concurrency: u32,
    pub retry: RetryPolicy,
    pub postgresql: String,
    pub with_jitter: Figures,
    pub without_jitter: Figures,
    /// What did not come out as it must, for people.
    pub broken: Vec<String>,
    pub passed: bool,
}

/// What came of a race.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    pub successes: u64,
    /// Updates whose attempts were used up. A worker would decide under a row lock now.
    pub given_up: u64,
    /// How far the item's version moved.
    pub version_increments: i64,
    /// Those that are not of this race.
    pub increments_of_others: i64,
    pub attempts: u64,
    /// Attempts that found the version moved.
    pub conflicts: u64,
    /// How many updates took so many attempts.
    pub attempts_histogram: BTreeMap<u32, u64>,
    /// The waits between attempts, as they really were.
    pub slept: SleptReport,
    /// From the moment when everybody began to the end of the last update.
    pub seconds: f64,
    /// Successes by seconds.
    pub updates_per_second: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct SleptReport {
    pub waits: u64,
    pub sum_ms: f64,
    pub median_ms: f64,
    pub max_ms: f64,
}

/// Races, and prints; returns whether every success is an increment of its own.
pub(crate) async fn execute(options: &ContendOptions) -> Result<bool, Failure> {
    let progress = Progress::new();
    let contention = match options.database_url.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => or_interrupted(of_given(url, options, &progress)).await,
        None => with_private_postgres(&progress, async |url| of_private(&url, options, &progress).await).await,
    };
    progress.clear();
    let contention = contention?;
    output::write(&contention, options.json.as_deref(), || render(&contention, Style::of_stdout()))?;
    Ok(contention.passed)
}

/// Races for an item that is there, and that others may update meanwhile.
async fn of_given(url: &str, options: &ContendOptions, progress: &Progress) -> Result<Contention, Failure> {
    let store = StoreOptions { database_url: url.to_owned(), database_connections_max: 1 };
    let pool = db::open_as_it_is(&store, "turnstile-loadtest").await?;
    contend(url, &pool, options, progress, true).await
}

/// Makes the item, and races for it.
async fn of_private(url: &str, options: &ContendOptions, progress: &Progress) -> Result<Contention, Failure> {
    let pool = database::open(url).await?;
    let item = ItemOnSale { id: options.item.clone(), stock: STOCK };
    database_state::put_on_sale(&pool, &[item], None).await.map_err(database::failed)?;
    contend(url, &pool, options, progress, false).await
}

async fn contend(
    url: &str,
    pool: &PgPool,
    options: &ContendOptions,
    progress: &Progress,
    is_shared: bool,
) -> Result<Contention, Failure> {
    let postgresql = database_state::server_version(pool).await.map_err(database::failed)?;
    let before = item(pool, &options.item).await?;
    let race = async |what: &'static str, waits: fn(&RetryPolicy) -> Waits| {
        progress.stage(what);
        let before = item(pool, &options.item).await?.version;
        let run = race::run(url, options, waits).await?;
        let after = item(pool, &options.item).await?.version;
        Ok::<_, Failure>(Race { run, before, after, is_shared })
    };
    // Everything is slow when it is done for the first time.
    race("warming up", RetryPolicy::waits).await?;
    let with_jitter = race("updating, with jitter", RetryPolicy::waits).await?;
    let without_jitter = race("updating, without jitter", RetryPolicy::waits_without_jitter).await?;
    let named = |name, race: &Race| race.broken().into_iter().map(move |broken| format!("{name}: {broken}"));
    let broken: Vec<String> =
        named("with jitter", &with_jitter).chain(named("without jitter", &without_jitter)).collect();
    Ok(Contention {
        item: before,
        updates: options.updates,
        concurrency: options.concurrency,
        retry: options.retry,
        postgresql,
        with_jitter: with_jitter.figures(),
        without_jitter: without_jitter.figures(),
        passed: broken.is_empty(),
        broken,
    })
}

async fn item(pool: &PgPool, id: &str) -> Result<RecordedItem, Failure> {
    let mut connection = pool.acquire().await.map_err(database::failed)?;
    let found = database_state::read_items(&mut connection, &[id.to_owned()]).await.map_err(database::failed)?;
    found.into_iter().next().ok_or_else(|| {
        Failure::Configuration(anyhow!(
            "there is no item {id} in this database; `admin items` lists what there is, `admin create {id} --stock 1` makes \
             it, and without DATABASE_URL a private server is started, with the item on it"
        ))
    })
}

/// A race, and the item's version around it.
struct Race {
    run: Run,
    before: i64,
    after: i64,
    /// Whether others may have updated the item meanwhile.
    is_shared: bool,
}

impl Race {
    /// The versions of those that succeeded.
    fn written(&self) -> Vec<i64> {
        self.run.updates.iter().filter_map(|update| update.wrote).collect()
    }

    fn figures(&self) -> Figures {
        let updates = &self.run.updates;
        let successes = self.written().len() as u64;
        let attempts: u64 = updates.iter().map(|update| u64::from(update.attempts)).sum();
        let mut attempts_histogram = BTreeMap::new();
        for update in updates {
            *attempts_histogram.entry(update.attempts).or_default() += 1;
        }
        let seconds = self.run.took.as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let per_second = if seconds > 0.0 { round(successes as f64 / seconds, 1e1) } else { 0.0 };
        Figures {
            successes,
            given_up: updates.len() as u64 - successes,
            version_increments: self.after - self.before,
            increments_of_others: self.increments_of_others(),
            attempts,
            conflicts: attempts - successes,
            attempts_histogram,
            slept: SleptReport::of(&self.run.slept),
            seconds: round(seconds, 1e6),
            updates_per_second: per_second,
        }
    }

    fn increments_of_others(&self) -> i64 {
        self.after - self.before - i64::try_from(self.written().len()).unwrap_or(i64::MAX)
    }

    /// What does not hold, for people: each success wrote a version that no other wrote, and the row moved by as many; on
    /// an item that others update too, by as many at least.
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let (written, versions) = (self.written(), self.written().into_iter().collect::<HashSet<_>>());
        if versions.len() < written.len() {
            let twice = written.len() - versions.len();
            broken.push(format!("{twice} updates wrote a version that another one wrote, too"));
        }
        if let Some(version) = written.iter().find(|version| !(self.before + 1..=self.after).contains(version)) {
            broken.push(format!("an update wrote version {version}, not between {} and {}", self.before, self.after));
        }
        let others = self.increments_of_others();
        if others < 0 || (others > 0 && !self.is_shared) {
            let moved = self.after - self.before;
            broken.push(format!("{} updates succeeded, and the version moved by {moved}", written.len()));
        }
        broken
    }
}

impl SleptReport {
    fn of(slept: &[Duration]) -> Self {
        let mut slept = slept.to_vec();
        slept.sort_unstable();
        let ms = |time: Duration| round(time.as_secs_f64() * 1e3, 1e2);
        let middle = slept.len().saturating_sub(1) / 2;
        Self {
            waits: slept.len() as u64,
            sum_ms: ms(slept.iter().sum()),
            median_ms: slept.get(middle).copied().map_or(0.0, ms),
            max_ms: slept.last().copied().map_or(0.0, ms),
        }
    }
}

#[cfg(test)]
mod tests;
