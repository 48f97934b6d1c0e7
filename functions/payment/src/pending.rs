//! Asking the gateway until it says what became of a charge, within limits, and without making anybody wait for long.
//!
//! An ask that outlasts its caller's timeout goes on by itself; whoever asks for the same charge next finds it, or its
//! outcome. Invariants: nothing but the gateway's own word is an outcome; and whatever is lost here, with the process for
//! one, costs an ask more and no second charge.

use crate::gateway::{Charge, Gateway, Outcome, Unknown};
use futures_util::future::BoxFuture;
use shared::retry::RetryPolicy;
use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinHandle};
use uuid::Uuid;

/// The most requests that a process has at the gateway for the first [`FIRST_SECONDS`] of their ask; others wait their turn.
const AT_GATEWAY_MAX: usize = 500;
/// The most that it has there for longer, or for an order that was asked about before. Apart from the others, so that
/// payments that hang do not keep those that do not, however many they are.
const AT_GATEWAY_LONG_MAX: usize = 500;
/// How long an ask is one of the first kind: as long as a message waits for it.
const FIRST_SECONDS: u64 = 1;
/// How long a charge is asked for once its turn has come, and how long its turn is waited for.
pub const ASK_SECONDS_MAX: u64 = 10;
/// The most asks that go on by themselves, or have ended and were not asked for. Those beyond are given up.
const UNATTENDED_MAX: usize = 5_000;
/// Between two attempts; as for any server that is away.
const ATTEMPTS: RetryPolicy = RetryPolicy::SERVER_AWAY;

/// All asks of a process.
pub struct Pending {
    gateway: Arc<dyn Gateway>,
    turns: Arc<Semaphore>,
    turns_long: Arc<Semaphore>,
    unattended: Mutex<HashMap<Uuid, Ask>>,
}

/// An ask that goes on by itself, or has ended.
struct Ask {
    payment_method: String,
    asking: JoinHandle<Option<Outcome>>,
}

impl Pending {
    /// Nothing is asked at this gateway yet.
    #[must_use]
    pub fn at(gateway: Arc<dyn Gateway>) -> Self {
        let [turns, turns_long] = [AT_GATEWAY_MAX, AT_GATEWAY_LONG_MAX].map(|most| Arc::new(Semaphore::new(most)));
        Self { gateway, turns, turns_long, unattended: Mutex::default() }
    }

    /// What became of the charge; `None` where that is not known within `timeout`: the gateway goes on being asked for a
    /// while, and whoever calls again with the same charge finds what it said. `is_again`: it was asked for before, by a
    /// process that may be gone.
    pub async fn charge(&self, charge: Charge, is_again: bool, timeout: Duration) -> Option<Outcome> {
        let order_id = charge.order_id;
        let mut ask = self.take(&charge).unwrap_or_else(|| self.begin(charge, is_again));
        match tokio::time::timeout(timeout, &mut ask.asking).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                tracing::error!(%order_id, %error, "the gateway's code failed; the payment is asked for again");
                None
            }
            Err(_) => {
                self.leave(order_id, ask);
                None
            }
        }
    }

    /// Whether what was captured for the order is given back; asks for it in as much time as for a charge.
    pub async fn refund(&self, order_id: Uuid) -> bool {
        until_known(order_id, || self.gateway.refund(order_id)).await.is_some()
    }

    fn begin(&self, charge: Charge, is_again: bool) -> Ask {
        let gateway = self.gateway.clone();
        let (turns, turns_long) = (self.turns.clone(), self.turns_long.clone());
        let payment_method = charge.payment_method.clone();
        let asking: BoxFuture<'static, _> = Box::pin(async move {
            let first = if is_again { &turns_long } else { &turns };
            let turn = tokio::time::timeout(Duration::from_secs(ASK_SECONDS_MAX), first.acquire()).await.ok()?;
            let turn = turn.expect("it is never closed");
            let mut asking = pin!(until_known(charge.order_id, || gateway.charge(&charge)));
            if !is_again && let Ok(known) = tokio::time::timeout(Duration::from_secs(FIRST_SECONDS), &mut asking).await
            {
                return known;
            }
            // Where there is no room for those that take long, this one is left; it is asked for again when its turn comes.
            let _long = if is_again { turn } else { turns_long.try_acquire().ok().inspect(|_| drop(turn))? };
            asking.await
        });
        Ask { payment_method, asking: tokio::spawn(asking) }
    }

    fn take(&self, charge: &Charge) -> Option<Ask> {
        let mut unattended = self.unattended.lock().unwrap_or_else(PoisonError::into_inner);
        // With another method it is another try.
        unattended.remove(&charge.order_id).filter(|ask| ask.payment_method == charge.payment_method)
    }

    fn leave(&self, order_id: Uuid, ask: Ask) {
        let mut unattended = self.unattended.lock().unwrap_or_else(PoisonError::into_inner);
        if unattended.len() >= UNATTENDED_MAX {
            unattended.retain(|_, ask| !ask.asking.is_finished());
        }
        if unattended.len() >= UNATTENDED_MAX {
            ask.asking.abort();
            return;
        }
        unattended.insert(order_id, ask);
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pending").finish_non_exhaustive()
    }
}

/// Asks until there is an answer, for [`ASK_SECONDS_MAX`]; a failure is logged once, when it is over.
async fn until_known<'a, T>(order_id: Uuid, ask: impl Fn() -> BoxFuture<'a, Result<T, Unknown>>) -> Option<T> {
    let mut last = Unknown::Away("it does not answer".to_owned());
    let mut attempts = 1_u32;
    let asking = async {
        let mut waits = ATTEMPTS.waits();
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(unknown) => last = unknown,
            }
            tokio::time::sleep(waits.next().unwrap_or_default()).await;
            attempts += 1;
        }
    };
    match tokio::time::timeout(Duration::from_secs(ASK_SECONDS_MAX), asking).await {
        Ok(answer) => Some(answer),
        Err(_) => {
            match last {
                Unknown::Away(_) => {
                    tracing::warn!(%order_id, attempts, reason = %last, "not known; asking again later")
                }
                Unknown::Refused(_) => {
                    tracing::error!(%order_id, attempts, reason = %last, "not known; asking again later");
                }
            }
            None
        }
    }
}
