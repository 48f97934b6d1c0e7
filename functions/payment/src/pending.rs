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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use uuid::Uuid;

/// The most requests that a process has at the gateway while their messages wait for it; others wait their turn.
const AT_GATEWAY_MAX: usize = 500;
/// The most that it has there for longer. Apart from the others, so that payments that hang do not keep those that do not,
/// however many they are; those beyond are given up, and asked for again when their messages come round.
const AT_GATEWAY_LONG_MAX: usize = 500;
/// How long a charge is asked for once its turn has come.
pub(crate) const ASK_MAX: Duration = Duration::from_secs(10);
/// The most asks that go on by themselves, or have ended and were not asked for; those that have ended are forgotten then.
const UNATTENDED_MAX: usize = 5_000;

/// All asks of a process.
pub(crate) struct Pending {
    gateway: Arc<dyn Gateway>,
    turns: Semaphore,
    unattended: Mutex<HashMap<Charge, Asking>>,
}

type Asking = JoinHandle<Option<Outcome>>;

impl Pending {
    pub(crate) fn at(gateway: Arc<dyn Gateway>) -> Self {
        Self { gateway, turns: Semaphore::new(AT_GATEWAY_MAX), unattended: Mutex::default() }
    }

    /// What became of the charge; `None` where that is not known in time: the gateway goes on being asked for a while, and
    /// whoever calls again with the same charge finds what it said.
    pub(crate) async fn charge(&self, charge: &Charge, time: Duration) -> Option<Outcome> {
        let until = Instant::now() + time;
        let left = self.unattended().remove(charge);
        // What is under way, or known, has had its turn.
        let (mut asking, turn) = match left {
            Some(asking) => (asking, None),
            None => {
                let turn = timeout_at(until, self.turns.acquire()).await.ok()?;
                (self.begin(charge.clone()), Some(turn))
            }
        };
        let asked = timeout_at(until, &mut asking).await;
        drop(turn);
        match asked {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                let order_id = charge.order_id;
                tracing::error!(%order_id, %error, "the gateway's code failed; the payment is asked for again");
                None
            }
            Err(_) => {
                self.leave(charge, asking);
                None
            }
        }
    }

    /// Whether what was captured for the order is given back; asks for it in as much time as for a charge.
    pub(crate) async fn refund(&self, order_id: Uuid) -> bool {
        until_known(order_id, || self.gateway.refund(order_id)).await.is_some()
    }

    fn begin(&self, charge: Charge) -> Asking {
        let gateway = self.gateway.clone();
        tokio::spawn(async move { until_known(charge.order_id, || gateway.charge(&charge)).await })
    }

    fn leave(&self, charge: &Charge, asking: Asking) {
        let mut unattended = self.unattended();
        if unattended.len() >= UNATTENDED_MAX {
            unattended.retain(|_, asking| !asking.is_finished());
        }
        let going_on = unattended.values().filter(|asking| !asking.is_finished()).count();
        if going_on < AT_GATEWAY_LONG_MAX {
            unattended.insert(charge.clone(), asking);
        } else {
            asking.abort();
        }
    }

    fn unattended(&self) -> MutexGuard<'_, HashMap<Charge, Asking>> {
        self.unattended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks until there is an answer, for [`ASK_MAX`]; a failure is logged once, when it is over.
async fn until_known<'a, T>(order_id: Uuid, ask: impl Fn() -> BoxFuture<'a, Result<T, Unknown>>) -> Option<T> {
    let mut last = Unknown::Away("it does not answer".to_owned());
    let mut attempts = 1_u32;
    let asking = async {
        let mut waits = RetryPolicy::SERVER_AWAY.waits();
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(unknown) => last = unknown,
            }
            sleep(waits.next().unwrap_or_default()).await;
            attempts += 1;
        }
    };
    if let Ok(answer) = timeout(ASK_MAX, asking).await {
        return Some(answer);
    }
    match &last {
        Unknown::Away(_) => tracing::warn!(%order_id, attempts, reason = %last, "not known; asking again later"),
        Unknown::Refused(_) => tracing::error!(%order_id, attempts, reason = %last, "not known; asking again later"),
    }
    None
}
