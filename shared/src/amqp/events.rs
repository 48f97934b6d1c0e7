//! Telling events: to the topic exchange `events`, in the order given, each confirmed by the broker.
//!
//! Invariants: an event is on the wire before the next one is; and what is refused is told apart from a broker that is
//! away, because only the former can be the event's own fault. Nobody needs to be listening: an event that no queue is
//! bound for is confirmed, and gone.

use super::{Error, Publisher, protocol_error, publisher::PERSISTENT};
use crate::messages::{CONTENT_TYPE, EVENTS_EXCHANGE, EventKind};
use futures_util::future::BoxFuture;
use lapin::{
    BasicProperties, Confirmation, PublisherConfirm,
    options::BasicPublishOptions,
    protocol::{AMQPErrorKind, AMQPSoftError},
};
use std::{collections::VecDeque, time::Duration};
use time::OffsetDateTime;

/// The confirm window: how many events may be on the wire and not confirmed. A quorum queue writes to disk for many at
/// once, so a narrow window would wait for the disk that often; a thousand events of 400 bytes are half a megabyte.
const CONFIRMS_AWAITED_MAX: usize = 1_000;

/// An event on its way out.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingEvent<'a> {
    /// Its stable id.
    pub id: &'a str,
    /// What happened.
    pub kind: EventKind,
    /// Where it happened; at most 255 bytes.
    pub routing_key: &'a str,
    /// When it happened.
    pub at: OffsetDateTime,
    /// The message's body.
    pub body: &'a str,
}

/// Why not all events were taken. Some may have been, in their order.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The broker says of one of them that it cannot be: too large, for example. It never can.
    #[error("the broker cannot take it: {0}")]
    Unfit(String),
    /// The broker answers, and does not take one of them: a queue that is full and refuses, a permission that is missing.
    /// It may be for that event alone, and it may be for all.
    #[error("the broker does not take it: {0}")]
    NotTaken(String),
    /// Nothing is said of any event.
    #[error(transparent)]
    Away(#[from] Error),
}

impl From<lapin::Error> for EventError {
    fn from(error: lapin::Error) -> Self {
        match protocol_error(&error) {
            Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) => Self::Unfit(error.to_string()),
            Some(AMQPErrorKind::Soft(_)) => Self::NotTaken(error.to_string()),
            Some(AMQPErrorKind::Hard(_)) | None => Self::Away(error.into()),
        }
    }
}

impl Publisher {
    /// Publishes events in their order, and returns when each is confirmed. After an error, publish again on a new
    /// connection: all of them, or one by one to find the one that is refused.
    ///
    /// # Errors
    /// [`EventError`]; [`EventError::Away`] also where it is not done `within` this time, as when the broker is short of
    /// memory and reads nothing.
    pub fn tell<'a>(
        &'a self,
        events: &'a [OutgoingEvent<'a>],
        within: Duration,
    ) -> BoxFuture<'a, Result<(), EventError>> {
        Box::pin(async move {
            tokio::time::timeout(within, self.tell_all(events)).await.unwrap_or_else(|_| {
                Err(Error::Lost(format!("events are not confirmed within {} s", within.as_secs_f32())).into())
            })
        })
    }

    async fn tell_all(&self, events: &[OutgoingEvent<'_>]) -> Result<(), EventError> {
        let mut awaited = VecDeque::with_capacity(events.len().min(CONFIRMS_AWAITED_MAX));
        for event in events {
            if awaited.len() == CONFIRMS_AWAITED_MAX
                && let Some(confirm) = awaited.pop_front()
            {
                taken(confirm).await?;
            }
            match self.put(event).await {
                Ok(confirm) => awaited.push_back(confirm),
                Err(error) => {
                    // That the channel is closed is all that this one says; those before it say why.
                    for confirm in awaited {
                        taken(confirm).await?;
                    }
                    return Err(error.into());
                }
            }
        }
        for confirm in awaited {
            taken(confirm).await?;
        }
        Ok(())
    }

    /// Puts an event on the wire.
    async fn put(&self, event: &OutgoingEvent<'_>) -> Result<PublisherConfirm, lapin::Error> {
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(event.id.into())
            .with_type(event.kind.as_str().into())
            .with_timestamp(u64::try_from(event.at.unix_timestamp()).unwrap_or_default())
            .with_app_id(self.worker_id.as_str().into());
        let options = BasicPublishOptions { mandatory: false, immediate: false };
        let key = event.routing_key.into();
        self.channel.basic_publish(EVENTS_EXCHANGE.into(), key, options, event.body.as_bytes(), properties).await
    }
}

async fn taken(confirm: PublisherConfirm) -> Result<(), EventError> {
    match confirm.await? {
        Confirmation::Ack(_) => Ok(()),
        Confirmation::Nack(_) => Err(EventError::NotTaken("a queue that is bound for it refuses it".to_owned())),
        Confirmation::NotRequested => Err(Error::Lost("the channel does not confirm".to_owned()).into()),
    }
}
