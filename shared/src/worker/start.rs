//! Starting: from the command line to a running function, and from how it ended to an exit code.

use super::metrics::WorkerMetrics;
use super::process::Process;
use super::service::{Service, Serving, listen_for_signals, stopped};
use super::{Function, Outage};
use crate::amqp::Error;
use crate::amqp::topology::Topology;
use crate::config::{CommandLine, Unusable, WorkerOptions, read_line};
use crate::db::OpenError;
use crate::handler::Handler;
use crate::{metrics, telemetry};
use clap::{Args, CommandFactory};
use std::future::Future;
use std::process::ExitCode;
use tokio::sync::watch;

/// Exit code: a server cannot be reached (EX_UNAVAILABLE).
const UNREACHABLE: u8 = 69;
/// Exit code: the configuration cannot work (EX_CONFIG).
const CONFIGURATION: u8 = 78;

/// The whole `main` of a function: reads the command line, makes the handler, serves until told to stop.
pub fn main<H, Options, Making>(make: impl FnOnce(WorkerOptions, Options) -> Making + Send + 'static) -> ExitCode
where
    H: Handler,
    Options: Args + Send + 'static,
    Making: Future<Output = anyhow::Result<H>> + Send + 'static,
{
    let command = CommandLine::<Options>::command().name(H::NAME).bin_name(H::NAME);
    run_program(command, move |line: CommandLine<Options>, stop| {
        Box::pin(async move {
            let handler = tokio::select! {
                made = make(line.worker.clone(), line.function) => made?,
                () = stopped(stop.clone()) => return Ok(()),
            };
            serve_until(Box::new(handler), line.worker, stop).await
        })
    })
}

/// What `--help` says of a function that takes requests off no queue.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// How many to run, and the exit codes.
    pub after_help: &'static str,
    /// Options that every function takes, and that mean nothing to this one: they are not shown.
    pub without: &'static [&'static str],
}

/// The whole `main` of such a function: reads the command line, declares the topology, serves until `serve` returns. It has
/// to return soon after the process is told to stop.
pub fn main_of_service<Options, Serving>(
    program: Program,
    serve: impl FnOnce(Service, Options) -> Serving + Send + 'static,
) -> ExitCode
where
    Options: Args + Send + 'static,
    Serving: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let Program { name, about, after_help, without } = program;
    let command = CommandLine::<Options>::command().name(name).bin_name(name).about(about).after_help(after_help);
    let command = without.iter().fold(command, |command, option| command.mut_arg(*option, |it| it.hide(true)));
    run_program(command, move |line: CommandLine<Options>, stop| {
        Service::run(name, line.worker, stop, Box::new(move |service| Box::pin(serve(service, line.function))))
    })
}

/// From the command line to the exit code, around what the program is for; that gets a `stop` that turns true on SIGTERM
/// and on Ctrl-C.
fn run_program<Options>(
    command: clap::Command,
    serve: impl FnOnce(CommandLine<Options>, watch::Receiver<bool>) -> Serving + 'static,
) -> ExitCode
where
    Options: Args + 'static,
{
    let line: CommandLine<Options> = match read_line(command) {
        Ok(line) => line,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(CONFIGURATION);
        }
    };
    let (log, is_json) = (line.worker.log.clone(), line.worker.log_json);
    run(&log, is_json, Box::new(move |stop| serve(line, stop)))
}

/// What is the same for all programs, whatever their options are: compiled once, here.
fn run(log: &str, is_json: bool, serve: Box<dyn FnOnce(watch::Receiver<bool>) -> Serving>) -> ExitCode {
    if let Err(error) = telemetry::start(log, is_json) {
        eprintln!("The log filter cannot be read: {error}");
        return ExitCode::from(CONFIGURATION);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let outcome = runtime.block_on(async { serve(listen_for_signals()?).await });
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

fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<Unusable>()
        || error.downcast_ref().is_some_and(Error::is_configuration)
        || error.downcast_ref().is_some_and(OpenError::is_configuration)
}

/// Serves a handler until SIGTERM or Ctrl-C, then drains. Fails where the broker cannot be used at the start; later outages
/// are waited through.
pub async fn serve<H: Handler>(handler: H, options: &WorkerOptions) -> anyhow::Result<()> {
    serve_until(Box::new(handler), options.clone(), listen_for_signals()?).await
}

fn serve_until(handler: Box<dyn Process>, options: WorkerOptions, stop: watch::Receiver<bool>) -> Serving {
    let (name, stop_of_upkeep) = (handler.name(), stop.clone());
    let serve = async move |service: Service| {
        let (failing, failures) = watch::channel(None);
        let upkeep = handler.upkeep(failing);
        let outage = service.outage("what this function does by itself cannot be done");
        tokio::spawn(async {
            let doing = async { tokio::join!(upkeep, watch_for(failures, outage)) };
            tokio::select! { _ = doing => (), () = stopped(stop_of_upkeep) => () }
        });
        let mut registry = metrics::registry(name);
        let metrics = WorkerMetrics::register(&mut registry);
        service.dead_messages.register(&mut registry);
        handler.register(&mut registry);
        let _showing = match service.worker.metrics_address {
            Some(address) => {
                Some(metrics::show(address, registry).await.map_err(|error| Unusable(format!("{error:#}")))?)
            }
            None => None,
        };
        let topology = Topology::read();
        let (queues, workers) = (topology.queues_of(name), topology.workers_of(name));
        Ok(Function { handler, service, metrics }.run(&queues, workers).await?)
    };
    Service::run(name, options, stop, Box::new(|service| Box::pin(serve(service))))
}

async fn watch_for(mut failures: watch::Receiver<Option<String>>, mut outage: Outage) {
    while failures.changed().await.is_ok() {
        match &*failures.borrow_and_update() {
            Some(reason) => outage.goes_on(reason),
            None => outage.is_over(),
        }
    }
}
