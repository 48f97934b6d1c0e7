//! Publishing: replies to buyers, dead letters, messages that come again, and events; each confirmed by the broker.
//!
//! Invariants: one task publishes on one channel, because two could mix up the numbers that confirms refer to; and
//! whatever publishes returns only when the broker has taken responsibility for every message.

mod events;

use super::connect::{Nodes, close, confirming_channel, connect};
use super::properties::{DIRECT_REPLY_TO, PERSISTENT, of_dead_letter, of_requeue, trace_headers, with};
use super::topology::{INVALID_QUEUE, exchange_into};
use super::{Delivery, Error, answered};
use crate::messages::{ARRAY_BYTES_MAX, BODY_BYTES_MAX, CONTENT_TYPE, Rejection, is_array};
pub use events::{EventError, OutgoingEvent};
use futures_util::future::{BoxFuture, try_join_all};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use std::borrow::Cow;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long the broker may take to confirm before we connect anew, unless it says that it is short of memory or disk.
const CONFIRM_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often is looked whether it says so.
const BLOCKED_LOOK: Duration = Duration::from_millis(250);
/// How many copies of messages are on the wire and not confirmed, and how many bytes, unless one alone has more: the broker writes
/// for all queues in one line, and what it writes at once everybody's purchases wait for.
const COPIES_UNCONFIRMED_MAX: usize = 64;
const COPIED_BYTES_MAX: usize = 1024 * 1024;
const DEAD_EXCHANGE: &str = "dead";
/// The name of no queue.
const NOBODY: &str = "turnstile.nobody";

/// What is published in one go.
#[derive(Clone, Copy)]
pub enum Outgoing<'a> {
    Replies(&'a [Reply<'a>]),
    Copies(&'a [Copied<'a>]),
}

/// A verdict, to the buyer; the request id stands in for a correlation id that the sender did not give.
pub struct Reply<'a> {
    pub to: &'a Delivery,
    pub body: Cow<'a, str>,
    pub request_id: Option<&'a str>,
}

/// A copy of a message that was delivered, which takes its place.
pub enum Copied<'a> {
    /// To the end of the queue that it came from, by its exchange.
    Requeue { of: &'a Delivery, queue: &'a str },
    /// For `dead`, or for `dead.invalid`; of an array, it may be one request alone.
    DeadLetter { of: &'a Delivery, request: Option<&'a [u8]>, queue: &'a str, reason: &'a Rejection },
}

pub struct Publisher {
    connection: Connection,
    channel: Channel,
    worker_id: String,
    /// The broker's user that we are.
    user: String,
}

