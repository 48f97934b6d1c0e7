//! Ways to sell, side by side: each strategy in each form, and the HTTP servers that they replace, beside the ceiling.
//!
//! Every row is run once in each round, in turns: whatever comes and goes on the machine touches all of them. Every sale is
//! audited, and whatever a repetition broke is in the result.

mod plan;
mod table;

use super::baseline::{self, Baseline, BaselineResult, BaselineStrategy};
use super::measure::{self, Counted, IDLE_REPETITIONS, ServerPids};
pub use super::row::{AtServer, Contender, Form, Row};
use super::turns;
use crate::cli::CompareOptions;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::queues::refuse_queues_in_use;
use crate::result::ServersReport;
use crate::run::{ByHttp, Sale, To, versions};
use crate::servers::{Endpoints, Needs, or_interrupted, with_servers};
use crate::stats::{medians, round};
use crate::strategy::Strategy;
use crate::summary::figures::plural;
use crate::workers::{DOOR, WorkerSpec};
use crate::{output, programs, report};
use anyhow::anyhow;
pub(crate) use plan::rows;
use serde::Serialize;
use serde_json::json;
use shared::table::Style;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Buyers of the sale that is not measured: what is done for the first time is slow.
const WARM_UP_BUYERS: u32 = 1_000;
/// What the names of everybody's connections begin with, those of the HTTP server among them.
const BY_HTTP: [&str; 2] = ["turnstile-", "loadtest"];
/// Connections to the database that a worker keeps where fewer requests compete: its own default.
const CONNECTIONS: u32 = 4;

/// The result, in the keys that loadtest/README.md documents.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    pub scenario: CompareOptions,
    pub servers: ServersReport,
    pub machine: Machine,
    /// By the number of buyers; of each number the ceiling comes first.
    pub rows: Vec<Row>,
    /// Promises that were not kept, each with the row that broke it; a pace without them would be none.
    pub broken: Vec<String>,
    /// Whether every promise was kept in every repetition of every row.
    pub passed: bool,
}

/// Compares and prints; returns whether every promise was kept.
pub(crate) async fn execute(mut options: CompareOptions) -> Result<bool, Failure> {
    let mut sizes = HashSet::new();
    options.buyers.retain(|buyers| sizes.insert(*buyers));
    output::assert_writable(options.bench.json.as_deref(), options.report.as_deref())?;
    let program = or_interrupted(async {
        if options.rows().iter().any(|row| row.form == Form::Web) {
            programs::door().await?;
        }
        programs::worker(options.bench.worker_program.as_deref()).await
    })
    .await?;
    let progress = Progress::new();
    let redis = options.rows().iter().any(|row| row.strategy == Some(Strategy::Redis)).then_some(&options.redis);
    let needs = Needs { redis, statements: true, ..Needs::PLAIN };
    let comparison = with_servers(&options.bench.urls, needs, &progress, async |endpoints, _servers| {
        compare(endpoints, &options, &program, &progress).await
    });
    let comparison = comparison.await?;
    output::write(&comparison, options.bench.json.as_deref(), || table::render(&comparison, Style::of_stdout()))?;
    report::write(options.report.as_deref(), || page_of(&comparison))?;
    Ok(comparison.passed)
}

/// The page with charts.
pub fn page_of(comparison: &Comparison) -> Result<String, Failure> {
    let notes = comparison.scenario.buyers.iter().map(|buyers| (*buyers, table::notes(comparison, *buyers)));
    let notes: BTreeMap<u32, Vec<String>> = notes.collect();
    report::page("Ways to sell, side by side", &json!({ "notes": notes }), comparison)
}

/// Runs every row that the options ask for, on servers that nobody else uses meanwhile.
async fn compare(
    endpoints: &Endpoints,
    options: &CompareOptions,
    program: &Path,
    progress: &Progress,
) -> Result<Comparison, Failure> {
    let contenders = options.rows();
    // The last of the strategies, redis, is the one that needs the most servers.
    let servers = versions(endpoints, contenders.iter().filter_map(|row| row.strategy).max()).await?;
    let mut bench =
        Bench { endpoints, options, program, ourselves: programs::ourselves()?, progress, idle: BTreeMap::new() };
    bench.warm_up(&contenders).await?;
    let mut repetitions: Vec<Vec<Row>> = vec![Vec::new(); contenders.len()];
    let mut broken = Vec::new();
    for (number, index) in turns(contenders.len(), options.bench.repetitions) {
        let contender = &contenders[index];
        let what = format!("{}, {}, repetition {number}", contender.name, plural(contender.buyers.into(), "buyer"));
        let (row, row_broken) = bench.run(contender, &what).await?;
        tracing::info!(what, per_second = row.purchases_per_second, "run");
        broken.extend(row_broken.iter().map(|broken| format!("{what}: {broken}")));
        repetitions[index].push(row);
    }
    let rows: Vec<Row> = repetitions.iter().map(|all| Row::median(all)).collect::<Result<_, _>>()?;
    let (machine, passed) = (Machine::here(), broken.is_empty());
    Ok(Comparison { scenario: options.clone(), servers, machine, rows: with_ratios(rows), broken, passed })
}

