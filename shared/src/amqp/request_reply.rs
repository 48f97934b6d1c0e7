//! Asking functions, as any other system would: requests to their queues, and what is replied.

use super::Error;
use super::connect::{FEW, MANY, Nodes, close, confirming_channel, connect, go_on_after, next, own_queue};
use super::pipelined::publish_pipelined;
use super::properties::PERSISTENT;
use super::publisher::{Confirmed, confirmed, confirmed_in_time, mandatory};
use crate::messages::CONTENT_TYPE;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Connection};
use std::time::Duration;
use uuid::Uuid;

/// A request to a function, or several in one message, by its exchange.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingRequest<'a> {
    pub exchange: &'a str,
    pub routing_key: &'a str,
    /// What the reply is known by. The request ids are in the body.
    pub correlation_id: &'a str,
    pub body: &'a str,
}

/// What comes to our reply queue. Others may have somebody's reply sent there, too: look at what it answers.
#[derive(Debug)]
pub struct IncomingReply {
    pub correlation_id: String,
    pub body: Vec<u8>,
}

/// What is replied, and an error in the end. To give up waiting for the next one loses nothing.
pub type Replies = BoxStream<'static, Result<IncomingReply, Error>>;

/// A connection that asks, with a reply queue for as long as it lasts.
pub struct Requester {
    connection: Connection,
    channel: Channel,
    reply_to: ShortString,
    /// The broker's user that we are.
    user: String,
}

impl Requester {
    /// For many requests: its reply queue has a name that only our user may use (`reply.USER.NAME`), and that nobody guesses.
    pub fn open<'a>(nodes: &'a Nodes, name: &'a str) -> BoxFuture<'a, Result<(Self, Replies), Error>> {
        Box::pin(async move {
            let connection = connect(nodes, &format!("{name} request")).await?;
            let queue = format!("reply.{}.{}", nodes.user(), Uuid::now_v7().simple());
            Self::on(connection, nodes, &queue, MANY).await
        })
    }

    async fn on(
        connection: Connection,
        nodes: &Nodes,
        queue: &str,
        bounds: (i64, i64),
    ) -> Result<(Self, Replies), Error> {
        let channel = confirming_channel(&connection).await?;
        let (reply_to, replies) = own_queue(&channel, queue, bounds, None).await?;
        let replies = stream::unfold(replies, async |mut replies| {
            let reply = async {
                let reply = next(&mut replies).await?;
                go_on_after(&reply).await?;
                let correlation_id = reply.properties.correlation_id().as_ref().map(ToString::to_string);
                Ok(IncomingReply { correlation_id: correlation_id.unwrap_or_default(), body: reply.data })
            };
            Some((reply.await, replies))
        });
        Ok((Self { connection, channel, reply_to, user: nodes.user().to_owned() }, replies.boxed()))
    }

    /// Puts a request on its way, behind those before it; what is returned is what the broker will say to it. After an error it may
    /// have been taken: ask again, with the same request ids.
    pub async fn begin(&self, request: OutgoingRequest<'_>) -> BoxFuture<'static, Result<Confirmed, Error>> {
        let OutgoingRequest { exchange, routing_key, correlation_id, body } = request;
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_correlation_id(correlation_id.into())
            .with_user_id(self.user.as_str().into())
            .with_reply_to(self.reply_to.clone());
        let (way, body) = ((exchange, routing_key), body.as_bytes().to_vec());
        let published = publish_pipelined(&self.channel, way, mandatory(), body, properties).await;
        Box::pin(async { confirmed(published.await?) })
    }
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

/// Asks once, and waits so long for the verdict. After [`Error::Lost`] it may have been asked, so ask again with the same id.
pub fn request_reply<'a>(
    nodes: &'a Nodes,
    name: &'a str,
    request: OutgoingRequest<'a>,
    time: Duration,
) -> BoxFuture<'a, Result<RequestOutcome, Error>> {
    Box::pin(async move {
        match request_reply_once(nodes, name, request, time).await {
            // It was refused for naming us as the URL does, so nothing was asked.
            Err(error) if nodes.learns_user(&error) => request_reply_once(nodes, name, request, time).await,
            outcome => outcome,
        }
    })
}

fn request_reply_once<'a>(
    nodes: &'a Nodes,
    name: &'a str,
    request: OutgoingRequest<'a>,
    time: Duration,
) -> BoxFuture<'a, Result<RequestOutcome, Error>> {
    Box::pin(async move {
        let (requester, mut replies) = Requester::on(connect(nodes, name).await?, nodes, "", FEW).await?;
        let outcome = async {
            match confirmed_in_time(requester.begin(request).await).await {
                Ok(Confirmed::Taken) => (),
                Ok(Confirmed::NoQueue) | Err(Error::Missing(_)) => return Ok(RequestOutcome::NoQueue),
                Ok(Confirmed::Refused) => {
                    return Err(Error::Lost(format!("the broker did not take a message for {}", request.routing_key)));
                }
                Err(error) => return Err(error),
            }
            let verdict = async {
                while let Some(reply) = replies.next().await.transpose()? {
                    if reply.correlation_id == request.correlation_id {
                        return Ok(RequestOutcome::Verdict(reply.body));
                    }
                }
                Ok(RequestOutcome::NotYet)
            };
            tokio::time::timeout(time, verdict).await.unwrap_or(Ok(RequestOutcome::NotYet))
        };
        let outcome = outcome.await;
        drop(close(&requester.connection).await);
        outcome
    })
}
