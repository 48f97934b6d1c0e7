//! Everything that speaks AMQP; the only module that sees lapin.
//!
//! Invariant: consuming and publishing have a connection each, because a broker short of memory blocks a connection that
//! publishes, and a blocked connection could not acknowledge either.
//!
//! Public futures are boxed, so that the client library's code is compiled once, here: an `async fn` is compiled again in
//! every program that awaits it.

mod acknowledger;
mod body;
mod connect;
mod consumer;
mod dead_letters;
mod dead_message;
mod delivery;
mod incoming;
mod mark;
mod membership;
mod observer;
mod pipelined;
mod properties;
mod publisher;
mod readable;
mod repair;
mod request_reply;
mod rights;
mod socket;
pub mod topology;

pub use acknowledger::Acknowledger;
pub use body::Body;
pub use connect::{Nodes, connect};
pub use consumer::Consumer;
pub use dead_letters::{DeadLetterQueue, DeadOutcome, Taken};
pub use dead_message::DeadMessage;
pub use delivery::Delivery;
use futures_util::future::BoxFuture;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
pub(crate) use membership::count_verdict;
pub use membership::{Worker, fill};
pub use observer::{Observed, Observer, listen};
pub use pipelined::publish_pipelined;
pub(crate) use properties::DIRECT_REPLY_TO;
pub use publisher::{Confirmed, Copied, EventError, Outgoing, OutgoingEvent, Publisher, Reply};
pub use repair::{Found, Looked, Repair};
pub use request_reply::{IncomingReply, OutgoingRequest, Replies, RequestOutcome, Requester, request_reply};
pub use rights::{explain_grant, is_lacking_right, try_rights};
use std::future::Future;
use std::time::Duration;
pub use topology::{QueueState, declare, queue_states};

/// How long the broker may take to answer anything but a publish.
const ANSWER_SECONDS_MAX: u64 = 10;

/// Why the broker could not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(
        "AMQP_URL cannot be read ({0}); it has the form amqp://USER:PASSWORD@HOST:PORT/VHOST, with %2f for the virtual host /; \
         of a cluster, several of these with commas between them (a comma within one is %2C)"
    )]
    Url(&'static str),
    /// At none of the nodes: each with what the network said.
    #[error("RabbitMQ cannot be reached ({0}); is it running, and does AMQP_URL name it?")]
    Unreachable(String),
    #[error("RabbitMQ refuses this connection ({0}); check the user, the password and the virtual host in AMQP_URL")]
    Refused(String),
    #[error("RabbitMQ cannot be used: {0}")]
    Tls(String),
    #[error(
        "RabbitMQ lacks the consistent hash exchange; run `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange` \
         on each of its nodes, then start again"
    )]
    PluginMissing,
    #[error(
        "RabbitMQ has {name}, but not as rabbitmq/definitions.json says ({reason}); if it is left over from an older \
         version, stop the senders, let the workers of that version empty it, stop all of them, run \
         `rabbitmqctl delete_queue {name} --if-empty --if-unused`, and start again (functions/README.md, \"Upgrading\"); if it belongs \
         to somebody else, use a virtual host of our own"
    )]
    Differs { name: String, reason: String },
    #[error("RabbitMQ does not let our user do that ({0}); rabbitmq/users.json has the rights of each user")]
    NotAllowed(String),
    /// Somebody has deleted it, or it was never declared.
    #[error("RabbitMQ lacks a part of rabbitmq/definitions.json ({0})")]
    Missing(String),
    /// What was not acknowledged comes back.
    #[error("the connection to RabbitMQ ended ({0})")]
    Lost(String),
}

impl Error {
    /// Whether an operator has to change something; else it may pass by itself.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Url(_)
            | Self::Tls(_)
            | Self::Refused(_)
            | Self::NotAllowed(_)
            | Self::PluginMissing
            | Self::Differs { .. } => true,
            Self::Unreachable(_) | Self::Missing(_) | Self::Lost(_) => false,
        }
    }
}

impl From<lapin::Error> for Error {
    fn from(error: lapin::Error) -> Self {
        // The library's errors are open-ended; whatever they are, the way out is a new connection.
        let reason = error.to_string();
        match protocol_error(&error) {
            Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => Self::NotAllowed(reason),
            // The same word is there for a queue whose node does not answer.
            Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)) if reason.contains("NOT_FOUND - no ") => {
                Self::Missing(reason)
            }
            None if matches!(error.kind(), lapin::ErrorKind::ParsingError(_)) => {
                Self::Lost(format!("what it sent cannot be read, which is a bug of ours: {reason}"))
            }
            Some(AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_)) | None => Self::Lost(reason),
        }
    }
}

/// Waits for the broker, but not for ever: a connection that dies at the wrong moment answers nothing.
fn answered<'a, T: 'a>(waiting: impl Future<Output = Result<T, Error>> + Send + 'a) -> BoxFuture<'a, Result<T, Error>> {
    Box::pin(in_time(waiting))
}

async fn in_time<T>(waiting: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let answer = tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), waiting).await;
    answer.unwrap_or_else(|_| Err(Error::Lost(format!("no answer within {ANSWER_SECONDS_MAX} s"))))
}

fn protocol_error(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    if let lapin::ErrorKind::ProtocolError(error) = error.kind() { Some(error.kind()) } else { None }
}
