//! The worker processes of a run: started, watched, signalled and drained. Knows nothing of what they decide.
//!
//! Invariant: no worker outlives the run, however it ends ([`Supervised`]), and every worker that was ever started has
//! an [`Ending`] after [`Workers::drain`].

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::future::join_all;
use shared::devstack::{Folder, Program, Signal, Supervised};
use tokio::time::{Instant, sleep};

use crate::auditor::Ending;
use crate::failure::Failure;
use crate::probe::Probe;

/// How long workers may take to consume every partition.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a worker may take to drain before it is killed; longer than its own limit.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(30);
/// What a worker logs once it has subscribed to all of its queues. The broker cannot be asked: a passive declare counts
/// only the active one of several single active consumers (3.10), or not even consumers (4.0 to 4.2, fixed by pull
/// request 16185 of rabbitmq-server).
const READY_LOGGED: &str = "consuming";
/// Makes sure that it is logged, whatever else is.
const READY_FILTER: &str = "shared::runtime=info";
/// The rest of the filter, unless `RUST_LOG` says otherwise.
const LOG_FILTER_DEFAULT: &str = "info";
/// Between two looks at the logs while waiting for the workers.
const READY_POLL: Duration = Duration::from_millis(20);
/// How much of a failed worker's log an error shows.
const LOG_LINES_SHOWN_MAX: usize = 20;
/// Kilobytes of `/proc` in a MiB.
const KIB_PER_MIB: f64 = 1_024.0;

/// What to start, and how often.
#[derive(Debug, Clone)]
pub struct Crew {
    /// The worker program.
    pub program: PathBuf,
    /// What comes before the flags that every worker takes (a subcommand).
    pub arguments: Vec<String>,
    /// Set for the workers on top of our own environment (a fail point, say).
    pub environment: Vec<(String, String)>,
    /// How many; 0 leaves the deciding to workers that run already.
    pub count: u32,
    /// The batch limit; `None` leaves the worker its own.
    pub batch_max: Option<u32>,
}

/// Where the servers are.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// The broker, with the virtual host.
    pub amqp_url: String,
    /// The database.
    pub database_url: String,
}

/// The worker processes of a run.
pub struct Workers {
    crew: Crew,
    endpoints: Endpoints,
    logs: Folder,
    started: Vec<Worker>,
}

/// One worker process, running or not.
struct Worker {
    id: String,
    process: Supervised,
    log: PathBuf,
    rss_mib: Option<f64>,
    /// Killed by [`Workers::kill`]: its exit status says nothing.
    killed: bool,
    /// Asked to end by [`Workers::signal`]; it may still be draining.
    told_to_stop: bool,
    /// Suspended by [`Workers::signal`].
    frozen: bool,
}

impl Workers {
    /// Starts the crew and returns when each of them consumes every partition.
    ///
    /// # Errors
    /// A worker cannot be started, ends, or is not ready in time; the text has the end of its log.
    pub async fn start(crew: Crew, endpoints: &Endpoints) -> Result<Self, Failure> {
        let logs = Folder::create().map_err(Failure::Broken)?;
        let endpoints = endpoints.clone();
        let mut workers = Self { crew, endpoints, logs, started: Vec::new() };
        for _ in 0..workers.crew.count {
            workers.start_another().await?;
        }
        workers.all_ready().await?;
        Ok(workers)
    }

