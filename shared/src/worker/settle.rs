//! Verdicts are SENT here: replies, dead letters and requeues, each confirmed, and only then the acknowledgements;
//! overlapped with the decision of the next batch.
//!
//! Invariant: batches settle in the order in which they were decided, and each only after its confirms.

use super::{BATCHES_SETTLING_MAX, publish::Publishing, service::Service, validate::may_reply};
use crate::{
    amqp::{Acknowledger, Delivery, Error, Outgoing},
    config::WorkerOptions,
    fail_point::pause_at,
    messages::Rejection,
};
use std::borrow::Cow;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub(super) enum Outcome {
    /// It is answered with a recorded verdict.
    /// The request id stands in for a correlation id that the sender did not give.
    Answered { body: String, request_id: Option<String> },
    /// It is answered with why it cannot be decided, and kept in `dead`.
    Rejected(Rejection),
    /// It is not decided yet, and goes to the end of its queue.
    Requeued,
    /// It asks for nothing.
    Ignored,
}

pub(super) struct Decided {
    /// In the order of their decision.
    pub(super) outcomes: Vec<(Delivery, Outcome)>,
    /// Partitions that are being handed over: answered, but not acknowledged.
    pub(super) held: Vec<usize>,
    /// In each partition, the first (partition, tag) that was delivered and is not decided.
    pub(super) undecided: Vec<(usize, u64)>,
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
        let (batches, decided) = mpsc::channel(BATCHES_SETTLING_MAX);
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
    async fn run(self, mut decided: mpsc::Receiver<Decided>, progress: watch::Sender<u64>) -> Result<(), Error> {
        let options = self.service.worker.clone();
        let mut publishing = Publishing::new(self.service, &self.name).await;
        while let Some(Decided { outcomes, held, undecided }) = decided.recv().await {
            pause_at("decided").await;
            let returned = publishing.publish(outgoing(&outcomes, &self.queues, &options)).await;
            pause_at("replied").await;
            self.acknowledger.give_back(&returned).await?;
            let tags = outcomes.iter().map(|(delivery, _)| (delivery.partition, delivery.tag));
            let settled = tags.filter(|tag| !held.contains(&tag.0) && !returned.contains(tag));
            self.acknowledger.acknowledge(settled, &undecided).await?;
            tracing::debug!(messages = outcomes.len(), "settled");
            progress.send_modify(|settled| *settled += 1);
        }
        publishing.close().await;
        Ok(())
    }
}

/// What is to be sent of a batch: replies first.
fn outgoing<'a>(
    outcomes: &'a [(Delivery, Outcome)],
    queues: &'a [String],
    options: &WorkerOptions,
) -> Vec<Outgoing<'a>> {
    let (mut replies, mut copies) = (Vec::with_capacity(outcomes.len()), Vec::new());
    for (of, outcome) in outcomes {
        let queue = queues[of.partition].as_str();
        let may_reply = may_reply(of, options);
        if let Some(reply_to) = of.reply_to().filter(|_| !may_reply) {
            tracing::warn!(reply_to = ?reply_to, queue, "no reply goes there; the request is refused, and kept in `dead.invalid`");
        }
        let mut reply = |body, request_id| {
            if may_reply {
                replies.push(Outgoing::Reply { to: of, body, request_id });
            }
        };
        match outcome {
            Outcome::Answered { body, request_id } => reply(Cow::Borrowed(body.as_str()), request_id.as_deref()),
            Outcome::Rejected(reason) => {
                let body = serde_json::to_string(&reason.verdict()).expect("a verdict is representable as JSON");
                reply(Cow::Owned(body), reason.request_id.as_deref());
                copies.push(Outgoing::DeadLetter { of, queue, reason });
            }
            Outcome::Requeued => copies.push(Outgoing::Requeue { of, queue }),
            Outcome::Ignored => (),
        }
    }
    replies.append(&mut copies);
    replies
}

fn ended() -> Error {
    Error::Lost("acknowledgements are no longer taken".to_owned())
}
