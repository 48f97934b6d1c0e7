//! Verdicts are SENT here: replies, dead letters and requeues, each confirmed, and only then the acknowledgements;
//! overlapped with the decision of the next batch.
//!
//! Invariant: batches settle in the order in which they were decided, and each only after its confirms.

use super::{BATCHES_SETTLING_MAX, service::Service, validate::is_reply_queue};
use crate::{
    amqp::{Acknowledger, Delivery, Error, Outgoing, Publisher},
    fail_point::pause_at,
    messages::Rejection,
    retry::{RetryPolicy, Waits},
};
use std::borrow::Cow;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Attempts at publishing a batch as one, before each message goes alone.
const TOGETHER_ATTEMPTS_MAX: u32 = 2;
/// Attempts at a reply alone that the broker refuses while it takes others, before it is given up: its buyer can ask again.
/// At a requeue, before it is given back.
const ALONE_ATTEMPTS_MAX: u32 = 2;

pub(super) enum Outcome {
    /// It is answered with a recorded verdict.
    Answered { body: String, request_id: String },
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
        let mut publisher = None;
        while let Some(Decided { outcomes, held, undecided }) = decided.recv().await {
            pause_at("decided").await;
            let returned = self.publish(&mut publisher, &outgoing(&outcomes, &self.queues)).await;
            pause_at("replied").await;
            self.acknowledger.give_back(&returned).await?;
            let tags = outcomes.iter().map(|(delivery, _)| (delivery.partition, delivery.tag));
            let settled = tags.filter(|tag| !held.contains(&tag.0) && !returned.contains(tag));
            self.acknowledger.acknowledge(settled, &undecided).await?;
            tracing::debug!(messages = outcomes.len(), "settled");
            progress.send_modify(|settled| *settled += 1);
        }
        if let Some(publisher) = publisher {
            publisher.close().await;
        }
        Ok(())
    }

    /// Publishes until the broker has confirmed it all, on a new connection where the old one fails. It goes on for
    /// as long as the session lives: giving up would only have the same deliveries come back, each a delivery older.
    ///
    /// Returns the requeues (partition, tag) that their queue has no room for: those are to come back, at the price of a
    /// delivery. To wait for room here would be to wait for ourselves.
    async fn publish(&self, publisher: &mut Option<Publisher>, outgoing: &[Outgoing<'_>]) -> Vec<(usize, u64)> {
        let (mut returned, mut waits) = (Vec::new(), RetryPolicy::SERVER_AWAY.waits());
        if self.publish_all(publisher, outgoing, TOGETHER_ATTEMPTS_MAX, &mut waits).await.is_ok() {
            return returned;
        }
        // Something in the batch may be what ends the connection each time (the broker gives up a connection over a
        // direct reply-to of a node that is gone, for one), so each goes alone.
        let mut outage = self.service.outage("messages that cannot be handled cannot be kept in `dead`");
        for message in outgoing {
            let mut waits = RetryPolicy::SERVER_AWAY.waits();
            while let Err(error) =
                self.publish_all(publisher, std::slice::from_ref(message), ALONE_ATTEMPTS_MAX, &mut waits).await
            {
                match message {
                    Outgoing::Requeue { of, .. } => returned.push((of.partition, of.tag)),
                    Outgoing::Reply { to, .. } => {
                        let reply_to = to.reply_to();
                        tracing::error!(%error, reply_to, "a reply cannot be delivered; its verdict is on record");
                    }
                    // Not to be given up: this copy is all that will be left of the message.
                    Outgoing::DeadLetter { .. } => {
                        outage.goes_on(error);
                        continue;
                    }
                }
                break;
            }
            outage.is_over();
        }
        returned
    }

    /// Publishes these, through every outage. An error is their own: the broker has refused them in so many attempts, and
    /// takes others.
    async fn publish_all(
        &self,
        publisher: &mut Option<Publisher>,
        outgoing: &[Outgoing<'_>],
        attempts_max: u32,
        waits: &mut Waits,
    ) -> Result<(), Error> {
        let mut outage = self.service.outage("replies cannot be published");
        let mut attempts = 0;
        loop {
            let error = match self.connected(publisher).await {
                Ok(connected) => match connected.publish(outgoing).await {
                    Ok(()) => {
                        outage.is_over();
                        return Ok(());
                    }
                    Err(error) => {
                        let is_blocked = connected.is_blocked();
                        self.service.nodes.go_on();
                        *publisher = None;
                        if !is_blocked && self.takes_others(publisher).await {
                            outage.is_over();
                            attempts += 1;
                        } else {
                            outage.goes_on(&error);
                        }
                        error
                    }
                },
                Err(error) => {
                    outage.goes_on(&error);
                    error
                }
            };
            if attempts >= attempts_max {
                return Err(error);
            }
            let wait = waits.next().unwrap_or_default();
            let messages = outgoing.len();
            tracing::debug!(%error, wait_ms = wait.as_millis(), messages, "not published; trying again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether the broker takes a reply of ours to somebody else, on a new connection. If not, it is nobody's own fault.
    async fn takes_others(&self, publisher: &mut Option<Publisher>) -> bool {
        let is_taken = match self.connected(publisher).await {
            Ok(connected) => connected.reply_to_nobody().await.is_ok(),
            Err(_) => false,
        };
        if !is_taken {
            *publisher = None;
        }
        is_taken
    }

    async fn connected<'a>(&self, publisher: &'a mut Option<Publisher>) -> Result<&'a Publisher, Error> {
        if publisher.is_none() {
            let Service { nodes, worker, .. } = &self.service;
            *publisher = Some(Publisher::open(nodes, &self.name, &worker.worker_id).await?);
        }
        Ok(publisher.as_ref().expect("it was just opened"))
    }
}

/// What is to be sent of a batch: replies first.
fn outgoing<'a>(outcomes: &'a [(Delivery, Outcome)], queues: &'a [String]) -> Vec<Outgoing<'a>> {
    let (mut replies, mut copies) = (Vec::with_capacity(outcomes.len()), Vec::new());
    for (of, outcome) in outcomes {
        let queue = queues[of.partition].as_str();
        let may_reply = of.reply_to().is_some_and(is_reply_queue);
        if let Some(reply_to) = of.reply_to().filter(|_| !may_reply) {
            tracing::warn!(reply_to = ?reply_to, queue, "no reply goes there; the request is refused, and kept in `dead`");
        }
        let mut reply = |body, request_id| {
            if may_reply {
                replies.push(Outgoing::Reply { to: of, body, request_id });
            }
        };
        match outcome {
            Outcome::Answered { body, request_id } => reply(Cow::Borrowed(body.as_str()), Some(request_id.as_str())),
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
