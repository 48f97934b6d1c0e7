//! One session with the broker: a connection to publish on, one to take in replies, a reply queue of its own; and where
//! buyers follow up, a connection for that.
//!
//! Invariant: a session that has met an error is over; it never publishes past a request that the broker refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, PublisherConfirm};
use shared::amqp::{self, Nodes};
use shared::messages::{CONTENT_TYPE, PURCHASE_EXCHANGE, PurchaseRequest};
use tokio::task::JoinSet;

use super::Told;
use super::following::Following;
use crate::failure::Failure;
use crate::schedule::Schedule;

/// The most publishes that wait for their confirm. Only a broker that is this far behind delays the next send.
const CONFIRMS_MAX: usize = 8_192;
/// AMQP's delivery mode of a message that survives a restart.
pub(super) const PERSISTENT: u8 = 2;
/// How we sign what we send.
pub(super) const APP_ID: &str = "loadtest";
/// The correlation id of the message to ourselves that follows the last reply.
const LAST: &str = "last";
/// How long that message may take.
const LAST_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("the broker refused request {0}")]
    Refused(String),
    #[error("the broker ended the reply queue")]
    Replies,
}

/// One session.
pub(super) struct Session {
    publishing: Connection,
    channel: Channel,
    receiving: Connection,
    reply_to: ShortString,
    /// Takes in replies until the last one or an error; aborted when the session is dropped.
    reading: JoinSet<Result<(), Lost>>,
    /// Where buyers follow up: sends what they ask for next, in the background.
    following: JoinSet<Result<(), Lost>>,
    told: Arc<Told>,
}

impl Session {
    /// Connects, and takes in replies from then on.
    pub(super) async fn open(nodes: &Nodes, told: Arc<Told>) -> Result<Self, Failure> {
        let publishing = amqp::connect(nodes, "turnstile-loadtest requests").await?;
        let receiving = amqp::connect(nodes, "turnstile-loadtest replies").await?;
        let prepared = async {
            let channel = publishing.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let replies = receiving.create_channel().await?;
            let exclusive = QueueDeclareOptions::exclusive();
            let queue = replies.queue_declare("".into(), exclusive, FieldTable::default()).await?;
            // Without acknowledgements: the queue dies with this connection, so there is nothing to deliver again.
            let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
            let reply_to = queue.name().clone();
            let consumer = replies.basic_consume(reply_to.clone(), "".into(), options, FieldTable::default()).await?;
            Ok::<_, lapin::Error>((channel, reply_to, consumer))
        };
        let (channel, reply_to, consumer) = prepared.await.map_err(amqp::Error::from)?;
        let (mut reading, mut following) = (JoinSet::new(), JoinSet::new());
        let sends = match told.follows_up() {
            true => Some(Following::start(nodes, &reply_to, &told, &mut following).await?),
            false => None,
        };
        reading.spawn(read(consumer, Arc::clone(&told), sends));
        Ok(Self { publishing, channel, receiving, reply_to, reading, following, told })
    }

    /// Publishes the pending requests, each when it is due, and returns when everybody has a verdict, also on what they
    /// asked for next.
    pub(super) async fn sell(&mut self, schedule: &Schedule, start: Instant, pending: &[usize]) -> Result<(), Lost> {
        let mut answered = self.told.answered.subscribe();
        let mut open = self.told.open_follow_ups.subscribe();
        let mut sent = Sent { pending, count: 0, told: &self.told };
        let publishing = async {
            publish(&self.channel, &self.reply_to, schedule, start, &mut sent).await?;
            // The sender lives in `told`, which this session holds: waiting cannot fail.
            drop(answered.wait_for(|answered| *answered == schedule.requests.len()).await);
            // Whoever follows up is counted before the verdict is, so from here on the number only falls.
            drop(open.wait_for(|open| *open == 0).await);
            Ok(())
        };
        tokio::select! {
            published = publishing => published,
            ended = self.reading.join_next() => match ended {
                Some(Ok(Err(lost))) => Err(lost),
                Some(Ok(Ok(())) | Err(_)) | None => Err(Lost::Replies),
            },
            Some(ended) = self.following.join_next() => match ended {
                Ok(Err(lost)) => Err(lost),
                Ok(Ok(())) | Err(_) => Err(Lost::Replies),
            },
        }
    }

