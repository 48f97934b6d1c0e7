//! A function that takes requests off no queue: it finds its work by itself, and starts, waits and stops like the others.
//!
//! Invariant: when it begins, the broker has the topology; and it is told to stop before its process ends.

use super::{
    ready::Ready,
    start::{declared, in_time, run_program, stopped},
};
use crate::{
    amqp::Nodes,
    config::{CommandLine, WorkerOptions},
    topology::Topology,
};
use clap::{Args, CommandFactory};
use std::{future::Future, process::ExitCode, time::Duration};
use tokio::sync::watch;

/// What `--help` says of such a function.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The function's name.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// What else there is to know: how many to run, and the exit codes.
    pub after_help: &'static str,
    /// Options that every function takes, and that mean nothing to this one: they are not shown.
    pub without: &'static [&'static str],
}

/// What such a function stands on.
#[derive(Debug)]
pub struct Service {
    /// What every function takes.
    pub worker: WorkerOptions,
    /// The broker, where the topology is declared.
    pub nodes: Nodes,
    stop: watch::Receiver<bool>,
}

impl Service {
    /// Says that this function is at work, or could be at once, for as long as what is returned is kept.
    #[must_use]
    pub fn announce(&self) -> Ready {
        Ready::announce(self.worker.ready_file.as_deref())
    }

    /// Whether the process was told to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ends when the process is told to stop.
    pub async fn stopped(&self) {
        stopped(self.stop.clone()).await;
    }

    /// Waits this long, or until the process is told to stop.
    pub async fn wait(&self, wait: Duration) {
        tokio::select! { () = self.stopped() => (), () = tokio::time::sleep(wait) => () }
    }
}

/// The whole `main` of such a function: reads the command line, declares the topology, serves until `serve` returns. It has
/// to return soon after the process is told to stop.
pub fn main_of_service<Options, Serving>(program: Program, serve: impl FnOnce(Service, Options) -> Serving) -> ExitCode
where
    Options: Args,
    Serving: Future<Output = anyhow::Result<()>>,
{
    let Program { name, about, after_help, without } = program;
    let command = CommandLine::<Options>::command().name(name).bin_name(name).about(about).after_help(after_help);
    let command = without.iter().fold(command, |command, option| command.mut_arg(*option, |it| it.hide(true)));
    run_program(command, async |line: CommandLine<Options>, stop| {
        let Some(nodes) = declared(name, &line.worker, &Topology::read(), &stop).await? else { return Ok(()) };
        let service = Service { worker: line.worker, nodes, stop: stop.clone() };
        in_time(serve(service, line.function), stop).await
    })
}
