//! Paying, in three steps: begin (one transaction), ask the gateway (no transaction, no connection), finish (another one).
//!
//! Invariants: the gateway is asked only about orders whose payment is committed as under way; an outcome is answered only
//! once it is committed; and whoever crashes, at whichever point, leaves what the next one goes on from: the same request
//! asks again, with the same key.

use crate::{
    asks::Asks,
    decide::{self, Begun, End, Ended, Finished, Step},
    gateway::Charge,
    rows,
};
use futures_util::future::{BoxFuture, join_all};
use shared::{
    db::{is_conflict, on_connection},
    error::Error,
    fail_point::pause_at,
    handler::Answer,
    messages::PaymentRequest,
    order::{Cause, State},
    outbox::Notifier,
    retry::RetryPolicy,
};
use sqlx::{Connection, PgConnection, PgPool};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use uuid::Uuid;

/// How long a batch waits for the gateway at most; whoever has no outcome then is put off, and its neighbours are answered.
pub const PATIENCE: Duration = Duration::from_millis(1_000);
/// The same for those that were put off before, where others are asked about for the first time: one payment that hangs
/// must not cost each batch that it comes round in a second.
const PATIENCE_AGAIN: Duration = Duration::from_millis(100);

/// All that paying takes.
#[derive(Debug)]
pub struct Till {
    /// The database.
    pub pool: PgPool,
    /// The gateway.
    pub asks: Asks,
    /// Rung after each commit.
    pub notifier: Notifier,
}

/// Begun payments, and what the gateway is to be asked.
struct Asking {
    steps: Vec<Step>,
    /// By the place of a request; one for each order.
    charges: Vec<(usize, Charge)>,
    /// The orders that are asked about for the first time.
    new: HashSet<Uuid>,
}

/// Whether a transaction begins payments or finishes them.
#[derive(Clone, Copy)]
enum Phase<'a> {
    Begin(&'a [PaymentRequest]),
    Finish(&'a [(&'a PaymentRequest, Ended)]),
}

/// What its transaction came to.
enum Committed {
    Begun(Asking),
    Finished(Finished),
}

impl Till {
    /// Answers `requests`, in order; [`Answer::Requeue`] where the gateway does not say within `patience`.
    ///
    /// # Errors
    /// The database is away or unfit, or cannot take one of the requests.
    ///
    /// Boxed, so that the database library's code is compiled here and not in every program that calls it.
    pub fn pay<'a>(
        &'a self,
        requests: &'a [PaymentRequest],
        patience: Duration,
    ) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
        Box::pin(async move {
            let asking = self.begin(requests).await?;
            let mut known = Vec::new();
            if !asking.charges.is_empty() {
                pause_at("paying").await;
                known = self.ask(requests, &asking, patience).await;
                pause_at("charged").await;
            }
            let answers = self.finish(&known).await?;
            let answer = |(request, step): (&PaymentRequest, Step)| match step {
                Step::Answered(answer) => answer,
                Step::Ask => answers.get(&request.order_id).cloned().unwrap_or(Answer::Requeue),
            };
            Ok(requests.iter().zip(asking.steps).map(answer).collect())
        })
    }

    async fn begin(&self, requests: &[PaymentRequest]) -> Result<Asking, Error> {
        match self.commit(Phase::Begin(requests)).await? {
            Committed::Begun(asking) => Ok(asking),
            Committed::Finished(_) => unreachable!("the phase was another"),
        }
    }

    /// Those of whom the gateway has said what became of them.
    async fn ask<'a>(
        &self,
        requests: &'a [PaymentRequest],
        asking: &Asking,
        patience: Duration,
    ) -> Vec<(&'a PaymentRequest, Ended)> {
        let patience_again = if asking.new.is_empty() { patience } else { PATIENCE_AGAIN.min(patience) };
        let asks = asking.charges.iter().map(async |(place, charge)| {
            let is_again = !asking.new.contains(&charge.order_id);
            let patience = if is_again { patience_again } else { patience };
            let outcome = self.asks.charge(charge.clone(), is_again, patience).await?;
            Some((&requests[*place], Ended::Decided(outcome)))
        });
        join_all(asks).await.into_iter().flatten().collect()
    }

    /// Commits what is known, and gives back what was taken in vain. The answers, by order.
    async fn finish(&self, known: &[(&PaymentRequest, Ended)]) -> Result<HashMap<Uuid, Answer>, Error> {
        let mut answers = HashMap::new();
        let mut in_vain = Vec::new();
        for (request, end) in self.finish_batch(known).await? {
            match end {
                End::Answered(answer) => drop(answers.insert(request.order_id, answer)),
                End::Refund => {
                    let (order_id, request_id) = (request.order_id, &request.request_id);
                    tracing::error!(%order_id, request_id, "charged, but no longer held; giving the money back");
                    in_vain.push(request);
                }
            }
        }
        // All at once: each may take as long as a charge.
        let refunds = in_vain.into_iter().map(async |request| {
            let is_refunded = self.asks.refund(request.order_id).await;
            is_refunded.then_some((request, Ended::Refunded))
        });
        let refunded: Vec<_> = join_all(refunds).await.into_iter().flatten().collect();
        for (request, end) in self.finish_batch(&refunded).await? {
            match end {
                End::Answered(answer) => drop(answers.insert(request.order_id, answer)),
                End::Refund => unreachable!("what is refunded needs no refund"),
            }
        }
        Ok(answers)
    }

    async fn finish_batch<'a>(
        &self,
        known: &[(&'a PaymentRequest, Ended)],
    ) -> Result<Vec<(&'a PaymentRequest, End)>, Error> {
        if known.is_empty() {
            return Ok(Vec::new());
        }
        match self.commit(Phase::Finish(known)).await? {
            Committed::Finished(finished) => {
                for (order_id, request_id) in &finished.late {
                    tracing::error!(%order_id, request_id, "charged after a decline was recorded; the order is paid");
                }
                Ok(known.iter().map(|(request, _)| *request).zip(finished.ends).collect())
            }
            Committed::Begun(_) => unreachable!("the phase was another"),
        }
    }

    async fn commit(&self, phase: Phase<'_>) -> Result<Committed, Error> {
        let mut waits = RetryPolicy::default().waits();
        loop {
            // Where an attempt fails, nothing of it is committed; or it is, and is read the next time.
            let attempt = on_connection(&self.pool, async |connection| match run(connection, phase).await {
                Ok(committed) => Ok(Some(committed)),
                Err(error) if is_conflict(&error) => Ok(None),
                Err(error) => Err(error.into()),
            });
            if let Some(committed) = attempt.await? {
                self.notifier.notify();
                return Ok(committed);
            }
            let Some(wait) = waits.next() else {
                return Err(Error::Away("an order was contended to the end; trying again".to_owned()));
            };
            tracing::info!(wait_ms = wait.as_millis(), "orders or request ids are contended; deciding again");
            tokio::time::sleep(wait).await;
        }
    }
}

