//! What all private servers have in common: they are started, answer or do not, are killed, and start again on their data.

use super::{Folder, Program, Signal, Supervised};
use anyhow::{Context, Result, bail};
use futures_util::future::BoxFuture;
use std::{fs, path::PathBuf, process::ExitStatus, sync::Arc, time::Duration};

/// How long a server may take until it answers, on a slow and busy machine and with data to recover.
const READY_WAIT_MAX: Duration = Duration::from_secs(120);
/// How often a starting server is asked.
const READY_POLL: Duration = Duration::from_millis(20);
/// How long an orderly stop may take.
const STOP_WAIT_MAX: Duration = Duration::from_secs(60);
/// How much of a server's log an error shows.
const LOG_LINES_SHOWN_MAX: usize = 20;

/// A server's process, from one start to the next.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    folder: Arc<Folder>,
    log: PathBuf,
    program: Program,
    process: Supervised,
}

impl Server {
    /// Starts the program, with this log; whether it answers is for [`Server::ready`] to say.
    pub(super) async fn start(
        folder: &Arc<Folder>,
        name: &'static str,
        log: PathBuf,
        program: Program,
    ) -> Result<Server> {
        let program = program.log(&log);
        let process = folder.spawn(&program).await.with_context(|| format!("start {name}"))?;
        Ok(Server { name, folder: Arc::clone(folder), log, program, process })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What `ask` says, as soon as the server answers; an error with the end of its log where it ends instead, or never does.
    pub(super) async fn ready<T>(&mut self, ask: impl Fn() -> BoxFuture<'static, Result<T>>) -> Result<T> {
        let mut last = None;
        let asking = async {
            loop {
                match ask().await {
                    Ok(answer) => return answer,
                    Err(not_yet) => last = Some(not_yet),
                }
                tokio::time::sleep(READY_POLL).await;
            }
        };
        let said = tokio::select! {
            status = self.process.wait() => format!("{} ended while starting ({})", self.name, status?),
            answer = tokio::time::timeout(READY_WAIT_MAX, asking) => match answer {
                Ok(answer) => return Ok(answer),
                Err(_elapsed) => format!("{} does not answer after {READY_WAIT_MAX:?}", self.name),
            },
        };
        let error = last.map(|error| format!(": {error:#}")).unwrap_or_default();
        bail!("{said}{error}; its log ends with\n{}", last_lines(&self.log_text()))
    }

    /// Tells it to stop by this signal, and waits until it is gone.
    pub(super) async fn end(&mut self, signal: Signal) -> Result<()> {
        self.process.send(signal).with_context(|| format!("tell {} to stop", self.name))?;
        let ended = tokio::time::timeout(STOP_WAIT_MAX, self.process.wait()).await;
        ended.with_context(|| format!("{} did not stop in time", self.name))??;
        Ok(())
    }

    /// Kills it at once, as a power cut would.
    pub(super) async fn kill(&mut self) -> Result<ExitStatus> {
        self.process.kill().await
    }

    /// Starts it again on the same data.
    pub(super) async fn start_again(&mut self) -> Result<()> {
        self.process = self.folder.spawn(&self.program).await.with_context(|| format!("start {} again", self.name))?;
        Ok(())
    }

    /// Stops it for good. The data has no future, so nothing is written out.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.process.stop().await.map(|_status| ())
    }

    pub(super) fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

/// The end of a log, for an error that people read.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN_MAX)..].iter().map(|line| format!("  {line}\n")).collect()
}

/// For any part of a URL.
pub(super) fn percent_encoded(text: &str) -> String {
    let unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encoded = |byte: u8| if unreserved(&byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") };
    text.bytes().map(encoded).collect()
}
