//! From the command line to the exit code: servers, rounds, report. Knows the order of things and nothing of each.
//!
//! Invariant: whatever was started is stopped before [`execute`] returns, also after a failure or a signal.

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use futures_util::future::BoxFuture;
use serde::Serialize;
use shared::config::WorkerOptions;
use shared::devstack::{Missing, RabbitMq, Servers};
use shared::{broker, telemetry};
use tokio::signal::unix::{SignalKind, signal};

use crate::auditor::Invariant;
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::options::{Cli, Command, CostOptions, RunOptions, SaleOptions};
use crate::outcome::{CeilingReport, Outcome, round};
use crate::probe::Probe;
use crate::progress::Progress;
use crate::sale::{Ceiling, Sale};
use crate::workers::{Crew, Endpoints, await_nobody};
use crate::{ceiling, cost, events, programs, summary};

/// What is logged unless `RUST_LOG` says otherwise. lapin logs every lost connection beside returning it, and sqlx every
/// statement that takes a second, as an audit does.
const LOG_FILTER_DEFAULT: &str = "warn,lapin=off,sqlx::query=error";
/// The virtual host and the database of private servers; both have nothing else in them.
const VHOST: &str = "sale";
/// See [`VHOST`].
const DATABASE: &str = "sale";
/// The database whose tables are filled before the first sale.
const DATABASE_AGED: &str = "aged";

/// Does what the command line says; returns whether every invariant holds.
///
/// # Errors
/// There is no result; the failure says why.
///
/// Boxed, so that all of this is compiled here and not once more in the program.
pub fn execute(cli: Cli) -> BoxFuture<'static, Result<bool, Failure>> {
    Box::pin(async move {
        match cli.command {
            Command::Run(options) => {
                start_log()?;
                let program = or_interrupted(programs::worker(options.worker_program.as_deref())).await?;
                measure(&options.sale, options.broker_nodes, async |endpoints, broker, progress| {
                    run(endpoints, broker, &options, &program, progress).await
                })
                .await
            }
            Command::Ceiling(options) => {
                start_log()?;
                measure(&options, 1, async |endpoints, _broker, progress| {
                    let outcome = run_ceiling(endpoints, &options, progress).await?;
                    let ceiling = Some(ceiling_report(std::slice::from_ref(&outcome), None));
                    Ok(Outcome { ceiling, ..outcome })
                })
                .await
            }
            Command::Cost(options) => {
                start_log()?;
                measure_cost(&options).await
            }
            Command::CeilingWorker(options) => serve_ceiling(&options).await,
        }
    })
}

async fn serve_ceiling(options: &WorkerOptions) -> Result<bool, Failure> {
    telemetry::start(&options.log, options.log_json).map_err(Failure::Configuration)?;
    ceiling::serve(options).await.map_err(|error| match error.downcast::<broker::Error>() {
        Ok(error) => error.into(),
        Err(error) => Failure::Broken(error),
    })?;
    Ok(true)
}

fn start_log() -> Result<(), Failure> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| LOG_FILTER_DEFAULT.to_owned());
    telemetry::start(&filter, false).context("RUST_LOG cannot be read").map_err(Failure::Configuration)
}

/// Runs on the servers that the options name, or on private ones, whose broker the rounds may do with what they like;
/// then reports.
async fn measure(
    options: &SaleOptions,
    broker_nodes: usize,
    rounds: impl AsyncFnOnce(&Endpoints, Option<&mut RabbitMq>, &Progress) -> Result<Outcome, Failure>,
) -> Result<bool, Failure> {
    let progress = Progress::new();
    let outcome = match given(&options.amqp_url, &options.database_url)? {
        Some(endpoints) => or_interrupted(rounds(&endpoints, None, &progress)).await,
        None => {
            on_private_servers(broker_nodes, &progress, async |servers, progress| {
                let endpoints = private_endpoints(servers, DATABASE).await?;
                rounds(&endpoints, Some(&mut servers.rabbitmq), progress).await
            })
            .await
        }
    };
    progress.clear();
    let outcome = outcome?;
    report(&outcome, options.json.as_deref(), || summary::render(&outcome, summary::Style::of_stdout()))?;
    Ok(outcome.passed)
}

