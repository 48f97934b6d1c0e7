//! The worker processes of a run: started, watched, signalled and drained.
//!
//! No worker outlives the run, however it ends ([`shared::devstack::Supervised`]), and every worker that was ever started
//! has an [`Ending`] after [`Workers::drain`].

mod doors;

use crate::audit::Ending;
use crate::failure::Failure;
use crate::servers::Endpoints;
use crate::stats::round;
use crate::strategy::Strategy;
use anyhow::{Context, anyhow};
pub(crate) use doors::DOOR;
pub use doors::Door;
use futures_util::future::join_all;
use shared::devstack::{Folder, Program, Signal, Supervised};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The place of those who decide purchases among the functions of a run.
const DECIDING: usize = 0;
/// What a worker logs once it has subscribed to all of its queues; and the relay and the door, which have none. The broker cannot be
/// asked: a passive declare counts only the active one of several single active consumers (3.10), or not even consumers
/// (4.0 to 4.2, fixed by pull request 16185 of rabbitmq-server).
const READY_LOGGED: [&str; 3] = ["consuming", "publishing events", "taking requests"];
/// Makes sure that it is logged, whatever else is.
const READY_FILTER: &str = "shared::worker=info,relay=info,web=info";
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(20);
/// How long a worker may take to drain before it is killed; longer than its own limit.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(30);
/// The rest of the filter, unless `RUST_LOG` says otherwise.
const LOG_FILTER_DEFAULT: &str = "info,lapin=off,sqlx=warn";
const LOG_LINES_SHOWN_MAX: usize = 20;
const KIB_PER_MIB: f64 = 1_024.0;

/// The workers of one function: what to start, and how often.
#[derive(Debug, Clone)]
pub struct WorkerSpec {
    /// What its processes are called, with a number.
    pub name: &'static str,
    pub program: PathBuf,
    /// What comes before the flags that every worker takes (a subcommand).
    pub arguments: Vec<String>,
    /// Set for the workers on top of our own environment (a fail point, say).
    pub environment: Vec<(String, String)>,
    /// 0 leaves the deciding to workers that run already.
    pub count: u32,
    /// `None` leaves the worker its own.
    pub batch_max: Option<u32>,
    /// How purchases are decided; `None` where none are.
    pub strategy: Option<Strategy>,
}

impl WorkerSpec {
    pub fn purchase(program: PathBuf, count: u32, batch_max: Option<u32>) -> Self {
        Self {
            name: "worker",
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            count,
            batch_max,
            strategy: Some(Strategy::default()),
        }
    }

    /// Those who say `reserved` to everybody, and touch no database.
    pub fn ceiling(ourselves: PathBuf, count: u32, batch_max: Option<u32>) -> Self {
        let arguments = vec!["ceiling-worker".to_owned()];
        Self { arguments, strategy: None, ..Self::purchase(ourselves, count, batch_max) }
    }

    pub fn one(name: &'static str, program: PathBuf, environment: Vec<(String, String)>) -> Self {
        Self { name, environment, strategy: None, ..Self::purchase(program, 1, None) }
    }
}

/// The worker processes of a run. Those who decide purchases have the first indices, in the order of their start.
pub struct Workers {
    specs: Vec<WorkerSpec>,
    endpoints: Endpoints,
    logs: Folder,
    started: Vec<Worker>,
}

impl Workers {
    /// Starts the workers of each function, those who decide purchases first, and returns when all are ready.
    pub async fn start(specs: Vec<WorkerSpec>, endpoints: &Endpoints) -> Result<Self, Failure> {
        let mut workers = Self { specs, endpoints: endpoints.clone(), logs: Folder::create()?, started: Vec::new() };
        for function in 0..workers.specs.len() {
            for _ in 0..workers.specs[function].count {
                workers.start_one(function).await?;
            }
            workers.all_ready().await?;
        }
        Ok(workers)
    }

    /// Starts one more of those who decide purchases and returns its index at once; [`Workers::ready`] waits for it.
    pub async fn start_another(&mut self) -> Result<usize, Failure> {
        self.start_one(DECIDING).await
    }

