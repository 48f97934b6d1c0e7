//! Where a row is run: servers, programs, and the readings around each sale.
//!
//! Knows how to run a row once and nothing of the order of rows. Invariant: between the two readings nobody does anything
//! but the sale, and when a row has been run, everybody who took part is gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;

use super::counted::{self, Counted};
use super::figures::Repetition;
use super::plan::{Contender, door};
use super::report::Form;
use crate::bench::baseline::{self, Baseline, BaselineResult};
use crate::failure::Failure;
use crate::options::CompareOptions;
use crate::programs;
use crate::progress::Progress;
use crate::readings::{EVERYBODY, OURS};
use crate::sale::{Ceiling, Sale};
use crate::strategy::Strategy;
use crate::workers::{Crew, Endpoints, Workers, await_end};

/// Buyers of the sale that is not measured: what is done for the first time is slow.
const WARM_UP_BUYERS: u32 = 1_000;
/// How often is measured what each way to sell causes without a buyer.
const IDLE_REPETITIONS: u32 = 3;

/// What the names of everybody's connections begin with, those of the HTTP server among them.
const AT_A_DOOR: [&str; 2] = ["turnstile-", "loadtest"];
/// Connections to the database that a worker keeps where fewer requests compete: its own default.
const CONNECTIONS: u32 = 4;

/// Servers, programs, and what they do when nobody buys.
pub(super) struct Bench<'a> {
    endpoints: &'a Endpoints,
    options: &'a CompareOptions,
    program: &'a Path,
    ourselves: PathBuf,
    progress: &'a Progress,
    /// What is counted although no buyer caused it, of starting and stopping, and of the readings: by HTTP or not, and by
    /// strategy. On the queue it is the same in every form, as connections are opened when they are first needed.
    idle: BTreeMap<(bool, Option<Strategy>), Counted>,
}

impl<'a> Bench<'a> {
    /// Runs a sale that is not measured, and finds what each way to sell causes without a buyer.
    ///
    /// # Errors
    /// As those of a sale.
    pub(super) async fn warmed_up(
        endpoints: &'a Endpoints,
        (options, program): (&'a CompareOptions, &'a Path),
        contenders: &[Contender],
        progress: &'a Progress,
    ) -> Result<Self, Failure> {
        let ourselves = programs::ourselves()?;
        let mut bench = Self { endpoints, options, program, ourselves, progress, idle: BTreeMap::new() };
        bench.warm_up().await?;
        // Of the ceiling there is nothing to know: no database takes part.
        for contender in contenders.iter().filter(|contender| contender.form != Form::Ceiling) {
            if !bench.idle.contains_key(&way(contender)) {
                progress.stage(format!("measuring what nobody causes: {}", contender.name()));
                let idle = bench.idle(contender).await?;
                bench.idle.insert(way(contender), idle);
            }
        }
        Ok(bench)
    }

    /// The ceiling, and a sale, on queues that nobody else uses. Asked once: later on, what workers left there for each other
    /// (messages that mean nothing) looks like requests from outside.
    async fn warm_up(&self) -> Result<(), Failure> {
        const WHAT: &str = "warming up";
        Ceiling::refuse_queues_in_use(self.endpoints).await?;
        self.ceiling(&Contender { buyers: WARM_UP_BUYERS, form: Form::Ceiling, strategy: None }, WHAT).await?;
        let strategy = Some(Strategy::default());
        self.sale(&Contender { buyers: WARM_UP_BUYERS, form: Form::Batched, strategy }, WHAT).await?;
        Ok(())
    }

    /// Runs a row once.
    ///
    /// # Errors
    /// A server is away, a program does not start, or somebody else works on the same database.
    pub(super) async fn run(&self, contender: &Contender, what: &str) -> Result<Repetition, Failure> {
        match contender.form {
            Form::Ceiling => self.ceiling(contender, what).await,
            Form::Batched | Form::OneByOne | Form::Competing => self.sale(contender, what).await,
            Form::Http => self.door(contender, what).await,
        }
    }

    async fn ceiling(&self, contender: &Contender, what: &str) -> Result<Repetition, Failure> {
        let (scenario, crew) = (self.options.scenario(contender.buyers), self.crew(contender));
        let progress = (self.progress, what);
        let outcome = Ceiling::measure(self.endpoints, &scenario, crew, self.options.patience(), progress).await?;
        Ok(Repetition::of_sale(contender, &outcome, None))
    }

