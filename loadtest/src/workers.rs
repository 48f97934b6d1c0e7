//! The worker processes of a crew: started, watched, signalled and drained. Knows nothing of what they do.
//!
//! Invariant: no worker outlives the run, however it ends ([`shared::devstack::Supervised`]), and every worker that was
//! ever started has an [`Ending`] after [`Workers::drain`].

mod process;
mod staff;

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::future::join_all;
use shared::devstack::{Folder, Signal};
use tokio::time::{Instant, sleep};

use crate::audit::Ending;
use crate::failure::Failure;
use crate::probe::Probe;
use crate::strategy::Strategy;
use process::Worker;
pub(crate) use staff::Staff;

/// How long the workers before may take to be gone.
const GONE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks while waiting for that.
const GONE_POLL: Duration = Duration::from_millis(20);
/// What the processes of the purchase function are called, with a number.
const PURCHASE: &str = "worker";

/// What a worker logs once it has subscribed to all of its queues. The broker cannot be asked: a passive declare counts
/// only the active one of several single active consumers (3.10), or not even consumers (4.0 to 4.2, fixed by pull
/// request 16185 of rabbitmq-server).
const CONSUMING: &str = "consuming";

/// What to start, and how often.
#[derive(Debug, Clone)]
pub struct Crew {
    /// What its processes are called, with a number.
    pub name: &'static str,
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
    /// How purchases are decided; `None` where none are.
    pub strategy: Option<Strategy>,
    /// What its processes log once they are ready.
    pub ready_logged: &'static str,
}

impl Crew {
    /// Those who decide purchases.
    #[must_use]
    pub fn purchase(program: PathBuf, count: u32, batch_max: Option<u32>) -> Self {
        Self {
            name: PURCHASE,
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            count,
            batch_max,
            strategy: Some(Strategy::default()),
            ready_logged: CONSUMING,
        }
    }

    /// One process of another function, called by its name.
    #[must_use]
    pub fn one(name: &'static str, program: PathBuf, environment: Vec<(String, String)>) -> Self {
        Self { name, environment, strategy: None, ..Self::purchase(program, 1, None) }
    }
}

/// Where the servers are.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// The broker, with the virtual host.
    pub amqp_url: String,
    /// The database.
    pub database_url: String,
    /// What counts for the strategy of that name; `None` where workers of no such strategy are started.
    pub redis_url: Option<String>,
}

/// The worker processes of a run.
pub struct Workers {
    crew: Crew,
    endpoints: Endpoints,
    logs: Folder,
    started: Vec<Worker>,
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
        let id = format!("{}-{}", self.crew.name, self.started.len() + 1);
        let log = self.logs.path().join(format!("{id}.log"));
        self.started.push(Worker::start(&self.crew, &self.endpoints, id, log).await?);
        Ok(())
    }

    /// Waits until the worker with this index consumes every partition.
    ///
    /// # Errors
    /// It ends, or takes longer than its limit; the text has the end of its log.
    pub async fn ready(&mut self, index: usize) -> Result<(), Failure> {
        self.worker(index)?.ready().await
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
        self.started.iter_mut().position(Worker::is_at_work)
    }

    /// The indices of the workers that run, are not frozen and were not told to stop.
    pub fn at_work(&mut self) -> Vec<usize> {
        let workers = self.started.iter_mut().enumerate();
        workers.filter_map(|(index, worker)| worker.is_at_work().then_some(index)).collect()
    }

    /// The process id of the worker with this index.
    #[must_use]
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.started.get(index).map(|worker| worker.process.pid())
    }

    /// What the worker with this index has logged so far.
    #[must_use]
    pub fn log(&self, index: usize) -> Option<String> {
        Some(self.started.get(index)?.logged())
    }

    /// Whether the deciding is ours alone and every worker has ended.
    pub fn all_ended(&mut self) -> bool {
        self.crew.count > 0 && self.started.iter_mut().all(|worker| matches!(worker.process.try_wait(), Ok(Some(_))))
    }

    /// Notes each running worker's peak memory.
    pub fn sample_memory(&mut self) {
        for worker in &mut self.started {
            worker.sample_memory();
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
        let endings = join_all(self.started.iter_mut().map(Worker::drain)).await;
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
        let (id, log) = (&worker.id, worker.last_logged());
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
        if started.elapsed() > GONE_WAIT_MAX {
            return Err(Failure::Broken(anyhow!("somebody still consumes after the workers have ended")));
        }
        sleep(GONE_POLL).await;
    }
    Ok(())
}

/// The same, on a connection of its own: workers are gone before the broker knows.
///
/// # Errors
/// As [`await_nobody`]; or the broker cannot be reached.
pub(crate) async fn await_end(endpoints: &Endpoints) -> Result<(), Failure> {
    let probe = Probe::connect(&endpoints.amqp_url).await?;
    await_nobody(&probe).await?;
    probe.close().await;
    Ok(())
}
