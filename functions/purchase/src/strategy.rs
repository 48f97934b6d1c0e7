//! The strategies: ways to keep stock, and the attempts that they have in common.
//!
//! All read, decide and commit; they differ in what they lock, who counts, and how the commit finds out whether the decisions
//! are still right. Invariants, whatever the strategy: an answer leaves only when it is committed, or was on record; the rules
//! of an item hold; and running out of attempts is never an answer: then the decision is made under a row lock, where it
//! cannot conflict.

mod redis;

pub use self::redis::Counter;
use crate::decide::{Decided, decide};
use crate::metrics::Metrics;
use crate::store::{self, Check, Conflicts};
use clap::{Args, ValueEnum};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use shared::config::Unusable;
use shared::db::{is_conflict, on_connection};
use shared::error::Error;
use shared::fail_point::pause_at;
use shared::handler::Answer;
use shared::idempotency::Verdicts;
use shared::isolation::{Decide, Row};
use shared::messages::PurchaseRequest;
use shared::retry::RetryPolicy;
use sqlx::{Connection, PgConnection, PgPool};
use std::collections::HashMap;
use std::iter;
use std::path::PathBuf;
use uuid::Uuid;

/// Attempts under the row lock. The items cannot conflict there; only a request id that somebody sends for another
/// item at the same instant can, and is on record the next time.
const LOCKED_ATTEMPTS_MAX: usize = 5;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// Read, decide, commit if the version is still the one read; else decide again after a wait with full jitter
    #[default]
    Optimistic,
    /// Lock the item's row (SELECT … FOR NO KEY UPDATE), decide, write, in one short transaction
    Pessimistic,
    /// Read, decide, commit if the row still gives the same answers; with rules about buyers, if it has the same version
    Atomic,
    /// Redis counts the units, and the commit of `atomic` confirms; items with rules about buyers go by their version
    Redis,
}

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
    /// Where Redis is: redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, or redis+unix:///path of a Unix socket. Only the strategy
    /// `redis` uses it.
    #[arg(long, env = "REDIS_URL", default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
    pub redis_url: String,
    /// A file with the certificate of the authority (PEM) that Redis' is of, for rediss://; without it, the system's authorities are
    /// trusted.
    #[arg(long, env = "REDIS_CA", value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,
}

/// A way to keep stock, with what it needs for that.
#[derive(Clone)]
enum Strategy {
    Optimistic,
    Pessimistic,
    Atomic,
    Redis(Box<Counter>),
}

#[derive(Clone)]
pub(crate) struct Decider {
    pub(crate) pool: PgPool,
    pub(crate) metrics: Metrics,
    strategy: Strategy,
    /// Batches decided at once, each on a connection of its own.
    pub(crate) in_flight: u16,
    retry: RetryPolicy,
}

impl Decider {
    pub(crate) fn new(pool: PgPool, options: StrategyOptions, retry: RetryPolicy) -> Result<Self, Unusable> {
        let strategy = match options.strategy {
            StrategyName::Optimistic => Strategy::Optimistic,
            StrategyName::Pessimistic => Strategy::Pessimistic,
            StrategyName::Atomic => Strategy::Atomic,
            StrategyName::Redis => {
                Strategy::Redis(Box::new(Counter::new(&options.redis_url, options.redis_ca.as_deref())?))
            }
        };
        Ok(Self { pool, metrics: Metrics::default(), strategy, in_flight: options.in_flight, retry })
    }

