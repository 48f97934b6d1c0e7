//! One session with the broker: a connection to publish on, one to take in replies on a queue of its own; and where buyers
//! follow up, a connection for that.
//!
//! A session that has met an error is over; it never publishes past a request that the broker refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, PublisherConfirm};
use shared::amqp::{self, Nodes};
use shared::messages::{CONTENT_TYPE, PURCHASE_EXCHANGE, PurchaseRequest};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Shared;
use crate::failure::Failure;
use crate::life::plan::FollowUp;
use crate::schedule::Schedule;

/// The most publishes that wait for their confirm. Only a broker that is this far behind delays the next send.
const CONFIRMS_MAX: usize = 8_192;
/// The most follow-ups that are taken at once.
const FOLLOW_UPS_MAX: usize = 256;
/// AMQP's delivery mode of a message that survives a restart.
const PERSISTENT: u8 = 2;
/// How we sign what we send.
const APP_ID: &str = "loadtest";
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

pub(super) struct Session {
    publisher: Publisher,
    receiving: Connection,
    /// Takes in replies until the last one or an error; aborted when the session is dropped.
    reading: JoinSet<Result<(), Lost>>,
    /// Sends what buyers ask for next.
    following: JoinSet<Result<(), Lost>>,
    shared: Arc<Shared>,
}

impl Session {
    /// Connects, and takes in replies from then on.
    pub(super) async fn open(nodes: &Nodes, shared: Arc<Shared>) -> Result<Self, Failure> {
        let receiving = amqp::connect(nodes, "turnstile-loadtest replies").await?;
        let subscribed = async {
            let replies = receiving.create_channel().await?;
            let exclusive = QueueDeclareOptions::exclusive();
            let queue = replies.queue_declare("".into(), exclusive, FieldTable::default()).await?.name().clone();
            // Without acknowledgements: the queue dies with this connection, so there is nothing to deliver again.
            let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
            let consumer = replies.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await?;
            Ok::<_, lapin::Error>((queue, consumer))
        };
        let (reply_to, consumer) = subscribed.await.map_err(amqp::Error::from)?;
        let publisher = Publisher::open(nodes, "turnstile-loadtest requests", reply_to.clone()).await?;
        let (mut reading, mut following) = (JoinSet::new(), JoinSet::new());
        let open: Option<Vec<FollowUp>> = shared.state().follow_ups.as_ref().map(|follow_ups| follow_ups.unanswered());
        let next = match open {
            None => None,
            // On a connection of its own: behind all purchases that are still to be sent, no real buyer's payment waits.
            Some(open) => {
                let publisher = Publisher::open(nodes, "turnstile-loadtest follow-ups", reply_to).await?;
                let (next, queued) = mpsc::unbounded_channel();
                following.spawn(publish_follow_ups(publisher, open, queued, Arc::clone(&shared)));
                Some(next)
            }
        };
        reading.spawn(read(consumer, Arc::clone(&shared), next));
        Ok(Self { publisher, receiving, reading, following, shared })
    }

    /// Publishes every request that has no verdict, each when it is due, and returns when everybody has one, also on what
    /// they asked for next.
    pub(super) async fn sell(&mut self, schedule: &Schedule, start: Instant) -> Result<(), Lost> {
        let Self { publisher, shared, reading, following, .. } = self;
        let (mut answered, mut open) = (shared.answered.subscribe(), shared.open.subscribe());
        let publishing = async {
            publish(publisher, shared, schedule, start).await?;
            // The senders live in `shared`, which this session holds: waiting cannot fail.
            drop(answered.wait_for(|answered| *answered == schedule.requests.len()).await);
            // Whoever follows up is counted before the verdict is, so from here on the number only falls.
            drop(open.wait_for(|open| *open == 0).await);
            Ok(())
        };
        let ended = tokio::select! {
            published = publishing => return published,
            ended = reading.join_next() => ended,
            Some(ended) = following.join_next() => Some(ended),
        };
        match ended {
            Some(Ok(Err(lost))) => Err(lost),
            Some(Ok(Ok(())) | Err(_)) | None => Err(Lost::Replies),
        }
    }

    /// Takes in the replies that are already in the queue, then closes.
    pub(super) async fn close(mut self) -> Result<(), Lost> {
        let reply_to = self.publisher.reply_to.clone();
        self.publisher.publish("", reply_to.as_str(), LAST, b"").await?;
        self.publisher.confirmed().await?;
        match tokio::time::timeout(LAST_WAIT_MAX, self.reading.join_next()).await {
            Ok(Some(Ok(read))) => read?,
            Ok(Some(Err(_)) | None) | Err(_) => return Err(Lost::Replies),
        }
        // Everything is in. A goodbye can cross with the end of the reader's channel, which is no fault.
        drop(self.publisher.connection.close(200, "done".into()).await);
        drop(self.receiving.close(200, "done".into()).await);
        Ok(())
    }
}

/// Publishes in order, and lets the broker's confirms come later.
struct Publisher {
    connection: Connection,
    channel: Channel,
    reply_to: ShortString,
    properties: BasicProperties,
    confirms: VecDeque<(ShortString, PublisherConfirm)>,
}

