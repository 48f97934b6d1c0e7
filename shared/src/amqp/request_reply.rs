//! Asking a function once, as any other system would: a request to its queue, and the wait for the verdict.

use super::{
    Error, Nodes, answered, connect,
    publisher::{PERSISTENT, confirmed_in_time},
};
use crate::messages::CONTENT_TYPE;
use futures_util::{StreamExt, future::BoxFuture};
use lapin::{
    BasicProperties, Confirmation, Connection,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use std::time::Duration;

/// A request to a function's queue.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingRequest<'a> {
    /// The queue.
    pub queue: &'a str,
    /// The request's id, which is in the body, too.
    pub request_id: &'a str,
    /// The request.
    pub body: &'a str,
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The verdict: the reply's body.
    Verdict(Vec<u8>),
    /// The queue has it, but nobody has answered in time. Asking again with the same id gets the same verdict.
    NotYet,
    /// There is no such queue: nothing was asked.
    NoQueue,
}

/// Asks, and waits so long for the verdict.
///
/// # Errors
/// Those of [`connect`], and [`Error::Lost`]: the question may have been asked, so ask again with the same id.
pub fn ask<'a>(
    nodes: &'a Nodes,
    name: &'a str,
    question: OutgoingRequest<'a>,
    time: Duration,
) -> BoxFuture<'a, Result<RequestOutcome, Error>> {
    Box::pin(async move {
        let connection = connect(nodes, name).await?;
        let told = ask_on(&connection, question, time).await;
        drop(answered(async { Ok(connection.close(200, "done".into()).await?) }).await);
        told
    })
}

async fn ask_on(
    connection: &Connection,
    question: OutgoingRequest<'_>,
    time: Duration,
) -> Result<RequestOutcome, Error> {
    let (channel, queue, mut replies) = answered(async {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?.name().clone();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await?;
        Ok((channel, queue, replies))
    })
    .await?;
    let properties = BasicProperties::default()
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(question.request_id.into())
        .with_correlation_id(question.request_id.into())
        .with_reply_to(queue);
    let confirmation = confirmed_in_time(async {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (queue, body) = (question.queue.into(), question.body.as_bytes());
        Ok(channel.basic_publish("".into(), queue, options, body, properties).await?.await?)
    })
    .await?;
    match confirmation {
        Confirmation::Ack(None) => {}
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => return Ok(RequestOutcome::NoQueue),
        Confirmation::Nack(None) | Confirmation::NotRequested => {
            return Err(Error::Lost(format!("the broker did not take the request for {}", question.queue)));
        }
    }
    let reply = async {
        while let Some(reply) = replies.next().await {
            let reply = reply?;
            if reply.properties.correlation_id().as_ref().is_some_and(|id| id.as_str() == question.request_id) {
                return Ok(RequestOutcome::Verdict(reply.data));
            }
        }
        Err(Error::Lost("the broker ended the subscription to the reply".to_owned()))
    };
    tokio::time::timeout(time, reply).await.unwrap_or(Ok(RequestOutcome::NotYet))
}
