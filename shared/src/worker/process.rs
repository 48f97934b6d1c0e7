//! From a batch of deliveries to their answers: decode, handle, and find the one message that spoils a batch.

use super::{Function, Settled, validate::validate};
use crate::{
    amqp::Delivery,
    error::Settlement,
    fail_point::pause_at,
    handler::{Answer, Handler},
    messages::{Code, Rejection, Request},
    retry::RetryPolicy,
};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;

/// Answers every delivery of the batch, in order. `None`: told to stop, or no longer open, while the database was away;
/// nothing of the batch may be acknowledged, and it comes back.
pub(super) async fn process<H: Handler>(
    function: &Function<H>,
    batch: Vec<Delivery>,
    is_open: impl Fn() -> bool,
) -> Option<Vec<Settled>> {
    let mut requests = Vec::with_capacity(batch.len());
    let mut screened = Vec::with_capacity(batch.len());
    for delivery in batch {
        let read = if delivery.is_padding() { None } else { Some(read::<H>(&delivery)) };
        let outcome = read.map(|read| read.map(|request| requests.push(request)));
        screened.push((delivery, outcome));
    }
    let answers = answer(function, &requests, &is_open).await?;
    let unreadable = screened.iter().filter(|(_, outcome)| matches!(outcome, Some(Err(_)))).count();
    function.metrics.answered(&answers, unreadable);
    let mut answers = answers.into_iter();
    let mut requests = requests.iter();
    let settled = screened.into_iter().map(|(delivery, outcome)| match outcome {
        None => Settled::ignored(delivery),
        Some(Err(rejection)) => Settled::rejected(delivery, rejection),
        Some(Ok(())) => {
            let (request, answer) = requests.next().zip(answers.next()).expect("one answer for each request");
            match answer {
                Answer::Verdict(body) => Settled::answered(delivery, body, request.request_id()),
                Answer::Rejected(rejection) => Settled::rejected(delivery, rejection),
                Answer::Requeue => Settled::later(delivery),
            }
        }
    });
    Some(settled.collect())
}

fn read<H: Handler>(delivery: &Delivery) -> Result<H::Request, Rejection> {
    let screened = validate(delivery);
    let request = H::Request::decode(&delivery.body, delivery.message_id());
    match (screened, request) {
        (Ok(()), request) => request,
        // The properties are at fault, but the body may say which request it is.
        (Err(rejection), Ok(request)) => Err(rejection.of(request.request_id())),
        (Err(rejection), Err(of_body)) => Err(Rejection { request_id: of_body.request_id, ..rejection }),
    }
}

/// The handler's answers; through outages of the database, and around a message that it cannot handle.
async fn answer<H: Handler>(
    function: &Function<H>,
    requests: &[H::Request],
    is_open: &impl Fn() -> bool,
) -> Option<Vec<Answer>> {
    if requests.is_empty() {
        return Some(Vec::new());
    }
    let mut waits = RetryPolicy::SERVER_AWAY.waits();
    loop {
        let reason = match AssertUnwindSafe(handle(function, requests)).catch_unwind().await {
            Ok(Ok(answers)) => return Some(answers),
            Ok(Err(error)) => match error.settlement() {
                Settlement::Isolate => error.to_string(),
                Settlement::Hold => {
                    let wait = waits.next().unwrap_or_default();
                    tracing::warn!(%error, requests = requests.len(), wait_ms = wait.as_millis(), "holding the batch");
                    if function.stopped_within(wait).await || !is_open() {
                        return None;
                    }
                    continue;
                }
            },
            Err(_) => "the handler panicked".to_owned(),
        };
        return isolate(function, requests, &reason, is_open).await;
    }
}

async fn handle<H: Handler>(
    function: &Function<H>,
    requests: &[H::Request],
) -> Result<Vec<Answer>, crate::error::Error> {
    // Only where it can pause at all: a release build does not even put the name together.
    if cfg!(debug_assertions)
        && let Some(first) = requests.first()
    {
        pause_at(&["handling ", first.request_id()].concat()).await;
    }
    let answers = function.handler.handle(requests).await?;
    assert_eq!(answers.len(), requests.len(), "a handler gives one answer for each request");
    function.metrics.decided(requests.len());
    Ok(answers)
}

/// Handles each request alone; the one that fails alone is rejected.
async fn isolate<H: Handler>(
    function: &Function<H>,
    requests: &[H::Request],
    reason: &str,
    is_open: &impl Fn() -> bool,
) -> Option<Vec<Answer>> {
    if let [request] = requests {
        tracing::error!(request_id = request.request_id(), reason, "a message cannot be handled");
        let message = "This message cannot be handled; it is kept, and its operators are told.";
        return Some(vec![Answer::Rejected(Rejection::new(Code::NotHandled, message).of(request.request_id()))]);
    }
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        // Boxed, because `answer` and `isolate` call each other; one level deep, as a batch of one goes no further.
        answers.extend(Box::pin(answer(function, std::slice::from_ref(request), is_open)).await?);
    }
    Some(answers)
}