/// As [`measure`], for what purchases cost.
async fn measure_cost(options: &CostOptions) -> Result<bool, Failure> {
    let program = or_interrupted(programs::worker(options.worker_program.as_deref())).await?;
    let progress = Progress::new();
    let cost = match given(&options.amqp_url, &options.database_url)? {
        Some(endpoints) => or_interrupted(cost::of_given(&endpoints, options, &program, &progress)).await,
        None => {
            on_private_servers(1, &progress, async |servers, progress| {
                let (empty, aged) =
                    (private_endpoints(servers, DATABASE).await?, private_endpoints(servers, DATABASE_AGED).await?);
                cost::of_private(servers, &empty, &aged, options, &program, progress).await
            })
            .await
        }
    };
    progress.clear();
    let cost = cost?;
    report(&cost, options.json.as_deref(), || cost::render(&cost, summary::Style::of_stdout()))?;
    Ok(cost.passed)
}

/// The servers that the command line or the environment names: both or none.
fn given(amqp_url: &Option<String>, database_url: &Option<String>) -> Result<Option<Endpoints>, Failure> {
    let url = |url: &Option<String>| url.clone().filter(|url| !url.is_empty());
    match (url(amqp_url), url(database_url)) {
        (Some(amqp_url), Some(database_url)) => Ok(Some(Endpoints { amqp_url, database_url })),
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(Failure::Configuration(anyhow!(
            "AMQP_URL and DATABASE_URL go together: set both to use your servers, or neither to use private ones"
        ))),
    }
}

async fn on_private_servers<T>(
    broker_nodes: usize,
    progress: &Progress,
    rounds: impl AsyncFnOnce(&mut Servers, &Progress) -> Result<T, Failure>,
) -> Result<T, Failure> {
    progress.stage("starting a private RabbitMQ and a private PostgreSQL");
    let starting = async { Servers::start_cluster(&[VHOST], broker_nodes).await.map_err(servers_failed) };
    let mut servers = or_interrupted(starting).await?;
    let outcome = or_interrupted(rounds(&mut servers, progress)).await;
    progress.stage("stopping the private servers");
    let stopped = servers.stop().await.context("stop the private servers").map_err(Failure::Broken);
    outcome.and_then(|outcome| stopped.map(|()| outcome))
}

/// The virtual host, and a new database of this name.
async fn private_endpoints(servers: &Servers, database: &str) -> Result<Endpoints, Failure> {
    servers.postgres.create_database(database).await.map_err(servers_failed)?;
    Ok(Endpoints { amqp_url: servers.rabbitmq.url(VHOST), database_url: servers.postgres.url(database) })
}

fn servers_failed(error: anyhow::Error) -> Failure {
    match error.downcast_ref::<Missing>() {
        Some(_) => Failure::Unreachable(error),
        None => Failure::Unreachable(error.context("the private servers do not start")),
    }
}

/// One sale, with the ceiling before and after it where that is asked for: whatever warms up, or slows down, from one
/// round to the next then touches both sides of the ratio.
async fn run(
    endpoints: &Endpoints,
    broker: Option<&mut RabbitMq>,
    options: &RunOptions,
    program: &Path,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    let mut ceilings = Vec::new();
    if options.with_ceiling {
        ceilings.push(run_ceiling(endpoints, &options.sale, progress).await?);
    }
    progress.stage("starting the workers");
    let sale = Sale::prepare(endpoints, &options.sale.scenario(), crew(&options.sale, program, &[])).await?;
    let cluster = match broker.filter(|_| options.events.kill_broker_at.is_some()) {
        Some(broker) => Some(Cluster::of(broker, VHOST).await?),
        None => None,
    };
    let sale = sale.disturbed(events::plan(&options.events, options.sale.buyers), options.events.freeze(), cluster);
    let following = progress.follow("selling", sale.answered(), options.sale.buyers);
    let sale = sale.open(options.sale.patience());
    tracing::info!(buyers = options.sale.buyers, workers = options.sale.workers, "the sale is open");
    let outcome = sale.finish().await?;
    drop(following);
    if options.with_ceiling && outcome.lost == 0 {
        // Its workers are gone, but the broker may not know yet.
        let probe = Probe::connect(&endpoints.amqp_url).await?;
        await_nobody(&probe).await?;
        probe.close().await;
        ceilings.push(run_ceiling(endpoints, &options.sale, progress).await?);
    }
    Ok(with_ceilings(outcome, &ceilings))
}