    /// Answers `requests`, in order.
    ///
    /// Boxed, so that the database library's code is compiled here and not in every program that calls it.
    fn answer<'a>(
        &'a self,
        pool: &'a PgPool,
        requests: &'a [PurchaseRequest],
    ) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
        if self.in_flight == 1 {
            return Box::pin(self.answer_batch(pool, requests));
        }
        Box::pin(async move {
            let deciding: Vec<_> = requests.chunks(1).map(|request| self.answer_batch(pool, request)).collect();
            // All of them, whatever becomes of one: a transaction that is given up while it begins would leak.
            let answers: Vec<_> = stream::iter(deciding).buffered(usize::from(self.in_flight)).collect().await;
            Ok(answers.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
        })
    }

    /// Waits for what counts, where that is not the database, for a limited time.
    pub(crate) async fn reach_counter(&self, seconds_max: u64) -> anyhow::Result<()> {
        match &self.strategy {
            Strategy::Redis(counter) => counter.reach(&self.pool, seconds_max).await,
            Strategy::Optimistic | Strategy::Pessimistic | Strategy::Atomic => Ok(()),
        }
    }

    /// Decides a batch as one, and what conflicted again, alone. A request is open until it is answered; the others keep
    /// their order.
    async fn answer_batch(&self, pool: &PgPool, requests: &[PurchaseRequest]) -> Result<Vec<Answer>, Error> {
        let mut answers: Vec<Option<Answer>> = vec![None; requests.len()];
        let mut conflicts = Conflicts::new();
        // The strategy's own attempts, with a wait behind each but the last, and those under the row lock.
        let own = self.retry.waits().map(Some).chain([None]).map(|wait| (false, wait));
        for (number, (is_locked, wait)) in (1..).zip(own.chain(iter::repeat_n((true, None), LOCKED_ATTEMPTS_MAX))) {
            let unanswered = requests.iter().zip(&answers).filter(|(_, answer)| answer.is_none());
            let open: Vec<_> = unanswered.map(|(request, _)| request).collect();
            let attempt = self.attempt(pool, &open, &conflicts, is_locked).await?;
            self.metrics.committed(attempt.committed.len());
            let unanswered = answers.iter_mut().filter(|answer| answer.is_none());
            unanswered.zip(attempt.answers).for_each(|(unanswered, answer)| *unanswered = answer);
            if answers.iter().all(Option::is_some) {
                break;
            }
            for item in attempt.conflicted {
                self.metrics.conflicted(item, number, wait);
                item.into_iter().for_each(|item| *conflicts.entry(item).or_default() += 1);
            }
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None if is_locked => (),
                None => tracing::info!("attempts are used up; deciding under a row lock"),
            }
        }
        let answers = answers.into_iter().collect::<Option<_>>();
        answers.ok_or_else(|| Error::Row("a request id, or a unique index, was contended to the end".to_owned()))
    }

    /// Makes one attempt at what is open: in the strategy's way, or under the row lock.
    async fn attempt<'a>(
        &self,
        pool: &PgPool,
        open: &[&'a PurchaseRequest],
        conflicts: &Conflicts<'a>,
        is_locked: bool,
    ) -> Result<Attempt<'a>, Error> {
        on_connection(pool, async |connection: &mut PgConnection| {
            let attempt = match &self.strategy {
                Strategy::Optimistic if !is_locked => {
                    attempt(connection, open, conflicts, Check::Version, None).await?
                }
                Strategy::Atomic if !is_locked => attempt(connection, open, conflicts, Check::Answers, None).await?,
                Strategy::Redis(counter) if !is_locked => {
                    attempt(connection, open, conflicts, Check::Answers, Some(counter)).await?
                }
                Strategy::Pessimistic | Strategy::Optimistic | Strategy::Atomic | Strategy::Redis(_) => {
                    // In one short transaction that locks the rows first, in the order of their ids. Nothing moves under the
                    // locks, so the versions hold: only a request id that somebody else records at the same instant can be in
                    // its way. Then it rolls back, and there is no answer to lose; where the commit fails, the answers are
                    // lost with it, and what was recorded all the same is found the next time.
                    let mut transaction = connection.begin().await?;
                    store::lock(&mut transaction, open).await?;
                    let attempt = attempt(&mut transaction, open, conflicts, Check::Version, None).await?;
                    transaction.commit().await?;
                    attempt
                }
            };
            // Only now: counted anew before the commit, they would be counted with the units that it takes.
            if let Strategy::Redis(counter) = &self.strategy {
                let bypassed = attempt.committed.iter().filter(|item| is_locked || redis::is_doubtful(conflicts, item));
                counter.count_anew(connection, bypassed.copied().collect()).await;
            }
            Ok(attempt)
        })
        .await
    }
}

impl Decide for Decider {
    type Request = PurchaseRequest;

    fn row(request: &PurchaseRequest) -> Row {
        Row::Item(request.item.clone())
    }

    async fn decide(&self, pool: &PgPool, requests: &[PurchaseRequest]) -> Result<Vec<Answer>, Error> {
        self.answer(pool, requests).await
    }
}

#[derive(Default)]
struct Attempt<'a> {
    /// Of each request, in order: its answer, where that is committed or was on record.
    answers: Vec<Option<Answer>>,
    /// The items on which something was committed.
    committed: Vec<&'a str>,
    /// The items on which somebody else was faster; `None`: they recorded one of the request ids at the same instant.
    conflicted: Vec<Option<&'a str>>,
}

impl<'a> Attempt<'a> {
    /// What holds of a decided batch: what was on record before, what rests on no item's row, and what rests on one that was
    /// `committed`, for the version that the row had. Copies of a request share what becomes of the first.
    fn of(
        open: &[&'a PurchaseRequest],
        decided: Decided<'a, '_>,
        verdicts: &Verdicts<'a>,
        committed: &HashMap<String, i64>,
    ) -> Self {
        let changes = &decided.changes;
        let held = |request: &PurchaseRequest, answer: Answer| {
            let item = verdicts.added(request).and_then(|new| new.about.item);
            let Some((item, change)) = item.and_then(|item| changes.get_key_value(item)) else { return Some(answer) };
            let version = *committed.get(*item)?;
            Some(match answer {
                Answer::Verdict(reply) if version != change.item.version => {
                    Answer::Verdict(store::at_version(&reply, version))
                }
                Answer::Verdict(_) | Answer::Rejected(_) | Answer::Requeue | Answer::Later => answer,
            })
        };
        let answers = open.iter().zip(decided.answers).map(|(request, answer)| held(request, answer)).collect();
        let (committed, lost): (Vec<_>, Vec<_>) =
            changes.keys().copied().partition(|item| committed.contains_key(*item));
        Self { answers, committed, conflicted: lost.into_iter().map(Some).collect() }
    }
}

/// Reads, decides and commits. A counter takes the place of what the rows say.
async fn attempt<'a>(
    connection: &mut PgConnection,
    open: &[&'a PurchaseRequest],
    conflicts: &Conflicts<'a>,
    check: Check,
    counter: Option<&Counter>,
) -> Result<Attempt<'a>, Error> {
    let (mut snapshot, mut verdicts) = store::read(connection, open).await?;
    if let Some(counter) = counter {
        counter.count(connection, open, &mut snapshot, &verdicts, conflicts).await?;
    }
    let decided = decide(open, &snapshot, &mut verdicts, Uuid::now_v7);
    pause_at("committing").await;
    // All of them were on record.
    if verdicts.all_added().is_empty() {
        return Ok(Attempt::of(open, decided, &verdicts, &HashMap::new()));
    }
    match store::commit(connection, &decided, &verdicts, check, conflicts).await {
        Ok(committed) => Ok(Attempt::of(open, decided, &verdicts, &committed)),
        // Somebody else recorded one of the request ids; nothing was committed.
        Err(error) if is_conflict(&error) => Ok(Attempt { conflicted: vec![None], ..Attempt::default() }),
        Err(error) => Err(error.into()),
    }
}
