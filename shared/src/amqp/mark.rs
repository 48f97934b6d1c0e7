//! The relay's mark: when the database last said that events were published. RabbitMQ remembers it, as the one message of a
//! queue that keeps the last one alone, so that an older database is told from the one that it was.

use super::properties::PERSISTENT;
use super::publisher::{confirmed_in_time, publish_mandatory};
use super::{Error, Publisher, answered};
use crate::messages::time::text;
use futures_util::future::BoxFuture;
use lapin::BasicProperties;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, BasicRejectOptions};
use lapin::types::ShortString;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) const MARK_QUEUE: &str = "events.mark";

/// How long somebody else may have the mark in hand: another relay, or who looks at the queue.
const IN_HAND: Duration = Duration::from_secs(1);
/// How much of what is no mark is logged, in characters.
const SHOWN_MAX: usize = 64;

impl Publisher {
    /// The mark that our user left last; it stays where it is. Whatever else is there counts for nothing, or whoever may
    /// publish could stop the shop. An error where the broker calls us otherwise than we do: the mark may be ours.
    pub fn mark(&self) -> BoxFuture<'_, Result<Option<OffsetDateTime>, Error>> {
        answered(async {
            let mut got = self.look_at_mark().await?;
            if got.is_none() {
                tokio::time::sleep(IN_HAND).await;
                got = self.look_at_mark().await?;
            }
            let Some(message) = got else { return Ok(None) };
            let text = String::from_utf8_lossy(&message.data);
            // The broker lets nobody name another user than their own.
            let user = message.properties.user_id().as_ref().map(ShortString::as_str);
            if user.is_some_and(|user| user != self.user()) {
                self.name_us_to_nobody().await?;
            }
            let at = OffsetDateTime::parse(&text, &Rfc3339).ok().filter(|_| user == Some(self.user()));
            if at.is_none() {
                let text: String = text.chars().take(SHOWN_MAX).collect();
                tracing::error!(
                    ?text,
                    user,
                    "what is in `events.mark` is no mark of our user's, and counts for nothing"
                );
            }
            Ok(at)
        })
    }

    async fn look_at_mark(&self) -> Result<Option<BasicGetMessage>, Error> {
        let got = self.channel().basic_get(MARK_QUEUE.into(), BasicGetOptions { no_ack: false }).await?;
        if let Some(message) = &got {
            message.acker.reject(BasicRejectOptions { requeue: true }).await?;
        }
        Ok(got)
    }

    /// Leaves a mark in place of the one before.
    pub fn leave_mark(&self, at: OffsetDateTime) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_user_id(self.user().into());
            let body = text(at);
            let left = publish_mandatory(self.channel(), "", MARK_QUEUE, body.as_bytes(), properties);
            match confirmed_in_time(left).await? {
                true => Ok(()),
                false => Err(Error::Missing(MARK_QUEUE.to_owned())),
            }
        })
    }
}
