//! This program in further processes: JSON values over their standard input and output, one a line. A process ends when
//! its input does, so none outlives us.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, anyhow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::failure::Failure;

/// What a process of clients has open beside its buyers' connections, generously.
const FILES_BESIDE: u64 = 200;
/// The most processes that the clients are spread over.
const PROCESSES_MAX: u64 = 64;

pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(super) fn start(program: &Path, subcommand: &str) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.arg(subcommand).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().with_context(|| format!("start {subcommand}")).map_err(Failure::Configuration)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = (input.expect("it is piped"), BufReader::new(output.expect("it is piped")));
        Ok(Self { child, input, output })
    }

    /// Where the process is gone, its last word says why: [`Process::receive`] has it.
    pub(super) async fn send(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(value).map_err(|error| Failure::Broken(error.into()))?;
        line.push(b'\n');
        let _is_gone = self.input.write_all(&line).await;
        Ok(())
    }

    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let mut line = Vec::new();
        self.output.read_until(b'\n', &mut line).await.map_err(|error| Failure::Broken(error.into()))?;
        match line.is_empty() {
            true => Err(self.last_word().await),
            false => serde_json::from_slice(&line).context("read what a process says").map_err(Failure::Broken),
        }
    }

    pub(super) async fn end(self) -> Result<(), Failure> {
        let Self { mut child, input, output } = self;
        drop((input, output));
        child.wait().await.context("wait for a process").map_err(Failure::Broken).map(drop)
    }

    async fn last_word(&mut self) -> Failure {
        let mut text = String::new();
        if let Some(errors) = &mut self.child.stderr {
            // Whatever cannot be read is left out of a message about something else.
            let _ = errors.read_to_string(&mut text).await;
        }
        match self.child.wait().await {
            Ok(status) => Failure::of_worker(status, anyhow!("an HTTP baseline's process ended ({status}):\n{text}")),
            Err(error) => Failure::Broken(error.into()),
        }
    }
}

/// From whoever started us.
pub(super) fn read_line<T: DeserializeOwned>() -> anyhow::Result<T> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    serde_json::from_str(&line).context("this subcommand is started by `loadtest compare`")
}

/// To whoever started us.
pub(super) fn print_line(value: &impl Serialize) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, value)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}

pub(super) async fn until_input_ends() -> anyhow::Result<()> {
    let reading = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    Ok(reading.await?.map(drop)?)
}

/// Raises this process's limit of open files as far as it may: a connection is a file.
pub(super) fn allow_most_files() -> Result<(), Failure> {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    raised.context("raise the limit of open files").map_err(Failure::Broken)
}

/// Over how many processes so many buyers must be spread, so that each has a connection.
///
/// # Errors
/// The system allows too few files for that.
pub(crate) fn processes_for(buyers: u32) -> Result<usize, Failure> {
    let limits = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files").map_err(Failure::Broken)?;
    let (_, hard) = limits;
    spread(buyers, hard).ok_or_else(|| {
        Failure::Configuration(anyhow!(
            "{buyers} buyers with a connection each do not fit into {PROCESSES_MAX} processes of {hard} open files; raise the \
             hard limit (`ulimit -Hn`, or LimitNOFILE= of the service), or send fewer buyers"
        ))
    })
}

fn spread(buyers: u32, files: u64) -> Option<usize> {
    let each = files.checked_sub(FILES_BESIDE).filter(|each| *each > 0)?;
    let processes = u64::from(buyers).div_ceil(each);
    usize::try_from(processes).ok().filter(|_| processes <= PROCESSES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_over_as_few_processes_as_can_have_their_connections() {
        assert_eq!(spread(1, 1_024), Some(1));
        assert_eq!(spread(19_800, 20_000), Some(1));
        assert_eq!(spread(19_801, 20_000), Some(2));
        assert_eq!(spread(1, 200), None, "no file is left for a buyer");
        assert_eq!(spread(65, 201), None, "more processes than anybody wants");
        assert_eq!(spread(u32::MAX, u64::MAX), Some(1), "without a limit");
    }
}
