//! Ways to sell, side by side: each strategy in each form, and the HTTP servers that they replace, beside the ceiling.
//!
//! Every row is run once in each round, in turns: whatever comes and goes on the machine touches all of them. Every sale is
//! audited, and whatever a repetition broke is in the result.

mod notes;
mod plan;
mod row;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use serde::Serialize;
use serde_json::json;
use shared::table::Style;

use super::baseline::{self, Baseline, BaselineResult, BaselineStrategy};
use super::measure::{self, Counted, IDLE_REPETITIONS, ServerPids};
use super::turns;
use crate::cli::CompareOptions;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::queues::refuse_queues_in_use;
use crate::report::{self, ReportFile};
use crate::result::ServersReport;
use crate::run::{Sale, versions};
use crate::servers::{Endpoints, Needs, or_interrupted, with_servers};
use crate::stats::round;
use crate::strategy::Strategy;
use crate::summary::figures::plural;
use crate::workers::WorkerSpec;
use crate::{output, programs};
pub use plan::Form;
pub(crate) use plan::{Contender, rows};
pub use row::Row;
pub use table::render;

/// Buyers of the sale that is not measured: what is done for the first time is slow.
const WARM_UP_BUYERS: u32 = 1_000;
/// What the names of everybody's connections begin with, those of the HTTP server among them.
const BY_HTTP: [&str; 2] = ["turnstile-", "loadtest"];
/// Connections to the database that a worker keeps where fewer requests compete: its own default.
const CONNECTIONS: u32 = 4;

/// The result, in the keys that loadtest/README.md documents.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    pub scenario: ComparedScenario,
    pub servers: ServersReport,
    pub machine: Machine,
    /// By the number of buyers; of each number the ceiling comes first.
    pub rows: Vec<Row>,
    /// Promises that were not kept, each with the row that broke it; a pace without them would be none.
    pub broken: Vec<String>,
    /// Whether every promise was kept in every repetition of every row.
    pub passed: bool,
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComparedScenario {
    /// At once; each number is a comparison of its own.
    pub buyers: Vec<u32>,
    /// `null` is half as many as there are buyers, so that half of them are refused.
    pub stock: Option<u64>,
    pub items: u32,
    /// Worker processes of each sale on the queue.
    pub workers: u32,
    /// How often each row was run, in turns with all others.
    pub repetitions: u32,
    /// Requests that one worker has in flight in the competing form.
    pub in_flight: u32,
    /// How long the simulated payment takes, which is part of a request by HTTP.
    pub payment_ms: u64,
    pub seed: u64,
}

/// Compares and prints; returns whether every promise was kept.
pub(crate) async fn execute(options: &CompareOptions) -> Result<bool, Failure> {
    let page = ReportFile::open(options.report.as_deref())?;
    let program = or_interrupted(programs::worker(options.bench.worker_program.as_deref())).await?;
    let progress = Progress::new();
    let redis = options.needs_redis().then_some(&options.redis);
    let needs = Needs { redis, statements: true, ..Needs::PLAIN };
    let comparison = with_servers(&options.bench.urls, needs, &progress, async |endpoints, _servers| {
        compare(endpoints, options, &program, &progress).await
    });
    let comparison = comparison.await?;
    output::write(&comparison, options.bench.json.as_deref(), || render(&comparison, Style::of_stdout()))?;
    if let Some(page) = page {
        page.write(&page_of(&comparison)?)?;
    }
    Ok(comparison.passed)
}

/// The page with charts.
pub fn page_of(comparison: &Comparison) -> Result<String, Failure> {
    let notes = |&buyers: &u32| (buyers, notes::of(comparison, buyers));
    let notes: BTreeMap<u32, Vec<String>> = comparison.scenario.buyers.iter().map(notes).collect();
    report::page("Ways to sell, side by side", &json!({ "notes": notes }), comparison)
}

