//! What buyers ask for next: taken from the verdicts as they come in, and published on a channel of its own.
//!
//! Invariant: in every session, each follow-up without an answer is published once; so after the loss of the broker it is
//! sent again, as the same message.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use shared::contract::CONTENT_TYPE;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::Told;
use super::session::{APP_ID, Lost, PERSISTENT};
use crate::life::plan::FollowUp;

/// The most that are published before their confirms are waited for.
const PUBLISHED_MAX: usize = 256;

/// The reader's side: tells verdicts that lead on from those that do not.
pub(super) struct Following {
    /// Never longer than the sale has buyers.
    queued: UnboundedSender<FollowUp>,
}

impl Following {
    /// Queues whatever was asked for in an earlier session and has no answer; `None` where nobody follows up.
    pub(super) fn resume(told: &Told, queued: UnboundedSender<FollowUp>) -> Option<Self> {
        for follow_up in told.follow_ups()?.unanswered() {
            // Whoever takes them out ends with the session, as we do.
            queued.send(follow_up).ok();
        }
        Some(Self { queued })
    }

    /// Takes in a reply: `true` where it was the answer to a follow-up, and is dealt with.
    pub(super) fn take_in(&self, told: &Told, correlation_id: &str, app_id: &str, body: &[u8], at: Duration) -> bool {
        let purchase = told.answers().index(correlation_id);
        let Some(mut follow_ups) = told.follow_ups() else { return false };
        let is_answer = match purchase {
            Some(index) => {
                let request_id = uuid::Uuid::try_parse(correlation_id).expect("it is one of the requests' ids");
                if let Some(follow_up) = follow_ups.bought(index, request_id, body, at) {
                    self.queued.send(follow_up).ok();
                }
                false
            }
            None => follow_ups.answered(correlation_id, app_id, body, at),
        };
        let open = follow_ups.open();
        told.open_follow_ups.send_if_modified(|known| std::mem::replace(known, open) != open);
        is_answer
    }
}

/// Publishes what is queued, for as long as somebody queues.
pub(super) async fn publish(
    channel: Channel,
    reply_to: ShortString,
    mut queued: UnboundedReceiver<FollowUp>,
    told: Arc<Told>,
) -> Result<(), Lost> {
    let constant = BasicProperties::default()
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(PERSISTENT)
        .with_reply_to(reply_to)
        .with_app_id(APP_ID.into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut batch = Vec::with_capacity(PUBLISHED_MAX);
    while queued.recv_many(&mut batch, PUBLISHED_MAX).await > 0 {
        let mut confirms = Vec::with_capacity(batch.len());
        for follow_up in batch.drain(..) {
            let id = ShortString::from(follow_up.request_id.to_string());
            let properties = constant.clone().with_message_id(id.clone()).with_correlation_id(id);
            if let Some(mut follow_ups) = told.follow_ups() {
                follow_ups.answers.sent(&[follow_up.index]);
            }
            let (queue, body) = (ShortString::from(follow_up.queue()), follow_up.body());
            confirms.push((follow_up, channel.basic_publish("".into(), queue, options, &body, properties).await?));
        }
        for (follow_up, confirm) in confirms {
            match confirm.await? {
                Confirmation::Ack(None) => {}
                // Returned as unroutable, or not stored.
                Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                    return Err(Lost::Refused(follow_up.request_id.to_string()));
                }
            }
        }
    }
    // Nobody queues where nobody follows up: that is no end of the session.
    std::future::pending().await
}