async fn run(connection: &mut PgConnection, phase: Phase<'_>) -> Result<Committed, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let committed = match phase {
        Phase::Begin(requests) => Committed::Begun(begin(&mut transaction, requests).await?),
        Phase::Finish(known) => Committed::Finished(finish(&mut transaction, known).await?),
    };
    transaction.commit().await?;
    Ok(committed)
}

async fn begin(connection: &mut PgConnection, requests: &[PaymentRequest]) -> Result<Asking, sqlx::Error> {
    let snapshot = rows::read(connection, requests.iter()).await?;
    let now = snapshot.now;
    let charges = charges(requests, &snapshot);
    let Begun { steps, new, again, verdicts } = decide::begin(requests, snapshot);
    let paying: Vec<&PaymentRequest> = new.values().map(|place| &requests[*place]).collect();
    let moved: Vec<_> = paying.iter().map(|request| (request.order_id, request.request_id.clone())).collect();
    rows::move_on(connection, State::Reserved, Cause::PaymentBegun, &moved, now).await?;
    rows::put_under_way(connection, &paying, now).await?;
    rows::ask_again(connection, again.iter().copied(), now).await?;
    rows::tell(connection, Cause::PaymentBegun, &moved).await?;
    rows::record(connection, &verdicts, now).await?;
    let is_asked = |(place, _): &(usize, Charge)| steps[*place] == Step::Ask;
    let mut charges: Vec<_> = charges.into_iter().filter(is_asked).collect();
    charges.sort_by_key(|(_, charge)| charge.order_id);
    // Copies of a request are one.
    charges.dedup_by_key(|(_, charge)| charge.order_id);
    Ok(Asking { steps, charges, new: new.into_keys().collect() })
}

/// The charge of each request whose order exists, by its place.
fn charges(requests: &[PaymentRequest], snapshot: &decide::Snapshot) -> Vec<(usize, Charge)> {
    let charge = |(place, request): (usize, &PaymentRequest)| {
        let order = snapshot.orders.get(&request.order_id)?;
        let (order_id, payment_method) = (request.order_id, request.payment_method.clone());
        Some((place, Charge { order_id, item: order.item.clone(), quantity: order.quantity, payment_method }))
    };
    requests.iter().enumerate().filter_map(charge).collect()
}

async fn finish(connection: &mut PgConnection, known: &[(&PaymentRequest, Ended)]) -> Result<Finished, sqlx::Error> {
    let snapshot = rows::read(connection, known.iter().map(|(request, _)| *request)).await?;
    let now = snapshot.now;
    let finished = decide::finish(known, snapshot);
    let Finished { ends: _, late, captured, declined, sold, over, verdicts } = &finished;
    rows::move_on(connection, State::Reserved, Cause::PaymentBegun, late, now).await?;
    // An order's transitions have times of their own, also where one transaction makes two.
    let at = now + time::Duration::MICROSECOND;
    rows::move_on(connection, State::Paying, Cause::PaymentCaptured, captured, at).await?;
    rows::move_on(connection, State::Paying, Cause::PaymentDeclined, declined, at).await?;
    rows::end(connection, over).await?;
    rows::sell(connection, sold).await?;
    rows::tell(connection, Cause::PaymentBegun, late).await?;
    rows::tell(connection, Cause::PaymentCaptured, captured).await?;
    rows::tell(connection, Cause::PaymentDeclined, declined).await?;
    rows::record(connection, verdicts, now).await?;
    Ok(finished)
}