/// Runs every row that the options ask for, on servers that nobody else uses meanwhile.
async fn compare(
    endpoints: &Endpoints,
    options: &CompareOptions,
    program: &Path,
    progress: &Progress,
) -> Result<Comparison, Failure> {
    let contenders = rows(&options.sizes(), &options.forms(), &options.strategies());
    let decided_by = if options.needs_redis() { Strategy::Redis } else { Strategy::default() };
    let servers = versions(endpoints, Some(decided_by)).await?;
    let bench = Bench::warmed_up(endpoints, (options, program), &contenders, progress).await?;
    let mut repetitions: Vec<Vec<Row>> = vec![Vec::new(); contenders.len()];
    let mut broken = Vec::new();
    let turns = turns(contenders.len(), options.bench.repetitions);
    for (turn, (number, index)) in turns.iter().enumerate() {
        let contender = &contenders[*index];
        let name = format!("{}, {}", contender.name(), plural(contender.buyers.into(), "buyer"));
        let what = format!("{} of {}: {name}, repetition {number}", turn + 1, turns.len());
        let (row, row_broken) = bench.run(contender, &what).await?;
        tracing::info!(what, per_second = row.purchases_per_second, "run");
        broken.extend(row_broken.iter().map(|broken| format!("{name}, repetition {number}: {broken}")));
        repetitions[*index].push(row);
    }
    Ok(Comparison {
        scenario: scenario(options),
        servers,
        machine: Machine::here(),
        rows: with_ratios(repetitions.iter().map(|all| Row::median(all)).collect()),
        passed: broken.is_empty(),
        broken,
    })
}

fn scenario(options: &CompareOptions) -> ComparedScenario {
    ComparedScenario {
        buyers: options.sizes(),
        stock: options.stock,
        items: options.items,
        workers: options.workers,
        repetitions: options.bench.repetitions,
        in_flight: options.in_flight,
        payment_ms: options.payment_ms,
        seed: options.bench.seed,
    }
}

/// Each pace by the ceiling's with as many buyers.
fn with_ratios(mut rows: Vec<Row>) -> Vec<Row> {
    let is_ceiling = |row: &&Row| row.form == Form::Ceiling && row.purchases_per_second > 0.0;
    let ceilings: BTreeMap<u32, f64> =
        rows.iter().filter(is_ceiling).map(|row| (row.buyers, row.purchases_per_second)).collect();
    for row in rows.iter_mut().filter(|row| row.form != Form::Ceiling) {
        let ceiling = ceilings.get(&row.buyers);
        row.ratio = ceiling.map(|per_second| round(row.purchases_per_second / per_second, 1e4));
    }
    rows
}

/// Servers, programs, and what they do when nobody buys.
struct Bench<'a> {
    endpoints: &'a Endpoints,
    options: &'a CompareOptions,
    program: &'a Path,
    ourselves: PathBuf,
    progress: &'a Progress,
    /// What is counted although no buyer caused it, by HTTP or not, and by strategy. On the queue it is the same in every
    /// form, as connections are opened when they are first needed.
    idle: BTreeMap<(bool, Option<Strategy>), Counted>,
}

impl<'a> Bench<'a> {
    /// Runs a sale that is not measured, and finds what each way to sell causes without a buyer.
    async fn warmed_up(
        endpoints: &'a Endpoints,
        (options, program): (&'a CompareOptions, &'a Path),
        contenders: &[Contender],
        progress: &'a Progress,
    ) -> Result<Self, Failure> {
        let ourselves = programs::ourselves()?;
        let mut bench = Self { endpoints, options, program, ourselves, progress, idle: BTreeMap::new() };
        // Asked once: later on, what workers left there for each other (messages that mean nothing) looks like requests.
        refuse_queues_in_use(&endpoints.amqp_url).await?;
        for (form, strategy) in [(Form::Ceiling, None), (Form::Batched, Some(Strategy::default()))] {
            bench.sale(&Contender { buyers: WARM_UP_BUYERS, form, strategy }, "warming up").await?;
        }
        // Of the ceiling there is nothing to know: no database takes part.
        for contender in contenders.iter().filter(|contender| contender.form != Form::Ceiling) {
            if !bench.idle.contains_key(&contender.way()) {
                progress.stage(format!("measuring what nobody causes: {}", contender.name()));
                let idle = match contender.form {
                    Form::Http => bench.idle_by_http(contender).await?,
                    Form::Ceiling | Form::Batched | Form::OneByOne | Form::Competing => {
                        measure::idle(endpoints, &bench.workers(contender)).await?
                    }
                };
                bench.idle.insert(contender.way(), idle);
            }
        }
        Ok(bench)
    }

