//! Paying, in three steps: begin (one transaction), ask the gateway (no transaction, no connection), finish (another one).
//!
//! Invariants: the gateway is asked only about orders whose payment is committed as under way; an outcome is answered only
//! once it is committed; and whoever crashes, at whichever point, leaves what the next one goes on from: the same request
//! asks again, with the same key.

use crate::{
    Payment,
    decide::Begun,
    gateway::Outcome,
    store::{Begin, Finish},
};
use futures_util::future::{BoxFuture, join_all};
use shared::{error::Error, fail_point::pause_at, handler::Answer, messages::PaymentRequest, transaction};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

/// How long a batch waits for the gateway at most; whoever has no outcome then is put off, and its neighbours are answered.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1_000);
/// The same for those that were put off before, where others are asked about for the first time: one payment that hangs
/// must not cost each batch that it comes round in a second.
const TIMEOUT_AGAIN: Duration = Duration::from_millis(100);

impl Payment {
    /// Answers `requests`, in order; [`Answer::Requeue`] where the gateway does not say within `timeout`.
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
            let answers = self.finish(known).await?;
            let answer = |(request, answer): (&PaymentRequest, Option<Answer>)| {
                answer.or_else(|| answers.get(&request.order_id).cloned()).unwrap_or(Answer::Requeue)
            };
            Ok(requests.iter().zip(begun.answers).map(answer).collect())
        })
    }

    /// Those of whom the gateway has said what became of them.
    async fn ask<'a>(&self, begun: &Begun<'a>, timeout: Duration) -> Vec<(&'a PaymentRequest, Outcome)> {
        let is_any_new = begun.asks.values().any(|ask| ask.is_new);
        let timeout_again = if is_any_new { TIMEOUT_AGAIN.min(timeout) } else { timeout };
        let asks = begun.asks.values().map(async |ask| {
            let timeout = if ask.is_new { timeout } else { timeout_again };
            Some((ask.request, self.pending.charge(&ask.charge, timeout).await?))
        });
        join_all(asks).await.into_iter().flatten().collect()
    }

    /// Commits what is known, gives back what was taken in vain, and commits that. The answers, by order.
    async fn finish(&self, mut known: Vec<(&PaymentRequest, Outcome)>) -> Result<HashMap<Uuid, Answer>, Error> {
        let mut answers = HashMap::new();
        while !known.is_empty() {
            let finished = transaction::run(&self.pool, &Finish(&known)).await?;
            self.notifier.notify();
            for (order_id, request_id) in finished.late {
                tracing::error!(%order_id, request_id, "charged after a decline was recorded; the order is paid");
            }
            let mut in_vain = Vec::new();
            for ((request, _), answer) in known.iter().zip(finished.answers) {
                match answer {
                    Some(answer) => drop(answers.insert(request.order_id, answer)),
                    None => in_vain.push(*request),
                }
            }
            // All at once: each may take as long as a charge. None of them is in vain again.
            known =
                join_all(in_vain.into_iter().map(|request| self.refund(request))).await.into_iter().flatten().collect();
        }
        Ok(answers)
    }

    async fn refund<'a>(&self, request: &'a PaymentRequest) -> Option<(&'a PaymentRequest, Outcome)> {
        let PaymentRequest { order_id, request_id, .. } = request;
        tracing::error!(%order_id, request_id, "charged, but no longer held; giving the money back");
        self.pending
            .refund(*order_id)
            .await
            .then(|| (request, Outcome::Declined { reason: "the charge was refunded".to_owned() }))
    }
}
