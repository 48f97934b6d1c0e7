//! Starting and stopping: from the command line to a running function, and from a signal to an exit code.

use super::{
    Function,
    metrics::WorkerMetrics,
    ready::{self, Ready},
};
use crate::{
    amqp::{self, Error, Nodes, Publisher},
    config::{CommandLine, Unusable, WorkerOptions},
    db::OpenError,
    handler::Handler,
    metrics,
    retry::RetryPolicy,
    telemetry,
    topology::Topology,
};
use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches};
use std::{
    future::Future,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Exit code: a server cannot be reached (EX_UNAVAILABLE).
const UNREACHABLE: u8 = 69;
/// Exit code: the configuration cannot work (EX_CONFIG).
const CONFIGURATION: u8 = 78;

/// Where the standard library looks up the size of its threads' stacks.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";
/// Room for headers nested as deep as a frame (128 KiB) can hold. Of a stack, only what was used takes memory.
const STACK_BYTES: usize = 256 * 1024 * 1024;
/// How long a drain may take before what is in hand is left to the next worker.
const DRAIN_SECONDS_MAX: u64 = 20;

/// The whole `main` of a function: reads the command line, makes the handler, serves until told to stop.
pub fn main<H, Options, Making>(make: impl FnOnce(WorkerOptions, Options) -> Making) -> ExitCode
where
    H: Handler,
    Options: Args,
    Making: Future<Output = anyhow::Result<H>>,
{
    let command = CommandLine::<Options>::command().name(H::NAME).bin_name(H::NAME);
    run_program(command, async |line: CommandLine<Options>, stop| {
        tokio::select! {
            made = make(line.worker.clone(), line.function) => serve_until(made?, &line.worker, stop).await,
            () = stopped(stop.clone()) => Ok(()),
        }
    })
}

/// From the command line to the exit code, around what the program is for; that gets a `stop` that turns true on SIGTERM
/// and on Ctrl-C.
pub(super) fn run_program<Options: Args>(
    command: clap::Command,
    serve: impl AsyncFnOnce(CommandLine<Options>, watch::Receiver<bool>) -> anyhow::Result<()>,
) -> ExitCode {
    if let Err(error) = with_deep_stacks() {
        eprintln!("This program cannot start itself again with larger stacks: {error}");
        return ExitCode::from(CONFIGURATION);
    }
    let line = CommandLine::<Options>::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    if let Err(error) = telemetry::start(&line.worker.log, line.worker.log_json) {
        eprintln!("The log filter cannot be read: {error}");
        return ExitCode::from(CONFIGURATION);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let outcome = runtime.block_on(async { serve(line, listen_for_signals()?).await });
    // What still runs in the background (a window being filled, say) must not keep a drained process alive.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(if is_configuration(&error) { CONFIGURATION } else { UNREACHABLE })
        }
    }
}

/// Starts this program again, in the same process, with a deep stack for each of its threads.
///
/// The AMQP library reads headers by recursion, without a limit of depth, on a thread whose stack is of the default
/// size: a message with headers nested ten thousand deep would overflow it and end every worker that it comes to. The
/// size of a default stack can only be set from outside, by the environment. For every program that receives messages
/// of others; to be called first of all.
///
/// # Errors
/// The program cannot be started again.
pub fn with_deep_stacks() -> std::io::Result<()> {
    if std::env::var_os(STACK_VARIABLE).is_some() {
        return Ok(());
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env(STACK_VARIABLE, STACK_BYTES.to_string());
    // Returns only where it fails.
    Err(again.exec())
}

fn is_configuration(error: &anyhow::Error) -> bool {
    let of_broker = matches!(
        error.downcast_ref(),
        Some(Error::Url(_) | Error::Refused(_) | Error::PluginMissing | Error::Differs { .. })
    );
    of_broker || error.is::<Unusable>() || matches!(error.downcast_ref(), Some(OpenError::Configuration(_)))
}

/// Serves a handler until SIGTERM or Ctrl-C, then drains.
///
/// # Errors
/// The broker cannot be used at the start; later outages are waited through.
pub async fn serve<H: Handler>(handler: H, options: &WorkerOptions) -> anyhow::Result<()> {
    serve_until(handler, options, listen_for_signals()?).await
}

/// Turns true on SIGTERM and on Ctrl-C.
fn listen_for_signals() -> anyhow::Result<watch::Receiver<bool>> {
    let (stopper, stop) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        tracing::info!("told to stop; finishing what is in hand");
        ready::draining();
        stopper.send_replace(true);
    });
    Ok(stop)
}

