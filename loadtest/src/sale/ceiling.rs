//! A round without a database: what broker, runtime and buyers can do at most.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::watch;

use super::{outcome, salt};
use crate::audit::{Audit, Evidence};
use crate::failure::Failure;
use crate::outcome::{Outcome, ScenarioReport, ServersReport};
use crate::probe::{Probe, broker_version};
use crate::progress::Progress;
use crate::round::Round;
use crate::scenario::{Scenario, Schedule};
use crate::workers::{Crew, Endpoints, await_end};

/// The same buyers against workers that touch no database.
pub struct Ceiling {
    round: Round<'static>,
    schedule: Arc<Schedule>,
    report: ScenarioReport,
    servers: ServersReport,
}

impl Ceiling {
    /// The subcommand that is its worker.
    pub(crate) const WORKER: &'static str = "ceiling-worker";

    /// Makes sure that nobody else uses the queues: its workers would answer real requests.
    ///
    /// # Errors
    /// Somebody does; or the broker is away, or has other queues than ours.
    pub(crate) async fn refuse_queues_in_use(endpoints: &Endpoints) -> Result<(), Failure> {
        let probe = Probe::connect(&endpoints.amqp_url).await?;
        probe.declare_topology().await?;
        if probe.consumers().await? > 0 || probe.depth().await? > 0 {
            return Err(Failure::Configuration(anyhow!(
                "the queues of this broker are in use, and the ceiling's workers would answer real requests; \
                 give the ceiling a virtual host of its own"
            )));
        }
        probe.close().await;
        Ok(())
    }

    /// Runs it from beginning to end, and returns when its workers are gone; `progress` says what is going on.
    ///
    /// # Errors
    /// As [`Ceiling::prepare`] and [`Ceiling::finish`].
    pub(crate) async fn measure(
        endpoints: &Endpoints,
        scenario: &Scenario,
        crew: Crew,
        patience: Duration,
        (progress, what): (&Progress, &str),
    ) -> Result<Outcome, Failure> {
        progress.stage("starting the workers without a database");
        let ceiling = Self::prepare(endpoints, scenario, crew).await?;
        let following = progress.follow(what.to_owned(), ceiling.answered(), scenario.buyers);
        let outcome = ceiling.open(patience).finish().await?;
        drop(following);
        await_end(endpoints).await?;
        Ok(outcome)
    }

    /// Makes the topology, starts the workers and connects the buyers.
    ///
    /// # Errors
    /// As [`super::Sale::prepare`].
    pub async fn prepare(endpoints: &Endpoints, scenario: &Scenario, crew: Crew) -> Result<Self, Failure> {
        let rabbitmq = broker_version(&endpoints.amqp_url).await?;
        let servers = ServersReport { rabbitmq, postgresql: None, redis: None };
        let schedule = Arc::new(Schedule::new(scenario, &salt()));
        let report = ScenarioReport::new(scenario, &crew);
        let round = Round::prepare(endpoints, Arc::clone(&schedule), crew, None).await?;
        Ok(Self { round, schedule, report, servers })
    }

    /// As [`super::Sale::open`].
    #[must_use]
    pub fn open(self, patience: Duration) -> Self {
        Self { round: self.round.open(patience), ..self }
    }

    /// As [`super::Sale::answered`].
    #[must_use]
    pub fn answered(&self) -> watch::Receiver<usize> {
        self.round.answered()
    }

    /// Waits for every reply, drains the workers, and judges the replies alone.
    ///
    /// # Errors
    /// As [`super::Sale::finish`].
    pub async fn finish(self) -> Result<Outcome, Failure> {
        let tally = self.round.finish(std::future::ready(Ok(()))).await?;
        let audit = Audit::of(&Evidence {
            schedule: &self.schedule,
            answers: &tally.answers,
            dead_growth: tally.dead_growth,
            endings: &tally.endings,
            database: None,
            orders: None,
        });
        Ok(outcome(self.report, self.servers, audit, tally))
    }
}
