//! Asking a function once, as any other system would: a request to its queue, and the wait for the verdict.

use super::{
    Error,
    connect::{Nodes, close, confirming_channel, connect, go_on_after, next, own_queue},
    properties::PERSISTENT,
    publisher::{confirmed_in_time, publish_mandatory},
};
use crate::messages::CONTENT_TYPE;
use futures_util::future::BoxFuture;
use lapin::BasicProperties;
use std::time::Duration;

/// A request to a function, by its exchange.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingRequest<'a> {
    pub exchange: &'a str,
    pub routing_key: &'a str,
    /// Which is in the body, too.
    pub request_id: &'a str,
    pub body: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The verdict: the reply's body.
    Verdict(Vec<u8>),
    /// The queue has it, but nobody has answered in time. Asking again with the same id gets the same verdict.
    NotYet,
    /// There is no such queue, or no such exchange: nothing was asked.
    NoQueue,
}

/// Asks, and waits so long for the verdict. After [`Error::Lost`] it may have been asked, so ask again with the same id.
pub fn request_reply<'a>(
    nodes: &'a Nodes,
    name: &'a str,
    request: OutgoingRequest<'a>,
    time: Duration,
) -> BoxFuture<'a, Result<RequestOutcome, Error>> {
    Box::pin(async move {
        let OutgoingRequest { exchange, routing_key, request_id, body } = request;
        let connection = connect(nodes, name).await?;
        let outcome = async {
            let channel = confirming_channel(&connection).await?;
            let (reply_to, mut replies) = own_queue(&channel, None).await?;
            let properties = BasicProperties::default()
                .with_content_type(CONTENT_TYPE.into())
                .with_delivery_mode(PERSISTENT)
                .with_message_id(request_id.into())
                .with_correlation_id(request_id.into())
                .with_user_id(nodes.user().into())
                .with_reply_to(reply_to);
            let published = publish_mandatory(&channel, exchange, routing_key, body.as_bytes(), properties);
            match confirmed_in_time(published).await {
                Ok(true) => (),
                Ok(false) | Err(Error::Missing(_)) => return Ok(RequestOutcome::NoQueue),
                Err(error) => return Err(error),
            }
            let verdict = async {
                loop {
                    let reply = next(&mut replies).await?;
                    go_on_after(&reply).await?;
                    if reply.properties.correlation_id().as_ref().is_some_and(|id| id.as_str() == request_id) {
                        return Ok(RequestOutcome::Verdict(reply.data));
                    }
                }
            };
            tokio::time::timeout(time, verdict).await.unwrap_or(Ok(RequestOutcome::NotYet))
        };
        let outcome = outcome.await;
        drop(close(&connection).await);
        outcome
    })
}
