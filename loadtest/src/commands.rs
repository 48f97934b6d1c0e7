//! From the command line to the exit code: `run` and `ceiling`, and the way to the others.

use crate::audit::{Invariant, invariant};
use crate::bench::{baseline, compare, contend, cost};
use crate::cli::{Cli, Command, RunOptions, SaleOptions};
use crate::failure::Failure;
use crate::faults::{Draw, FaultKind, PrivateBroker};
use crate::orders::demo::Demo;
use crate::orders::listener::Storage;
use crate::orders::report::OrdersReport;
use crate::orders::{Functions, Orders};
use crate::progress::Progress;
use crate::queues::{await_no_consumers, refuse_queues_in_use};
use crate::result::Outcome;
use crate::run::{ByHttp, Sale, run};
use crate::servers::{Endpoints, Needs, VHOST, or_interrupted, with_servers};
use crate::stats::{Reference, Timing, round};
use crate::strategy::Strategy;
use crate::workers::WorkerSpec;
use crate::{ceiling, output, programs, report, summary, up};
use anyhow::Context;
use futures_util::future::BoxFuture;
use shared::config::WorkerOptions;
use shared::devstack::Servers;
use shared::table::Style;
use shared::{amqp, telemetry};
use std::path::Path;

/// What is logged unless `RUST_LOG` says otherwise. lapin logs every lost connection beside returning it, and sqlx every
/// statement that takes a second, as an audit does, and every wait for a connection, which is what the HTTP baselines do all the time.
const LOG_FILTER_DEFAULT: &str = "warn,lapin=off,sqlx::query=error,sqlx::pool=error";

/// Does what the command line says; returns whether every invariant holds.
///
/// Boxed, so that all of this is compiled here and not once more in the program.
pub fn execute(cli: Cli) -> BoxFuture<'static, Result<bool, Failure>> {
    Box::pin(async move {
        match cli.command {
            // A worker starts its own log; of the baseline's clients, nobody reads one.
            Command::CeilingWorker(_) | Command::BaselineClients { .. } => {}
            Command::Run(_)
            | Command::Up(_)
            | Command::Ceiling(_)
            | Command::Cost(_)
            | Command::Compare(_)
            | Command::Baseline(_)
            | Command::Contend(_) => {
                let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| LOG_FILTER_DEFAULT.to_owned());
                telemetry::start(&filter, false).context("RUST_LOG cannot be read").map_err(Failure::Configuration)?;
            }
        }
        match cli.command {
            Command::Run(options) => run_command(&options).await,
            Command::Up(options) => up::execute(&options).await,
            Command::Ceiling(options) => ceiling_command(&options).await,
            Command::Cost(options) => cost::execute(&options).await,
            Command::Compare(options) => compare::execute(options).await,
            Command::Contend(options) => contend::execute(&options).await,
            Command::Baseline(options) => baseline::serve::execute(&options).await,
            Command::CeilingWorker(options) => serve_ceiling(&options).await,
            Command::BaselineClients { clients } => baseline::clients::serve(&clients).await.map(|()| true),
        }
    })
}

async fn serve_ceiling(options: &WorkerOptions) -> Result<bool, Failure> {
    telemetry::start(&options.log, options.log_json).map_err(Failure::Configuration)?;
    ceiling::serve(options).await.map_err(|error| match error.downcast::<amqp::Error>() {
        Ok(error) => error.into(),
        Err(error) => Failure::Broken(error),
    })?;
    Ok(true)
}

