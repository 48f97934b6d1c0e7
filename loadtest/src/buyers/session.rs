//! One session with the broker: a connection to publish on, one to take in replies on a queue of its own; and where buyers
//! follow up, a connection for that.
//!
//! A session that has met an error is over; it never publishes past a request that the broker refused.

use super::Shared;
use super::collected::Collected;
use crate::failure::Failure;
use crate::orders::plan::FollowUp;
use crate::schedule::Schedule;
use anyhow::{Context, bail};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer};
use shared::amqp::{self, Nodes, publish_pipelined};
use shared::messages::{CONTENT_TYPE, PURCHASE_EXCHANGE};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

/// The most publishes that wait for their confirm. Only a broker that is this far behind delays the next send.
const CONFIRMS_MAX: usize = 8_192;
const FOLLOW_UPS_MAX: usize = 256;
/// AMQP's delivery mode of a message that survives a restart.
const PERSISTENT: u8 = 2;
const APP_ID: &str = "loadtest";
/// The correlation id of the message to ourselves that follows the last reply.
const LAST: &str = "last";
const LAST_WAIT_MAX: Duration = Duration::from_secs(30);

pub(super) struct Session {
    publisher: Publisher,
    receiving: Connection,
    /// Take in replies, until the last one or an error, and send what buyers ask for next; aborted when the session is
    /// dropped.
    tasks: JoinSet<anyhow::Result<()>>,
    shared: Arc<Shared>,
}

impl Session {
    pub(super) async fn open(nodes: &Nodes, shared: &Arc<Shared>) -> Result<Self, Failure> {
        let receiving = amqp::connect(nodes, "turnstile-loadtest replies").await?;
        let replies = receiving.create_channel().await?;
        let exclusive = QueueDeclareOptions::exclusive();
        let reply_to = replies.queue_declare("".into(), exclusive, FieldTable::default()).await?.name().clone();
        // Without acknowledgements: the queue dies with this connection, so there is nothing to deliver again.
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
        let consumer = replies.basic_consume(reply_to.clone(), "".into(), options, FieldTable::default()).await?;
        let publisher = Publisher::open(nodes, "turnstile-loadtest requests", reply_to.clone()).await?;
        let mut tasks = JoinSet::new();
        let mut next = None;
        let unanswered = shared.state().follow_ups.as_ref().map(|follow_ups| follow_ups.unanswered());
        if let Some(unanswered) = unanswered {
            // On a connection of its own: behind all purchases that are still to be sent, no real buyer's payment waits.
            let publisher = Publisher::open(nodes, "turnstile-loadtest follow-ups", reply_to).await?;
            let (sender, queued) = mpsc::unbounded_channel();
            tasks.spawn(publish_follow_ups(publisher, unanswered, queued, Arc::clone(shared)));
            next = Some(sender);
        }
        tasks.spawn(read(consumer, Arc::clone(shared), next));
        Ok(Self { publisher, receiving, tasks, shared: Arc::clone(shared) })
    }

    /// Publishes every request that has no verdict, each when it is due, and returns when everybody has one, also on what
    /// they asked for next.
    pub(super) async fn sell(&mut self, schedule: &Schedule, start: Instant) -> anyhow::Result<()> {
        let Self { publisher, shared, tasks, .. } = self;
        let (mut answered, mut open) = (shared.answered.subscribe(), shared.open.subscribe());
        let publishing = async {
            publish(publisher, shared, schedule, start).await?;
            // The senders live in `shared`, which this session holds: waiting cannot fail.
            drop(answered.wait_for(|answered| *answered == schedule.requests.len()).await);
            // Whoever follows up is counted before the verdict is, so from here on the number only falls.
            drop(open.wait_for(|open| *open == 0).await);
            Ok(())
        };
        tokio::select! {
            published = publishing => published,
            Some(ended) = tasks.join_next() => ended?.and_then(|()| bail!("the replies have ended")),
        }
    }

    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        let reply_to = self.publisher.reply_to.clone();
        self.publisher.publish("", reply_to.as_str(), LAST, vec![]).await?;
        self.publisher.confirmed().await?;
        let read = tokio::time::timeout(LAST_WAIT_MAX, self.tasks.join_next()).await?;
        read.context("the replies have ended")???;
        // Everything is in. A goodbye can cross with the end of the reader's channel, which is no fault.
        crate::queues::close(&self.publisher.connection).await;
        crate::queues::close(&self.receiving).await;
        Ok(())
    }
}

/// Publishes in order, and lets the broker's confirms come later.
struct Publisher {
    connection: Connection,
    channel: Channel,
    reply_to: ShortString,
    properties: BasicProperties,
    /// What is published and not confirmed: by message id, oldest first.
    confirms: VecDeque<(ShortString, BoxFuture<'static, lapin::Result<Confirmation>>)>,
}

impl Publisher {
    async fn open(nodes: &Nodes, name: &str, reply_to: ShortString) -> Result<Self, Failure> {
        let connection = amqp::connect(nodes, name).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_user_id(nodes.user().into())
            .with_reply_to(reply_to.clone())
            .with_app_id(APP_ID.into());
        Ok(Self { connection, channel, reply_to, properties, confirms: VecDeque::new() })
    }

