//! What a purchase costs: growing sales on the same servers, and what broker, workers and database spent on each; then the
//! same sale on empty and on full tables.
//!
//! Every sale is audited, and whatever a sale broke is in the result.

mod figures;
mod history;
mod table;

use std::path::Path;

use anyhow::anyhow;
use serde::Serialize;
use shared::devstack::Servers;
use shared::table::Style;

use super::measure::{self, Counted, ServerPids};
use crate::cli::{CostOptions, VERDICTS_BEFORE_DEFAULT};
use crate::database::{self, at_once};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::result::ServersReport;
use crate::run::Sale;
use crate::servers::{Endpoints, Needs, not_started, or_interrupted, with_servers};
use crate::workers::WorkerSpec;
use crate::{output, programs};
pub use figures::{CpuFigures, Figures};
use figures::{Taken, ratio_of_pairs};
pub use table::render;

/// The database whose tables are filled before the first sale on them.
const DATABASE_AGED: &str = "aged";
/// Buyers of the sale that is not measured: everything is slow when it is done for the first time.
const WARM_UP_BUYERS: u32 = 1_000;
/// CPU time comes in hundredths of a second, so that a small sale says little: it is repeated for as many purchases ...
const STEP_PURCHASES_MIN: u32 = 10_000;
/// ... but no more often than this.
const STEP_SALES_MAX: u32 = 5;
/// The largest sale on empty and full tables: it is run many times.
const AGE_BUYERS_MAX: u32 = 50_000;

/// The result, in the keys that loadtest/README.md documents.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    pub servers: ServersReport,
    /// Cores of this machine that this program may use: workers, buyers and private servers share them.
    pub cores: usize,
    pub workers: u32,
    /// `null` leaves the worker its own.
    pub batch_max: Option<u32>,
    pub seed: u64,
    /// Growing sales, on the same servers and tables, in the order in which they were run.
    pub steps: Vec<Step>,
    /// Empty tables against full ones; `null` where none were filled.
    pub age: Option<Age>,
    /// Promises that a sale did not keep; a cost without them would be none.
    pub broken: Vec<String>,
    pub passed: bool,
}

/// Sales of one size.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub buyers: u32,
    pub items: u32,
    /// How many of them were run: small ones are repeated.
    pub sales: usize,
    /// Verdicts that were on record before the first of them.
    pub verdicts_before: i64,
    #[serde(flatten)]
    pub figures: Figures,
}

/// What the age of the tables costs.
#[derive(Debug, Clone, Serialize)]
pub struct Age {
    /// Old verdicts in the full tables.
    pub verdicts: u32,
    /// Items that they are about.
    pub items: u32,
    pub comparisons: Vec<Comparison>,
}

/// The same sale on empty and on full tables, in turns.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    pub buyers: u32,
    pub items: u32,
    pub empty_purchases_per_second: Vec<f64>,
    /// Each after the one on empty tables in the same place.
    pub full_purchases_per_second: Vec<f64>,
    /// Full by empty: the median of the pairs' ratios.
    pub ratio: f64,
    /// What a purchase costs broker, workers and database together on empty tables, by what it costs on full ones: on a
    /// busy machine the sturdier of the two ratios. `null` where a process could not be measured.
    pub cpu_ratio: Option<f64>,
    pub empty: Figures,
    pub full: Figures,
}

/// Measures and prints; returns whether every promise was kept.
pub(crate) async fn execute(options: &CostOptions) -> Result<bool, Failure> {
    let program = or_interrupted(programs::worker(options.bench.worker_program.as_deref())).await?;
    let progress = Progress::new();
    let cost = with_servers(&options.bench.urls, Needs::PLAIN, &progress, async |endpoints, servers| match servers {
        None => of_given(endpoints, options, &program, &progress).await,
        Some(servers) => of_private(endpoints, servers, options, &program, &progress).await,
    });
    let cost = cost.await?;
    output::write(&cost, options.bench.json.as_deref(), || render(&cost, Style::of_stdout()))?;
    Ok(cost.passed)
}

