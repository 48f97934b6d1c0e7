//! What buyers ask for next: taken from the verdicts as they come in, and published on a connection of their own.
//!
//! Invariant: in every session, each follow-up without an answer is published once; so after the loss of the broker it is
//! sent again, as the same message.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation, Connection};
use shared::amqp::{self, Nodes};
use shared::messages::CONTENT_TYPE;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use super::Told;
use super::session::{APP_ID, Lost, PERSISTENT};
use crate::failure::Failure;
use crate::orders::plan::FollowUp;

/// The most that are published before their confirms are waited for.
const PUBLISHED_MAX: usize = 256;

/// The reader's side: tells verdicts that lead on from those that do not.
pub(super) struct Following {
    /// Never longer than the sale has buyers.
    queue: UnboundedSender<FollowUp>,
}

impl Following {
    /// Connects, and publishes from then on, in the set's task: first whatever was asked for in an earlier session and has
    /// no answer. The connection is its own: on that of the purchases, a payment would wait behind all that are still to be
    /// sent, and no real buyer does.
    pub(super) async fn start(
        nodes: &Nodes,
        reply_to: &ShortString,
        told: &Arc<Told>,
        publishing: &mut JoinSet<Result<(), Lost>>,
    ) -> Result<Self, Failure> {
        let connection = amqp::connect(nodes, "turnstile-loadtest follow-ups").await?;
        let (queue, queued) = mpsc::unbounded_channel();
        for follow_up in told.follow_ups().map_or_else(Vec::new, |follow_ups| follow_ups.unanswered()) {
            // Whoever takes them out ends with the session, as we do.
            queue.send(follow_up).ok();
        }
        publishing.spawn(publish(connection, reply_to.clone(), queued, Arc::clone(told)));
        Ok(Self { queue })
    }

    /// Takes in a reply: `true` where it was the answer to a follow-up, and is dealt with.
    pub(super) fn take_in(&self, told: &Told, correlation_id: &str, app_id: &str, body: &[u8], at: Duration) -> bool {
        let purchase = told.answers().index(correlation_id);
        let Some(mut follow_ups) = told.follow_ups() else { return false };
        let is_answer = match purchase {
            Some(index) => {
                let request_id = uuid::Uuid::try_parse(correlation_id).expect("it is one of the requests' ids");
                if let Some(follow_up) = follow_ups.bought(index, request_id, body, at) {
                    self.queue.send(follow_up).ok();
                }
                false
            }
            None => follow_ups.answered(correlation_id, app_id, body, at),
        };
        let open = follow_ups.open;
        told.open_follow_ups.send_if_modified(|known| std::mem::replace(known, open) != open);
        is_answer
    }
}

/// Publishes what is queued, for as long as somebody queues.
async fn publish(
    connection: Connection,
    reply_to: ShortString,
    mut queued: UnboundedReceiver<FollowUp>,
    told: Arc<Told>,
) -> Result<(), Lost> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
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
    // The reader has ended, and says why.
    drop(connection.close(200, "done".into()).await);
    std::future::pending().await
}
