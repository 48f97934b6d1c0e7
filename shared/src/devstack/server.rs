//! What all private servers have in common: they are started, say in their log that they are ready, are killed, and start
//! again on their data.

use super::{Folder, Program, Signal, Supervised};
use anyhow::{Context, Result, anyhow};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a server may take until it is ready, on a slow and busy machine and with data to recover.
const READY_WAIT_MAX: Duration = Duration::from_secs(120);
/// How often a starting server's log is looked at.
const READY_POLL: Duration = Duration::from_millis(20);
/// How long an orderly stop may take.
const STOP_WAIT_MAX: Duration = Duration::from_secs(60);
/// How much of a server's log an error shows.
const LOG_LINES_SHOWN_MAX: usize = 20;
/// What PostgreSQL says while the kernel still counts a killed server's children as users of its shared memory.
const STILL_IN_USE: &str = "is still in use";
/// Starts tried as long as that is so.
const STARTS_MAX: u32 = 50;
const START_PAUSE: Duration = Duration::from_millis(100);

/// What Erlang, RabbitMQ and epmd say of a port that another program has.
const PORT_TAKEN: [&str; 3] = ["eaddrinuse", "dist_port_already_used", "already a epmd running"];

/// Another start, on other ports, may go better.
#[derive(Debug, thiserror::Error)]
#[error("a port was taken meanwhile")]
pub(super) struct PortTaken;

/// A server's process, from one start to the next. Dropping it stops it in the background.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    /// What its log says once it serves.
    ready: &'static str,
    folder: Arc<Folder>,
    log: PathBuf,
    /// So many bytes of the log are of earlier starts.
    logged_before: usize,
    program: Program,
    process: Supervised,
}

impl Server {
    /// Starts the program, with a log of this name, and waits until that says that it is ready.
    pub(super) async fn start(
        folder: &Arc<Folder>,
        name: &'static str,
        log: &str,
        ready: &'static str,
        program: Program,
    ) -> Result<Server> {
        let log = folder.path().join(format!("{log}.log"));
        let logged_before = length(&log);
        let mut program = program.log(&log);
        let process = folder.spawn(&mut program).await.with_context(|| format!("start {name}"))?;
        let mut server = Server { name, ready, folder: Arc::clone(folder), log, logged_before, program, process };
        server.ready().await?;
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it at once, as a power cut would, and starts it again on the same data.
    pub(super) async fn kill_and_restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.start_again().await
    }

    /// Has it stop by this signal, and starts it again on the same data.
    pub(super) async fn restart_by(&mut self, signal: Signal) -> Result<()> {
        self.process.send(signal).with_context(|| format!("tell {} to stop", self.name))?;
        let ended = tokio::time::timeout(STOP_WAIT_MAX, self.process.wait()).await;
        ended.with_context(|| format!("{} did not stop in time", self.name))??;
        self.start_again().await
    }

    pub(super) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await.map(drop)
    }

    /// Stops it for good. Nothing is written out: its data have no future, or outlive a kill.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.process.stop().await.map(drop)
    }

    pub(super) async fn start_again(&mut self) -> Result<()> {
        let mut starts = 0;
        loop {
            starts += 1;
            self.logged_before = length(&self.log);
            let spawned = self.folder.spawn(&mut self.program).await;
            self.process = spawned.with_context(|| format!("start {} again", self.name))?;
            match self.ready().await {
                Err(_) if starts < STARTS_MAX && self.logged().contains(STILL_IN_USE) => {
                    tokio::time::sleep(START_PAUSE).await;
                }
                started => return started,
            }
        }
    }

    async fn ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            // Looked at first: what it said before it ended stands in the log by then.
            let ended = self.process.try_wait()?;
            if self.logged().contains(self.ready) {
                return Ok(());
            }
            let how = match ended {
                Some(status) => format!("ended while starting ({status})"),
                None if started.elapsed() > READY_WAIT_MAX => format!("is not ready after {READY_WAIT_MAX:?}"),
                None => {
                    tokio::time::sleep(READY_POLL).await;
                    continue;
                }
            };
            let logged = self.logged();
            let text = format!("{} {how}; its log ends with\n{}", self.name, last_lines(&logged));
            let is_taken = PORT_TAKEN.iter().any(|words| logged.contains(words));
            return Err(if is_taken { anyhow::Error::new(PortTaken).context(text) } else { anyhow!(text) });
        }
    }

    /// What it has logged since it was last started.
    fn logged(&self) -> String {
        let logged = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(logged.get(self.logged_before..).unwrap_or_default()).into_owned()
    }
}

fn length(log: &Path) -> usize {
    fs::read(log).map_or(0, |logged| logged.len())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN_MAX)..].iter().map(|line| format!("  {line}\n")).collect()
}

/// For any part of a URL.
pub(super) fn percent_encoded(text: &str) -> String {
    let unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encoded = |byte: u8| if unreserved(&byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") };
    text.bytes().map(encoded).collect()
}