/// On servers that others may use, which are left as they were but for the sales.
async fn of_given(
    endpoints: &Endpoints,
    options: &CostOptions,
    program: &Path,
    progress: &Progress,
) -> Result<Cost, Failure> {
    if options.verdicts_before.is_some_and(|verdicts| verdicts > 0) {
        return Err(Failure::Configuration(anyhow!(
            "--verdicts-before fills and empties tables, which is done on private servers only: \
             leave it out, or unset AMQP_URL and DATABASE_URL"
        )));
    }
    let pids = ServerPids { broker: options.broker_pid, database: options.database_pid };
    let mut bench = Bench::warmed_up(endpoints, options, program, progress, pids).await?;
    let steps = bench.steps(endpoints).await?;
    bench.cost(steps, None)
}

/// Growing sales in one database of private servers, then the same sale there, emptied before, and in a full one, in turns.
async fn of_private(
    empty: &Endpoints,
    servers: &Servers,
    options: &CostOptions,
    program: &Path,
    progress: &Progress,
) -> Result<Cost, Failure> {
    let pids = ServerPids { broker: Some(servers.rabbitmq.pid()), database: Some(servers.postgres.pid()) };
    let mut bench = Bench::warmed_up(empty, options, program, progress, pids).await?;
    let steps = bench.steps(empty).await?;
    let (verdicts, items) = (options.verdicts_before.unwrap_or(VERDICTS_BEFORE_DEFAULT), options.items_before);
    if verdicts == 0 {
        return bench.cost(steps, None);
    }
    servers.postgres.create_database(DATABASE_AGED).await.map_err(not_started)?;
    let full = Endpoints { database_url: servers.postgres.url(DATABASE_AGED), ..empty.clone() };
    history::load(&full.database_url, verdicts, items, progress).await?;
    let mut comparisons = Vec::new();
    for items in &options.items {
        comparisons.push(bench.compare(empty, &full, *items).await?);
    }
    bench.cost(steps, Some(Age { verdicts, items, comparisons }))
}

/// Where sales are measured, and what their audits found.
struct Bench<'a> {
    options: &'a CostOptions,
    program: &'a Path,
    progress: &'a Progress,
    pids: ServerPids,
    idle: Counted,
    servers: Option<ServersReport>,
    broken: Vec<String>,
}

impl<'a> Bench<'a> {
    async fn warmed_up(
        endpoints: &Endpoints,
        options: &'a CostOptions,
        program: &'a Path,
        progress: &'a Progress,
        pids: ServerPids,
    ) -> Result<Self, Failure> {
        let idle = Counted::default();
        let mut bench = Self { options, program, progress, pids, idle, servers: None, broken: Vec::new() };
        bench.sale(endpoints, WARM_UP_BUYERS, 1, "warming up").await?;
        bench.idle = measure::idle(endpoints, &bench.workers()).await?;
        Ok(bench)
    }

    async fn steps(&mut self, endpoints: &Endpoints) -> Result<Vec<Step>, Failure> {
        let mut steps = Vec::new();
        for &items in &self.options.items {
            for &buyers in &self.options.buyers {
                let verdicts_before = verdicts(&endpoints.database_url).await?;
                let repetitions = STEP_PURCHASES_MIN.div_ceil(buyers).min(STEP_SALES_MAX);
                let mut sales = Vec::new();
                for _ in 0..repetitions {
                    sales.push(self.sale(endpoints, buyers, items, &format!("{buyers} buyers, {items} items")).await?);
                }
                let figures = Figures::of(&sales);
                tracing::info!(buyers, items, ?figures, "measured");
                steps.push(Step { buyers, items, sales: sales.len(), verdicts_before, figures });
            }
        }
        Ok(steps)
    }

