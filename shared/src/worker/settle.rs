//! Verdicts are SENT here: replies, dead letters and requeues, each confirmed, and only then the acknowledgements;
//! overlapped with the decision of the next batch.
//!
//! Invariant: batches settle in the order in which they were decided, and each only after its confirms.

use super::copies::Copies;
use super::outcome::{Outcome, Rejected};
use super::publish::{Publishing, TryingOut, Unknown};
use super::service::Service;
use super::validate::may_reply;
use super::{BATCHES_ANSWERED_MAX, BATCHES_ANSWERING_MAX, BATCHES_FINISHED_MAX};
use crate::amqp::{Acknowledger, Copied, Delivery, Error, Reply};
use crate::fail_point::pause_at;
use crate::messages::Rejection;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// How many copies, and replies to nodes that are to be tried out, may wait before the next batch waits for them; of what is in memory
/// meanwhile, a request of an array or a verdict, each [`WAITING_BYTES`] count as one more. As many as full windows of single
/// messages, and 64 MB.
const WAITING_MAX: u32 = 16_000;
const WAITING_BYTES: usize = 4 * 1024;

/// A batch whose replies are sent, but for those to nodes that are to be tried out.
struct Answered {
    batch: Decided,
    unknown: Unknown,
    _room: OwnedSemaphorePermit,
}

pub(super) struct Decided {
    /// In the order of their decision.
    pub(super) outcomes: Vec<(Delivery, Outcome)>,
    /// Partitions that are being handed over: answered, but not acknowledged.
    pub(super) held: Vec<usize>,
    /// In each partition, the first (partition, tag) that was delivered and is not decided.
    pub(super) undecided: Vec<(usize, u64)>,
}

impl Decided {
    fn forget_what_is_sent(&mut self, is_sent: impl Fn(&Delivery) -> bool) {
        for (of, outcome) in &mut self.outcomes {
            if is_sent(of) {
                outcome.forget_what_is_sent();
            }
        }
    }
}

/// The settling of one session's batches, in the background; it ends with the session.
pub(super) struct Settling {
    batches: mpsc::Sender<Decided>,
    /// How many batches were settled.
    progress: watch::Receiver<u64>,
    running: JoinHandle<Result<(), Error>>,
}

impl Settling {
    pub(super) fn start(settler: Settler) -> Self {
        let (batches, decided) = mpsc::channel(BATCHES_ANSWERING_MAX);
        let (settled, progress) = watch::channel(0);
        Self { batches, progress, running: tokio::spawn(settler.run(decided, settled)) }
    }

    /// Waits until there is room for one batch more.
    ///
    /// To be asked before a batch is taken, not after: what arrives meanwhile joins it, and larger batches are cheaper.
    pub(super) async fn room(&self) -> Result<mpsc::Permit<'_, Decided>, Error> {
        self.batches.reserve().await.map_err(|_| ended())
    }

    /// Waits until so many batches are settled since the session began.
    pub(super) async fn settled(&self, batches: u64) -> Result<(), Error> {
        self.progress.clone().wait_for(|settled| *settled >= batches).await.map(|_| ()).map_err(|_| ended())
    }

    /// Waits until every batch that was handed over is settled, and the publishing connection is closed.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        // Replacing the sender drops it, which is what ends the settler.
        self.batches = mpsc::channel(1).0;
        (&mut self.running).await.map_err(|error| Error::Lost(error.to_string()))?
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        // The session is over: what is not acknowledged by now comes back and is answered again.
        self.running.abort();
    }
}

pub(super) struct Settler {
    pub(super) service: Service,
    /// What the broker's operators see.
    pub(super) name: String,
    pub(super) queues: Vec<String>,
    pub(super) acknowledger: Acknowledger,
}

impl Settler {
    async fn run(self, decided: mpsc::Receiver<Decided>, progress: watch::Sender<u64>) -> Result<(), Error> {
        let publishing = Publishing::new(self.service.clone(), &self.name);
        let (answered, to_finish) = mpsc::channel(BATCHES_ANSWERED_MAX);
        let room = Arc::new(Semaphore::new(WAITING_MAX as usize));
        let answering = self.answer(decided, publishing, answered, room);
        tokio::try_join!(answering, self.finish(to_finish, progress)).map(|_| ())
    }

    /// Sends the replies of each batch, and hands it on.
    async fn answer(
        &self,
        mut decided: mpsc::Receiver<Decided>,
        mut publishing: Publishing,
        answered: mpsc::Sender<Answered>,
        room: Arc<Semaphore>,
    ) -> Result<(), Error> {
        while let Some(mut batch) = decided.recv().await {
            pause_at("decided").await;
            let unknown = publishing.publish(self.replies(batch.outcomes.iter())).await;
            pause_at("replied").await;
            batch.forget_what_is_sent(|of| !unknown.has(of));
            let to_try_out = batch.outcomes.iter().filter(|(of, _)| unknown.has(of));
            let weight = to_try_out.map(|(_, outcome)| 1 + outcome.verdict_bytes() / WAITING_BYTES).sum::<usize>()
                + self.copies(&batch.outcomes).iter().map(weight_of).sum::<usize>();
            let weight = u32::try_from(weight).unwrap_or(u32::MAX).min(WAITING_MAX);
            let room = Arc::clone(&room).acquire_many_owned(weight).await.expect("nobody closes it");
            if answered.send(Answered { batch, unknown, _room: room }).await.is_err() {
                break;
            }
        }
        publishing.close().await;
        Ok(())
    }

