//! From the command line to the exit code: servers, rounds, report. Knows the order of things and nothing of each.
//!
//! Invariant: whatever was started is stopped before [`execute`] returns, also after a failure or a signal.

mod contend;
mod rounds;

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use futures_util::future::BoxFuture;
use serde::Serialize;
use shared::config::WorkerOptions;
use shared::devstack::{Missing, Servers};
use shared::{amqp, telemetry};
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::baseline::{clients, server};
use crate::failure::Failure;
use crate::options::{Cli, Command, CompareOptions, CostOptions, SaleOptions};
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::report::{self, ReportFile};
use crate::sale::Ceiling;
use crate::strategy::Strategy;
use crate::workers::Endpoints;
use crate::{ceiling, compare, cost, programs, summary};
use rounds::{ceiling_report, run, run_ceiling};

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
                let programs = or_interrupted(rounds::Programs::find(&options)).await?;
                let needed =
                    Needed { broker_nodes: options.broker_nodes, redis: options.sale.strategy == Strategy::Redis };
                measure(&options.sale, needed, async |endpoints, servers, progress| {
                    run(endpoints, servers, &options, programs, progress).await
                })
                .await
            }
            Command::Ceiling(options) => {
                start_log()?;
                measure(&options, Needed { broker_nodes: 1, redis: false }, async |endpoints, _servers, progress| {
                    Ceiling::refuse_queues_in_use(endpoints).await?;
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
            Command::Compare(options) => {
                start_log()?;
                measure_side_by_side(&options).await
            }
            Command::Contend(options) => {
                start_log()?;
                contend::execute(&options).await
            }
            Command::CeilingWorker(options) => serve_ceiling(&options).await,
            Command::BaselineServer => server::serve().await.map(|()| true),
            Command::BaselineClients => clients::serve().await.map(|()| true),
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

fn start_log() -> Result<(), Failure> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| LOG_FILTER_DEFAULT.to_owned());
    telemetry::start(&filter, false).context("RUST_LOG cannot be read").map_err(Failure::Configuration)
}

/// What a run needs besides a broker and a database.
struct Needed {
    broker_nodes: usize,
    redis: bool,
}

/// Runs on the servers that the options name, or on private ones, with which the rounds may do what they like; then
/// reports.
async fn measure(
    options: &SaleOptions,
    needed: Needed,
    rounds: impl AsyncFnOnce(&Endpoints, Option<&mut Servers>, &Progress) -> Result<Outcome, Failure>,
) -> Result<bool, Failure> {
    let page = ReportFile::open(options.report.as_deref())?;
    let progress = Progress::new();
    let given = given(&options.amqp_url, &options.database_url)?;
    let given = if needed.redis { with_redis(given, &options.redis_url)? } else { given };
    let outcome = match given {
        Some(endpoints) => or_interrupted(rounds(&endpoints, None, &progress)).await,
        None => {
            on_private_servers(needed.broker_nodes, &progress, async |servers, progress| {
                let mut endpoints = private_endpoints(servers, DATABASE).await?;
                if needed.redis {
                    endpoints.redis_url = Some(private_redis(servers, progress).await?);
                }
                rounds(&endpoints, Some(servers), progress).await
            })
            .await
        }
    };
    progress.clear();
    let outcome = outcome?;
    report(&outcome, options.json.as_deref(), || summary::render(&outcome, summary::Style::of_stdout()))?;
    if let Some(page) = page {
        page.write(&report::of_run(&outcome)?)?;
    }
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

/// As [`measure`], for ways to sell beside each other.
async fn measure_side_by_side(options: &CompareOptions) -> Result<bool, Failure> {
    let page = ReportFile::open(options.report.as_deref())?;
    let program = or_interrupted(programs::worker(options.worker_program.as_deref())).await?;
    let progress = Progress::new();
    let given = given(&options.amqp_url, &options.database_url)?;
    let given = if options.needs_redis() { with_redis(given, &options.redis_url)? } else { given };
    let comparison = match given {
        Some(endpoints) => or_interrupted(compare::compare(&endpoints, options, &program, &progress)).await,
        None => {
            on_private_servers(1, &progress, async |servers, progress| {
                // Before there is a database, as only those that come later are counted in.
                servers.postgres.count_statements().await.map_err(servers_failed)?;
                let mut endpoints = private_endpoints(servers, DATABASE).await?;
                if options.needs_redis() {
                    endpoints.redis_url = Some(private_redis(servers, progress).await?);
                }
                compare::compare(&endpoints, options, &program, progress).await
            })
            .await
        }
    };
    progress.clear();
    let comparison = comparison?;
    report(&comparison, options.json.as_deref(), || compare::render(&comparison, summary::Style::of_stdout()))?;
    if let Some(page) = page {
        page.write(&report::of_comparison(&comparison)?)?;
    }
    Ok(comparison.passed)
}

/// The servers that the command line or the environment names: both or none.
fn given(amqp_url: &Option<String>, database_url: &Option<String>) -> Result<Option<Endpoints>, Failure> {
    let url = |url: &Option<String>| url.clone().filter(|url| !url.is_empty());
    match (url(amqp_url), url(database_url)) {
        (Some(amqp_url), Some(database_url)) => Ok(Some(Endpoints { amqp_url, database_url, redis_url: None })),
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(Failure::Configuration(anyhow!(
            "AMQP_URL and DATABASE_URL go together: set both to use your servers, or neither to use private ones"
        ))),
    }
}

/// The same, with the Redis that goes with them.
fn with_redis(given: Option<Endpoints>, redis_url: &Option<String>) -> Result<Option<Endpoints>, Failure> {
    match (given, redis_url.clone().filter(|url| !url.is_empty())) {
        (Some(endpoints), Some(url)) => Ok(Some(Endpoints { redis_url: Some(url), ..endpoints })),
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(Failure::Configuration(anyhow!(
            "with --strategy redis (which is one of compare's unless others are named), AMQP_URL, DATABASE_URL and REDIS_URL \
             go together: set them all to use your servers, or none to use private ones"
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
    let (amqp_url, database_url) = (servers.rabbitmq.url(VHOST), servers.postgres.url(database));
    Ok(Endpoints { amqp_url, database_url, redis_url: None })
}

/// The URL of a Redis beside them.
async fn private_redis(servers: &mut Servers, progress: &Progress) -> Result<String, Failure> {
    progress.stage("starting a private Redis");
    Ok(servers.start_redis().await.map_err(servers_failed)?.url())
}

fn servers_failed(error: anyhow::Error) -> Failure {
    match error.downcast_ref::<Missing>() {
        Some(_) => Failure::Unreachable(error),
        None => Failure::Unreachable(error.context("the private servers do not start")),
    }
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
