//! Publishing events: many on the wire, and one told from another where one is refused.

use super::super::pipelined::publish_pipelined;
use super::super::{Error, protocol_error};
use super::Publisher;
use crate::messages::{EVENTS_EXCHANGE, EventKind};
use futures_util::future::BoxFuture;
use lapin::Confirmation;
use lapin::options::BasicPublishOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use std::collections::VecDeque;
use std::time::Duration;
use time::OffsetDateTime;

/// How many events may be on the wire and not confirmed. A quorum queue writes to disk for many at once, so a narrow window
/// would wait for the disk that often; a thousand events of 400 bytes are half a megabyte.
const EVENTS_UNCONFIRMED_MAX: usize = 1_000;
/// How the broker says that the right is missing for a topic, not for the exchange.
const OF_TOPIC: &str = "access to topic '";

#[derive(Debug, Clone, Copy)]
pub struct OutgoingEvent<'a> {
    /// Its stable id.
    pub id: &'a str,
    pub kind: EventKind,
    /// At most 255 bytes.
    pub routing_key: &'a str,
    pub at: OffsetDateTime,
    pub body: &'a str,
}

/// Why not all events were taken. Some may have been, in their order. What is refused is told apart from a broker that is
/// away, because only the former can be the event's own fault.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The broker says of one of them that it cannot be: too large, for example. It never can.
    #[error("the broker cannot take it: {0}")]
    Unfit(String),
    /// The broker answers, and does not take one of them: a queue that is full and refuses, a right that is missing for its
    /// topic. It may be for that event alone, and it may be for all.
    #[error("the broker does not take it: {0}")]
    NotTaken(String),
    /// Nothing is said of any event: the broker is away, or there is no exchange, or no right to write to it.
    #[error(transparent)]
    Away(#[from] Error),
}

impl From<lapin::Error> for EventError {
    fn from(error: lapin::Error) -> Self {
        match protocol_error(&error) {
            Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) => Self::Unfit(error.to_string()),
            Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)) => Self::Away(error.into()),
            Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) if !error.to_string().contains(OF_TOPIC) => {
                Self::Away(error.into())
            }
            Some(AMQPErrorKind::Soft(_)) => Self::NotTaken(error.to_string()),
            Some(AMQPErrorKind::Hard(_)) | None => Self::Away(error.into()),
        }
    }
}

impl Publisher {
    /// Publishes events in their order to the topic exchange `events`, and returns when each is confirmed. Nobody needs to
    /// listen: an event that no queue is bound for is confirmed, and gone.
    ///
    /// [`EventError::Away`] also where it is not done `within` this time, as when the broker is short of memory and reads
    /// nothing. After an error, publish again on a new connection: all of them, or one by one to find the one that is refused.
    pub fn publish_events<'a>(
        &'a self,
        events: &'a [OutgoingEvent<'a>],
        within: Duration,
    ) -> BoxFuture<'a, Result<(), EventError>> {
        Box::pin(async move {
            tokio::time::timeout(within, self.publish_in_order(events)).await.unwrap_or_else(|_| {
                Err(Error::Lost(format!("events are not confirmed within {} s", within.as_secs_f32())).into())
            })
        })
    }

    /// What the broker says to one tells why those after it failed: so each is asked in order.
    async fn publish_in_order(&self, events: &[OutgoingEvent<'_>]) -> Result<(), EventError> {
        let mut awaited = VecDeque::with_capacity(events.len().min(EVENTS_UNCONFIRMED_MAX));
        for event in events {
            if awaited.len() == EVENTS_UNCONFIRMED_MAX
                && let Some(confirm) = awaited.pop_front()
            {
                taken(confirm).await?;
            }
            awaited.push_back(self.begin(event).await);
        }
        for confirm in awaited {
            taken(confirm).await?;
        }
        Ok(())
    }

    async fn begin(&self, event: &OutgoingEvent<'_>) -> BoxFuture<'static, lapin::Result<Confirmation>> {
        let properties = self
            .our_properties()
            .with_message_id(event.id.into())
            .with_type(event.kind.as_str().into())
            .with_timestamp(u64::try_from(event.at.unix_timestamp()).unwrap_or_default());
        let (way, body) = ((EVENTS_EXCHANGE, event.routing_key), event.body.as_bytes().to_vec());
        publish_pipelined(&self.channel, way, BasicPublishOptions::default(), body, properties).await
    }
}

async fn taken(confirm: BoxFuture<'static, lapin::Result<Confirmation>>) -> Result<(), EventError> {
    match confirm.await? {
        Confirmation::Ack(_) => Ok(()),
        Confirmation::Nack(_) => Err(EventError::NotTaken("a queue that is bound for it refuses it".to_owned())),
        Confirmation::NotRequested => Err(Error::Lost("the channel does not confirm".to_owned()).into()),
    }
}