    /// Sends what replies are left, puts copies where they belong, and acknowledges. Whatever batches wait share one wait for the
    /// broker's disk: batches of a few messages, many of them to be copied, would come in faster than that.
    async fn finish(&self, mut answered: mpsc::Receiver<Answered>, progress: watch::Sender<u64>) -> Result<(), Error> {
        let mut trying_out = TryingOut::new(self.service.clone(), &self.name);
        let mut copies = Copies::new(self.service.clone(), &self.name);
        let mut waiting = Vec::new();
        while answered.recv_many(&mut waiting, BATCHES_FINISHED_MAX).await > 0 {
            tracing::debug!(batches = waiting.len(), "finishing");
            let to_try_out = waiting
                .iter()
                .flat_map(|Answered { batch, unknown, .. }| batch.outcomes.iter().filter(|(of, _)| unknown.has(of)));
            trying_out.publish(self.replies(to_try_out)).await;
            for Answered { batch, unknown, .. } in &mut waiting {
                batch.forget_what_is_sent(|of| unknown.has(of));
            }
            let copied = waiting.iter().flat_map(|answered| self.copies(&answered.batch.outcomes)).collect();
            let returned = copies.publish(copied).await;
            self.acknowledger.give_back(&returned).await?;
            for Answered { batch: Decided { outcomes, held, undecided }, .. } in waiting.drain(..) {
                let tags = outcomes.iter().map(|(delivery, _)| (delivery.partition, delivery.tag));
                let settled = tags.filter(|tag| !held.contains(&tag.0) && !returned.contains(tag));
                self.acknowledger.acknowledge(settled, &undecided).await?;
                tracing::debug!(messages = outcomes.len(), "settled");
                progress.send_modify(|settled| *settled += 1);
            }
        }
        trying_out.close().await;
        copies.close().await;
        Ok(())
    }

    fn replies<'a>(&self, outcomes: impl Iterator<Item = &'a (Delivery, Outcome)>) -> Vec<Reply<'a>> {
        let mut replies = Vec::with_capacity(outcomes.size_hint().0);
        for (to, outcome) in outcomes {
            let (body, request_id) = match outcome {
                Outcome::Answered { body, request_id } => (Cow::Borrowed(body.as_str()), request_id.as_deref()),
                Outcome::Several(verdicts) => (Cow::Owned(array_of(verdicts)), None),
                Outcome::Rejected(reason) => (Cow::Owned(body_of(reason)), reason.request_id.as_deref()),
                Outcome::Requeued | Outcome::Ignored => continue,
            };
            if may_reply(to, &self.service.worker) {
                replies.push(Reply { to, body, request_id });
            } else if let (Some(reply_to), queue) = (to.reply_to(), &self.queues[to.partition]) {
                tracing::debug!(reply_to = ?reply_to, queue, "no reply goes there; the request is refused, and kept");
            }
        }
        replies
    }

    fn copies<'a>(&'a self, outcomes: &'a [(Delivery, Outcome)]) -> Vec<Copied<'a>> {
        let mut copies = Vec::new();
        for (of, outcome) in outcomes {
            let queue = self.queues[of.partition].as_str();
            match outcome {
                Outcome::Rejected(reason) => copies.push(Copied::DeadLetter { of, request: None, queue, reason }),
                Outcome::Several(verdicts) => {
                    copies.extend(verdicts.iter().filter_map(|verdict| verdict.as_ref().err()).map(|rejected| {
                        Copied::DeadLetter { of, request: Some(&rejected.request), queue, reason: &rejected.reason }
                    }));
                }
                Outcome::Requeued => copies.push(Copied::Requeue { of, queue }),
                Outcome::Answered { .. } | Outcome::Ignored => (),
            }
        }
        copies
    }
}

fn weight_of(copy: &Copied<'_>) -> usize {
    match copy {
        Copied::DeadLetter { request, .. } => 1 + request.map_or(0, |request| request.len() / WAITING_BYTES),
        Copied::Requeue { .. } => 1,
    }
}

fn body_of(reason: &Rejection) -> String {
    serde_json::to_string(&reason.verdict()).expect("a verdict is representable as JSON")
}

/// Each as it is sent when its request comes alone.
fn array_of(verdicts: &[Result<String, Rejected>]) -> String {
    let mut body = String::from("[");
    for (place, verdict) in verdicts.iter().enumerate() {
        body += if place == 0 { "" } else { "," };
        match verdict {
            Ok(verdict) => body += verdict,
            Err(rejected) => body += &body_of(&rejected.reason),
        }
    }
    body + "]"
}

fn ended() -> Error {
    Error::Lost("acknowledgements are no longer taken".to_owned())
}
