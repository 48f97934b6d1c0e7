//! Paying, in three steps: begin (one transaction), ask the gateway (no transaction, no connection), finish (another one).
//!
//! Invariants: the gateway is asked only about orders whose payment is committed as under way; an outcome is answered only
//! once it is committed; and whoever crashes, at whichever point, leaves what the next one goes on from: the same request
//! asks again, with the same key.

use crate::Payment;
use crate::decide::Begun;
use crate::gateway::{Outcome, Unknown};
use crate::pending::Answered;
use crate::store::{Begin, Finish, PUT_OFF, Settle};
use futures_util::future::{BoxFuture, join_all};
use shared::db::on_connection;
use shared::error::Error;
use shared::fail_point::pause_at;
use shared::handler::Answer;
use shared::messages::{Code, End, EndRequest, PaymentRequest, Rejection, Settlement, Verdict};
use shared::transaction;
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

/// Of what a gateway said, so much is kept and logged.
const SAID_CHARACTERS_MAX: usize = 500;
/// How long a batch waits for the gateway at most; whoever has no outcome then is put off, and its neighbours are answered.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1_000);
/// The same for those that were put off before, where others are asked about for the first time: one payment that hangs
/// must not cost each batch that it comes round in a second.
const TIMEOUT_AGAIN: Duration = Duration::from_millis(100);

/// What the gateway said of a request's payment.
pub(crate) type Asked<'a> = (&'a PaymentRequest, Answered);

impl Payment {
    /// Answers `requests`, in order; [`Answer::Requeue`] where the gateway does not say within `timeout`.
    pub fn pay<'a>(
        &'a self,
        requests: &'a [PaymentRequest],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
        Box::pin(async move {
            if requests.is_empty() {
                return Ok(Vec::new());
            }
            let begun = transaction::run(&self.pool, &Begin(requests, &self.terms)).await?;
            self.notifier.notify();
            let mut asked = Vec::new();
            if !begun.asks.is_empty() {
                pause_at("paying").await;
                asked = self.ask(&begun, timeout).await;
                pause_at("charged").await;
            }
            let answers = self.finish(asked).await?;
            let answer = |(request, answer): (&PaymentRequest, Option<Answer>)| {
                answer.or_else(|| answers.get(&request.order_id).cloned()).unwrap_or(Answer::Requeue)
            };
            Ok(requests.iter().zip(begun.answers).map(answer).collect())
        })
    }

    /// Answers requests to end payments, in order; those of users who may not with a rejection.
    pub fn settle<'a>(&'a self, requests: &'a [EndRequest]) -> BoxFuture<'a, Result<Vec<Answer>, Error>> {
        let users = &self.terms.settle_users;
        let may = |request: &EndRequest| request.user.as_ref().is_some_and(|user| users.contains(user));
        Box::pin(async move {
            let allowed: Vec<EndRequest> = requests.iter().filter(|request| may(request)).cloned().collect();
            let mut settled = Vec::new().into_iter();
            if !allowed.is_empty() {
                let answers = transaction::run(&self.pool, &Settle(&allowed)).await?;
                self.notifier.notify();
                allowed.iter().zip(&answers).for_each(|(request, answer)| tell_of_stray_money(request, answer));
                settled = answers.into_iter();
            }
            let answer = |request: &EndRequest| match may(request) {
                true => settled.next().expect("one answer for each"),
                false => Answer::Rejected(not_allowed(request)),
            };
            Ok(requests.iter().map(answer).collect())
        })
    }

    /// What the gateway has said, where it has said anything.
    async fn ask<'a>(&self, begun: &Begun<'a>, timeout: Duration) -> Vec<Asked<'a>> {
        let is_any_new = begun.asks.values().any(|ask| ask.is_new);
        let timeout_again = if is_any_new { TIMEOUT_AGAIN.min(timeout) } else { timeout };
        let asks = begun.asks.values().map(async |ask| {
            let timeout = if ask.is_new { timeout } else { timeout_again };
            Some((ask.request, self.pending.charge(&ask.charge, ask.is_new, timeout).await?))
        });
        // Of a gateway that is away, the message asks again when it comes round.
        let has_said = |(_, answered): &Asked<'_>| !matches!(answered, Err(Unknown::Away(_)));
        join_all(asks).await.into_iter().flatten().filter(has_said).collect()
    }

    /// Commits what is known, gives back what was taken in vain, and commits that; puts the others off. The answers, by order.
    pub(crate) async fn finish(&self, asked: Vec<Asked<'_>>) -> Result<HashMap<Uuid, Answer>, Error> {
        let (mut answers, mut put_off) = (HashMap::new(), Vec::new());
        let mut known = outcomes(asked, &mut put_off);
        while !known.is_empty() {
            let finished = transaction::run(&self.pool, &Finish(&known)).await?;
            self.notifier.notify();
            for (order_id, request_id) in finished.late {
                tracing::error!(%order_id, request_id, "charged after a decline was recorded; the order is paid");
            }
            for (order_id, request_id) in finished.voided {
                tracing::warn!(%order_id, request_id, "the payment did not end in time; it is voided, its hold is over");
            }
            let mut in_vain = Vec::new();
            for ((request, _), answer) in known.iter().zip(finished.answers) {
                match answer {
                    Some(answer) => drop(answers.insert(request.order_id, answer)),
                    None => in_vain.push(*request),
                }
            }
            // All at once: each may take as long as a charge. None of them is in vain again.
            let refunded = join_all(in_vain.into_iter().map(|request| self.refund(request))).await;
            known = outcomes(refunded, &mut put_off);
        }
        self.put_off(&put_off).await?;
        Ok(answers)
    }

    async fn refund<'a>(&self, request: &'a PaymentRequest) -> Asked<'a> {
        let PaymentRequest { order_id, request_id, .. } = request;
        tracing::error!(%order_id, request_id, "charged, but no longer held; giving the money back");
        let refunded = self.pending.refund(*order_id).await;
        (request, refunded.map(|()| Outcome::Declined { reason: "the charge was refunded".to_owned() }))
    }

    /// These are asked about again in their time. Logged once for each thing that the gateway says.
    async fn put_off(&self, unknown: &[(&PaymentRequest, Unknown)]) -> Result<(), Error> {
        if unknown.is_empty() {
            return Ok(());
        }
        let put_off = sqlx::query_scalar(PUT_OFF)
            .bind(unknown.iter().map(|(request, _)| request.order_id).collect::<Vec<_>>())
            .bind(unknown.iter().map(|(request, _)| request.request_id.as_str()).collect::<Vec<_>>())
            .bind(unknown.iter().map(|(_, said)| told(said)).collect::<Vec<_>>());
        let news: Vec<Uuid> =
            on_connection(&self.pool, async |connection| Ok(put_off.fetch_all(connection).await?)).await?;
        for (PaymentRequest { order_id, request_id, .. }, said) in unknown {
            if news.contains(order_id) {
                tracing::warn!(%order_id, request_id, %said, "the payment is put off; it is asked about again");
            }
        }
        Ok(())
    }
}