    /// Takes in the replies that are already in the queue, then closes.
    pub(super) async fn close(mut self) -> Result<(), Lost> {
        let properties = BasicProperties::default().with_correlation_id(LAST.into()).with_app_id(APP_ID.into());
        let options = BasicPublishOptions::default();
        self.channel.basic_publish("".into(), self.reply_to.clone(), options, b"", properties).await?.await?;
        match tokio::time::timeout(LAST_WAIT_MAX, self.reading.join_next()).await {
            Ok(Some(Ok(read))) => read?,
            Ok(Some(Err(_)) | None) | Err(_) => return Err(Lost::Replies),
        }
        // Everything is in. A goodbye can cross with the end of the reader's channel, which is no fault.
        drop(self.publishing.close(200, "done".into()).await);
        drop(self.receiving.close(200, "done".into()).await);
        Ok(())
    }
}

/// What a session is to publish and how far it got; counts the sends when it goes, however the publishing ended.
struct Sent<'a> {
    pending: &'a [usize],
    count: usize,
    told: &'a Told,
}

impl Sent<'_> {
    /// To be called before each publish: one that fails may have reached the broker.
    fn next(&mut self, index: usize) {
        self.count += 1;
        self.told.published.fetch_max(index + 1, Ordering::Relaxed);
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.told.answers().sent(&self.pending[..self.count]);
    }
}

async fn publish(
    channel: &Channel,
    reply_to: &ShortString,
    schedule: &Schedule,
    start: Instant,
    sent: &mut Sent<'_>,
) -> Result<(), Lost> {
    let pending = sent.pending;
    let constant = BasicProperties::default()
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(PERSISTENT)
        .with_reply_to(reply_to.clone())
        .with_app_id(APP_ID.into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut confirms: VecDeque<(usize, PublisherConfirm)> = VecDeque::with_capacity(pending.len().min(CONFIRMS_MAX));
    let mut body = Vec::new();
    for &index in pending {
        let due = &schedule.requests[index];
        let item = &schedule.items[due.item as usize].id;
        wait_until(start + due.at).await;
        let request = PurchaseRequest {
            request_id: due.request_id.to_string(),
            item: item.clone(),
            buyer: Schedule::buyer(index),
            quantity: due.quantity,
            deadline: None,
        };
        body.clear();
        serde_json::to_writer(&mut body, &request).expect("a request has only strings and numbers");
        let id = ShortString::from(request.request_id.as_str());
        let properties = constant.clone().with_message_id(id.clone()).with_correlation_id(id);
        let (exchange, item) = (ShortString::from(PURCHASE_EXCHANGE), ShortString::from(item.as_str()));
        sent.next(index);
        confirms.push_back((index, channel.basic_publish(exchange, item, options, &body, properties).await?));
        if confirms.len() == CONFIRMS_MAX {
            settle(schedule, confirms.pop_front()).await?;
        }
    }
    while let Some(confirm) = confirms.pop_front() {
        settle(schedule, Some(confirm)).await?;
    }
    Ok(())
}

async fn settle(schedule: &Schedule, confirm: Option<(usize, PublisherConfirm)>) -> Result<(), Lost> {
    let Some((index, confirm)) = confirm else { return Ok(()) };
    match confirm.await? {
        Confirmation::Ack(None) => Ok(()),
        // Returned as unroutable, or not stored.
        Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
            Err(Lost::Refused(schedule.requests[index].request_id.to_string()))
        }
    }
}

/// Never early, and late by a timer's millisecond at most: spinning would take the workers' time.
async fn wait_until(due: Instant) {
    if due > Instant::now() {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// Takes in replies until our own last message.
async fn read(mut consumer: Consumer, told: Arc<Told>, following: Option<Following>) -> Result<(), Lost> {
    while let Some(delivery) = consumer.next().await {
        let Delivery { properties, data, .. } = delivery?;
        let correlation_id = properties.correlation_id().as_ref().map_or("", ShortString::as_str);
        let app_id = properties.app_id().as_ref().map_or("", ShortString::as_str);
        if correlation_id == LAST && app_id == APP_ID {
            return Ok(());
        }
        let at = told.start.get().map_or(Duration::ZERO, Instant::elapsed);
        if let Some(following) = &following
            && following.take_in(&told, correlation_id, app_id, &data, at)
        {
            continue;
        }
        let answered = told.answers().record(correlation_id, app_id, data, at);
        told.answered.send_if_modified(|known| std::mem::replace(known, answered) != answered);
    }
    Err(Lost::Replies)
}