impl Publisher {
    pub fn open<'a>(nodes: &'a Nodes, name: &'a str, worker_id: &'a str) -> BoxFuture<'a, Result<Self, Error>> {
        Box::pin(async move {
            let connection = connect(nodes, &format!("{name} publish")).await?;
            let channel = confirming_channel(&connection).await?;
            Ok(Self { connection, channel, worker_id: worker_id.to_owned(), user: nodes.user().to_owned() })
        })
    }

    /// The channel, to declare on.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// Whether the broker takes nothing at present, being short of memory or disk.
    pub fn is_blocked(&self) -> bool {
        let status = self.connection.status();
        status.connected() && status.blocked()
    }

    /// Returns when that is so, a moment after it was called at the earliest.
    pub(crate) async fn blocked(&self) {
        loop {
            sleep(BLOCKED_LOOK).await;
            if self.is_blocked() {
                return;
            }
        }
    }

    /// Publishes all of it, and returns when each message is confirmed. After an error some may have been published: publish
    /// all of them again on a new connection.
    pub fn publish<'a>(&'a self, outgoing: Outgoing<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            // Polled in order, each future puts its message on the wire before the first confirm is waited for.
            match outgoing {
                Outgoing::Replies(replies) => {
                    let taken =
                        self.until_confirmed(try_join_all(replies.iter().map(|reply| self.reply(reply)))).await?;
                    // A reply queue that takes nothing more (its node died, or it has a length limit) is its owner's affair:
                    // the verdict is on record.
                    let refused = taken.iter().filter(|taken| !**taken).count();
                    if refused > 0 {
                        tracing::warn!(replies = refused, "the buyers' reply queues did not take some replies");
                    }
                }
                // Should one be returned, whichever it is taken for, all are published again.
                Outgoing::Copies(copies) => {
                    let mut copies = copies;
                    while !copies.is_empty() {
                        let (at_once, later) = copies.split_at(at_once(copies));
                        self.until_confirmed(try_join_all(at_once.iter().map(|copy| self.copy(copy)))).await?;
                        copies = later;
                    }
                }
            }
            Ok(())
        })
    }

    /// A broker that is short of memory or disk reads nothing from who has published, no goodbye either: to connect anew would have
    /// it all published again, by one more connection that nobody can close.
    async fn until_confirmed<T>(&self, confirms: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut confirms = pin!(confirms);
        loop {
            tokio::select! {
                confirmed = timeout(CONFIRM_WAIT_MAX, &mut confirms) => match confirmed {
                    Ok(confirmed) => return confirmed,
                    Err(_) if self.is_blocked() => (),
                    Err(_) => return Err(not_confirmed()),
                },
                // Its time begins when that is over.
                () = self.blocked() => (),
            }
        }
    }

    /// Publishes a reply that goes nowhere: an error is not that reply's fault, but befalls all.
    pub fn reply_to_nobody(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.publish_to_nobody(self.our_properties())
    }

    /// The same with our name: the broker refuses it, and says whom it takes us for, where that is another.
    pub(super) fn name_us_to_nobody(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.publish_to_nobody(self.our_properties().with_user_id(self.user.as_str().into()))
    }

    fn publish_to_nobody(&self, properties: BasicProperties) -> BoxFuture<'_, Result<(), Error>> {
        let options = BasicPublishOptions::default();
        let publishing = self.channel.basic_publish("".into(), NOBODY.into(), options, b"", properties);
        Box::pin(confirmed_in_time(async { Ok(publishing.await?.await.map(drop)?) }))
    }

    /// An address for direct replies, as the node at the other end writes it: it puts one in the place of the bare word before it
    /// finds that nobody gets the message. Nobody waits there. `None` where it says nothing.
    pub fn reply_address(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(async move {
            let returned = answered(async {
                // Of its own: what is refused here ends it.
                let channel = confirming_channel(&self.connection).await?;
                let bare = ShortString::from(DIRECT_REPLY_TO);
                let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
                let _replies = channel.basic_consume(bare.clone(), "".into(), no_ack, FieldTable::default()).await?;
                let (options, properties) = (mandatory(), self.our_properties().with_reply_to(bare));
                let publishing = channel.basic_publish("".into(), NOBODY.into(), options, b"", properties).await?;
                let returned = publishing.await?.take_message();
                channel.close(200, "done".into()).await?;
                Ok(returned)
            });
            Some(returned.await.ok()??.properties.reply_to().as_ref()?.to_string())
        })
    }

    /// Closes the connection. A goodbye that fails changes nothing: what was published is confirmed.
    pub fn close(self) -> BoxFuture<'static, ()> {
        // All of `self` moves into the future: a channel that is dropped here would say goodbye at the same time.
        Box::pin(async move {
            let Self { connection, channel, worker_id: _, user: _ } = &self;
            drop(close(connection).await);
            debug_assert!(!channel.status().connected(), "it ended with its connection");
        })
    }

    /// Whether the reply queue took it. A reply is not `mandatory`: a buyer who is gone has the verdict on record and may
    /// ask again.
    async fn reply(&self, Reply { to, body, request_id }: &Reply<'_>) -> Result<bool, Error> {
        let request = &to.properties;
        let Some(queue) = request.reply_to() else { return Ok(true) };
        let correlation_id = request.correlation_id().clone().or_else(|| request_id.map(ShortString::from));
        let properties = self.our_properties();
        let properties = with(properties, &trace_headers(request), BasicProperties::with_headers);
        let properties = with(properties, &correlation_id, BasicProperties::with_correlation_id);
        let options = BasicPublishOptions::default();
        let confirm =
            self.channel.basic_publish("".into(), queue.clone(), options, body.as_bytes(), properties).await?;
        Ok(!matches!(confirm.await?, Confirmation::Nack(_)))
    }

    async fn copy(&self, copy: &Copied<'_>) -> Result<(), Error> {
        let read = |of: &Delivery| match of.body.read() {
            Ok(body) => Ok(body.into_owned()),
            Err(error) => Err(Error::Lost(format!("a body cannot be read back: {error}"))),
        };
        let (exchange, key, body, properties) = match copy {
            Copied::Requeue { of, queue } => {
                (exchange_into(queue), of.way().1, read(of)?, of_requeue(&of.properties, &self.user))
            }
            Copied::DeadLetter { of, request, queue, reason } => {
                // What is a sender's fault must not take the room of what is nobody's.
                let (exchange, key) =
                    if reason.code.is_of_sender() { ("", INVALID_QUEUE) } else { (DEAD_EXCHANGE, *queue) };
                let mut body = request.map_or_else(|| read(of), |request| Ok(request.into()))?;
                // An array that is nobody's fault is all that is left of its requests. One that is refused has told its sender.
                let is_whole = is_array(&body) && !reason.code.is_of_sender();
                body.truncate(if is_whole { ARRAY_BYTES_MAX } else { BODY_BYTES_MAX });
                let from = (*queue, of.way().1);
                (exchange, key, body, of_dead_letter(&of.properties, request.is_none(), from, reason, &self.user))
            }
        };
        match publish_mandatory(&self.channel, exchange, key, &body, properties).await? {
            true => Ok(()),
            false => Err(Error::Lost(format!("a message for {key} was returned"))),
        }
    }

    fn our_properties(&self) -> BasicProperties {
        BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_app_id(self.worker_id.as_str().into())
    }
}

