//! This program in further processes, each sent one JSON value as a line, and answering in such lines. A process ends when
//! its input does, so none outlives us. None of them logs: a full pipe that nobody reads would stop it.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, anyhow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
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
    pub(super) async fn start(program: &Path, subcommand: &str, value: &impl Serialize) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.arg(subcommand).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().with_context(|| format!("start {subcommand}")).map_err(Failure::Configuration)?;
        let mut input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let line = serde_json::to_string(value).map_err(|error| Failure::Broken(error.into()))? + "\n";
        // Where the process is gone already, its last words say why.
        let _is_gone = input.write_all(line.as_bytes()).await;
        Ok(Self { child, input, output })
    }

    /// The next line that it says, or its last words where it ends instead.
    pub(super) async fn receive<T: DeserializeOwned>(mut self) -> Result<(Self, T), Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line).await.map_err(|error| Failure::Broken(error.into()))?;
        if !line.is_empty() {
            let value = serde_json::from_str(&line).context("read what a process says").map_err(Failure::Broken)?;
            return Ok((self, value));
        }
        let ended = self.child.wait_with_output().await.map_err(|error| Failure::Broken(error.into()))?;
        let (status, words) = (ended.status, String::from_utf8_lossy(&ended.stderr).into_owned());
        Err(Failure::of_worker(status, anyhow!("a process of the HTTP baseline ended ({status}):\n{words}")))
    }

    pub(super) async fn end(self) -> Result<(), Failure> {
        let Self { mut child, input, output } = self;
        drop((input, output));
        child.wait().await.context("wait for a process").map_err(Failure::Broken).map(drop)
    }
}

/// In such a process: what it was sent. Raises its limit of open files as far as it may, for a connection is a file.
pub(super) fn received<T: DeserializeOwned>() -> Result<T, Failure> {
    let mut line = String::new();
    let received = std::io::stdin().read_line(&mut line).map_err(anyhow::Error::from).and_then(|_| {
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
        Ok(serde_json::from_str(&line)?)
    });
    received.context("`loadtest compare` starts this").map_err(Failure::Broken)
}

/// Over how many processes so many buyers must be spread, so that each has a connection.
pub(crate) fn processes_for(buyers: u32) -> Result<u32, Failure> {
    let limits = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files").map_err(Failure::Broken)?;
    let (_, hard) = limits;
    spread(buyers, hard).ok_or_else(|| {
        Failure::Configuration(anyhow!(
            "{buyers} buyers with a connection each do not fit into {PROCESSES_MAX} processes of {hard} open files; raise the \
             hard limit (`ulimit -Hn`, or LimitNOFILE= of the service), or send fewer buyers"
        ))
    })
}

fn spread(buyers: u32, files: u64) -> Option<u32> {
    let each = files.checked_sub(FILES_BESIDE).filter(|each| *each > 0)?;
    let processes = u64::from(buyers).div_ceil(each);
    u32::try_from(processes).ok().filter(|_| processes <= PROCESSES_MAX)
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
