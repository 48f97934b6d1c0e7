//! Everything that speaks AMQP: connecting, declaring, receiving, replying. The only module that sees lapin.
//!
//! Never sees the database. Invariant: consuming and publishing have a connection each, because a broker short of
//! memory blocks a connection that publishes, and a blocked connection could not acknowledge either.
//!
//! The futures are boxed, so that the client library's code is compiled once, here: an `async fn` is compiled again in
//! every program that awaits it.

mod consumer;
mod dead_letters;
mod declare;
mod events;
mod heartbeat;
mod inspect;
mod membership;
mod nodes;
mod padding;
mod publisher;
mod request_reply;
mod socket;

pub use consumer::{Acknowledger, Consumer, Delivery};
pub use dead_letters::{DeadLetterQueue, DeadMessage, Replayed, Taken};
pub use declare::declare;
pub use events::{EventError, OutgoingEvent};
pub use heartbeat::Worker;
pub use inspect::{QueueState, listen, queue_states};
pub use membership::Place;
pub use nodes::Nodes;
pub use padding::fill;
pub use publisher::{Again, DeadCopy, Message, Publisher, Reply};
pub use request_reply::{OutgoingRequest, RequestOutcome, ask};

use futures_util::future::BoxFuture;
use lapin::{
    Connection, ConnectionProperties,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
    uri::AMQPUri,
};
use socket::Socket;
use std::{future::Future, time::Duration};

/// How long the broker may take to answer anything but a publish.
const ANSWER_SECONDS_MAX: u64 = 10;

/// Why the broker could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one.
    #[error(
        "AMQP_URL cannot be read ({0}); it has the form amqp://USER:PASSWORD@HOST:PORT/VHOST, with %2f for the virtual host /; \
         of a cluster, several of these with commas between them"
    )]
    Url(String),
    /// Nobody answers, at none of the nodes: each with what the network said.
    #[error("RabbitMQ cannot be reached ({0}); is it running, and does AMQP_URL name it?")]
    Unreachable(String),
    /// The broker says no to us.
    #[error("RabbitMQ refuses this connection ({0}); check the user, the password and the virtual host in AMQP_URL")]
    Refused(String),
    /// The exchange type that deals items out to partitions is not there.
    #[error(
        "RabbitMQ lacks the consistent hash exchange; run `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange` \
         on each of its nodes, then start again"
    )]
    PluginMissing,
    /// The broker has something of this name that differs from rabbitmq/definitions.json.
    #[error(
        "RabbitMQ has {name}, but not as rabbitmq/definitions.json says ({reason}); if it is left over from an older \
         version, let it run empty, delete it (`rabbitmqctl delete_queue {name}`) and start again; if it belongs to \
         somebody else, use a virtual host of our own"
    )]
    Differs {
        /// The exchange's or queue's name.
        name: String,
        /// The broker's words.
        reason: String,
    },
    /// The connection ended; what was not acknowledged comes back.
    #[error("the connection to RabbitMQ ended ({0})")]
    Lost(String),
    /// The broker sent a message whose properties are not valid UTF-8: the client library can only give up on it.
    #[error("RabbitMQ delivered a message whose properties cannot be read ({0})")]
    Unreadable(String),
}

impl From<lapin::Error> for Error {
    fn from(error: lapin::Error) -> Self {
        // The library's errors are open-ended; whatever they are, the way out is a new connection. What cannot be
        // parsed, or breaks the protocol's own rules, is a delivery that would end the next connection, too.
        let is_unreadable = match protocol_error(&error) {
            Some(AMQPErrorKind::Hard(kind)) => {
                matches!(kind, AMQPHardError::FRAMEERROR | AMQPHardError::UNEXPECTEDFRAME | AMQPHardError::SYNTAXERROR)
            }
            Some(AMQPErrorKind::Soft(_)) => false,
            None => matches!(error.kind(), lapin::ErrorKind::ParsingError(_)),
        };
        if is_unreadable { Self::Unreadable(error.to_string()) } else { Self::Lost(error.to_string()) }
    }
}

/// Opens a connection that the broker's operators see as `name`, to the first of the nodes that answers.
///
/// # Errors
/// [`Error::Unreachable`], which names every node; [`Error::Refused`] by the first that says no, as all have the same users.
pub fn connect<'a>(nodes: &'a Nodes, name: &'a str) -> BoxFuture<'a, Result<Connection, Error>> {
    Box::pin(async move { Ok(connect_with_socket(nodes, name).await?.0) })
}

/// The same, with a handle by which the connection can be cut.
fn connect_with_socket<'a>(nodes: &'a Nodes, name: &'a str) -> BoxFuture<'a, Result<(Connection, Socket), Error>> {
    Box::pin(async move {
        let mut reasons = Vec::new();
        for (place, uri) in nodes.in_turn() {
            match connect_to(uri, name).await {
                Ok(opened) => {
                    nodes.begin_with(place);
                    return Ok(opened);
                }
                Err(Error::Unreachable(reason)) => reasons.push(reason),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unreachable(reasons.join("; ")))
    })
}

async fn connect_to(uri: &AMQPUri, name: &str) -> Result<(Connection, Socket), Error> {
    let at = format!("{}:{}", uri.authority.host, uri.authority.port);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
    match tokio::time::timeout(limit, socket::open(uri.clone(), properties)).await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => Err(match protocol_error(&error) {
            Some(
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH),
            ) => Error::Refused(error.to_string()),
            Some(AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_)) | None => {
                Error::Unreachable(format!("{at}: {error}"))
            }
        }),
        Err(_) => Err(Error::Unreachable(format!("{at}: no answer within {ANSWER_SECONDS_MAX} s"))),
    }
}

/// Waits for the broker, but not for ever: a connection that dies at the wrong moment answers nothing.
async fn answered<T>(waiting: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), waiting)
        .await
        .unwrap_or_else(|_| Err(Error::Lost(format!("no answer within {ANSWER_SECONDS_MAX} s"))))
}

fn protocol_error(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    if let lapin::ErrorKind::ProtocolError(error) = error.kind() { Some(error.kind()) } else { None }
}