    async fn publish(&mut self, exchange: &str, key: &str, id: &str, body: Vec<u8>) -> anyhow::Result<()> {
        let id = ShortString::from(id);
        let properties = self.properties.clone().with_message_id(id.clone()).with_correlation_id(id.clone());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = publish_pipelined(&self.channel, (exchange, key), options, body, properties).await;
        self.confirms.push_back((id, confirm));
        if self.confirms.len() == CONFIRMS_MAX { self.confirm_first().await } else { Ok(()) }
    }

    async fn confirmed(&mut self) -> anyhow::Result<()> {
        while !self.confirms.is_empty() {
            self.confirm_first().await?;
        }
        Ok(())
    }

    async fn confirm_first(&mut self) -> anyhow::Result<()> {
        let Some((id, confirm)) = self.confirms.pop_front() else { return Ok(()) };
        match confirm.await? {
            Confirmation::Ack(None) => Ok(()),
            // Returned as unroutable, or not stored.
            Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                bail!("the broker refused message {id}")
            }
        }
    }
}

async fn publish(
    publisher: &mut Publisher,
    shared: &Shared,
    schedule: &Schedule,
    start: Instant,
) -> anyhow::Result<()> {
    let unanswered = shared.state().answers.unanswered();
    let mut collected = Collected::new(schedule.requests_per_message);
    for index in unanswered {
        let due = &schedule.requests[index];
        let at = start + due.at;
        if at > Instant::now() {
            for requests in collected.rest() {
                publish_message(publisher, shared, schedule, requests).await?;
            }
            // Never early, and late by a timer's millisecond at most: spinning would take the workers' time.
            tokio::time::sleep_until(at.into()).await;
        }
        if let Some(requests) = collected.add(due.item, index) {
            publish_message(publisher, shared, schedule, requests).await?;
        }
    }
    for requests in collected.rest() {
        publish_message(publisher, shared, schedule, requests).await?;
    }
    publisher.confirmed().await
}

/// Publishes requests of one item as one message.
async fn publish_message(
    publisher: &mut Publisher,
    shared: &Shared,
    schedule: &Schedule,
    requests: Vec<usize>,
) -> anyhow::Result<()> {
    let (first, body) = (schedule.requests[requests[0]], schedule.body(&requests)?);
    // Before it is sent: a publish that fails may have reached the broker.
    let id = if schedule.sends_arrays() {
        shared.state().answers.sent_as_array(requests)
    } else {
        shared.state().answers.sent(&requests);
        first.request_id.to_string()
    };
    publisher.publish(PURCHASE_EXCHANGE, &schedule.items[first.item as usize].id, &id, body).await
}

/// Publishes what was asked for in an earlier session and has no answer, then whatever is queued; in every session each
/// goes once, and to ask again is to send the same message again.
async fn publish_follow_ups(
    mut publisher: Publisher,
    unanswered: Vec<FollowUp>,
    mut queued: UnboundedReceiver<FollowUp>,
    shared: Arc<Shared>,
) -> anyhow::Result<()> {
    let mut batch = unanswered;
    loop {
        for follow_up in batch.drain(..) {
            if let Some(follow_ups) = &mut shared.state().follow_ups {
                follow_ups.answers.sent(&[follow_up.index]);
            }
            let id = follow_up.request_id.to_string();
            publisher.publish(follow_up.exchange(), "", &id, follow_up.body()).await?;
        }
        publisher.confirmed().await?;
        if queued.recv_many(&mut batch, FOLLOW_UPS_MAX).await == 0 {
            // The reader has ended, and says why.
            crate::queues::close(&publisher.connection).await;
            return std::future::pending().await;
        }
    }
}

/// Takes in replies until our own last message, and hands on what their buyers ask for `next`.
async fn read(
    mut consumer: Consumer,
    shared: Arc<Shared>,
    next: Option<UnboundedSender<FollowUp>>,
) -> anyhow::Result<()> {
    while let Some(delivery) = consumer.next().await {
        let Delivery { properties, data, .. } = delivery?;
        let correlation_id = properties.correlation_id().as_ref().map_or("", ShortString::as_str);
        let app_id = properties.app_id().as_ref().map_or("", ShortString::as_str);
        if correlation_id == LAST && app_id == APP_ID {
            return Ok(());
        }
        for follow_up in shared.take_in(correlation_id, app_id, &data) {
            // Whoever takes it out ends with the session, as we do.
            next.as_ref().and_then(|next| next.send(follow_up).ok());
        }
    }
    bail!("the broker ended the reply queue")
}
