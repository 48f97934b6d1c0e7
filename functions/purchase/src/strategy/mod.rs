//! How a batch is decided: the ways to keep stock, and the rounds that they have in common.
//!
//! Each strategy makes one attempt at what is left of a batch (`Attempt`); what it could not commit goes round again after a
//! wait, at random. Invariants, whatever the strategy: a request leaves the round only with an answer that is committed,
//! or that was on record; the rules of an item hold; and running out of attempts is never an answer: then the decision
//! is made under a row lock, where it cannot conflict.

mod atomic;
mod optimistic;
mod pessimistic;
mod redis;
mod round;

pub use self::redis::{Counter, RedisOptions};
use clap::{Args, ValueEnum};

use futures_util::{StreamExt, future::BoxFuture, stream};
use round::Round;
use shared::{
    config::Unusable,
    db::on_connection,
    error::Error,
    handler::Answer,
    messages::PurchaseRequest,
    retry::{self, Ended, Listener, RetryPolicy},
};
use sqlx::{PgConnection, PgPool};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Attempts under the row lock. The items cannot conflict there; only a request id that somebody sends for another
/// item at the same instant can, and is on record the next time.
const LOCKED_ATTEMPTS_MAX: u32 = 5;

/// The ways to keep stock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// Read, decide, commit if the version is still the one read; else decide again after a wait with full jitter
    #[default]
    Optimistic,
    /// Lock the item's row (SELECT … FOR UPDATE), decide, write, in one short transaction
    Pessimistic,
    /// One statement that checks, decides and writes; rules about buyers are left to `optimistic`
    Atomic,
    /// Redis counts the units, and the statement of `atomic` confirms; rules about buyers are left to `optimistic`
    Redis,
}

/// How the worker decides.
#[derive(Debug, Clone, Args)]
pub struct StrategyOptions {
    /// How stock is kept while requests are decided. The same for all workers.
    #[arg(long, env = "STRATEGY", value_enum, default_value_t)]
    pub strategy: Strategy,
    /// For comparison only: with more than 1, each request is decided by itself and so many at once, in each other's way.
    /// Gives up the order of arrival. Takes as many database connections.
    #[arg(long, env = "IN_FLIGHT", default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=100))]
    pub in_flight: u16,
    /// What counts, where it is not the database.
    #[command(flatten)]
    pub redis: RedisOptions,
}

impl Default for StrategyOptions {
    fn default() -> Self {
        Self { strategy: Strategy::default(), in_flight: 1, redis: RedisOptions::default() }
    }
}

