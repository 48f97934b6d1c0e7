//! Paying, in three steps: begin (one transaction), ask the gateway (no transaction, no connection), finish (another one).
//!
//! Invariants: the gateway is asked only about orders whose payment is committed as under way; an outcome is answered only
//! once it is committed; and whoever crashes, at whichever point, leaves what the next one goes on from: the same request
//! asks again, with the same key.

use crate::{
    decide::{Begun, Ended, Finished},
    pending::Pending,
    store::{Begin, Finish},
};
use futures_util::future::{BoxFuture, join_all};
use shared::{
    error::Error, fail_point::pause_at, handler::Answer, messages::PaymentRequest, outbox::Notifier, transaction,
};
use sqlx::PgPool;
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

/// How long a batch waits for the gateway at most; whoever has no outcome then is put off, and its neighbours are answered.
pub const TIMEOUT: Duration = Duration::from_millis(1_000);
/// The same for those that were put off before, where others are asked about for the first time: one payment that hangs
/// must not cost each batch that it comes round in a second.
const TIMEOUT_AGAIN: Duration = Duration::from_millis(100);

/// All that paying takes.
#[derive(Debug)]
pub struct Processor {
    pub pool: PgPool,
    pub pending: Pending,
    /// Notified after each commit.
    pub notifier: Notifier,
}

impl Processor {
    /// Answers `requests`, in order; [`Answer::Requeue`] where the gateway does not say within `timeout`.
    ///
    /// # Errors
    /// The database is away or unfit, or cannot take one of the requests.
    pub fn pay<'a>(
        &'a self,
        requests: &'a [PaymentRequest],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
        Box::pin(async move {
            let begun = transaction::run(&self.pool, &Begin(requests)).await?;
            self.notifier.notify();
            let mut known = Vec::new();
            if !begun.asks.is_empty() {
                pause_at("paying").await;
                known = self.ask(&begun, timeout).await;
                pause_at("charged").await;
            }
            let answers = self.finish(&known).await?;
            let answer = |(request, answer): (&PaymentRequest, Option<Answer>)| {
                answer.or_else(|| answers.get(&request.order_id).cloned()).unwrap_or(Answer::Requeue)
            };
            Ok(requests.iter().zip(begun.answers).map(answer).collect())
        })
    }

    /// Those of whom the gateway has said what became of them.
    async fn ask<'a>(&self, begun: &Begun<'a>, timeout: Duration) -> Vec<(&'a PaymentRequest, Ended)> {
        let is_any_new = begun.asks.values().any(|ask| ask.is_new);
        let timeout_again = if is_any_new { TIMEOUT_AGAIN.min(timeout) } else { timeout };
        let asks = begun.asks.values().map(async |ask| {
            let timeout = if ask.is_new { timeout } else { timeout_again };
            let outcome = self.pending.charge(ask.charge.clone(), !ask.is_new, timeout).await?;
            Some((ask.request, Ended::Decided(outcome)))
        });
        join_all(asks).await.into_iter().flatten().collect()
    }

    /// Commits what is known, and gives back what was taken in vain. The answers, by order.
    async fn finish(&self, known: &[(&PaymentRequest, Ended)]) -> Result<HashMap<Uuid, Answer>, Error> {
        let (mut answers, in_vain) = self.commit(known).await?;
        // All at once: each may take as long as a charge.
        let refunds = in_vain.into_iter().map(async |request| {
            let (order_id, request_id) = (request.order_id, &request.request_id);
            tracing::error!(%order_id, request_id, "charged, but no longer held; giving the money back");
            self.pending.refund(order_id).await.then_some((request, Ended::Refunded))
        });
        let refunded: Vec<_> = join_all(refunds).await.into_iter().flatten().collect();
        answers.extend(self.commit(&refunded).await?.0);
        Ok(answers)
    }

    /// The answers, by order; and the requests whose money was taken in vain.
    async fn commit<'a>(
        &self,
        known: &[(&'a PaymentRequest, Ended)],
    ) -> Result<(HashMap<Uuid, Answer>, Vec<&'a PaymentRequest>), Error> {
        let (mut answers, mut in_vain) = (HashMap::new(), Vec::new());
        if known.is_empty() {
            return Ok((answers, in_vain));
        }
        let Finished { answers: ends, late, .. } = transaction::run(&self.pool, &Finish(known)).await?;
        self.notifier.notify();
        for (order_id, request_id) in late {
            tracing::error!(%order_id, request_id, "charged after a decline was recorded; the order is paid");
        }
        for ((request, _), end) in known.iter().zip(ends) {
            match end {
                Some(answer) => drop(answers.insert(request.order_id, answer)),
                None => in_vain.push(*request),
            }
        }
        Ok((answers, in_vain))
    }
}