/// Each pace by the ceiling's with as many buyers, which comes before it.
fn with_ratios(mut rows: Vec<Row>) -> Vec<Row> {
    let mut ceiling = None;
    for row in &mut rows {
        match row.contender.form {
            Form::Ceiling => ceiling = Some(row.purchases_per_second).filter(|pace| *pace > 0.0),
            Form::Batched | Form::OneByOne | Form::Competing | Form::Http | Form::Web => {
                row.ratio = ceiling.map(|ceiling| round(row.purchases_per_second / ceiling, 1e4));
            }
        }
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

impl Bench<'_> {
    /// Runs sales that are not measured, and finds what each way to sell causes without a buyer.
    async fn warm_up(&mut self, contenders: &[Contender]) -> Result<(), Failure> {
        // Asked once: later on, what workers left there for each other (messages that mean nothing) looks like requests.
        refuse_queues_in_use(&self.endpoints.amqp_url).await?;
        for (form, strategy) in [(Form::Ceiling, None), (Form::Batched, Some(Strategy::default()))] {
            self.run(&Contender::new(WARM_UP_BUYERS, form, strategy, 1), "warming up").await?;
        }
        // Of the ceiling there is nothing to know: no database takes part.
        for contender in contenders.iter().filter(|contender| contender.form != Form::Ceiling) {
            let way = (contender.form == Form::Http, contender.strategy);
            if self.idle.contains_key(&way) {
                continue;
            }
            self.progress.stage(format!("measuring what nobody causes: {}", contender.name));
            let idle = match contender.form {
                Form::Http => self.idle_by_http(contender).await?,
                Form::Ceiling | Form::Batched | Form::OneByOne | Form::Competing | Form::Web => {
                    measure::idle(self.endpoints, &self.workers(contender)).await?
                }
            };
            self.idle.insert(way, idle);
        }
        Ok(())
    }

    /// Runs a row once; returns it with the promises that it broke.
    async fn run(&self, contender: &Contender, what: &str) -> Result<(Row, Vec<String>), Failure> {
        let way = (contender.form == Form::Http, contender.strategy);
        let idle = self.idle.get(&way).copied().unwrap_or_default();
        let scenario = self.options.scenario(contender.buyers, contender.requests_per_message);
        if contender.form == Form::Http {
            self.progress.stage(what.to_owned());
            let (result, counted) = self.by_http(contender, scenario.buyers, scenario.stock).await?;
            return Ok(result.row(contender, counted - idle));
        }
        let mut sale = Sale::of(scenario, self.workers(contender), self.options.bench.timeout());
        if contender.form == Form::Web {
            let to = To::Ours { program: programs::function(DOOR)?, number: 1 };
            sale.by_http = Some(ByHttp { to, connections: None });
        }
        let progress = (self.progress, what);
        let measured = measure::sale(self.endpoints, sale, ServerPids::default(), progress).await?;
        Ok(Row::of_sale(contender, &measured.outcome, measured.counted.map(|counted| counted - idle)))
    }

    async fn idle_by_http(&self, contender: &Contender) -> Result<Counted, Failure> {
        let mut idle = Vec::new();
        for _ in 0..IDLE_REPETITIONS {
            idle.push(self.by_http(contender, 0, 0).await?.1);
        }
        medians(&idle)
    }

    async fn by_http(
        &self,
        contender: &Contender,
        buyers: u32,
        stock: u64,
    ) -> Result<(BaselineResult, Counted), Failure> {
        let Some(strategy) = contender.strategy.and_then(BaselineStrategy::of) else {
            return Err(Failure::Broken(anyhow!("by HTTP, {} is not there", contender.name)));
        };
        let url = &self.endpoints.database_url;
        let payment = Duration::from_millis(self.options.payment_ms);
        let baseline = Baseline { payment, ..Baseline::new(strategy, buyers, stock) };
        let before = Counted::read(url, &BY_HTTP).await?;
        let result = baseline::run(&self.ourselves, url, &baseline).await?;
        Ok((result, Counted::read(url, &BY_HTTP).await? - before))
    }

    fn workers(&self, contender: &Contender) -> WorkerSpec {
        let workers = self.options.workers;
        let Some(strategy) = contender.strategy else {
            return WorkerSpec::ceiling(self.ourselves.clone(), workers, None);
        };
        // Both in every form, whatever our own environment says: one connection for each request that competes.
        let in_flight = contender.in_flight.unwrap_or(1);
        let variables = [("IN_FLIGHT", in_flight), ("DATABASE_CONNECTIONS_MAX", in_flight.max(CONNECTIONS))];
        let environment = variables.map(|(name, number)| (name.to_owned(), number.to_string())).into();
        let spec = WorkerSpec::purchase(self.program.to_owned(), workers, contender.batch_max);
        WorkerSpec { environment, strategy: Some(strategy), ..spec }
    }
}

#[cfg(test)]
mod tests;