/// Decides batches.
#[derive(Clone)]
pub(crate) struct Decider {
    pool: PgPool,
    options: StrategyOptions,
    retry: RetryPolicy,
    listeners: Arc<[Box<dyn Listener>]>,
    /// Where the strategy has one.
    counter: Option<Counter>,
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
        let counter = match options.strategy {
            Strategy::Redis => Some(Counter::new(&options.redis)?),
            Strategy::Optimistic | Strategy::Pessimistic | Strategy::Atomic => None,
        };
        Ok(Self { pool, options, retry, listeners: listeners.into(), counter })
    }

    /// Answers `requests`, in order.
    ///
    /// # Errors
    /// The database is away or unfit, or cannot take one of the requests.
    ///
    /// Boxed, so that the database library's code is compiled here and not in every program that calls it.
    pub(crate) fn answer<'a>(&'a self, requests: &'a [PurchaseRequest]) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
        if self.options.in_flight == 1 {
            return Box::pin(self.answer_batch(requests));
        }
        Box::pin(async move {
            let deciding: Vec<_> = requests.chunks(1).map(|request| self.answer_batch(request)).collect();
            // All of them, whatever becomes of one: a transaction that is given up while it begins would leak.
            let answers: Vec<_> = stream::iter(deciding).buffered(usize::from(self.options.in_flight)).collect().await;
            Ok(answers.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
        })
    }

    /// How many connections it uses at once.
    pub(crate) fn connections(&self) -> u16 {
        self.options.in_flight
    }

    /// Has the strategy's own statements parsed and planned, on this connection.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn warm_up(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        match self.options.strategy {
            // What these run is run by every strategy, for some item.
            Strategy::Optimistic | Strategy::Pessimistic => Ok(()),
            Strategy::Atomic | Strategy::Redis => atomic::warm_up(connection).await,
        }
    }

    /// Waits for what counts, where that is not the database, for a limited time.
    ///
    /// # Errors
    /// It cannot be reached in time, or refuses us.
    pub(crate) async fn reach_counter(&self, seconds_max: u64) -> anyhow::Result<()> {
        match &self.counter {
            Some(counter) => redis::reach(counter, &self.pool, seconds_max).await,
            None => Ok(()),
        }
    }

    /// Decides a batch as one, in rounds.
    async fn answer_batch(&self, requests: &[PurchaseRequest]) -> Result<Vec<Answer>, Error> {
        let mut round = Round::new(requests);
        let mut waits = self.retry.waits();
        loop {
            let mut attempt = self.attempt(self.options.strategy, &round).await?;
            round.take(&mut attempt);
            let wait = if round.is_over() { None } else { waits.next() };
            self.tell(&attempt, round.attempts, wait);
            if round.is_over() {
                return Ok(round.answers());
            }
            let Some(wait) = wait else { break };
            tokio::time::sleep(wait).await;
        }
        tracing::info!(requests = round.requests_left().len(), "attempts are used up; deciding under a row lock");
        for _ in 0..LOCKED_ATTEMPTS_MAX {
            let mut attempt = self.attempt(Strategy::Pessimistic, &round).await?;
            round.take(&mut attempt);
            self.tell(&attempt, round.attempts, None);
            if round.is_over() {
                return Ok(round.answers());
            }
        }
        Err(Error::Away("a request id was contended to the end; trying again".to_owned()))
    }

    /// One attempt at what is left.
    async fn attempt<'a>(&self, strategy: Strategy, round: &Round<'a>) -> Result<Attempt<'a>, Error> {
        let (requests, conflicts) = (round.requests_left(), &round.conflicts);
        on_connection(&self.pool, async |connection: &mut PgConnection| match strategy {
            Strategy::Optimistic => optimistic::attempt(connection, &requests, conflicts).await,
            Strategy::Pessimistic => {
                let attempt = pessimistic::attempt(connection, &requests, conflicts).await?;
                if let Some(counter) = &self.counter {
                    redis::count_anew(connection, counter, &attempt.committed).await;
                }
                Ok(attempt)
            }
            Strategy::Atomic => atomic::attempt(connection, &requests, None, conflicts).await,
            Strategy::Redis => {
                let counter = self.counter.as_ref().expect("it is made where the strategy is chosen");
                redis::attempt(connection, counter, &requests, conflicts).await
            }
        })
        .await
    }

    fn tell(&self, attempt: &Attempt<'_>, number: u32, wait: Option<Duration>) {
        let conflict = Ended::Conflict { wait };
        let committed = attempt.committed.iter().map(|item| (Some(*item), Ended::Committed));
        let overtaken = attempt.overtaken.iter().map(|item| (Some(*item), conflict));
        let request_id = attempt.is_id_contended.then_some((None, conflict));
        for (item, ended) in committed.chain(overtaken).chain(request_id) {
            self.listeners.iter().for_each(|listener| listener.attempted(&retry::Attempt { item, number, ended }));
        }
    }
}

/// How often each item was decided in vain.
type Conflicts = HashMap<String, i64>;

/// What came of one attempt at requests.
#[derive(Debug)]
struct Attempt<'a> {
    /// Of each request, in order: its answer, where that is committed or was on record.
    answers: Vec<Option<Answer>>,
    /// The items on which something was committed.
    committed: Vec<&'a str>,
    /// The items on which somebody else was faster.
    overtaken: Vec<&'a str>,
    /// Whether somebody else recorded one of the other request ids at the same instant.
    is_id_contended: bool,
}

impl Attempt<'_> {
    /// Somebody else recorded one of the request ids at the same instant, and nothing was committed.
    fn in_vain(requests: usize) -> Self {
        Self { answers: vec![None; requests], committed: Vec::new(), overtaken: Vec::new(), is_id_contended: true }
    }
}

impl<'a> Attempt<'a> {
    /// Takes over what another strategy made of the requests at these places.
    fn take(&mut self, places: &[usize], theirs: Attempt<'a>) {
        for (place, answer) in places.iter().zip(theirs.answers) {
            self.answers[*place] = answer;
        }
        self.committed.extend(theirs.committed);
        self.overtaken.extend(theirs.overtaken);
        self.is_id_contended |= theirs.is_id_contended;
    }
}
