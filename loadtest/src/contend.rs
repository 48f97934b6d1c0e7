//! Contention to be looked at: many version-checked updates of one item at once, with the product's own retry, twice: its
//! waits drawn at random, and the same waits without the draw.
//!
//! A `race` runs the updates; `figures` counts them and holds them against the item's row; the result is printed by
//! `table`. An update moves no stock, only the version, so a sale that goes on beside it only tries again once more often.
//! Invariant: whatever update is counted as a success is an increment of the version that is no other's.

mod figures;
mod race;
mod table;

use anyhow::anyhow;
use serde::Serialize;
use shared::config::StoreOptions;
use shared::db;
use sqlx::PgPool;

use crate::audit::database_state::{self, RecordedItem};
use crate::failure::Failure;
use crate::options::ContendOptions;
use crate::progress::Progress;
use crate::sale::{database_failed, open_database};
use crate::scenario::ItemOnSale;
use figures::Race;
pub use figures::{Figures, SleptReport};
pub(crate) use table::render;

/// Units of the item that is made on private servers; nothing is sold of it.
const STOCK: u64 = 1_000;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contention {
    /// The item, before the first update.
    pub item: RecordedItem,
    /// Updates of each race.
    pub updates: u32,
    /// How many of them made a round, and began at once.
    pub concurrency: u32,
    /// How their attempts were spaced.
    pub retry: RetryReport,
    /// The database's version.
    pub postgresql: String,
    /// The race in which each wait was drawn from zero to its ceiling.
    pub with_jitter: Figures,
    /// The race in which each wait was its ceiling.
    pub without_jitter: Figures,
    /// What did not come out as it must, for people.
    pub broken: Vec<String>,
    /// Whether nothing is broken.
    pub passed: bool,
}

/// How attempts are spaced; see [`shared::retry::RetryPolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RetryReport {
    /// The longest first wait.
    pub wait_ms: u64,
    /// What it is multiplied by each time.
    pub factor: f64,
    /// The longest wait of all.
    pub wait_ms_max: u64,
    /// Attempts in all.
    pub attempts_max: u32,
}

/// Races for an item that is there.
///
/// # Errors
/// The database is away or has no schema of ours, or there is no such item.
pub(crate) async fn of_given(url: &str, options: &ContendOptions, progress: &Progress) -> Result<Contention, Failure> {
    let store = StoreOptions { database_url: url.to_owned(), database_connections_max: 1 };
    let database = db::open_as_it_is(&store, "turnstile-loadtest").await?;
    contend(url, &database, options, progress, true).await
}

/// Makes the item, and races for it.
///
/// # Errors
/// The database is away.
pub(crate) async fn of_private(
    url: &str,
    options: &ContendOptions,
    progress: &Progress,
) -> Result<Contention, Failure> {
    let database = open_database(url).await?;
    let item = ItemOnSale { id: options.item.clone(), stock: STOCK };
    database_state::put_on_sale(&database, &[item], None).await.map_err(database_failed)?;
    contend(url, &database, options, progress, false).await
}

/// `is_shared`: whether others may update the item meanwhile.
async fn contend(
    url: &str,
    database: &PgPool,
    options: &ContendOptions,
    progress: &Progress,
    is_shared: bool,
) -> Result<Contention, Failure> {
    let postgresql = database_state::server_version(database).await.map_err(database_failed)?;
    let before = item(database, &options.item).await?;
    let race = async |what: &'static str, jitter| {
        progress.stage(what);
        let before = item(database, &options.item).await?.version;
        let run = race::run(url, options, jitter).await?;
        let after = item(database, &options.item).await?.version;
        Ok::<_, Failure>(Race { run, before, after, is_shared })
    };
    // Everything is slow when it is done for the first time.
    race("warming up", race::Jitter::Full).await?;
    let with_jitter = race("updating, with jitter", race::Jitter::Full).await?;
    let without_jitter = race("updating, without jitter", race::Jitter::None).await?;
    let broken: Vec<String> = [("with jitter", &with_jitter), ("without jitter", &without_jitter)]
        .into_iter()
        .flat_map(|(name, race)| race.broken().into_iter().map(move |broken| format!("{name}: {broken}")))
        .collect();
    let shared::retry::RetryPolicy { wait_ms, factor, wait_ms_max, attempts_max } = options.retry;
    Ok(Contention {
        item: before,
        updates: options.updates,
        concurrency: options.concurrency,
        retry: RetryReport { wait_ms, factor, wait_ms_max, attempts_max },
        postgresql,
        with_jitter: with_jitter.figures(),
        without_jitter: without_jitter.figures(),
        passed: broken.is_empty(),
        broken,
    })
}

async fn item(database: &PgPool, id: &str) -> Result<RecordedItem, Failure> {
    let mut connection = database.acquire().await.map_err(database_failed)?;
    let found = database_state::read_items(&mut connection, &[id.to_owned()]).await.map_err(database_failed)?;
    found.into_iter().next().ok_or_else(|| {
        Failure::Configuration(anyhow!(
            "there is no item {id} in this database; `admin items` lists what there is, `admin create {id} --stock 1` makes \
             it, and without DATABASE_URL a private server is started, with the item on it"
        ))
    })
}
