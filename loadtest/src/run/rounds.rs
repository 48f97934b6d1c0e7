//! The rounds of one run: the sale, and what it is compared with or followed by.

use std::path::{Path, PathBuf};

use shared::devstack::Servers;

use super::VHOST;
use crate::audit::Invariant;
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::options::{RunOptions, SaleOptions};
use crate::orders::demo::{Demo, Winner};
use crate::orders::listener::Storage;
use crate::orders::report::{DemoStep, QuietReport};
use crate::orders::{Functions, Orders};
use crate::outcome::{CeilingReport, Outcome, round};
use crate::progress::Progress;
use crate::sale::{Ceiling, Sale};
use crate::workers::{Crew, Endpoints, await_end};
use crate::{events, programs};

/// The programs of a run.
pub(super) struct Programs {
    purchase: PathBuf,
    /// Those that live the orders' life, where there is one, or one is shown.
    of_life: Option<Functions>,
}

impl Programs {
    /// Finds what these options need.
    pub(super) async fn find(options: &RunOptions) -> Result<Self, Failure> {
        let purchase = programs::worker(options.worker_program.as_deref()).await?;
        let is_needed = options.life.show_life || options.life.plan(options.sale.seed).is_some();
        let of_life = if is_needed { Some(programs::of_life().await?) } else { None };
        Ok(Self { purchase, of_life })
    }
}

/// One sale, with the ceiling before and after it where that is asked for: whatever warms up, or slows down, from one
/// round to the next then touches both sides of the ratio. The quiet sale comes before it, and the shown life after it.
pub(super) async fn run(
    endpoints: &Endpoints,
    servers: Option<&mut Servers>,
    options: &RunOptions,
    programs: Programs,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    let mut ceilings = Vec::new();
    if options.with_ceiling {
        // Not before the second one: workers leave messages behind that mean nothing, and look like requests.
        Ceiling::refuse_queues_in_use(endpoints).await?;
        ceilings.push(run_ceiling(endpoints, &options.sale, progress).await?);
    }
    let quiet = match options.life.with_quiet {
        true => Some(run_quiet(endpoints, options, &programs, progress).await?),
        false => None,
    };
    let (winner, outcome) = sell(endpoints, servers, options, &programs, progress).await?;
    if options.with_ceiling && outcome.lost == 0 {
        await_end(endpoints).await?;
        ceilings.push(run_ceiling(endpoints, &options.sale, progress).await?);
    }
    let outcome = with_quiet(with_ceilings(outcome, &ceilings), quiet.as_ref());
    match programs.of_life {
        Some(functions) if options.life.show_life && outcome.life.is_none() => {
            await_end(endpoints).await?;
            progress.stage("showing the life of two orders");
            let gateway = options.life.gateway(options.sale.seed);
            let demo = Demo { endpoints, purchase: programs.purchase, functions, gateway };
            let (steps, invariant) = demo.run(winner).await?;
            Ok(with_shown(outcome, steps, invariant))
        }
        Some(_) | None => Ok(outcome),
    }
}

/// The sale itself.
async fn sell(
    endpoints: &Endpoints,
    servers: Option<&mut Servers>,
    options: &RunOptions,
    programs: &Programs,
    progress: &Progress,
) -> Result<(Option<Winner>, Outcome), Failure> {
    progress.stage("starting the workers");
    let RunOptions { sale: sale_options, life, events: event_options, .. } = options;
    let orders = life.plan(sale_options.seed).zip(programs.of_life.clone());
    let storage = if event_options.kill_broker_at.is_some() { Storage::Disk } else { Storage::Memory };
    let orders = orders.map(|(plan, functions)| Orders { plan, functions, storage });
    let crew = crew(sale_options, &programs.purchase, &[]);
    let sale = Sale::prepare_to_live(endpoints, &sale_options.scenario(), crew, orders).await?;
    let (rabbitmq, redis) = servers.map(|servers| (&mut servers.rabbitmq, servers.redis.as_mut())).unzip();
    let cluster = match rabbitmq.filter(|_| event_options.kill_broker_at.is_some()) {
        Some(rabbitmq) => Some(Cluster::of(rabbitmq, VHOST).await?),
        None => None,
    };
    let sale = sale.disturbed(events::plan(event_options, sale_options.buyers), event_options.freeze(), cluster);
    let sale = sale.with_redis(redis.flatten());
    let crashes = life.crashes(sale.schedule(), sale_options.seed);
    let following = progress.follow("selling", sale.answered(), sale_options.buyers);
    let sale = sale.crashing(crashes).open(sale_options.patience());
    tracing::info!(buyers = sale_options.buyers, workers = sale_options.workers, "the sale is open");
    let drained = sale.drain().await?;
    drop(following);
    Ok((drained.winner(), drained.audit().await?))
}