/// Serves a handler until `stop` turns true, then drains.
async fn serve_until<H: Handler>(
    handler: H,
    options: &WorkerOptions,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let topology = Topology::read();
    let Some(nodes) = declared(H::NAME, options, &topology, &stop).await? else { return Ok(()) };
    let (upkeep, told) = (handler.upkeep(), stopped(stop.clone()));
    tokio::spawn(async {
        tokio::select! { () = upkeep => (), () = told => () }
    });
    let mut registry = metrics::registry(H::NAME);
    let metrics = WorkerMetrics::register(&mut registry);
    handler.register(&mut registry);
    let _showing = match options.metrics_address {
        Some(address) => Some(metrics::show(address, registry).await.map_err(|error| Unusable(format!("{error:#}")))?),
        None => None,
    };
    let function = Function {
        handler,
        nodes,
        worker_id: options.worker_id.clone(),
        batch_max: usize::from(options.batch_max),
        workers: topology.workers_of(H::NAME),
        ready_file: options.ready_file.clone(),
        metrics,
        stop,
    };
    let (queues, stop) = (topology.queues_of(H::NAME), function.stop.clone());
    let running = async {
        function.run(&queues).await;
        Ok(())
    };
    in_time(running, stop).await
}

/// The broker's nodes, with the topology declared there; `None`: told to stop meanwhile.
///
/// # Errors
/// The broker cannot be used.
pub(super) async fn declared(
    name: &str,
    options: &WorkerOptions,
    topology: &Topology,
    stop: &watch::Receiver<bool>,
) -> Result<Option<Nodes>, Error> {
    Ready::clear(options.ready_file.as_deref());
    let nodes = Nodes::read(&options.amqp_url)?;
    tokio::select! {
        declared = declare(name, &nodes, options, topology) => declared.map(|()| Some(nodes.clone())),
        () = stopped(stop.clone()) => Ok(None),
    }
}

/// Serves until it is done, which is soon after `stop` turns true; else it is left as it is.
pub(super) async fn in_time(
    serving: impl Future<Output = anyhow::Result<()>>,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    tokio::select! {
        served = serving => {
            served?;
            tracing::info!("stopped");
        }
        () = overdue(stop) => {
            tracing::warn!("a server did not let us finish in time; what was in hand comes back to the next worker");
        }
    }
    Ok(())
}

/// Declares the topology, waiting for a broker that is not there yet, for a limited time.
async fn declare(function: &str, nodes: &Nodes, options: &WorkerOptions, topology: &Topology) -> Result<(), Error> {
    let name = format!("turnstile-{function} {} declare", options.worker_id);
    let started = Instant::now();
    let mut waits = RetryPolicy::SERVER_AWAY.waits();
    loop {
        let declared = async {
            let outgoing = Publisher::open(nodes, &name, &options.worker_id).await?;
            amqp::declare(outgoing.channel(), topology).await?;
            outgoing.close().await;
            Ok(())
        };
        match declared.await {
            Err(error @ (Error::Unreachable(_) | Error::Lost(_)))
                if started.elapsed() < Duration::from_secs(options.startup_seconds_max) =>
            {
                tracing::warn!(%error, "waiting for the broker");
                tokio::time::sleep(waits.next().unwrap_or_default()).await;
            }
            declared => return declared,
        }
    }
}

/// Ends when the process was told to stop and has not managed to for [`DRAIN_SECONDS_MAX`].
async fn overdue(stop: watch::Receiver<bool>) {
    stopped(stop).await;
    tokio::time::sleep(Duration::from_secs(DRAIN_SECONDS_MAX)).await;
}

/// Ends when the process is told to stop.
pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that nobody can tell us any more, which is a reason to stop, too.
    drop(stop.wait_for(|stop| *stop).await);
}
