//! Replies, copies to `dead` or to the end of the queue, then acknowledgements: what follows a decision, overlapped with the
//! next one.
//!
//! Invariant: batches settle in the order in which they were decided, and each only after its confirms.

use super::{BATCHES_SETTLING_MAX, Function, validate::is_reply_queue};
use crate::{
    amqp::{Acknowledger, Again, DeadCopy, Delivery, Error, Message, Nodes, Publisher, Reply},
    fail_point::pause_at,
    handler::Handler,
    messages::Rejection,
    retry::RetryPolicy,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Attempts at publishing a batch as one, before each message goes alone.
const TOGETHER_ATTEMPTS_MAX: u32 = 2;
/// Attempts at a reply alone, before it is given up: its buyer can ask again. At a message that was put off, before it is
/// given back.
const ALONE_ATTEMPTS_MAX: u32 = 2;

/// A delivery with its answer.
pub(super) struct Settled {
    delivery: Delivery,
    body: String,
    request_id: Option<String>,
    rejection: Option<Rejection>,
    /// It is to come again; nothing is said of it yet.
    is_later: bool,
}

impl Settled {
    /// A delivery that is answered with a recorded verdict.
    pub(super) fn answered(delivery: Delivery, body: String, request_id: &str) -> Self {
        Self { delivery, body, request_id: Some(request_id.to_owned()), rejection: None, is_later: false }
    }

    /// A delivery that asks for nothing.
    pub(super) fn ignored(delivery: Delivery) -> Self {
        Self { delivery, body: String::new(), request_id: None, rejection: None, is_later: false }
    }

    /// A delivery that is not decided yet, and goes to the end of its queue.
    pub(super) fn later(delivery: Delivery) -> Self {
        Self { is_later: true, ..Self::ignored(delivery) }
    }

    /// A delivery that is answered with why it cannot be decided, and kept in `dead`.
    pub(super) fn rejected(delivery: Delivery, rejection: Rejection) -> Self {
        let body = serde_json::to_string(&rejection.verdict()).expect("a verdict is representable as JSON");
        let request_id = rejection.request_id.clone();
        Self { delivery, body, request_id, rejection: Some(rejection), is_later: false }
    }
}

/// A decided batch on its way to being settled.
pub(super) struct Decided {
    /// In the order of their decision.
    pub(super) settled: Vec<Settled>,
    /// Partitions that are being handed over: answered, but not acknowledged.
    pub(super) held: Vec<usize>,
}

/// The task that settles decided batches.
pub(super) struct Settling {
    batches: mpsc::Sender<Decided>,
    /// How many batches were settled.
    progress: watch::Receiver<u64>,
    task: JoinHandle<Result<(), Error>>,
}

impl Settling {
    /// Starts the task; it ends with the session.
    pub(super) fn start<H: Handler>(function: &Function<H>, name: &str, queues: &[String], acks: Acknowledger) -> Self {
        let (batches, decided) = mpsc::channel(BATCHES_SETTLING_MAX);
        let (settled, progress) = watch::channel(0);
        let settler = Settler {
            nodes: function.nodes.clone(),
            name: name.to_owned(),
            worker_id: function.worker_id.clone(),
            queues: queues.to_vec(),
            acks,
        };
        Self { batches, progress, task: tokio::spawn(settler.run(decided, settled)) }
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
        // Replacing the sender drops it, which is what ends the task; `self.task` is aborted on drop otherwise.
        self.batches = mpsc::channel(1).0;
        (&mut self.task).await.map_err(|error| Error::Lost(error.to_string()))?
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        // The session is over: what is not acknowledged by now comes back and is answered again.
        self.task.abort();
    }
}

struct Settler {
    nodes: Nodes,
    name: String,
    worker_id: String,
    queues: Vec<String>,
    acks: Acknowledger,
}

impl Settler {
    async fn run(self, mut decided: mpsc::Receiver<Decided>, progress: watch::Sender<u64>) -> Result<(), Error> {
        let mut outgoing = None;
        while let Some(Decided { settled, held }) = decided.recv().await {
            pause_at("decided").await;
            let returned = self.publish(&mut outgoing, &settled).await;
            pause_at("replied").await;
            self.acks.give_back(&returned).await?;
            let tags = settled.iter().map(|settled| (settled.delivery.partition, settled.delivery.tag));
            self.acks.acknowledge(tags.filter(|tag| !held.contains(&tag.0) && !returned.contains(tag))).await?;
            progress.send_modify(|settled| *settled += 1);
        }
        if let Some(outgoing) = outgoing {
            outgoing.close().await;
        }
        Ok(())
    }

    /// Publishes until the broker has confirmed it all, on a new connection where the old one fails. It goes on for
    /// as long as the session lives: giving up would only have the same deliveries come back, each a delivery older.
    ///
    /// Returns the deliveries (partition, tag) that were put off, and that their queue has no room for: those are to come
    /// back, at the price of a delivery. To wait for room here would be to wait for ourselves.
    async fn publish(&self, outgoing: &mut Option<Publisher>, batch: &[Settled]) -> Vec<(usize, u64)> {
        let of_one = |settled| [Settled::reply(settled), settled.dead_copy(&self.queues), settled.again(&self.queues)];
        let messages: Vec<_> = batch.iter().flat_map(of_one).flatten().collect();
        let mut returned = Vec::new();
        if self.published(outgoing, &messages, TOGETHER_ATTEMPTS_MAX).await {
            return returned;
        }
        // Something in the batch may be what ends the connection each time (the broker gives up a connection over a
        // direct reply-to of a node that is gone, for one), so each goes alone.
        for message in &messages {
            let alone = std::slice::from_ref(message);
            let attempts_max = match message {
                Message::Reply(_) | Message::Again(_) => ALONE_ATTEMPTS_MAX,
                // Not to be given up: this copy is all that will be left of the message.
                Message::Dead(_) => u32::MAX,
            };
            if self.published(outgoing, alone, attempts_max).await {
                continue;
            }
            match message {
                Message::Again(again) => returned.push((again.of.partition, again.of.tag)),
                Message::Reply(_) | Message::Dead(_) => {
                    tracing::error!("a reply cannot be delivered; its verdict is on record");
                }
            }
        }
        returned
    }

    /// Whether the messages could be published in so many attempts, those not counted in which the broker was away.
    async fn published(&self, outgoing: &mut Option<Publisher>, messages: &[Message<'_>], attempts_max: u32) -> bool {
        let mut waits = RetryPolicy::SERVER_AWAY.waits();
        let mut attempts = 0;
        loop {
            let error = match self.connected(outgoing).await {
                Ok(connected) => match connected.publish(messages).await {
                    Ok(()) => return true,
                    Err(error) => {
                        attempts += u32::from(!connected.is_blocked());
                        self.nodes.go_on();
                        error
                    }
                },
                Err(error) => error,
            };
            *outgoing = None;
            let wait = waits.next().unwrap_or_default();
            tracing::warn!(%error, wait_ms = wait.as_millis(), messages = messages.len(), "not published; trying again");
            tokio::time::sleep(wait).await;
            if attempts >= attempts_max {
                return false;
            }
        }
    }

    async fn connected<'a>(&self, outgoing: &'a mut Option<Publisher>) -> Result<&'a Publisher, Error> {
        if outgoing.is_none() {
            *outgoing = Some(Publisher::open(&self.nodes, &self.name, &self.worker_id).await?);
        }
        Ok(outgoing.as_ref().expect("it was just opened"))
    }
}

impl Settled {
    fn reply(&self) -> Option<Message<'_>> {
        let is_answered = !self.is_later && !self.delivery.is_padding();
        self.delivery.reply_to().filter(|queue| is_answered && is_reply_queue(queue))?;
        let request_id = self.request_id.as_deref();
        Some(Message::Reply(Reply { to: &self.delivery, body: &self.body, request_id }))
    }

    fn dead_copy<'a>(&'a self, queues: &'a [String]) -> Option<Message<'a>> {
        let reason = self.rejection.as_ref()?;
        Some(Message::Dead(DeadCopy { of: &self.delivery, queue: &queues[self.delivery.partition], reason }))
    }

    fn again<'a>(&'a self, queues: &'a [String]) -> Option<Message<'a>> {
        let queue = &queues[self.delivery.partition];
        self.is_later.then_some(Message::Again(Again { of: &self.delivery, queue }))
    }
}

fn ended() -> Error {
    Error::Lost("acknowledgements are no longer taken".to_owned())
}