/// The same sale, undisturbed, and with no life after it.
async fn run_quiet(
    endpoints: &Endpoints,
    options: &RunOptions,
    programs: &Programs,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    progress.stage("starting the workers");
    let sale = Sale::prepare(endpoints, &options.sale.scenario(), crew(&options.sale, &programs.purchase, &[])).await?;
    let following = progress.follow("selling without payments", sale.answered(), options.sale.buyers);
    let outcome = sale.open(options.sale.patience()).finish().await?;
    drop(following);
    await_end(endpoints).await?;
    Ok(outcome)
}

fn with_quiet(mut outcome: Outcome, quiet: Option<&Outcome>) -> Outcome {
    let (Some(life), Some(quiet)) = (&mut outcome.life, quiet) else { return outcome };
    let per_second = quiet.purchases_per_second;
    let ratio = if per_second > 0.0 { round(outcome.purchases_per_second / per_second, 1e3) } else { 0.0 };
    life.quiet = Some(QuietReport { seconds: quiet.seconds, purchases_per_second: per_second, ratio });
    let sound = sound("quiet_sale_sound", "every invariant held in it too", std::slice::from_ref(quiet));
    outcome.passed &= sound.holds;
    outcome.invariants.push(sound);
    outcome
}

fn with_shown(mut outcome: Outcome, steps: Vec<DemoStep>, invariant: Invariant) -> Outcome {
    outcome.passed &= invariant.holds;
    outcome.invariants.push(invariant);
    outcome.shown = Some(steps);
    outcome
}

/// Whether the other rounds of this run are good for a comparison.
fn sound(name: &'static str, when_kept: &str, rounds: &[Outcome]) -> Invariant {
    let broken = rounds.iter().flat_map(|round| &round.invariants).filter(|invariant| !invariant.holds);
    let broken: Vec<String> = broken.map(|invariant| format!("{}: {}", invariant.name, invariant.detail)).collect();
    let holds = broken.is_empty();
    Invariant { name, holds, detail: if holds { when_kept.to_owned() } else { broken.join("; ") } }
}

/// The ceiling: its workers say `reserved` to everybody.
pub(super) async fn run_ceiling(
    endpoints: &Endpoints,
    options: &SaleOptions,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    let (scenario, patience) = (options.scenario(), options.patience());
    let crew = crew(options, &programs::ourselves()?, &[Ceiling::WORKER]);
    Ceiling::measure(endpoints, &scenario, crew, patience, (progress, "measuring the ceiling")).await
}

fn crew(options: &SaleOptions, program: &Path, arguments: &[&str]) -> Crew {
    let crew = Crew::purchase(program.to_owned(), options.workers, options.batch_max);
    let strategy = arguments.is_empty().then_some(options.strategy);
    Crew { strategy, arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(), ..crew }
}

fn with_ceilings(mut outcome: Outcome, ceilings: &[Outcome]) -> Outcome {
    if ceilings.is_empty() {
        return outcome;
    }
    outcome.ceiling = Some(ceiling_report(ceilings, Some(outcome.purchases_per_second)));
    let sound = sound("ceiling_sound", "every buyer got a reply", ceilings);
    outcome.passed &= sound.holds;
    outcome.invariants.push(sound);
    outcome
}

/// The mean of the ceilings, beside the sale's purchases per second.
pub(super) fn ceiling_report(ceilings: &[Outcome], sale_per_second: Option<f64>) -> CeilingReport {
    #[allow(clippy::cast_precision_loss)]
    let mean = |of: fn(&Outcome) -> f64| ceilings.iter().map(of).sum::<f64>() / ceilings.len() as f64;
    let seconds = mean(|ceiling| ceiling.seconds);
    let replies = mean(|ceiling| ceiling.purchases_per_second * ceiling.seconds);
    let purchases_per_second = if seconds > 0.0 { replies / seconds } else { 0.0 };
    let ratio =
        sale_per_second.filter(|_| purchases_per_second > 0.0).map(|sale| round(sale / purchases_per_second, 1e3));
    CeilingReport { seconds: round(seconds, 1e6), purchases_per_second: round(purchases_per_second, 1e1), ratio }
}