async fn run_command(options: &RunOptions) -> Result<bool, Failure> {
    let (sale, orders) = (&options.sale, &options.orders);
    let (purchase, functions, door) = or_interrupted(async {
        let purchase = programs::worker(options.worker_program.as_deref()).await?;
        let are_needed = orders.show_life || orders.plan.with_seed(sale.scenario.seed).is_some();
        let functions = if are_needed { Some(programs::functions().await?) } else { None };
        Ok((purchase, functions, if options.http.opens_doors() { Some(programs::door().await?) } else { None }))
    })
    .await?;
    let redis = (sale.strategy == Strategy::Redis).then_some(&sale.redis);
    let needs = Needs { broker_nodes: options.broker_nodes, tls: options.tls, redis, ..Needs::PLAIN };
    output::assert_writable(sale.json.as_deref(), sale.report.as_deref())?;
    let progress = Progress::new();
    let outcome = with_servers(&sale.urls, needs, &progress, async |endpoints, servers| {
        let (purchase, functions, by_http) = (&purchase, functions.as_ref(), options.http.by_http(door));
        Rounds { endpoints, options, purchase, functions, by_http, progress: &progress }.run(servers).await
    });
    finish(&outcome.await?, sale)
}

async fn ceiling_command(options: &SaleOptions) -> Result<bool, Failure> {
    output::assert_writable(options.json.as_deref(), options.report.as_deref())?;
    let progress = Progress::new();
    let outcome = with_servers(&options.urls, Needs::PLAIN, &progress, async |endpoints, _servers| {
        refuse_queues_in_use(&endpoints.amqp_url).await?;
        let outcome = run_ceiling(endpoints, options, &progress).await?;
        let ceiling = Some(reference(std::slice::from_ref(&outcome), None));
        Ok(Outcome { ceiling, ..outcome })
    });
    finish(&outcome.await?, options)
}

fn finish(outcome: &Outcome, options: &SaleOptions) -> Result<bool, Failure> {
    output::write(outcome, options.json.as_deref(), || summary::render(outcome, Style::of_stdout()))?;
    report::write(options.report.as_deref(), || report::of_run(outcome))?;
    Ok(outcome.passed)
}

/// The sale of a run, and what goes before and after it on the same servers.
struct Rounds<'a> {
    endpoints: &'a Endpoints,
    options: &'a RunOptions,
    purchase: &'a Path,
    /// Those that go on with the orders, where anything happens to them.
    functions: Option<&'a Functions>,
    by_http: Option<ByHttp>,
    progress: &'a Progress,
}