    async fn start_one(&mut self, function: usize) -> Result<usize, Failure> {
        let (spec, endpoints) = (&self.specs[function], &self.endpoints);
        let number = self.started.iter().filter(|worker| worker.function == function).count() + 1;
        let id = format!("{}-{number}", spec.name);
        let log = self.logs.path().join(format!("{id}.log"));
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| LOG_FILTER_DEFAULT.to_owned());
        let batch_max = spec.batch_max.map(|batch_max| ["--batch-max".to_owned(), batch_max.to_string()]);
        let [amqp_url, database_url] = endpoints.of_function(spec.name);
        // In the environment, not on the command line: URLs have passwords in them.
        let mut program = Program::new(&spec.program)
            .args(&spec.arguments)
            .args(["--worker-id", &id])
            .args(batch_max.into_iter().flatten())
            .env("AMQP_URL", amqp_url)
            .env("DATABASE_URL", database_url)
            .env("RUST_LOG", format!("{filter},{READY_FILTER}"))
            .log(&log)
            .stop(Signal::SIGTERM, DRAIN_WAIT_MAX);
        if let Some(strategy) = spec.strategy {
            program = program.env("STRATEGY", strategy.as_str());
        }
        if let Some(redis_url) = &endpoints.redis_url {
            program = program.env("REDIS_URL", redis_url);
        }
        // Where ours are from, they are not to look: they would have both.
        for variable in ["AMQP_URL_FILE", "DATABASE_URL_FILE", "REDIS_URL_FILE"] {
            program = program.env(variable, "");
        }
        for (name, value) in &spec.environment {
            program = program.env(name, value);
        }
        let process = Supervised::spawn(program).await.map_err(Failure::Configuration)?;
        let condition = Condition::AtWork;
        self.started.push(Worker { id, function, process, log, rss_mib: None, condition, address: None });
        Ok(self.started.len() - 1)
    }

    pub async fn ready(&mut self, index: usize) -> Result<(), Failure> {
        self.started[index].ready().await
    }

    /// Waits until every worker is ready, but for those that were killed.
    pub async fn all_ready(&mut self) -> Result<(), Failure> {
        for worker in self.started.iter_mut().filter(|worker| worker.condition != Condition::Killed) {
            worker.ready().await?;
        }
        Ok(())
    }

    pub fn signal(&mut self, index: usize, signal: Signal) -> Result<(), Failure> {
        let worker = &mut self.started[index];
        worker.process.send(signal).with_context(|| format!("send {signal:?} to {}", worker.id))?;
        worker.condition = match (signal, worker.condition) {
            (Signal::SIGSTOP, Condition::AtWork) => Condition::Frozen,
            (Signal::SIGCONT, Condition::Frozen) => Condition::AtWork,
            (Signal::SIGSTOP | Signal::SIGCONT, condition) => condition,
            // Every other one that is sent ends it.
            (_, _) => Condition::Stopping,
        };
        Ok(())
    }

    /// Kills a worker with `kill -9` and waits for its end, which then counts as clean.
    pub async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        self.sample_memory();
        self.started[index].condition = Condition::Killed;
        self.started[index].process.kill().await?;
        Ok(())
    }

    /// One of all workers that are at work, chosen by `pick`.
    pub(crate) fn any_at_work(&mut self, pick: u64) -> Option<usize> {
        let mut at_work: Vec<usize> = (0..self.started.len()).filter(|&at| self.started[at].is_at_work()).collect();
        at_work.sort_by_key(|&index| self.started[index].function);
        let chosen = pick.checked_rem(at_work.len() as u64)?;
        Some(at_work[usize::try_from(chosen).expect("it is below a length")])
    }

    /// Kills one of all workers that are at work, chosen by `pick`, and starts another of its function. Returns the id of
    /// the one that was killed; `None` where nobody is at work.
    pub(crate) async fn crash(&mut self, pick: u64) -> Result<Option<String>, Failure> {
        let Some(index) = self.any_at_work(pick) else { return Ok(None) };
        self.kill(index).await?;
        self.start_one(self.started[index].function).await?;
        Ok(self.id(index))
    }

    pub fn id(&self, index: usize) -> Option<String> {
        self.started.get(index).map(|worker| worker.id.clone())
    }

    pub fn pids(&self) -> Vec<u32> {
        self.started.iter().map(|worker| worker.process.pid()).collect()
    }

    /// The folder of all logs.
    pub(crate) fn logs(&self) -> &Path {
        self.logs.path()
    }

    pub fn log(&self, index: usize) -> Option<String> {
        Some(self.started.get(index)?.logged())
    }

    /// The first of those who decide purchases that runs, is not frozen and was not asked to stop.
    pub(crate) fn first_at_work(&mut self) -> Option<usize> {
        self.started.iter_mut().position(|worker| worker.function == DECIDING && worker.is_at_work())
    }

    /// Whether the deciding is ours alone and everybody who decides has ended.
    pub fn all_ended(&mut self) -> bool {
        let mut deciding = self.started.iter_mut().filter(|worker| worker.function == DECIDING);
        self.specs[DECIDING].count > 0 && deciding.all(|worker| matches!(worker.process.try_wait(), Ok(Some(_))))
    }

    /// Tells who ends, and how, until all have.
    pub(crate) async fn each_end(&mut self, tell: impl Fn(&str, ExitStatus)) {
        let ending = async |worker: &mut Worker| worker.process.wait().await.map(|status| tell(&worker.id, status));
        join_all(self.started.iter_mut().map(ending)).await;
    }

    pub fn sample_memory(&mut self) {
        for worker in self.started.iter_mut().filter(|worker| worker.condition != Condition::Killed) {
            worker.rss_mib = peak_rss_mib(worker.process.pid()).or(worker.rss_mib);
        }
    }

    /// Id and peak memory, as last noted, of those who answer buyers: the doors where there are any, else those who decide
    /// purchases.
    pub fn memory(&self) -> Vec<(String, Option<f64>)> {
        let answering = self.specs.iter().position(|spec| spec.name == DOOR).unwrap_or(DECIDING);
        let answering = self.started.iter().filter(|worker| worker.function == answering);
        answering.map(|worker| (worker.id.clone(), worker.rss_mib)).collect()
    }

    /// Asks every worker to drain, first those who decide purchases, and says how each ended.
    pub async fn drain(mut self) -> Vec<Ending> {
        let mut endings = Vec::new();
        for function in 0..self.specs.len() {
            let workers = self.started.iter_mut().filter(|worker| worker.function == function);
            endings.extend(join_all(workers.map(Worker::drain)).await);
        }
        // Whatever stays of the logs goes with the folder's keeper.
        drop(self.logs.remove().await);
        endings
    }

    /// Why a sale cannot go on: everybody who decides has ended.
    pub(crate) fn all_gone(&mut self) -> Failure {
        let last = self.started.iter_mut().rfind(|worker| worker.function == DECIDING).map(|worker| {
            let status = worker.process.try_wait().ok().flatten();
            let how = status.map_or("still running".to_owned(), |status| status.to_string());
            format!("{} ({how}) {}", worker.id, worker.last_logged())
        });
        let text = anyhow!("every worker has ended in the middle of the sale; {}", last.unwrap_or_default());
        Failure::Broken(text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    AtWork,
    Frozen,
    /// Asked to end by a signal; it may still be draining.
    Stopping,
    /// On purpose: its exit status says nothing.
    Killed,
}

struct Worker {
    id: String,
    /// The place of its spec among those of the run.
    function: usize,
    process: Supervised,
    log: PathBuf,
    rss_mib: Option<f64>,
    condition: Condition,
    address: Option<SocketAddr>,
}

impl Worker {
    async fn ready(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        while !is_ready(&self.logged()) {
            if let Some(status) = self.process.try_wait().context("look after a worker")? {
                let text = anyhow!("{} ended before it was ready ({status}); {}", self.id, self.last_logged());
                return Err(Failure::of_worker(status, text));
            }
            if started.elapsed() > READY_WAIT_MAX {
                let seconds = READY_WAIT_MAX.as_secs();
                return Err(anyhow!("{} is not ready after {seconds} s; {}", self.id, self.last_logged()).into());
            }
            sleep(READY_POLL).await;
        }
        Ok(())
    }

    fn is_at_work(&mut self) -> bool {
        self.condition == Condition::AtWork && matches!(self.process.try_wait(), Ok(None))
    }

    async fn drain(&mut self) -> Ending {
        let (clean, how) = match self.process.stop().await {
            Ok(status) => (status.success() || self.condition == Condition::Killed, status.to_string()),
            Err(error) => (false, format!("{error:#}")),
        };
        let how = if clean { how } else { format!("{how}; {}", self.last_logged()) };
        Ending { worker_id: self.id.clone(), clean, how }
    }

    fn logged(&self) -> String {
        // A log that cannot be read has nothing to show.
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn last_logged(&self) -> String {
        let text = self.logged();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN_MAX)..];
        format!("the log of {} ends with\n  {}", self.id, last.join("\n  "))
    }
}

fn is_ready(logged: &str) -> bool {
    READY_LOGGED.iter().any(|ready| logged.contains(ready))
}

/// The most memory that the process ever had resident; `None` once it has ended.
fn peak_rss_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(round(kib / KIB_PER_MIB, 10.0))
}
