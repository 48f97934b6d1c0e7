//! What a purchase costs: growing sales on the same servers, and what broker, workers and database spent on each; then the
//! same sale on empty and on full tables. Every sale is audited, and whatever it broke is in the result.

mod figures;
mod history;

use super::measure::{self, Counted, ServerPids};
use crate::audit::Invariant;
use crate::cli::CostOptions;
use crate::database::at_once;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::result::ServersReport;
use crate::run::{Sale, versions};
use crate::schedule::Scenario;
use crate::servers::{Endpoints, Needs, not_started, or_interrupted, with_servers};
use crate::stats::{median, round};
use crate::strategy::Strategy;
use crate::workers::WorkerSpec;
use crate::{output, programs};
use anyhow::anyhow;
use figures::{Figures, Taken};
use serde::Serialize;
use shared::devstack::Servers;
use shared::table::Style;
use std::path::Path;

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
struct Cost {
    servers: ServersReport,
    /// Cores of this machine that this program may use: workers, buyers and private servers share them.
    cores: usize,
    workers: u32,
    /// `null` leaves the worker its own.
    batch_max: Option<u32>,
    seed: u64,
    /// Growing sales, on the same servers and tables, in the order in which they were run.
    steps: Vec<Step>,
    /// Empty tables against full ones; `null` where none were filled.
    age: Option<Age>,
    /// Promises that a sale did not keep; a cost without them would be none.
    broken: Vec<String>,
    passed: bool,
}

/// Sales of one size.
#[derive(Debug, Clone, Serialize)]
struct Step {
    buyers: u32,
    items: u32,
    /// The most that went in one.
    requests_per_message: u32,
    /// How many of them were run: small ones are repeated.
    sales: usize,
    /// Verdicts that were on record before the first of them.
    verdicts_before: i64,
    #[serde(flatten)]
    figures: Figures,
}

/// What the age of the tables costs.
#[derive(Debug, Clone, Serialize)]
struct Age {
    /// Old verdicts in the full tables, and the items that they are about.
    verdicts: u32,
    items: u32,
    comparisons: Vec<Comparison>,
}

/// The same sale on empty and on full tables, in turns.
#[derive(Debug, Clone, Serialize)]
struct Comparison {
    buyers: u32,
    items: u32,
    requests_per_message: u32,
    empty_purchases_per_second: Vec<f64>,
    /// Each after the one on empty tables in the same place.
    full_purchases_per_second: Vec<f64>,
    /// Full by empty: the median of the pairs' ratios.
    ratio: f64,
    /// What a purchase costs broker, workers and database together on empty tables, by what it costs on full ones: on a
    /// busy machine the sturdier of the two ratios. `null` where a process could not be measured.
    cpu_ratio: Option<f64>,
    empty: Figures,
    full: Figures,
}

/// Measures and prints; returns whether every promise was kept.
pub(crate) async fn execute(options: &CostOptions) -> Result<bool, Failure> {
    output::assert_writable(options.bench.json.as_deref(), None)?;
    let program = or_interrupted(programs::worker(options.bench.worker_program.as_deref())).await?;
    let progress = Progress::new();
    let cost = with_servers(&options.bench.urls, Needs::PLAIN, &progress, async |endpoints, servers| {
        measure_all(endpoints, servers.as_deref(), options, (&program, &progress)).await
    });
    let cost = cost.await?;
    output::write(&cost, options.bench.json.as_deref(), || figures::render(&cost, Style::of_stdout()))?;
    Ok(cost.passed)
}

/// Growing sales; on private servers then the same sale in their tables, emptied before, and in full ones, in turns. Servers
/// that others may use are left as they were but for the sales.
async fn measure_all(
    endpoints: &Endpoints,
    servers: Option<&Servers>,
    options: &CostOptions,
    (program, progress): (&Path, &Progress),
) -> Result<Cost, Failure> {
    let pids = match servers {
        Some(servers) => ServerPids { broker: Some(servers.rabbitmq.pid()), database: Some(servers.postgres.pid()) },
        None if options.verdicts_before.is_some_and(|verdicts| verdicts > 0) => {
            let text = "--verdicts-before fills and empties tables, which is done on private servers only: \
                        leave it out, or unset AMQP_URL and DATABASE_URL";
            return Err(Failure::Configuration(anyhow!(text)));
        }
        None => ServerPids { broker: options.broker_pid, database: options.database_pid },
    };
    let mut bench = Bench { options, program, progress, pids, idle: Counted::default(), broken: Vec::new() };
    bench.sale(endpoints, options.scenario(WARM_UP_BUYERS, 1, 1), "warming up").await?;
    bench.idle = measure::idle(endpoints, &bench.workers()).await?;
    let steps = bench.steps(endpoints).await?;
    let age = match servers.zip(options.fill()) {
        Some((servers, verdicts)) => Some(bench.age(endpoints, servers, verdicts).await?),
        None => None,
    };
    Ok(Cost {
        servers: versions(endpoints, Some(Strategy::default())).await?,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        workers: options.workers,
        batch_max: options.batch_max,
        seed: options.bench.seed,
        steps,
        age,
        passed: bench.broken.is_empty(),
        broken: bench.broken,
    })
}

/// How sales are measured, and what their audits found.
struct Bench<'a> {
    options: &'a CostOptions,
    program: &'a Path,
    progress: &'a Progress,
    pids: ServerPids,
    idle: Counted,
    broken: Vec<String>,
}