/// How many of these go out at once; at least one of them.
fn at_once(copies: &[Copied<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |copy: &&Copied<'_>| {
        bytes += match copy {
            Copied::Requeue { of, .. } | Copied::DeadLetter { of, request: None, .. } => of.body.len(),
            Copied::DeadLetter { request: Some(request), .. } => request.len(),
        };
        bytes <= COPIED_BYTES_MAX
    };
    copies.iter().take(COPIES_UNCONFIRMED_MAX).take_while(fits).count().max(1)
}

/// Whether there is a queue that took it; an error where it did not say so.
pub(super) async fn publish_mandatory(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<bool, Error> {
    match confirmed(channel.basic_publish(exchange.into(), key.into(), mandatory(), body, properties).await?.await?)? {
        Confirmed::Taken => Ok(true),
        Confirmed::NoQueue => Ok(false),
        Confirmed::Refused => Err(Error::Lost(format!("the broker did not take a message for {key}"))),
    }
}

/// What the broker says to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    Taken,
    /// There is no queue for it.
    NoQueue,
    /// Its queue takes nothing more.
    Refused,
}

pub(super) fn confirmed(confirmation: Confirmation) -> Result<Confirmed, Error> {
    match confirmation {
        Confirmation::Ack(None) => Ok(Confirmed::Taken),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Ok(Confirmed::NoQueue),
        Confirmation::Nack(None) => Ok(Confirmed::Refused),
        Confirmation::NotRequested => Err(Error::Lost("the channel does not confirm".to_owned())),
    }
}

pub(super) fn mandatory() -> BasicPublishOptions {
    BasicPublishOptions { mandatory: true, immediate: false }
}

pub(super) async fn confirmed_in_time<T>(confirms: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(CONFIRM_WAIT_MAX, confirms).await.unwrap_or_else(|_| Err(not_confirmed()))
}

fn not_confirmed() -> Error {
    Error::Lost(format!("no confirm within {} s", CONFIRM_WAIT_MAX.as_secs()))
}