/// The ceiling on queues that nobody else uses: its workers say `reserved` to everybody.
async fn run_ceiling(endpoints: &Endpoints, options: &SaleOptions, progress: &Progress) -> Result<Outcome, Failure> {
    progress.stage("starting the workers without a database");
    let probe = Probe::connect(&endpoints.amqp_url).await?;
    probe.declare_topology().await?;
    if probe.consumers().await? > 0 || probe.depth().await? > 0 {
        return Err(Failure::Configuration(anyhow!(
            "the queues of this broker are in use, and the ceiling's workers would answer real requests; \
             give the ceiling a virtual host of its own"
        )));
    }
    let ourselves = std::env::current_exe().context("find this program's own path").map_err(Failure::Broken)?;
    let crew = crew(options, &ourselves, &["ceiling-worker"]);
    let ceiling = Ceiling::prepare(endpoints, &options.scenario(), crew).await?;
    let following = progress.follow("measuring the ceiling", ceiling.answered(), options.buyers);
    let outcome = ceiling.open(options.patience()).finish().await?;
    drop(following);
    await_nobody(&probe).await?;
    probe.close().await;
    Ok(outcome)
}

fn crew(options: &SaleOptions, program: &Path, arguments: &[&str]) -> Crew {
    let crew = Crew::purchase(program.to_owned(), options.workers, options.batch_max);
    Crew { arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(), ..crew }
}

fn with_ceilings(mut outcome: Outcome, ceilings: &[Outcome]) -> Outcome {
    if ceilings.is_empty() {
        return outcome;
    }
    outcome.ceiling = Some(ceiling_report(ceilings, Some(outcome.purchases_per_second)));
    let broken = ceilings.iter().flat_map(|ceiling| &ceiling.invariants).filter(|invariant| !invariant.holds);
    let broken: Vec<String> = broken.map(|invariant| format!("{}: {}", invariant.name, invariant.detail)).collect();
    let holds = broken.is_empty();
    let detail = if holds { "every buyer got a reply".to_owned() } else { broken.join("; ") };
    outcome.invariants.push(Invariant { name: "ceiling_sound", holds, detail });
    outcome.passed &= holds;
    outcome
}

/// The mean of the ceilings, beside the sale's purchases per second.
fn ceiling_report(ceilings: &[Outcome], sale_per_second: Option<f64>) -> CeilingReport {
    #[allow(clippy::cast_precision_loss)]
    let mean = |of: fn(&Outcome) -> f64| ceilings.iter().map(of).sum::<f64>() / ceilings.len() as f64;
    let seconds = mean(|ceiling| ceiling.seconds);
    let replies = mean(|ceiling| ceiling.purchases_per_second * ceiling.seconds);
    let purchases_per_second = if seconds > 0.0 { replies / seconds } else { 0.0 };
    let ratio =
        sale_per_second.filter(|_| purchases_per_second > 0.0).map(|sale| round(sale / purchases_per_second, 1e3));
    CeilingReport { seconds: round(seconds, 1e6), purchases_per_second: round(purchases_per_second, 1e1), ratio }
}

/// Prints the result for people and writes it as JSON to the file; `-` prints the JSON alone.
fn report(result: &impl Serialize, json_to: Option<&Path>, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(result).context("write the result as JSON").map_err(Failure::Broken)?;
    if json_to.is_some_and(|path| path.as_os_str() == "-") {
        return print(&(json + "\n"));
    }
    print(&text())?;
    if let Some(path) = json_to {
        let written = std::fs::write(path, json + "\n");
        written.with_context(|| format!("write {}", path.display())).map_err(Failure::Broken)?;
    }
    Ok(())
}

/// A reader who has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Broken(error.into())),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Lets the work go when a signal asks to stop (Ctrl-C, SIGTERM, or the terminal going away).
async fn or_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let listen = |kind| signal(kind).context("listen for signals").map_err(Failure::Broken);
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(Failure::Interrupted),
        _ = terminate.recv() => Err(Failure::Interrupted),
        _ = hangup.recv() => Err(Failure::Interrupted),
    }
}
