//! The worker processes of a run: started, watched, signalled and drained.
//!
//! No worker outlives the run, however it ends ([`shared::devstack::Supervised`]), and every worker that was ever started
//! has an [`Ending`] after [`Workers::drain`].

mod process;

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use futures_util::future::join_all;
use shared::devstack::{Folder, Signal};

use crate::auditor::Ending;
use crate::failure::Failure;
use crate::servers::Endpoints;
use crate::strategy::Strategy;
use process::{Condition, Worker};

/// What the processes of the purchase function are called, with a number.
const PURCHASE: &str = "worker";
/// The place of those who decide purchases among the functions of a run.
const DECIDING: usize = 0;
/// What a worker logs once it has subscribed to all of its queues. The broker cannot be asked: a passive declare counts
/// only the active one of several single active consumers (3.10), or not even consumers (4.0 to 4.2, fixed by pull
/// request 16185 of rabbitmq-server).
const CONSUMING: &str = "consuming";

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
    /// What its processes log once they are ready.
    pub ready_logged: &'static str,
}

impl WorkerSpec {
    /// Those who decide purchases.
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

    /// Those who say `reserved` to everybody, and touch no database.
    pub fn ceiling(ourselves: PathBuf, count: u32, batch_max: Option<u32>) -> Self {
        let arguments = vec!["ceiling-worker".to_owned()];
        Self { arguments, strategy: None, ..Self::purchase(ourselves, count, batch_max) }
    }

    /// One process of another function, called by its name.
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
        let logs = Folder::create().map_err(Failure::Broken)?;
        let mut workers = Self { specs, endpoints: endpoints.clone(), logs, started: Vec::new() };
        for function in 0..workers.specs.len() {
            for _ in 0..workers.specs[function].count {
                workers.start_one(function).await?;
            }
            workers.all_ready().await?;
        }
        Ok(workers)
    }

    /// Starts one more of those who decide purchases and returns at once; [`Workers::ready`] waits for it.
    pub async fn start_another(&mut self) -> Result<(), Failure> {
        self.start_one(DECIDING).await
    }

    async fn start_one(&mut self, function: usize) -> Result<(), Failure> {
        let spec = &self.specs[function];
        let number = self.started.iter().filter(|worker| worker.function == function).count() + 1;
        let id = format!("{}-{number}", spec.name);
        let log = self.logs.path().join(format!("{id}.log"));
        self.started.push(Worker::start(spec, &self.endpoints, function, id, log).await?);
        Ok(())
    }

    /// Waits until the worker with this index is ready for work.
    pub async fn ready(&mut self, index: usize) -> Result<(), Failure> {
        self.worker(index)?.ready().await
    }

    /// Waits until every worker is ready, but for those that were killed.
    pub async fn all_ready(&mut self) -> Result<(), Failure> {
        for worker in self.started.iter_mut().filter(|worker| worker.condition != Condition::Killed) {
            worker.ready().await?;
        }
        Ok(())
    }

    pub fn signal(&mut self, index: usize, signal: Signal) -> Result<(), Failure> {
        let worker = self.worker(index)?;
        let sent = worker.process.send(signal).with_context(|| format!("send {signal:?} to {}", worker.id));
        sent.map_err(Failure::Broken)?;
        match signal {
            Signal::Terminate | Signal::Interrupt | Signal::Quit | Signal::Kill => {
                worker.condition = Condition::Stopping;
            }
            Signal::Stop if worker.condition == Condition::AtWork => worker.condition = Condition::Frozen,
            Signal::Continue if worker.condition == Condition::Frozen => worker.condition = Condition::AtWork,
            Signal::Stop | Signal::Continue => {}
        }
        Ok(())
    }

    /// Kills a worker with `kill -9` and waits for its end, which then counts as clean.
    pub async fn kill(&mut self, index: usize) -> Result<(), Failure> {
        self.sample_memory();
        let worker = self.worker(index)?;
        worker.condition = Condition::Killed;
        worker.process.kill().await.map_err(Failure::Broken)?;
        Ok(())
    }

    /// Kills one of all workers that are at work, chosen by `pick`, and starts another of its function. Returns the id of
    /// the one that was killed; `None` where nobody is at work.
    pub(crate) async fn crash(&mut self, pick: u64) -> Result<Option<String>, Failure> {
        let mut at_work: Vec<usize> = (0..self.started.len()).filter(|&at| self.started[at].is_at_work()).collect();
        at_work.sort_by_key(|&index| self.started[index].function);
        let Some(chosen) = pick.checked_rem(at_work.len() as u64) else { return Ok(None) };
        let index = at_work[usize::try_from(chosen).expect("it is below a length")];
        self.kill(index).await?;
        self.start_one(self.started[index].function).await?;
        Ok(self.id(index))
    }

    /// How many were ever started: the index of the next.
    pub fn count(&self) -> usize {
        self.started.len()
    }

    pub fn id(&self, index: usize) -> Option<String> {
        self.started.get(index).map(|worker| worker.id.clone())
    }

    /// The process ids, in the order of the indices.
    pub fn pids(&self) -> Vec<u32> {
        self.started.iter().map(|worker| worker.process.pid()).collect()
    }

    /// What the worker with this index has logged so far.
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

    /// Notes each running worker's peak memory.
    pub fn sample_memory(&mut self) {
        self.started.iter_mut().for_each(Worker::sample_memory);
    }

    /// Id and peak memory, as last noted, of those who decide purchases.
    pub fn memory(&self) -> Vec<(String, Option<f64>)> {
        let deciding = self.started.iter().filter(|worker| worker.function == DECIDING);
        deciding.map(|worker| (worker.id.clone(), worker.rss_mib)).collect()
    }

    /// Asks every worker to drain, first those who decide purchases, and says how each ended.
    pub async fn drain(mut self) -> Vec<Ending> {
        self.sample_memory();
        let mut endings = Vec::new();
        for function in 0..self.specs.len() {
            let workers = self.started.iter_mut().filter(|worker| worker.function == function);
            endings.extend(join_all(workers.map(Worker::drain)).await);
        }
        // Whatever stays of the logs goes with the folder's keeper.
        drop(self.logs.remove().await);
        endings
    }

    /// Why there is nobody left to decide.
    pub(crate) fn all_gone(&mut self) -> Failure {
        let deciding = self.started.iter_mut().rfind(|worker| worker.function == DECIDING);
        let Some(worker) = deciding else { return Failure::Broken(anyhow!("no worker was started")) };
        let how = match worker.process.try_wait() {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "still running".to_owned(),
            Err(error) => error.to_string(),
        };
        let (id, log) = (&worker.id, worker.last_logged());
        let text = anyhow!("every worker has ended in the middle of the sale; {id} ({how}) logged last\n{log}");
        Failure::Broken(text)
    }

    fn worker(&mut self, index: usize) -> Result<&mut Worker, Failure> {
        self.started.get_mut(index).context("there is no such worker").map_err(Failure::Broken)
    }
}