impl Publisher {
    async fn open(nodes: &Nodes, name: &str, reply_to: ShortString) -> Result<Self, Failure> {
        let connection = amqp::connect(nodes, name).await?;
        let opened = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        let channel = opened.await.map_err(amqp::Error::from)?;
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_reply_to(reply_to.clone())
            .with_app_id(APP_ID.into());
        Ok(Self { connection, channel, reply_to, properties, confirms: VecDeque::new() })
    }

    async fn publish(&mut self, exchange: &str, key: &str, request_id: &str, body: &[u8]) -> Result<(), Lost> {
        let id = ShortString::from(request_id);
        let properties = self.properties.clone().with_message_id(id.clone()).with_correlation_id(id.clone());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
        self.confirms.push_back((id, published));
        if self.confirms.len() == CONFIRMS_MAX { self.confirm_first().await } else { Ok(()) }
    }

    /// Waits for every confirm.
    async fn confirmed(&mut self) -> Result<(), Lost> {
        while !self.confirms.is_empty() {
            self.confirm_first().await?;
        }
        Ok(())
    }

    async fn confirm_first(&mut self) -> Result<(), Lost> {
        let Some((id, confirm)) = self.confirms.pop_front() else { return Ok(()) };
        match confirm.await? {
            Confirmation::Ack(None) => Ok(()),
            // Returned as unroutable, or not stored.
            Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err(Lost::Refused(id.to_string()))
            }
        }
    }
}

async fn publish(publisher: &mut Publisher, shared: &Shared, schedule: &Schedule, start: Instant) -> Result<(), Lost> {
    let pending = shared.state().answers.unanswered();
    let mut body = Vec::new();
    for index in pending {
        let due = &schedule.requests[index];
        let at = start + due.at;
        // Never early, and late by a timer's millisecond at most: spinning would take the workers' time.
        if at > Instant::now() {
            tokio::time::sleep_until(at.into()).await;
        }
        let request = PurchaseRequest {
            request_id: due.request_id.to_string(),
            item: schedule.items[due.item as usize].id.clone(),
            buyer: Schedule::buyer(index),
            quantity: due.quantity,
            deadline: None,
        };
        body.clear();
        serde_json::to_writer(&mut body, &request).expect("a request has only strings and numbers");
        {
            // Before it is sent: a publish that fails may have reached the broker.
            let mut state = shared.state();
            state.answers.sent(&[index]);
            state.published = state.published.max(index + 1);
        }
        publisher.publish(PURCHASE_EXCHANGE, &request.item, &request.request_id, &body).await?;
    }
    publisher.confirmed().await
}

/// Publishes what was asked for in an earlier session and has no answer, then whatever is queued; in every session each
/// goes once, and to ask again is to send the same message again.
async fn publish_follow_ups(
    mut publisher: Publisher,
    open: Vec<FollowUp>,
    mut queued: UnboundedReceiver<FollowUp>,
    shared: Arc<Shared>,
) -> Result<(), Lost> {
    let mut batch = open;
    loop {
        for follow_up in batch.drain(..) {
            if let Some(follow_ups) = &mut shared.state().follow_ups {
                follow_ups.answers.sent(&[follow_up.index]);
            }
            let id = follow_up.request_id.to_string();
            publisher.publish("", follow_up.queue(), &id, &follow_up.body()).await?;
        }
        publisher.confirmed().await?;
        if queued.recv_many(&mut batch, FOLLOW_UPS_MAX).await == 0 {
            break;
        }
    }
    // The reader has ended, and says why.
    drop(publisher.connection.close(200, "done".into()).await);
    std::future::pending().await
}

/// Takes in replies until our own last message, and hands on what their buyers ask for `next`.
async fn read(
    mut consumer: Consumer,
    shared: Arc<Shared>,
    next: Option<UnboundedSender<FollowUp>>,
) -> Result<(), Lost> {
    while let Some(delivery) = consumer.next().await {
        let Delivery { properties, data, .. } = delivery?;
        let correlation_id = properties.correlation_id().as_ref().map_or("", ShortString::as_str);
        let app_id = properties.app_id().as_ref().map_or("", ShortString::as_str);
        if correlation_id == LAST && app_id == APP_ID {
            return Ok(());
        }
        let at = shared.start.get().map_or(Duration::ZERO, Instant::elapsed);
        let mut state = shared.state();
        let purchase = state.answers.index(correlation_id);
        let mut is_follow_up = false;
        if let (Some(follow_ups), Some(next)) = (&mut state.follow_ups, &next) {
            match purchase {
                Some(index) => {
                    let id = Uuid::try_parse(correlation_id).expect("it is the id of a request");
                    if let Some(follow_up) = follow_ups.bought(index, id, &data, at) {
                        // Whoever takes it out ends with the session, as we do.
                        next.send(follow_up).ok();
                    }
                }
                None => is_follow_up = follow_ups.answered(correlation_id, app_id, &data, at),
            }
            let open = follow_ups.open();
            shared.open.send_if_modified(|known| std::mem::replace(known, open) != open);
        }
        if !is_follow_up {
            let answered = state.answers.record(correlation_id, app_id, data, at);
            shared.answered.send_if_modified(|known| std::mem::replace(known, answered) != answered);
        }
    }
    Err(Lost::Replies)
}
