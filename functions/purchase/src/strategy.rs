//! The strategies: ways to keep stock, and the rounds that they have in common.
//!
//! All read, decide and commit; they differ in what they lock, who counts, and how the commit finds out whether the decisions
//! are still right. Invariants, whatever the strategy: an answer leaves only when it is committed, or was on record; the rules
//! of an item hold; and running out of attempts is never an answer: then the decision is made under a row lock, where it
//! cannot conflict.

mod redis;
mod round;

pub use self::redis::Counter;

use crate::{
    decide::decide,
    store::{self, Check},
};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt, future::BoxFuture, stream};
use round::{Attempt, Conflicts, Round};
use shared::{
    config::Unusable,
    db::{is_conflict, on_connection},
    error::Error,
    fail_point::pause_at,
    handler::Answer,
    messages::PurchaseRequest,
    retry::{self, Ended, Listener, RetryPolicy},
};
use sqlx::{Connection, PgConnection, PgPool};
use std::{collections::HashMap, iter, sync::Arc, time::Duration};
use uuid::Uuid;

/// Attempts under the row lock. The items cannot conflict there; only a request id that somebody sends for another
/// item at the same instant can, and is on record the next time.
const LOCKED_ATTEMPTS_MAX: u32 = 5;
const REDIS_URL_DEFAULT: &str = "redis://127.0.0.1:6379";

/// The ways to keep stock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// Read, decide, commit if the version is still the one read; else decide again after a wait with full jitter
    #[default]
    Optimistic,
    /// Lock the item's row (SELECT … FOR UPDATE), decide, write, in one short transaction
    Pessimistic,
    /// Read, decide, commit if the row still gives the same answers; with rules about buyers, if it has the same version
    Atomic,
    /// Redis counts the units, and the commit of `atomic` confirms; items with rules about buyers go by their version
    Redis,
}

/// How the worker decides.
#[derive(Debug, Clone, Args)]
pub struct StrategyOptions {
    /// How stock is kept while requests are decided. The same for all workers.
    #[arg(long, env = "STRATEGY", value_enum, default_value_t)]
    pub strategy: StrategyName,
    /// For comparison only: with more than 1, each request is decided by itself and so many at once, in each other's way.
    /// Gives up the order of arrival. Takes as many database connections.
    #[arg(long, env = "IN_FLIGHT", default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=100))]
    pub in_flight: u16,
    /// Where Redis is: redis://USER:PASSWORD@HOST:PORT/DATABASE, or redis+unix:///path of a Unix socket. Only the strategy
    /// `redis` uses it.
    #[arg(long, env = "REDIS_URL", default_value = REDIS_URL_DEFAULT, hide_env_values = true)]
    pub redis_url: String,
}

impl Default for StrategyOptions {
    fn default() -> Self {
        Self { strategy: StrategyName::default(), in_flight: 1, redis_url: REDIS_URL_DEFAULT.to_owned() }
    }
}

/// A way to keep stock, with what it needs for that.
#[derive(Clone)]
enum Strategy {
    Optimistic,
    Pessimistic,
    Atomic,
    Redis(Counter),
}

/// Decides batches.
#[derive(Clone)]
pub(crate) struct Decider {
    pool: PgPool,
    strategy: Strategy,
    /// Batches decided at once, each on a connection of its own.
    pub(crate) in_flight: u16,
    retry: RetryPolicy,
    listeners: Arc<[Box<dyn Listener>]>,
}

impl Decider {
    /// # Errors
    /// What the strategy needs cannot be had with these options.
    pub(crate) fn new(
        pool: PgPool,
        options: StrategyOptions,
        retry: RetryPolicy,
        listeners: Vec<Box<dyn Listener>>,
    ) -> Result<Self, Unusable> {
        let strategy = match options.strategy {
            StrategyName::Optimistic => Strategy::Optimistic,
            StrategyName::Pessimistic => Strategy::Pessimistic,
            StrategyName::Atomic => Strategy::Atomic,
            StrategyName::Redis => Strategy::Redis(Counter::new(&options.redis_url)?),
        };
        Ok(Self { pool, strategy, in_flight: options.in_flight, retry, listeners: listeners.into() })
    }

    /// Answers `requests`, in order.
    ///
    /// Boxed, so that the database library's code is compiled here and not in every program that calls it.
    pub(crate) fn answer<'a>(&'a self, requests: &'a [PurchaseRequest]) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
        if self.in_flight == 1 {
            return Box::pin(self.answer_batch(requests));
        }
        Box::pin(async move {
            let deciding: Vec<_> = requests.chunks(1).map(|request| self.answer_batch(request)).collect();
            // All of them, whatever becomes of one: a transaction that is given up while it begins would leak.
            let answers: Vec<_> = stream::iter(deciding).buffered(usize::from(self.in_flight)).collect().await;
            Ok(answers.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
        })
    }

    /// Waits for what counts, where that is not the database, for a limited time.
    pub(crate) async fn reach_counter(&self, seconds_max: u64) -> anyhow::Result<()> {
        match &self.strategy {
            Strategy::Redis(counter) => redis::reach(counter, &self.pool, seconds_max).await,
            Strategy::Optimistic | Strategy::Pessimistic | Strategy::Atomic => Ok(()),
        }
    }

