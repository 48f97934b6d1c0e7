//! Asking the gateway until it says what became of a charge, within limits, and without making anybody wait for long.
//!
//! Asked again at once is only a gateway that is away; what it has said that is no outcome is the answer, and the payment is
//! put off ([`crate::recovery`]). An ask that outlasts its caller's timeout goes on by itself; whoever asks for the same
//! charge next finds it, or its outcome. Invariants: nothing but the gateway's own word is an outcome; and whatever is lost
//! here, with the process for one, costs an ask more and no second charge.

use crate::gateway::{Charge, Gateway, Outcome, Unknown};
use futures_util::future::BoxFuture;
use shared::retry::RetryPolicy;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

/// The most requests that a process has at the gateway while their messages wait for it; others wait their turn.
const AT_GATEWAY_MAX: usize = 500;
/// The most that it has there for longer. Apart from the others, so that payments that hang do not keep those that do not,
/// however many they are; those beyond are given up, and asked for again when their messages come round.
const AT_GATEWAY_LONG_MAX: usize = 500;
/// How long a charge is asked for once its turn has come.
const ASK_MAX: Duration = Duration::from_secs(10);
/// The most asks that go on by themselves, or have ended and were not asked for; those that have ended are forgotten then.
const UNATTENDED_MAX: usize = 5_000;

/// What the gateway said; [`Unknown::Away`] where it did not for as long as it was asked.
pub(crate) type Answered<T = Outcome> = Result<T, Unknown>;

/// All asks of a process.
pub(crate) struct Pending {
    pub(crate) gateway: Arc<dyn Gateway>,
    turns: Semaphore,
    unattended: Mutex<HashMap<Charge, Asking>>,
}

type Asking = JoinHandle<Answered>;

impl Pending {
    pub(crate) fn at(gateway: Arc<dyn Gateway>) -> Self {
        Self { gateway, turns: Semaphore::new(AT_GATEWAY_MAX), unattended: Mutex::default() }
    }

    /// What the gateway says of the charge, of which it never heard before if `is_new`; `None` where it has not said in time:
    /// it goes on being asked for a while, and whoever calls again with the same charge finds what it said.
    pub(crate) async fn charge(&self, charge: &Charge, is_new: bool, time: Duration) -> Option<Answered> {
        let until = Instant::now() + time;
        let left = self.unattended().remove(charge);
        // What is under way, or known, has had its turn.
        let (mut asking, turn) = match left {
            Some(asking) => (asking, None),
            None => {
                let turn = timeout_at(until, self.turns.acquire()).await.ok()?;
                (self.begin(charge.clone(), is_new), Some(turn))
            }
        };
        let asked = timeout_at(until, &mut asking).await;
        drop(turn);
        match asked {
            Ok(Ok(answered)) => Some(answered),
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
    pub(crate) async fn refund(&self, order_id: Uuid) -> Answered<()> {
        until_answered(order_id, || self.gateway.refund(order_id)).await.0
    }

    fn begin(&self, charge: Charge, is_new: bool) -> Asking {
        let gateway = self.gateway.clone();
        tokio::spawn(async move {
            let order_id = charge.order_id;
            match until_answered(order_id, || gateway.charge(&charge)).await {
                (Err(Unknown::Unacceptable(reason)), 1) if is_new => {
                    tracing::warn!(%order_id, reason, "the gateway takes no such charge; declined");
                    Ok(Outcome::Declined { reason })
                }
                (answered, _) => answered,
            }
        })
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

/// Asks until there is an answer, for [`ASK_MAX`], and says how often. That there was none is logged once, here; what else is
/// no outcome, where the payment is put off.
async fn until_answered<'a, T>(
    order_id: Uuid,
    ask: impl Fn() -> BoxFuture<'a, Result<T, Unknown>>,
) -> (Answered<T>, u32) {
    let mut last = Unknown::Away("it does not answer".to_owned());
    let mut attempts = 1_u32;
    let asking = async {
        let mut waits = RetryPolicy::SERVER_AWAY.waits();
        loop {
            match ask().await {
                Err(unknown @ Unknown::Away(_)) => last = unknown,
                answered => return answered,
            }
            sleep(waits.next().unwrap_or_default()).await;
            attempts += 1;
        }
    };
    let answered = timeout(ASK_MAX, asking).await;
    if let Ok(answered) = answered {
        return (answered, attempts);
    }
    tracing::warn!(%order_id, attempts, reason = %last, "not known; asking again later");
    (Err(last), attempts)
}