/// What a gateway said, as a text that the database takes, and people read.
fn told(said: &Unknown) -> String {
    said.to_string().chars().filter(|character| !character.is_control()).take(SAID_CHARACTERS_MAX).collect()
}

/// Parts what is known from what is not.
fn outcomes<'a>(
    asked: Vec<Asked<'a>>,
    unknown: &mut Vec<(&'a PaymentRequest, Unknown)>,
) -> Vec<(&'a PaymentRequest, Outcome)> {
    let known = asked.into_iter().filter_map(|(request, answered)| match answered {
        Ok(outcome) => Some((request, outcome)),
        Err(reason) => {
            unknown.push((request, reason));
            None
        }
    });
    known.collect()
}

/// The gateway does not read what it is answered, and nothing here gives this money back.
fn tell_of_stray_money(EndRequest { order_id, end, .. }: &EndRequest, answer: &Answer) {
    let (End::Settle(Settlement::Captured { charge_id }), Answer::Verdict(body)) = (end, answer) else { return };
    let code = serde_json::from_str::<Verdict>(body).map(|verdict| verdict.code);
    if matches!(code, Ok(Code::UnknownOrder | Code::NoPayment)) {
        tracing::error!(%order_id, charge_id, "the gateway took money for no payment of ours; give it back at the gateway");
    }
}

fn not_allowed(request: &EndRequest) -> Rejection {
    let message = "Only a user that payment's SETTLE_USERS names may end a payment, by a message with its user_id.";
    Rejection::new(Code::NotAllowed, message).on(request)
}