    /// Decides a batch as one, in rounds.
    async fn answer_batch(&self, requests: &[PurchaseRequest]) -> Result<Vec<Answer>, Error> {
        let mut round = Round::new(requests);
        let mut waits = self.retry.waits();
        while let Some(wait) = self.advance(&mut round, &self.strategy, &mut waits).await? {
            tokio::time::sleep(wait).await;
        }
        if !round.is_over() {
            tracing::info!(requests = round.open().len(), "attempts are used up; deciding under a row lock");
        }
        for _ in 0..LOCKED_ATTEMPTS_MAX {
            if round.is_over() {
                break;
            }
            self.advance(&mut round, &Strategy::Pessimistic, iter::empty()).await?;
        }
        round
            .into_answers()
            .ok_or_else(|| Error::Away("a request id was contended to the end; trying again".to_owned()))
    }

    /// Makes one attempt at what is open. Returns how long to wait for the next one of its kind; `None`: there is none.
    async fn advance(
        &self,
        round: &mut Round<'_>,
        strategy: &Strategy,
        mut waits: impl Iterator<Item = Duration>,
    ) -> Result<Option<Duration>, Error> {
        let mut attempt = self.attempt(strategy, round).await?;
        round.take(&mut attempt);
        let wait = if round.is_over() { None } else { waits.next() };
        self.publish(&attempt, round.attempts, wait);
        Ok(wait)
    }

    async fn attempt<'a>(&self, strategy: &Strategy, round: &Round<'a>) -> Result<Attempt<'a>, Error> {
        let (requests, conflicts) = (round.open(), &round.conflicts);
        on_connection(&self.pool, async |connection: &mut PgConnection| {
            let (attempt, is_locked) = match strategy {
                Strategy::Pessimistic => (attempt_locked(connection, &requests, conflicts).await?, true),
                Strategy::Optimistic | Strategy::Atomic | Strategy::Redis(_) => {
                    (attempt(connection, strategy, &requests, conflicts).await?, false)
                }
            };
            // Only now: counted anew before the commit, they would be counted with the units that it takes.
            if let Strategy::Redis(counter) = &self.strategy {
                let is_bypassed = |item: &&str| is_locked || redis::is_doubtful(conflicts, item);
                let bypassed: Vec<&str> = attempt.committed.iter().copied().filter(is_bypassed).collect();
                redis::count_anew(connection, counter, &bypassed).await;
            }
            Ok(attempt)
        })
        .await
    }

    fn publish(&self, attempt: &Attempt<'_>, number: u32, wait: Option<Duration>) {
        let conflict = Ended::Conflict { wait };
        let committed = attempt.committed.iter().map(|item| (Some(*item), Ended::Committed));
        let conflicted = attempt.conflicted.iter().map(|item| (Some(*item), conflict));
        let request_id = attempt.is_id_contended.then_some((None, conflict));
        for (item, ended) in committed.chain(conflicted).chain(request_id) {
            self.listeners.iter().for_each(|listener| listener.attempted(&retry::Attempt { item, number, ended }));
        }
    }
}

/// Reads, decides and commits.
async fn attempt<'a>(
    connection: &mut PgConnection,
    strategy: &Strategy,
    requests: &[&'a PurchaseRequest],
    conflicts: &Conflicts,
) -> Result<Attempt<'a>, Error> {
    let (mut snapshot, mut verdicts) = store::read(connection, requests).await?;
    let check = match strategy {
        Strategy::Optimistic | Strategy::Pessimistic => Check::Version,
        Strategy::Atomic => Check::Answers,
        Strategy::Redis(counter) => {
            redis::count(connection, counter, requests, &mut snapshot, &verdicts, conflicts).await?;
            pause_at("confirming").await;
            Check::Answers
        }
    };
    let decided = decide(requests, &snapshot, &mut verdicts, Uuid::now_v7);
    pause_at("committing").await;
    // All of them were on record.
    if verdicts.all_added().is_empty() {
        return Ok(Attempt::of(requests, decided, &verdicts, &HashMap::new()));
    }
    match store::commit(connection, &decided, &verdicts, check, conflicts).await {
        Ok(committed) => Ok(Attempt::of(requests, decided, &verdicts, &committed)),
        Err(error) if is_conflict(&error) => Ok(Attempt::of_contended_id(requests.len())),
        Err(error) => Err(error.into()),
    }
}

/// The same in one short transaction that locks the rows first, in the order of their ids. Nothing moves under the locks, so
/// the versions hold: only a request id that somebody else records at the same instant can be in its way.
async fn attempt_locked<'a>(
    connection: &mut PgConnection,
    requests: &[&'a PurchaseRequest],
    conflicts: &Conflicts,
) -> Result<Attempt<'a>, Error> {
    let mut transaction = connection.begin().await?;
    store::lock(&mut transaction, requests).await?;
    let attempt = attempt(&mut transaction, &Strategy::Pessimistic, requests, conflicts).await?;
    // Where this fails, the answers are lost with it; what was recorded all the same is found the next time. After a request
    // id conflict it rolls back, and there is no answer to lose.
    transaction.commit().await?;
    Ok(attempt)
}
