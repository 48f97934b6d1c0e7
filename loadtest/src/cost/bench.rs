//! Where sales are measured: servers, their processes, and the readings around each sale.
//!
//! Knows how to take a sale's figures and nothing of which sales there are. Invariant: between the two readings of a
//! figure nobody does anything but the sale: schema, items and audit are outside of them.

use std::path::Path;
use std::time::{Duration, Instant};

use shared::devstack::Servers;
use tokio::time::timeout;

use super::counters;
use super::cpu;
use super::figures::{CpuTimes, Taken};
use crate::cli::CostOptions;
use crate::database::{EVERYBODY, OURS};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::result::Outcome;
use crate::run::{self, Running, Sale};
use crate::servers::Endpoints;
use crate::workers::{WorkerSpec, Workers};

/// Between two looks at whether there are workers left.
const WATCH_PAUSE: Duration = Duration::from_millis(250);

/// The servers' first processes, where they are on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerPids {
    pub(super) broker: Option<u32>,
    pub(super) database: Option<u32>,
}

impl ServerPids {
    pub(super) fn of_given(options: &CostOptions) -> Self {
        Self { broker: options.broker_pid, database: options.database_pid }
    }

    pub(super) fn of_private(servers: &Servers) -> Self {
        Self { broker: Some(servers.rabbitmq.pid()), database: Some(servers.postgres.pid()) }
    }
}

/// Servers, and what to run on them.
pub(super) struct Bench<'a> {
    options: &'a CostOptions,
    program: &'a Path,
    progress: &'a Progress,
    pids: ServerPids,
    /// Transactions that are counted although no buyer caused them: of the workers' start, and of the readings.
    idle_transactions: i64,
}

impl<'a> Bench<'a> {
    /// Runs one sale that is not measured, as everything is slow when it is done for the first time, and finds what
    /// workers without a buyer cause.
    ///
    /// # Errors
    /// As those of a sale.
    pub(super) async fn warmed_up(
        endpoints: &Endpoints,
        (options, program): (&'a CostOptions, &'a Path),
        progress: &'a Progress,
        pids: ServerPids,
    ) -> Result<Self, Failure> {
        const BUYERS: u32 = 1_000;
        let mut bench = Self { options, program, progress, pids, idle_transactions: 0 };
        bench.sale(endpoints, BUYERS, 1, "warming up").await?;
        let workers = Workers::start(vec![bench.workers()], endpoints).await?;
        let before = counters::read(&endpoints.database_url, &OURS).await?;
        workers.drain().await;
        let after = counters::read(&endpoints.database_url, &EVERYBODY).await?;
        bench.idle_transactions = after.transactions - before.transactions;
        Ok(bench)
    }

    /// Runs one sale and tells what it took, and how it went.
    ///
    /// # Errors
    /// A server is away, a worker does not start, or somebody else works on the same database.
    pub(super) async fn sale(
        &self,
        endpoints: &Endpoints,
        buyers: u32,
        items: u32,
        what: &str,
    ) -> Result<(Taken, Outcome), Failure> {
        self.progress.stage(format!("{what}: starting the workers"));
        let scenario = self.options.scenario(buyers, items);
        let sale = Sale::of(scenario, self.workers(), self.options.timeout());
        let mut sale = run::start(endpoints, sale).await?;
        let item_ids: Vec<String> = sale.schedule().items.iter().map(|item| item.id.clone()).collect();
        let pids: Vec<u32> = sale.workers.pids();
        let database = &endpoints.database_url;

        let before = counters::read(database, &OURS).await?;
        let cpu_before = self.cpu(&pids);
        let following = self.progress.follow(what.to_owned(), sale.answered(), buyers);
        sale.open();
        self.last_verdict(&mut sale, buyers).await;
        let cpu_at_last_verdict = self.cpu(&pids);
        let drained = sale.drain().await?;
        drop(following);
        // The servers still have something to do after the last verdict; the workers are gone by now.
        let cpu_after =
            CpuTimes { workers: cpu_at_last_verdict.workers, buyers: cpu_at_last_verdict.buyers, ..self.cpu(&[]) };
        let after = counters::read(database, &EVERYBODY).await?;

        self.progress.stage(format!("{what}: auditing"));
        let batches = counters::batches(database, &item_ids).await?;
        let outcome = drained.audit().await?;
        let rss_mib: Option<f64> = outcome.workers.iter().map(|worker| worker.rss_mib).sum();
        let taken = Taken {
            purchases: buyers,
            purchases_per_second: outcome.purchases_per_second,
            cpu: cpu_after - cpu_before,
            batches,
            round_trips: (after.transactions - before.transactions - self.idle_transactions).max(0),
            wal_bytes: after.wal_bytes - before.wal_bytes,
            queue_depth_peak: outcome.queue_depth_peak,
            workers_rss_mib: rss_mib,
        };
        Ok((taken, outcome))
    }

    /// Waits for it, or for the end of patience, or of the workers: what came of the sale is told by its audit.
    async fn last_verdict(&self, sale: &mut Running<'_>, buyers: u32) {
        let (mut answered, started) = (sale.answered(), Instant::now());
        let all = |answered: &usize| u64::try_from(*answered) == Ok(buyers.into());
        while timeout(WATCH_PAUSE, answered.wait_for(all)).await.is_err() {
            if started.elapsed() > self.options.timeout() || sale.workers.all_ended() {
                return;
            }
        }
    }

    fn cpu(&self, workers: &[u32]) -> CpuTimes {
        CpuTimes {
            broker: self.pids.broker.and_then(cpu::of_tree),
            workers: workers.iter().map(|pid| cpu::of_tree(*pid)).sum(),
            database: self.pids.database.and_then(cpu::of_tree),
            buyers: cpu::of_process(std::process::id()),
        }
    }

    fn workers(&self) -> WorkerSpec {
        WorkerSpec::purchase(self.program.to_owned(), self.options.workers, self.options.batch_max)
    }
}