    /// Starts one more of the crew and returns at once; [`Workers::ready`] waits for it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn start_another(&mut self) -> Result<(), Failure> {
        let id = format!("worker-{}", self.started.len() + 1);
        let log = self.logs.path().join(format!("{id}.log"));
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| LOG_FILTER_DEFAULT.to_owned());
        let mut program = Program::new(&self.crew.program)
            .args(&self.crew.arguments)
            .args(["--worker-id", &id])
            // In the environment, not on the command line: URLs have passwords in them.
            .env("AMQP_URL", &self.endpoints.amqp_url)
            .env("DATABASE_URL", &self.endpoints.database_url)
            .env("RUST_LOG", format!("{filter},{READY_FILTER}"))
            .log(&log)
            .stop(Signal::Terminate, DRAIN_WAIT_MAX);
        if let Some(batch_max) = self.crew.batch_max {
            program = program.args(["--batch-max", &batch_max.to_string()]);
        }
        for (name, value) in &self.crew.environment {
            program = program.env(name, value);
        }
        let process = Supervised::spawn(program).await.map_err(Failure::Configuration)?;
        self.started.push(Worker {
            id,
            process,
            log,
            rss_mib: None,
            killed: false,
            told_to_stop: false,
            frozen: false,
        });
        Ok(())
    }

    /// Waits until the worker with this index consumes every partition.
    ///
    /// # Errors
    /// It ends, or takes longer than its limit; the text has the end of its log.
    pub async fn ready(&mut self, index: usize) -> Result<(), Failure> {
        let worker = self.worker(index)?;
        let started = Instant::now();
        while !read_log(&worker.log).contains(READY_LOGGED) {
            let status = worker.process.try_wait().map_err(|error| Failure::Broken(error.into()))?;
            let (id, log) = (&worker.id, tail(&worker.log));
            if let Some(status) = status {
                let text = anyhow!("{id} ended before it consumed ({status}); its log ends with\n{log}");
                return Err(Failure::of_worker(status, text));
            }
            if started.elapsed() > READY_WAIT_MAX {
                let seconds = READY_WAIT_MAX.as_secs();
                let text = anyhow!("{id} does not consume after {seconds} s; its log ends with\n{log}");
                return Err(Failure::Broken(text));
            }
            sleep(READY_POLL).await;
        }
        Ok(())
    }

    /// Sends the worker with this index (in order of their start) a signal.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub fn signal(&mut self, index: usize, signal: Signal) -> Result<(), Failure> {
        let worker = self.worker(index)?;
        let sent = worker.process.send(signal).with_context(|| format!("send {signal:?} to {}", worker.id));
        sent.map_err(Failure::Broken)?;
        match signal {
            Signal::Terminate | Signal::Interrupt | Signal::Quit | Signal::Kill => worker.told_to_stop = true,
            Signal::Stop => worker.frozen = true,
            Signal::Continue => worker.frozen = false,
        }
        Ok(())
    }

    /// Kills a worker with `kill -9` and waits for its end, which then counts as clean.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        self.sample_memory();
        let worker = self.worker(index)?;
        worker.killed = true;
        worker.process.kill().await.map_err(Failure::Broken)?;
        Ok(())
    }

    /// Waits until every worker consumes every partition, but for those that were killed.
    ///
    /// # Errors
    /// As [`Workers::ready`].
    pub async fn all_ready(&mut self) -> Result<(), Failure> {
        for index in 0..self.started.len() {
            if !self.worker(index)?.killed {
                self.ready(index).await?;
            }
        }
        Ok(())
    }

    /// Waits until the worker with this index has ended by itself.
    ///
    /// # Errors
    /// There is none, or the system cannot wait.
    pub async fn wait(&mut self, index: usize) -> Result<ExitStatus, Failure> {
        let worker = self.worker(index)?;
        worker.process.wait().await.map_err(|error| Failure::Broken(error.into()))
    }

    /// How many were ever started: the index of the next.
    #[must_use]
    pub fn count(&self) -> usize {
        self.started.len()
    }

    /// The id of the worker with this index.
    #[must_use]
    pub fn id(&self, index: usize) -> Option<String> {
        self.started.get(index).map(|worker| worker.id.clone())
    }

    /// The index of the worker that was started first of those that run, are not frozen and were not told to stop.
    pub fn first_at_work(&mut self) -> Option<usize> {
        self.started
            .iter_mut()
            .position(|worker| !worker.frozen && !worker.told_to_stop && matches!(worker.process.try_wait(), Ok(None)))
    }

    /// The process id of the worker with this index.
    #[must_use]
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.started.get(index).map(|worker| worker.process.pid())
    }

    /// What the worker with this index has logged so far.
    #[must_use]
    pub fn log(&self, index: usize) -> Option<String> {
        Some(read_log(&self.started.get(index)?.log))
    }

    /// Whether the deciding is ours alone and every worker has ended.
    pub fn all_ended(&mut self) -> bool {
        self.crew.count > 0 && self.started.iter_mut().all(|worker| matches!(worker.process.try_wait(), Ok(Some(_))))
    }

    /// Notes each running worker's peak memory.
    pub fn sample_memory(&mut self) {
        for worker in &mut self.started {
            worker.rss_mib = peak_rss_mib(worker.process.pid()).or(worker.rss_mib);
        }
    }

    /// Each worker's id and peak memory as last noted.
    #[must_use]
    pub fn memory(&self) -> Vec<(String, Option<f64>)> {
        self.started.iter().map(|worker| (worker.id.clone(), worker.rss_mib)).collect()
    }

    /// Asks every worker to drain, waits for their ends, and says how each ended.
    pub async fn drain(mut self) -> Vec<Ending> {
        self.sample_memory();
        let endings = join_all(self.started.iter_mut().map(|worker| async {
            let (clean, how) = match worker.process.stop().await {
                Ok(status) => (status.success() || worker.killed, status.to_string()),
                Err(error) => (false, format!("{error:#}")),
            };
            let how = if clean { how } else { format!("{how}; its log ends with\n{}", tail(&worker.log)) };
            Ending { worker_id: worker.id.clone(), clean, how }
        }))
        .await;
        // Whatever stays of the logs goes with the folder's keeper.
        drop(self.logs.remove().await);
        endings
    }

    fn worker(&mut self, index: usize) -> Result<&mut Worker, Failure> {
        self.started.get_mut(index).context("there is no such worker").map_err(Failure::Broken)
    }

    /// Why there is nobody left to decide.
    #[must_use]
    pub fn all_gone(&mut self) -> anyhow::Error {
        let Some(worker) = self.started.last_mut() else { return anyhow!("no worker was started") };
        let how = match worker.process.try_wait() {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "still running".to_owned(),
            Err(error) => error.to_string(),
        };
        let (id, log) = (&worker.id, tail(&worker.log));
        anyhow!("every worker has ended in the middle of the sale; {id} ({how}) logged last\n{log}")
    }
}

/// Waits until nobody consumes any partition: the workers before are gone.
///
/// # Errors
/// The broker went away, or somebody still consumes when the limit has passed.
pub async fn await_nobody(probe: &Probe) -> Result<(), Failure> {
    let started = Instant::now();
    while probe.consumers().await? > 0 {
        if started.elapsed() > READY_WAIT_MAX {
            return Err(Failure::Broken(anyhow!("somebody still consumes after the workers have ended")));
        }
        sleep(READY_POLL).await;
    }
    Ok(())
}

/// The most memory that the process ever had resident; `None` once it has ended.
fn peak_rss_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(crate::outcome::round(kib / KIB_PER_MIB, 10.0))
}

fn read_log(log: &Path) -> String {
    // A log that cannot be read has nothing to show.
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}

fn tail(log: &Path) -> String {
    let text = read_log(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN_MAX)..].iter().map(|line| format!("  {line}\n")).collect()
}
