//! What a purchase costs: growing sales on the same servers, and what broker, workers and database spent on each.
//!
//! A `bench` runs a sale and reads, around it, the CPU time of processes (`cpu`) and what the database counts
//! (`counters`); `figures` makes costs of that. Tables are made old by `history`. The result is the `report`'s.
//! Knows nothing of how a purchase is decided. Invariant: a cost is only told of sales that were audited, and whatever a
//! sale broke is in the result.

mod bench;
mod counters;
mod cpu;
mod figures;
mod history;
mod report;
mod table;

use std::path::Path;

use anyhow::anyhow;
use shared::devstack::Servers;

use crate::cli::CostOptions;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::result::{Outcome, ServersReport};
use crate::servers::Endpoints;
use bench::{Bench, ServerPids};
use figures::{Figures, Taken, ratio_of_pairs};
pub use report::{Age, Comparison, Cost, Step};
pub use table::render;

/// CPU time comes in hundredths of a second, so that a small sale says little: it is repeated for as many purchases ...
const STEP_PURCHASES_MIN: u32 = 10_000;
/// ... but no more often than this.
const STEP_SALES_MAX: u32 = 5;
/// The largest sale on empty and full tables: it is run many times.
const AGE_BUYERS_MAX: u32 = 50_000;

/// Measures on servers that others may use, which are left as they were but for the sales.
///
/// # Errors
/// As [`of_private`]; or the options ask to fill tables.
pub(crate) async fn of_given(
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
    let pids = ServerPids::of_given(options);
    let bench = Bench::warmed_up(endpoints, (options, program), progress, pids).await?;
    let mut found = Found::default();
    let steps = steps(&bench, endpoints, options, &mut found).await?;
    found.cost(options, steps, None)
}

/// Measures on private servers: growing sales in the database of `empty`, then the same sale there, emptied before, and
/// in that of `full`, in turns.
///
/// # Errors
/// A server is away, or a worker does not start.
pub(crate) async fn of_private(
    servers: &Servers,
    empty: &Endpoints,
    full: &Endpoints,
    options: &CostOptions,
    program: &Path,
    progress: &Progress,
) -> Result<Cost, Failure> {
    let pids = ServerPids::of_private(servers);
    let bench = Bench::warmed_up(empty, (options, program), progress, pids).await?;
    let mut found = Found::default();
    let steps = steps(&bench, empty, options, &mut found).await?;
    let verdicts = options.verdicts_before_or_default();
    if verdicts == 0 {
        return found.cost(options, steps, None);
    }
    history::load(&full.database_url, verdicts, options.items_before, progress).await?;
    let mut comparisons = Vec::new();
    for items in &options.items {
        comparisons.push(compare(&bench, (empty, full), options, *items, &mut found).await?);
    }
    found.cost(options, steps, Some(Age { verdicts, items: options.items_before, comparisons }))
}

async fn steps(
    bench: &Bench<'_>,
    endpoints: &Endpoints,
    options: &CostOptions,
    found: &mut Found,
) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    for &items in &options.items {
        for &buyers in &options.buyers {
            let verdicts_before = counters::verdicts(&endpoints.database_url).await?;
            let repetitions = STEP_PURCHASES_MIN.div_ceil(buyers).min(STEP_SALES_MAX);
            let what = format!("{buyers} buyers, {items} items");
            let mut sales = Vec::new();
            for _ in 0..repetitions {
                sales.push(found.audited(bench.sale(endpoints, buyers, items, &what).await?));
            }
            let figures = Figures::of(&sales);
            tracing::info!(buyers, items, ?figures, "measured");
            steps.push(Step { buyers, items, sales: sales.len(), verdicts_before, figures });
        }
    }
    Ok(steps)
}

/// The same sale on empty and on full tables in turns, so that whatever comes and goes on the machine touches both.
async fn compare(
    bench: &Bench<'_>,
    (empty, full): (&Endpoints, &Endpoints),
    options: &CostOptions,
    items: u32,
    found: &mut Found,
) -> Result<Comparison, Failure> {
    let buyers = options.buyers.iter().copied().max().unwrap_or(AGE_BUYERS_MAX).min(AGE_BUYERS_MAX);
    let (mut on_empty, mut on_full) = (Vec::new(), Vec::new());
    for number in 1..=options.repetitions {
        let what = |tables| format!("{tables} tables, {items} items, {number} of {}", options.repetitions);
        history::empty(&empty.database_url).await?;
        on_empty.push(found.audited(bench.sale(empty, buyers, items, &what("empty")).await?));
        on_full.push(found.audited(bench.sale(full, buyers, items, &what("full")).await?));
    }
    let paces = |sales: &[Taken]| -> Vec<f64> { sales.iter().map(|sale| sale.purchases_per_second).collect() };
    let (empty_figures, full_figures) = (Figures::of(&on_empty), Figures::of(&on_full));
    let (empty_paces, full_paces) = (paces(&on_empty), paces(&on_full));
    Ok(Comparison {
        buyers,
        items,
        ratio: ratio_of_pairs(&full_paces, &empty_paces),
        empty_purchases_per_second: empty_paces,
        full_purchases_per_second: full_paces,
        cpu_ratio: empty_figures.cpu_us_per_purchase.ratio(&full_figures.cpu_us_per_purchase),
        empty: empty_figures,
        full: full_figures,
    })
}

/// What the audits found.
#[derive(Default)]
struct Found {
    servers: Option<ServersReport>,
    broken: Vec<String>,
}

impl Found {
    /// Notes what the audit of a sale found, and hands on what the sale took.
    fn audited(&mut self, (taken, outcome): (Taken, Outcome)) -> Taken {
        let broken = outcome.invariants.iter().filter(|invariant| !invariant.holds);
        self.broken.extend(broken.map(|invariant| format!("{}: {}", invariant.name, invariant.detail)));
        self.servers = Some(outcome.servers);
        taken
    }

    fn cost(self, options: &CostOptions, steps: Vec<Step>, age: Option<Age>) -> Result<Cost, Failure> {
        let servers = self.servers.ok_or_else(|| Failure::Broken(anyhow!("no sale was asked for")))?;
        Ok(Cost {
            servers,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            workers: options.workers,
            batch_max: options.batch_max,
            seed: options.seed,
            steps,
            age,
            passed: self.broken.is_empty(),
            broken: self.broken,
        })
    }
}
