//! From a batch of deliveries to what becomes of each: read, handle, and find the one message that spoils a batch.

use super::metrics::WorkerMetrics;
use super::outcome::{Outcome, count};
use super::read::read_message;
use super::service::Service;
use super::{Function, Outage};
use crate::amqp::Delivery;
use crate::error::Error;
use crate::fail_point::pause_at;
use crate::handler::{Answer, Handler};
use crate::messages::{Code, Identity, Rejection};
use crate::metrics::Registry;
use crate::retry::{RetryPolicy, Waits};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use tokio::sync::watch;

/// `None`: told to stop, or no longer open, while the database was away, or the disk fails; nothing of the batch may be acknowledged, and it
/// comes back.
type Processed = Option<Outcomes>;

/// What becomes of every delivery of a batch, in order.
pub(super) struct Outcomes {
    pub(super) decided: Vec<(Delivery, Outcome)>,
    /// To be processed again, before all that comes after them.
    pub(super) later: Vec<Delivery>,
}

impl Function {
    pub(super) fn process<'a>(
        &'a self,
        batch: Vec<Delivery>,
        is_open: &'a (dyn Fn() -> bool + Send + Sync),
    ) -> BoxFuture<'a, Processed> {
        self.handler.process(batch, Around { service: &self.service, metrics: &self.metrics, is_open })
    }
}

/// What stands around a handler while it has a batch.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    service: &'a Service,
    metrics: &'a WorkerMetrics,
    is_open: &'a (dyn Fn() -> bool + Send + Sync),
}

impl Around<'_> {
    /// Waits before the next try; `None`: told to stop, or no longer open.
    async fn hold_for(&self, error: impl Display, outage: &mut Outage, waits: &mut Waits) -> Option<()> {
        outage.goes_on(error);
        self.service.wait(waits.next().unwrap_or_default()).await;
        (!self.service.is_stopped() && (self.is_open)()).then_some(())
    }
}

/// A [`Handler`] for the loop, which does not know what its requests are.
pub(super) trait Process: Send + Sync {
    fn name(&self) -> &'static str;
    fn register(&self, registry: &mut Registry);
    fn upkeep(&self, failing: watch::Sender<Option<String>>) -> BoxFuture<'static, ()>;
    fn process<'a>(&'a self, batch: Vec<Delivery>, around: Around<'a>) -> BoxFuture<'a, Processed>;
}

impl<H: Handler> Process for H {
    fn name(&self) -> &'static str {
        H::NAME
    }

    fn register(&self, registry: &mut Registry) {
        Handler::register(self, registry);
    }

    fn upkeep(&self, failing: watch::Sender<Option<String>>) -> BoxFuture<'static, ()> {
        Handler::upkeep(self, failing)
    }

    fn process<'a>(&'a self, batch: Vec<Delivery>, around: Around<'a>) -> BoxFuture<'a, Processed> {
        Box::pin(process(self, batch, around))
    }
}

async fn process<H: Handler>(handler: &H, batch: Vec<Delivery>, around: Around<'_>) -> Processed {
    let mut requests = Vec::with_capacity(batch.iter().map(|delivery| delivery.requests).sum());
    let mut read = Vec::with_capacity(batch.len());
    for delivery in batch {
        let body = read_body(&delivery, around).await?;
        let read_it = read_message(&delivery, &body, &around.service.worker, &mut requests);
        read.push((delivery, read_it));
    }
    let answers = answer(handler, &requests, around).await?;
    let mut answered = requests.iter().zip(answers);
    let mut outcomes = Outcomes { decided: Vec::with_capacity(read.len()), later: Vec::new() };
    for (delivery, read) in read {
        match read.outcome(&delivery, &mut answered) {
            Some(outcome) => outcomes.decided.push((delivery, outcome)),
            None => outcomes.later.push(delivery),
        }
    }
    count(&outcomes.decided, around.metrics);
    Some(outcomes)
}

/// Reads a body through every outage of the disk; `None` as for the whole batch.
async fn read_body<'a>(delivery: &'a Delivery, around: Around<'_>) -> Option<Cow<'a, [u8]>> {
    // Most are in memory: for those, nothing is made ready.
    let (mut waits, mut outage) = (None, None);
    loop {
        match delivery.body.read() {
            Ok(body) => {
                outage.iter_mut().for_each(Outage::is_over);
                return Some(body);
            }
            Err(error) => {
                let new = || around.service.outage("a large message cannot be read back from its file");
                let waits = waits.get_or_insert_with(|| RetryPolicy::SERVER_AWAY.waits());
                around.hold_for(error, outage.get_or_insert_with(new), waits).await?;
            }
        }
    }
}

/// The handler's answers; through outages of the database. Where it cannot handle them together, each is handled alone, and
/// what fails alone is rejected.
async fn answer<H: Handler>(handler: &H, requests: &[H::Request], around: Around<'_>) -> Option<Vec<Answer>> {
    if requests.is_empty() {
        return Some(Vec::new());
    }
    let (mut waits, mut outage) = (RetryPolicy::SERVER_AWAY.waits(), None);
    loop {
        let handled = AssertUnwindSafe(handle(handler, requests, around.metrics)).catch_unwind().await;
        let reason = match handled {
            Ok(Ok(answers)) => {
                outage.iter_mut().for_each(Outage::is_over);
                return Some(answers);
            }
            Ok(Err(error @ (Error::Away(_) | Error::Unfit(_) | Error::Row(_)))) => {
                let new = || around.service.outage("requests cannot be decided, and are held");
                around.hold_for(error, outage.get_or_insert_with(new), &mut waits).await?;
                continue;
            }
            Ok(Err(error @ Error::Unhandled(_))) => error.to_string(),
            Err(_) => "the handler panicked".to_owned(),
        };
        if let [request] = requests {
            tracing::error!(request_id = request.request_id(), reason, "a message cannot be handled");
            let message = "This message cannot be handled; it is kept, and its operators are told.";
            return Some(vec![Answer::Rejected(Rejection::new(Code::NotHandled, message).on(request))]);
        }
        let mut answers = Vec::with_capacity(requests.len());
        // What comes behind a request for an item that waits, waits with it.
        let mut waiting = HashSet::new();
        for request in requests {
            let item = request.about().item;
            if item.is_some_and(|item| waiting.contains(item)) {
                answers.push(Answer::Later);
                continue;
            }
            // Boxed, because it calls itself; one level deep, as a batch of one goes no further.
            answers.extend(Box::pin(answer(handler, std::slice::from_ref(request), around)).await?);
            waiting.extend(item.filter(|_| answers.last() == Some(&Answer::Later)));
        }
        return Some(answers);
    }
}

async fn handle<H: Handler>(
    handler: &H,
    requests: &[H::Request],
    metrics: &WorkerMetrics,
) -> Result<Vec<Answer>, Error> {
    // Only where it can pause at all: a release build does not even put the name together.
    if cfg!(debug_assertions)
        && let Some(first) = requests.first()
    {
        pause_at(&["handling ", first.request_id()].concat()).await;
    }
    let answers = handler.handle(requests).await?;
    assert_eq!(answers.len(), requests.len(), "a handler gives one answer for each request");
    metrics.decided(answers.iter().filter(|answer| !matches!(answer, Answer::Later)).count());
    Ok(answers)
}