    /// The same sale on empty and on full tables in turns, so that whatever comes and goes on the machine touches both.
    async fn compare(&mut self, empty: &Endpoints, full: &Endpoints, items: u32) -> Result<Comparison, Failure> {
        let buyers = self.options.buyers.iter().copied().max().unwrap_or(AGE_BUYERS_MAX).min(AGE_BUYERS_MAX);
        let (mut on_empty, mut on_full) = (Vec::new(), Vec::new());
        for number in 1..=self.options.bench.repetitions {
            let what =
                |tables| format!("{tables} tables, {items} items, {number} of {}", self.options.bench.repetitions);
            let (what_empty, what_full) = (what("empty"), what("full"));
            history::empty(&empty.database_url).await?;
            on_empty.push(self.sale(empty, buyers, items, &what_empty).await?);
            on_full.push(self.sale(full, buyers, items, &what_full).await?);
        }
        let paces = |sales: &[Taken]| -> Vec<f64> { sales.iter().map(|sale| sale.purchases_per_second).collect() };
        let (empty, full) = (Figures::of(&on_empty), Figures::of(&on_full));
        let (empty_paces, full_paces) = (paces(&on_empty), paces(&on_full));
        Ok(Comparison {
            buyers,
            items,
            ratio: ratio_of_pairs(&full_paces, &empty_paces),
            empty_purchases_per_second: empty_paces,
            full_purchases_per_second: full_paces,
            cpu_ratio: empty.cpu_us_per_purchase.ratio(&full.cpu_us_per_purchase),
            empty,
            full,
        })
    }

    /// Runs one sale and notes what its audit found.
    async fn sale(&mut self, endpoints: &Endpoints, buyers: u32, items: u32, what: &str) -> Result<Taken, Failure> {
        let scenario = self.options.scenario(buyers, items);
        let sale = Sale::of(scenario, self.workers(), self.options.bench.timeout());
        let measured = measure::sale(endpoints, sale, self.pids, (self.progress, what)).await?;
        let batches = batches(&endpoints.database_url, &measured.items).await?;
        let (outcome, counted) = (measured.outcome, measured.counted.unwrap_or_default() - self.idle);
        let broken = outcome.invariants.iter().filter(|invariant| !invariant.holds);
        self.broken.extend(broken.map(|invariant| format!("{}: {}", invariant.name, invariant.detail)));
        self.servers = Some(outcome.servers);
        Ok(Taken {
            purchases: buyers,
            purchases_per_second: outcome.purchases_per_second,
            cpu: measured.cpu,
            batches,
            round_trips: counted.transactions,
            wal_bytes: counted.wal_bytes,
            queue_depth_peak: outcome.queue_depth_peak,
            workers_rss_mib: outcome.workers.iter().map(|worker| worker.rss_mib).sum(),
        })
    }

    fn workers(&self) -> WorkerSpec {
        WorkerSpec::purchase(self.program.to_owned(), self.options.workers, self.options.batch_max)
    }

    fn cost(self, steps: Vec<Step>, age: Option<Age>) -> Result<Cost, Failure> {
        let servers = self.servers.ok_or_else(|| Failure::Broken(anyhow!("no sale was asked for")))?;
        Ok(Cost {
            servers,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            workers: self.options.workers,
            batch_max: self.options.batch_max,
            seed: self.options.bench.seed,
            steps,
            age,
            passed: self.broken.is_empty(),
            broken: self.broken,
        })
    }
}

// Who wrote a row is on it, so rows of one commit are known by it.
const COUNT_BATCHES: &str = "SELECT count(DISTINCT xmin::text) FROM verdicts WHERE item IN (SELECT UNNEST($1::text[]))";

/// In how many transactions the verdicts on these items were committed.
async fn batches(database_url: &str, items: &[String]) -> Result<i64, Failure> {
    at_once(database_url, async |connection| {
        sqlx::query_scalar(COUNT_BATCHES).bind(items).fetch_one(connection).await.map_err(database::failed)
    })
    .await
}

const COUNT_VERDICTS: &str = "SELECT count(*) FROM verdicts";

/// How many verdicts are on record.
async fn verdicts(database_url: &str) -> Result<i64, Failure> {
    at_once(database_url, async |connection| {
        sqlx::query_scalar(COUNT_VERDICTS).fetch_one(connection).await.map_err(database::failed)
    })
    .await
}
