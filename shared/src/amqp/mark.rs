//! The relay's mark: when the database last said that events were published. RabbitMQ remembers it, as the one message of a
//! queue that keeps the last one alone, so that an older database is told from the one that it was.

use super::{
    Error, Publisher, answered,
    properties::PERSISTENT,
    publisher::{confirmed_in_time, publish_mandatory},
};
use crate::messages::time::text;
use futures_util::future::BoxFuture;
use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicRejectOptions},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(super) const MARK_QUEUE: &str = "events.mark";

impl Publisher {
    /// The mark that was left last; it stays where it is. Who else asks at the same moment may find none.
    pub fn mark(&self) -> BoxFuture<'_, Result<Option<OffsetDateTime>, Error>> {
        answered(async {
            let got = self.channel().basic_get(MARK_QUEUE.into(), BasicGetOptions { no_ack: false }).await?;
            let Some(message) = got else { return Ok(None) };
            message.acker.reject(BasicRejectOptions { requeue: true }).await?;
            let text = String::from_utf8_lossy(&message.data);
            let differs = |_| Error::Differs { name: MARK_QUEUE.to_owned(), reason: format!("{text} is no mark") };
            OffsetDateTime::parse(&text, &Rfc3339).map(Some).map_err(differs)
        })
    }

    /// Leaves a mark in place of the one before.
    pub fn leave_mark(&self, at: OffsetDateTime) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let (body, properties) = (text(at), BasicProperties::default().with_delivery_mode(PERSISTENT));
            let left = publish_mandatory(self.channel(), "", MARK_QUEUE, body.as_bytes(), properties);
            match confirmed_in_time(left).await? {
                true => Ok(()),
                false => Err(Error::Missing(MARK_QUEUE.to_owned())),
            }
        })
    }
}
