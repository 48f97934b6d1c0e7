//! The optimistic strategy: read, decide, commit if nothing moved; else wait a little, at random, and go round again.
//!
//! Invariants: a request leaves the round only with an answer that is committed, or that was on record; an item that
//! conflicts goes round alone, the others of the batch are done; and running out of attempts is never an answer: then
//! the decision is made under a row lock, where it cannot conflict.

use crate::{
    commit::commit,
    decide::{Outcome, Plan, decide},
    read::{lock, read},
};
use futures_util::future::BoxFuture;
use shared::{
    contract::PurchaseRequest,
    error::Error,
    handler::Answer,
    retry::RetryPolicy,
    runtime::pause_at,
    store::{is_conflict, on_connection},
};
use sqlx::{Connection, PgConnection, PgPool};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use uuid::Uuid;

/// Attempts under the row lock. The items cannot conflict there; only a request id that somebody sends for another
/// item at the same instant can, and is on record the next time.
const LOCKED_ATTEMPTS_MAX: u32 = 5;

/// Answers `requests`, in order.
///
/// # Errors
/// The database is away or unfit, or cannot take one of the requests.
///
/// Boxed, so that the database library's code is compiled here and not in every program that calls it.
pub fn purchase<'a>(
    pool: &'a PgPool,
    retry: &'a RetryPolicy,
    requests: &'a [PurchaseRequest],
) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
    Box::pin(async move {
        let mut round = Round::new(requests);
        let mut waits = retry.waits();
        loop {
            let conflict = on_connection(pool, async |connection| round.attempt(connection).await).await?;
            if round.is_over() {
                return Ok(round.answers());
            }
            let Some(wait) = waits.next() else { break };
            conflict.report(round.attempts, wait);
            tokio::time::sleep(wait).await;
        }
        tracing::info!(requests = round.left.len(), "attempts are used up; deciding under a row lock");
        for _ in 0..LOCKED_ATTEMPTS_MAX {
            on_connection(pool, async |connection| {
                let mut transaction = connection.begin().await?;
                lock(&mut transaction, &round.requests_left()).await?;
                round.attempt(&mut transaction).await?;
                // Where this fails, the round is lost with it, and what was recorded all the same is found next time.
                Ok(transaction.commit().await?)
            })
            .await?;
            if round.is_over() {
                return Ok(round.answers());
            }
        }
        Err(Error::Away("a request id was contended to the end; trying again".to_owned()))
    })
}

/// Why an attempt did not answer everything.
enum Conflict<'a> {
    /// Somebody else was faster on these items; none, where there was no conflict.
    Items(Vec<&'a str>),
    /// Somebody else recorded one of the request ids at the same instant; nothing was committed.
    RequestId,
}

impl Conflict<'_> {
    fn report(&self, attempt: u32, wait: Duration) {
        let wait_ms = wait.as_millis();
        match self {
            Self::Items(items) => {
                for item in items {
                    tracing::info!(item, attempt, wait_ms, "version conflict; deciding again");
                }
            }
            Self::RequestId => tracing::info!(attempt, wait_ms, "request id conflict; deciding again"),
        }
    }
}

/// The requests of a batch that are still to be decided, and the answers of those that are.
struct Round<'a> {
    requests: &'a [PurchaseRequest],
    /// Places in `requests`, in order.
    left: Vec<usize>,
    answers: Vec<Option<Answer>>,
    attempts: u32,
    /// How often each item was decided in vain.
    conflicts: HashMap<String, i64>,
}

impl<'a> Round<'a> {
    fn new(requests: &'a [PurchaseRequest]) -> Self {
        Self {
            requests,
            left: (0..requests.len()).collect(),
            answers: vec![None; requests.len()],
            attempts: 0,
            conflicts: HashMap::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    fn requests_left(&self) -> Vec<&'a PurchaseRequest> {
        self.left.iter().map(|place| &self.requests[*place]).collect()
    }

    /// Reads, decides and commits what is left.
    async fn attempt(&mut self, connection: &mut PgConnection) -> Result<Conflict<'a>, Error> {
        self.attempts += 1;
        let requests = self.requests_left();
        let snapshot = read(connection, &requests).await?;
        let plan = decide(&requests, &snapshot, Uuid::now_v7);
        pause_at("committing").await;
        let held = match commit(connection, &requests, &plan, snapshot.now, &self.conflicts).await {
            Ok(held) => held,
            Err(error) if is_conflict(&error) => return Ok(Conflict::RequestId),
            Err(error) => return Err(error.into()),
        };
        self.record(&requests, &plan, &held);
        let overtaken: Vec<_> = plan.changes.keys().copied().filter(|item| !held.contains(item)).collect();
        for item in &overtaken {
            *self.conflicts.entry((*item).to_owned()).or_default() += 1;
        }
        Ok(Conflict::Items(overtaken))
    }

    /// Takes over what holds: the rest stays for the next attempt.
    fn record(&mut self, requests: &[&'a PurchaseRequest], plan: &Plan<'a>, held: &HashSet<&'a str>) {
        let places = std::mem::take(&mut self.left);
        for (index, place) in places.iter().copied().enumerate() {
            let answer = match &plan.outcomes[index] {
                Outcome::Repeat(reply) => Some(Answer::Verdict(reply.clone())),
                Outcome::Reused(rejection) => Some(Answer::Rejected(rejection.clone())),
                Outcome::Decided(decision) if !decision.on_item || held.contains(requests[index].item.as_str()) => {
                    Some(Answer::Verdict(decision.reply.clone()))
                }
                Outcome::Decided(_) => None,
                Outcome::SameAs(first) => self.answers[places[*first]].clone(),
                Outcome::ClashesWith(first, rejection) => {
                    self.answers[places[*first]].as_ref().map(|_| Answer::Rejected(rejection.clone()))
                }
            };
            match answer {
                Some(answer) => self.answers[place] = Some(answer),
                None => self.left.push(place),
            }
        }
    }

    fn answers(self) -> Vec<Answer> {
        self.answers.into_iter().map(|answer| answer.expect("the round is over, so each has its answer")).collect()
    }
}