    async fn sale(&self, contender: &Contender, what: &str) -> Result<Repetition, Failure> {
        self.progress.stage(format!("{what}: starting the workers"));
        let scenario = self.options.scenario(contender.buyers);
        let sale = Sale::prepare(self.endpoints, &scenario, self.crew(contender)).await?;
        let before = self.counted(&OURS).await?;
        let following = self.progress.follow(what.to_owned(), sale.answered(), contender.buyers);
        let drained = sale.open(self.options.patience()).drain().await?;
        drop(following);
        let after = self.counted(&EVERYBODY).await?;
        self.progress.stage(format!("{what}: auditing"));
        let outcome = drained.audit().await?;
        await_end(self.endpoints).await?;
        Ok(Repetition::of_sale(contender, &outcome, Some(self.taken(contender, after - before))))
    }

    async fn door(&self, contender: &Contender, what: &str) -> Result<Repetition, Failure> {
        self.progress.stage(what.to_owned());
        let before = self.counted(&AT_A_DOOR).await?;
        let outcome = self.open_door(contender, contender.buyers, self.options.stock(contender.buyers)).await?;
        let after = self.counted(&AT_A_DOOR).await?;
        Ok(Repetition::of_door(contender, &outcome, self.taken(contender, after - before)))
    }

    async fn open_door(&self, contender: &Contender, buyers: u32, stock: u64) -> Result<BaselineResult, Failure> {
        let Some(strategy) = contender.strategy.and_then(door) else {
            return Err(Failure::Broken(anyhow!("by HTTP, {} is not there", contender.name())));
        };
        let payment = Duration::from_millis(self.options.payment_ms);
        let scenario = Baseline { payment, ..Baseline::new(strategy, buyers, stock) };
        baseline::run(&self.ourselves, &self.endpoints.database_url, &scenario).await
    }

    /// What is counted of it when nobody buys: how long a start takes varies, so it is measured more than once.
    async fn idle(&self, contender: &Contender) -> Result<Counted, Failure> {
        let mut idle = Vec::new();
        for _ in 0..IDLE_REPETITIONS {
            idle.push(self.idle_once(contender).await?);
        }
        Ok(Counted::median(&idle))
    }

    async fn idle_once(&self, contender: &Contender) -> Result<Counted, Failure> {
        match contender.form {
            Form::Ceiling => Ok(Counted::default()),
            Form::Batched | Form::OneByOne | Form::Competing => {
                let workers = Workers::start(self.crew(contender), self.endpoints).await?;
                let before = self.counted(&OURS).await?;
                workers.drain().await;
                let after = self.counted(&EVERYBODY).await?;
                await_end(self.endpoints).await?;
                Ok(after - before)
            }
            Form::Http => {
                let before = self.counted(&AT_A_DOOR).await?;
                self.open_door(contender, 0, 0).await?;
                Ok(self.counted(&AT_A_DOOR).await? - before)
            }
        }
    }

    async fn counted(&self, gone: &[&str]) -> Result<Counted, Failure> {
        counted::read(&self.endpoints.database_url, gone).await
    }

    fn taken(&self, contender: &Contender, counted: Counted) -> Counted {
        let idle = self.idle.get(&way(contender)).copied().unwrap_or_default();
        counted - idle
    }

    fn crew(&self, contender: &Contender) -> Crew {
        let workers = self.options.workers;
        let Some(strategy) = contender.strategy else {
            let arguments = vec![Ceiling::WORKER.to_owned()];
            return Crew { arguments, strategy: None, ..Crew::purchase(self.ourselves.clone(), workers, None) };
        };
        // Both in every form, whatever our own environment says: one connection for each request that competes.
        let in_flight = contender.in_flight(self.options.in_flight).unwrap_or(1);
        let connections = in_flight.max(CONNECTIONS);
        let environment = vec![
            ("IN_FLIGHT".to_owned(), in_flight.to_string()),
            ("DATABASE_CONNECTIONS_MAX".to_owned(), connections.to_string()),
        ];
        let crew = Crew::purchase(self.program.to_owned(), workers, contender.batch_max());
        Crew { environment, strategy: Some(strategy), ..crew }
    }
}

/// Ways to sell that cause the same without a buyer.
fn way(contender: &Contender) -> (bool, Option<Strategy>) {
    (contender.form == Form::Http, contender.strategy)
}