impl Bench<'_> {
    async fn steps(&mut self, endpoints: &Endpoints) -> Result<Vec<Step>, Failure> {
        const COUNT_VERDICTS: &str = "SELECT count(*) FROM verdicts";
        let mut steps = Vec::new();
        for scenario in self.options.scenarios() {
            let verdicts_before = at_once(&endpoints.database_url, async |connection| {
                Ok(sqlx::query_scalar(COUNT_VERDICTS).fetch_one(connection).await?)
            });
            let verdicts_before = verdicts_before.await?;
            let Scenario { buyers, items, requests_per_message, .. } = scenario;
            let what = format!("{buyers} buyers, {items} items, {requests_per_message} a message");
            let mut sales = Vec::new();
            for _ in 0..STEP_PURCHASES_MIN.div_ceil(buyers).min(STEP_SALES_MAX) {
                sales.push(self.sale(endpoints, scenario.clone(), &what).await?);
            }
            let (figures, sales) = (Figures::of(&sales), sales.len());
            tracing::info!(what, ?figures, "measured");
            steps.push(Step { buyers, items, requests_per_message, sales, verdicts_before, figures });
        }
        Ok(steps)
    }

    /// The same sales on empty and on full tables.
    async fn age(&mut self, empty: &Endpoints, servers: &Servers, verdicts: u32) -> Result<Age, Failure> {
        let (postgres, items) = (&servers.postgres, self.options.items_before);
        postgres.create_database(DATABASE_AGED).await.map_err(not_started)?;
        let full = Endpoints { database_url: postgres.url(DATABASE_AGED), ..empty.clone() };
        history::load(&full.database_url, verdicts, items, self.progress).await?;
        let mut comparisons = Vec::new();
        for items in &self.options.items {
            comparisons.push(self.compare(empty, &full, *items).await?);
        }
        Ok(Age { verdicts, items, comparisons })
    }

    /// In turns, so that whatever comes and goes on the machine touches both.
    async fn compare(&mut self, empty: &Endpoints, full: &Endpoints, items: u32) -> Result<Comparison, Failure> {
        let buyers = self.options.buyers.iter().copied().max().unwrap_or(AGE_BUYERS_MAX).min(AGE_BUYERS_MAX);
        let requests_per_message = self.options.requests_per_message.iter().copied().max().unwrap_or(1);
        let scenario = self.options.scenario(buyers, items, requests_per_message);
        let repetitions = self.options.bench.repetitions;
        let (mut on_empty, mut on_full) = (Vec::new(), Vec::new());
        for number in 1..=repetitions {
            let what = |tables| format!("{tables} tables, {items} items, {number} of {repetitions}");
            history::empty(&empty.database_url).await?;
            on_empty.push(self.sale(empty, scenario.clone(), &what("empty")).await?);
            on_full.push(self.sale(full, scenario.clone(), &what("full")).await?);
        }
        let paces = |sales: &[Taken]| -> Vec<f64> { sales.iter().map(|sale| sale.purchases_per_second).collect() };
        let (empty, full) = (Figures::of(&on_empty), Figures::of(&on_full));
        let (empty_paces, full_paces) = (paces(&on_empty), paces(&on_full));
        Ok(Comparison {
            buyers,
            items,
            requests_per_message,
            ratio: ratio_of_pairs(&full_paces, &empty_paces),
            empty_purchases_per_second: empty_paces,
            full_purchases_per_second: full_paces,
            cpu_ratio: empty.cpu_ratio(&full),
            empty,
            full,
        })
    }

    /// Runs one sale and notes what its audit found.
    async fn sale(&mut self, endpoints: &Endpoints, scenario: Scenario, what: &str) -> Result<Taken, Failure> {
        // Who wrote a row is on it, so rows of one commit are known by it.
        const COUNT_BATCHES: &str =
            "SELECT count(DISTINCT xmin::text) FROM verdicts WHERE item IN (SELECT UNNEST($1::text[]))";
        let purchases = scenario.buyers;
        let sale = Sale::of(scenario, self.workers(), self.options.bench.timeout());
        let measured = measure::sale(endpoints, sale, self.pids, (self.progress, what)).await?;
        let batches = at_once(&endpoints.database_url, async |connection| {
            let counting = sqlx::query_scalar(COUNT_BATCHES).bind(&measured.items);
            Ok(counting.fetch_one(connection).await?)
        });
        let batches = batches.await?;
        let outcome = measured.outcome;
        self.broken.extend(outcome.audit.broken().map(Invariant::to_string));
        Ok(Taken {
            purchases,
            purchases_per_second: outcome.timing.purchases_per_second,
            cpu: measured.cpu,
            batches,
            counted: measured.counted.unwrap_or_default() - self.idle,
            queue_depth_peak: outcome.queue_depth_peak,
            workers_rss_mib: outcome.workers.iter().map(|worker| worker.rss_mib).sum(),
        })
    }

    fn workers(&self) -> WorkerSpec {
        WorkerSpec::purchase(self.program.to_owned(), self.options.workers, self.options.batch_max)
    }
}

/// The median of the ratios of each pair: of two sales, one right after the other, the machine was busy with both, or with
/// neither, more often than not. A sale without a verdict has no pace, and is no pair; 0 where there is none.
fn ratio_of_pairs(paces: &[f64], by: &[f64]) -> f64 {
    let pairs = paces.iter().zip(by).filter(|(_, by)| **by > 0.0);
    round(median(&pairs.map(|(pace, by)| pace / by).collect::<Vec<_>>()), 1e3)
}

#[cfg(test)]
mod tests {
    use super::ratio_of_pairs;

    #[test]
    fn a_ratio_is_that_of_neighbours_so_that_a_busy_machine_is_not_in_it() {
        assert_eq!(ratio_of_pairs(&[95.0, 45.0, 96.0], &[100.0, 50.0, 100.0]), 0.95);
        assert_eq!((ratio_of_pairs(&[1.0, 3.0], &[0.0, 6.0]), ratio_of_pairs(&[], &[])), (0.5, 0.0));
    }
}