    /// Runs a row once; returns it with the promises that it broke.
    async fn run(&self, contender: &Contender, what: &str) -> Result<(Row, Vec<String>), Failure> {
        match contender.form {
            Form::Ceiling | Form::Batched | Form::OneByOne | Form::Competing => self.sale(contender, what).await,
            Form::Http => {
                self.progress.stage(what.to_owned());
                let (buyers, stock) = (contender.buyers, self.options.stock(contender.buyers));
                let (result, counted) = self.by_http(contender, buyers, stock).await?;
                Ok(Row::of_http(contender, &result, self.taken(contender, counted)))
            }
        }
    }

    async fn sale(&self, contender: &Contender, what: &str) -> Result<(Row, Vec<String>), Failure> {
        let scenario = self.options.scenario(contender.buyers);
        let sale = Sale::of(scenario, self.workers(contender), self.options.bench.timeout());
        let progress = (self.progress, what);
        let measured = measure::sale(self.endpoints, sale, ServerPids::default(), progress).await?;
        let counted = measured.counted.map(|counted| self.taken(contender, counted));
        Ok(Row::of_sale(contender, self.options.in_flight, &measured.outcome, counted))
    }

    async fn idle_by_http(&self, contender: &Contender) -> Result<Counted, Failure> {
        let mut idle = Vec::new();
        for _ in 0..IDLE_REPETITIONS {
            idle.push(self.by_http(contender, 0, 0).await?.1);
        }
        Ok(Counted::median(&idle))
    }

    async fn by_http(
        &self,
        contender: &Contender,
        buyers: u32,
        stock: u64,
    ) -> Result<(BaselineResult, Counted), Failure> {
        let Some(strategy) = contender.strategy.and_then(BaselineStrategy::of) else {
            return Err(Failure::Broken(anyhow!("by HTTP, {} is not there", contender.name())));
        };
        let url = &self.endpoints.database_url;
        let payment = Duration::from_millis(self.options.payment_ms);
        let baseline = Baseline { payment, ..Baseline::new(strategy, buyers, stock) };
        let before = Counted::read(url, &BY_HTTP).await?;
        let result = baseline::run(&self.ourselves, url, &baseline).await?;
        Ok((result, Counted::read(url, &BY_HTTP).await? - before))
    }

    fn taken(&self, contender: &Contender, counted: Counted) -> Counted {
        counted - self.idle.get(&contender.way()).copied().unwrap_or_default()
    }

    fn workers(&self, contender: &Contender) -> WorkerSpec {
        let workers = self.options.workers;
        let Some(strategy) = contender.strategy else {
            return WorkerSpec::ceiling(self.ourselves.clone(), workers, None);
        };
        // Both in every form, whatever our own environment says: one connection for each request that competes.
        let in_flight = contender.in_flight(self.options.in_flight).unwrap_or(1);
        let connections = in_flight.max(CONNECTIONS);
        let environment = vec![
            ("IN_FLIGHT".to_owned(), in_flight.to_string()),
            ("DATABASE_CONNECTIONS_MAX".to_owned(), connections.to_string()),
        ];
        let spec = WorkerSpec::purchase(self.program.to_owned(), workers, contender.batch_max());
        WorkerSpec { environment, strategy: Some(strategy), ..spec }
    }
}

#[cfg(test)]
mod tests;