impl Rounds<'_> {
    /// One sale, with the ceiling before and after it where that is asked for: whatever warms up, or slows down, then
    /// touches both sides of the ratio. The quiet sale comes before it, and the demo of two orders after it.
    async fn run(&self, servers: Option<&mut Servers>) -> Result<Outcome, Failure> {
        let Self { endpoints, options: RunOptions { sale, orders, with_ceiling, .. }, progress, .. } = self;
        let (mut ceilings, mut quiet) = (Vec::new(), None);
        if *with_ceiling {
            // Not before the second one: workers leave messages behind that mean nothing, and look like requests.
            refuse_queues_in_use(&endpoints.amqp_url).await?;
            ceilings.push(run_ceiling(endpoints, sale, progress).await?);
        }
        if orders.with_quiet {
            let mut sale = Sale::of(sale.scenario.clone(), self.workers(), sale.timeout());
            sale.by_http = self.by_http.clone();
            quiet = Some(run(endpoints, sale, (progress, "selling without payments")).await?);
            await_no_consumers(&endpoints.amqp_url).await?;
        }
        let mut outcome = self.sell(servers).await?;
        if *with_ceiling {
            if outcome.audit.lost == 0 {
                await_no_consumers(&endpoints.amqp_url).await?;
                ceilings.push(run_ceiling(endpoints, sale, progress).await?);
            }
            outcome.ceiling = Some(reference(&ceilings, Some(&outcome)));
            add(&mut outcome, sound("ceiling_sound", "every buyer got a reply", &ceilings));
        }
        if let Some(quiet) = quiet {
            let quiet = [quiet];
            let compared = reference(&quiet, Some(&outcome));
            outcome.life = outcome.life.map(|life| OrdersReport { quiet: Some(compared), ..life });
            add(&mut outcome, sound("quiet_sale_sound", "every invariant held in it too", &quiet));
        }
        if let (true, None, Some(functions)) = (orders.show_life, &outcome.life, self.functions) {
            await_no_consumers(&endpoints.amqp_url).await?;
            progress.stage("showing two orders");
            let (purchase, functions) = (self.purchase.to_owned(), functions.clone());
            let demo = Demo { endpoints, purchase, functions, gateway: orders.plan.gateway(sale.scenario.seed) };
            let (steps, invariant) = demo.run(outcome.winner.take()).await?;
            outcome.shown = Some(steps);
            add(&mut outcome, invariant);
        }
        Ok(outcome)
    }

    async fn sell(&self, servers: Option<&mut Servers>) -> Result<Outcome, Failure> {
        let RunOptions { sale: options, orders, events, .. } = self.options;
        let draws = self.options.draws().to_vec();
        // What dies with the broker would be missed.
        let dies = draws.iter().flat_map(Draw::kinds).any(|kind| kind == FaultKind::BrokerRestart);
        let storage = if events.kill_broker_at.is_some() || dies { Storage::Disk } else { Storage::Memory };
        let followed = orders.plan.with_seed(options.scenario.seed).zip(self.functions.cloned());
        let mut sale = Sale::of(options.scenario.clone(), self.workers(), options.timeout());
        sale.by_http = self.by_http.clone();
        sale.orders = followed.map(|(plan, functions)| Orders { plan, functions, storage });
        (sale.faults.events, sale.faults.freeze) = (events.events(), events.freeze());
        sale.faults.draws = draws;
        (sale.faults.hostile_rate, sale.faults.hostile_kinds) = (events.hostile_rate, events.hostile_kinds.clone());
        if let Some(Servers { rabbitmq, postgres, redis, .. }) = servers {
            (sale.faults.redis, sale.faults.postgres) = (redis.as_mut(), Some(postgres));
            sale.faults.broker = Some(PrivateBroker { rabbitmq, vhost: VHOST });
        }
        run(self.endpoints, sale, (self.progress, "selling")).await
    }

    fn workers(&self) -> WorkerSpec {
        let sale = &self.options.sale;
        let spec = WorkerSpec::purchase(self.purchase.to_owned(), sale.workers, sale.batch_max);
        WorkerSpec { strategy: Some(sale.strategy), ..spec }
    }
}

/// The same buyers against workers that say `reserved` to everybody; returns when those are gone.
async fn run_ceiling(endpoints: &Endpoints, options: &SaleOptions, progress: &Progress) -> Result<Outcome, Failure> {
    let workers = WorkerSpec::ceiling(programs::ourselves()?, options.workers, options.batch_max);
    let sale = Sale::of(options.scenario.clone(), workers, options.timeout());
    let outcome = run(endpoints, sale, (progress, "measuring the ceiling")).await?;
    await_no_consumers(&endpoints.amqp_url).await?;
    Ok(outcome)
}

/// The pace of one other sale, or of two as if they were one, and this one's pace by theirs.
fn reference(others: &[Outcome], sale: Option<&Outcome>) -> Reference {
    let sum = |of: fn(&Timing) -> f64| others.iter().map(|other| of(&other.timing)).sum::<f64>();
    let (all_seconds, replies) =
        (sum(|timing| timing.seconds), sum(|timing| timing.seconds * timing.purchases_per_second));
    let per_second = if all_seconds > 0.0 { replies / all_seconds } else { 0.0 };
    let seconds = all_seconds / others.len().max(1) as f64;
    let sale = sale.filter(|_| per_second > 0.0);
    let ratio = sale.map(|sale| round(sale.timing.purchases_per_second / per_second, 1e3));
    Reference { seconds: round(seconds, 1e6), purchases_per_second: round(per_second, 1e1), ratio }
}

/// Whether the other sales of this run are good for a comparison.
fn sound(name: &'static str, when_kept: &str, outcomes: &[Outcome]) -> Invariant {
    invariant(name, when_kept, outcomes.iter().flat_map(|outcome| outcome.audit.broken()))
}

fn add(outcome: &mut Outcome, invariant: Invariant) {
    outcome.passed &= invariant.holds;
    outcome.audit.invariants.push(invariant);
}
