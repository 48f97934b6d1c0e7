//! A fault of one row stops the requests that need that row, and nobody else's: a row that somebody has locked and does
//! not let go, a trigger or a constraint that refuses it, a page that cannot be read.
//!
//! A batch is decided as one. Where the database fails for a reason that may be one row's, it is looked which rows are
//! locked, without waiting for them; the others are decided together, and row by row where that fails, too. What is not
//! decided is answered [`Answer::Later`]: it comes again, first in the next batch. Invariants: of the requests for a row,
//! all that come in a batch are decided, in order, or none; and what may be a row's fault is never a verdict.

mod locks;
mod waiting;

use crate::db;
use crate::error::Error;
use crate::handler::Answer;
use crate::messages::Request;
use locks::Locks;
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};
use uuid::Uuid;
use waiting::Waiting;

/// How long rows are tried one by one, before the rest of a batch is put off to the next.
const ALONE_MAX: Duration = Duration::from_secs(2);

/// What a request is about: those for the same row stay in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Row {
    Item(String),
    Order(Uuid),
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Item(id) => write!(formatter, "item {id}"),
            Self::Order(id) => write!(formatter, "order {id}"),
        }
    }
}

/// A function that decides batches on the database.
pub trait Decide: Sync {
    type Request: Request + Clone;

    fn row(request: &Self::Request) -> Row;

    /// Answers requests, in order, on connections of this pool; [`Error::Row`] where a row may be at fault. What was decided
    /// all the same is found so the next time.
    fn decide(
        &self,
        pool: &PgPool,
        requests: &[Self::Request],
    ) -> impl Future<Output = Result<Vec<Answer>, Error>> + Send;
}

/// Which rows are waited for. Copies share it.
#[derive(Debug, Clone)]
pub struct Isolation {
    pool: PgPool,
    /// Where nothing may take longer than a moment.
    isolated: PgPool,
    waiting: Waiting,
}

impl Isolation {
    pub fn new(pool: &PgPool) -> Self {
        let isolated = db::isolated(pool);
        Self { pool: pool.clone(), waiting: Waiting::new(&isolated), isolated }
    }

    /// Answers requests, in order; with [`Answer::Later`] those whose row is at fault.
    pub async fn answer<D: Decide>(&self, decider: &D, requests: &[D::Request]) -> Result<Vec<Answer>, Error> {
        let is_all_well = self.waiting.is_empty();
        if is_all_well {
            match decider.decide(&self.pool, requests).await {
                Err(Error::Row(_)) => (),
                decided => return decided,
            }
        }
        self.answer_around(Batch { decider, requests, answers: vec![Answer::Later; requests.len()] }, is_all_well).await
    }

    /// Which of these items somebody else has locked.
    pub async fn locked_items(&self, items: &[String]) -> Result<Vec<String>, Error> {
        let rows: Vec<Row> = items.iter().cloned().map(Row::Item).collect();
        let locks = self.look(rows.iter()).await?;
        Ok(items.iter().zip(&rows).filter(|(_, row)| locks.of(row).is_some()).map(|(item, _)| item.clone()).collect())
    }

    /// Answers what needs no row that is at fault, and tries what may no longer need one. `has_failed`: together, it has
    /// failed just now.
    async fn answer_around<D: Decide>(&self, mut batch: Batch<'_, D>, has_failed: bool) -> Result<Vec<Answer>, Error> {
        // Each with the places of the requests for it.
        let mut rows = BTreeMap::<Row, Vec<usize>>::new();
        for (place, request) in batch.requests.iter().enumerate() {
            rows.entry(D::row(request)).or_default().push(place);
        }
        rows.retain(|row, _| self.waiting.is_due(row));
        // Where it cannot be looked at, the rows are tried one by one.
        let locks = match self.look(rows.keys()).await {
            Err(Error::Row(_)) => Locks::default(),
            locks => locks?,
        };
        rows.retain(|row, _| locks.of(row).is_none());
        let is_alone = |row: &Row| self.waiting.has_failed(row) || (has_failed && locks.is_empty());
        let (mut alone, together): (BTreeMap<_, _>, BTreeMap<_, _>) =
            rows.into_iter().partition(|(row, _)| is_alone(row));
        let mut places: Vec<usize> = together.values().flatten().copied().collect();
        places.sort_unstable();
        match batch.decide(&self.pool, &places).await {
            Err(Error::Row(_)) => alone.extend(together),
            decided => decided?,
        }
        let began = Instant::now();
        for (row, places) in alone.into_iter().take_while(|_| began.elapsed() < ALONE_MAX) {
            let tried = Instant::now();
            match batch.decide(&self.isolated, &places).await {
                Err(Error::Row(reason)) => self.waiting.failed(&row, &reason, tried.elapsed()),
                decided => {
                    decided?;
                    self.waiting.end(&row);
                }
            }
        }
        Ok(batch.answers)
    }

    /// Looks which rows are locked, and keeps account of it.
    async fn look<'a>(&self, rows: impl Iterator<Item = &'a Row> + Clone + Send) -> Result<Locks, Error> {
        let locks = Locks::look(&self.isolated, rows.clone()).await?;
        self.waiting.locked(&locks, rows);
        Ok(locks)
    }
}

/// A batch, of which parts are decided.
struct Batch<'a, D: Decide> {
    decider: &'a D,
    requests: &'a [D::Request],
    answers: Vec<Answer>,
}

impl<D: Decide> Batch<'_, D> {
    /// Decides the requests at these places.
    async fn decide(&mut self, pool: &PgPool, places: &[usize]) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        let requests: Vec<D::Request> = places.iter().map(|place| self.requests[*place].clone()).collect();
        let answers = self.decider.decide(pool, &requests).await?;
        places.iter().zip(answers).for_each(|(place, answer)| self.answers[*place] = answer);
        Ok(())
    }
}
