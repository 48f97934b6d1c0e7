//! One worker process: how it is started, when it is ready, and how it ends.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use shared::devstack::{Program, Signal, Supervised};
use tokio::time::{Instant, sleep};

use super::WorkerSpec;
use crate::auditor::Ending;
use crate::failure::Failure;
use crate::servers::Endpoints;
use crate::stats::round;

/// How long a worker may take to be ready for work.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks at its log while waiting for that.
const READY_POLL: Duration = Duration::from_millis(20);
/// How long a worker may take to drain before it is killed; longer than its own limit.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(30);
/// Makes sure that it is logged, whatever else is.
const READY_FILTER: &str = "shared::worker=info,relay=info";
/// The rest of the filter, unless `RUST_LOG` says otherwise.
const LOG_FILTER_DEFAULT: &str = "info";
/// How much of a failed worker's log an error shows.
const LOG_LINES_SHOWN_MAX: usize = 20;
/// Kilobytes of `/proc` in a MiB.
const KIB_PER_MIB: f64 = 1_024.0;

/// What was done to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    AtWork,
    Frozen,
    /// Asked to end by a signal; it may still be draining.
    Stopping,
    /// On purpose: its exit status says nothing.
    Killed,
}

/// One worker process, running or not.
pub(super) struct Worker {
    pub(super) id: String,
    /// The place of its spec among those of the run.
    pub(super) function: usize,
    pub(super) process: Supervised,
    log: PathBuf,
    ready_logged: &'static str,
    pub(super) rss_mib: Option<f64>,
    pub(super) condition: Condition,
}

impl Worker {
    /// Starts one, with a log of its own.
    pub(super) async fn start(
        spec: &WorkerSpec,
        endpoints: &Endpoints,
        function: usize,
        id: String,
        log: PathBuf,
    ) -> Result<Self, Failure> {
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| LOG_FILTER_DEFAULT.to_owned());
        let mut program = Program::new(&spec.program)
            .args(&spec.arguments)
            .args(["--worker-id", &id])
            // In the environment, not on the command line: URLs have passwords in them.
            .env("AMQP_URL", &endpoints.amqp_url)
            .env("DATABASE_URL", &endpoints.database_url)
            .env("RUST_LOG", format!("{filter},{READY_FILTER}"))
            .log(&log)
            .stop(Signal::Terminate, DRAIN_WAIT_MAX);
        if let Some(batch_max) = spec.batch_max {
            program = program.args(["--batch-max", &batch_max.to_string()]);
        }
        if let Some(strategy) = spec.strategy {
            program = program.env("STRATEGY", strategy.as_str());
        }
        if let Some(redis_url) = &endpoints.redis_url {
            program = program.env("REDIS_URL", redis_url);
        }
        for (name, value) in &spec.environment {
            program = program.env(name, value);
        }
        let process = Supervised::spawn(program).await.map_err(Failure::Configuration)?;
        let ready_logged = spec.ready_logged;
        Ok(Self { id, function, process, log, ready_logged, rss_mib: None, condition: Condition::AtWork })
    }

    pub(super) async fn ready(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        while !self.logged().contains(self.ready_logged) {
            let status = self.process.try_wait().map_err(|error| Failure::Broken(error.into()))?;
            let (id, log) = (&self.id, self.last_logged());
            if let Some(status) = status {
                let text = anyhow!("{id} ended before it was ready ({status}); its log ends with\n{log}");
                return Err(Failure::of_worker(status, text));
            }
            if started.elapsed() > READY_WAIT_MAX {
                let seconds = READY_WAIT_MAX.as_secs();
                let text = anyhow!("{id} is not ready after {seconds} s; its log ends with\n{log}");
                return Err(Failure::Broken(text));
            }
            sleep(READY_POLL).await;
        }
        Ok(())
    }

    /// Whether it runs, is not frozen and was not asked to stop.
    pub(super) fn is_at_work(&mut self) -> bool {
        self.condition == Condition::AtWork && matches!(self.process.try_wait(), Ok(None))
    }

    /// Notes its peak memory, while it runs.
    pub(super) fn sample_memory(&mut self) {
        self.rss_mib = peak_rss_mib(self.process.pid()).or(self.rss_mib);
    }

    /// Asks it to drain, waits for its end, and says how it ended.
    pub(super) async fn drain(&mut self) -> Ending {
        let (clean, how) = match self.process.stop().await {
            Ok(status) => (status.success() || self.condition == Condition::Killed, status.to_string()),
            Err(error) => (false, format!("{error:#}")),
        };
        let how = if clean { how } else { format!("{how}; its log ends with\n{}", self.last_logged()) };
        Ending { worker_id: self.id.clone(), clean, how }
    }

    /// What it has logged so far.
    pub(super) fn logged(&self) -> String {
        // A log that cannot be read has nothing to show.
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of that, for people.
    pub(super) fn last_logged(&self) -> String {
        let text = self.logged();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN_MAX)..].iter().map(|line| format!("  {line}\n")).collect()
    }
}

/// The most memory that the process ever had resident; `None` once it has ended.
fn peak_rss_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(round(kib / KIB_PER_MIB, 10.0))
}
