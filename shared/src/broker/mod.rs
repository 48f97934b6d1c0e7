//! Everything that speaks AMQP: connecting, declaring, receiving, replying. The only module that sees lapin.
//!
//! Never sees the database. Invariant: consuming and publishing have a connection each, because a broker short of
//! memory blocks a connection that publishes, and a blocked connection could not acknowledge either.
//!
//! The futures are boxed, so that the client library's code is compiled once, here: an `async fn` is compiled again in
//! every program that awaits it.

mod declare;
mod filler;
mod inbox;
mod outgoing;
mod socket;

pub use declare::declare;
pub use filler::fill;
pub use inbox::{Acknowledger, Delivery, Inbox};
pub use outgoing::{DeadCopy, Message, Outgoing, Reply};

use futures_util::future::BoxFuture;
use lapin::{
    Connection, ConnectionProperties,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
    uri::{AMQPScheme, AMQPUri},
};
use socket::Socket;
use std::{future::Future, str::FromStr, time::Duration};

/// Where the broker is not asked otherwise (`?heartbeat=` in the URL), a dead peer is noticed within twice this.
const HEARTBEAT_SECONDS: u16 = 5;
/// How long the broker may take to answer anything but a publish.
const ANSWER_SECONDS_MAX: u64 = 10;

/// Why the broker could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one.
    #[error(
        "AMQP_URL cannot be read ({0}); it has the form amqp://USER:PASSWORD@HOST:PORT/VHOST, with %2f for the virtual host /"
    )]
    Url(String),
    /// Nobody answers there.
    #[error("RabbitMQ at {at} cannot be reached ({reason}); is it running, and does AMQP_URL name it?")]
    Unreachable {
        /// Host and port.
        at: String,
        /// What the network said.
        reason: String,
    },
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

/// Opens a connection that the broker's operators see as `name`.
///
/// # Errors
/// [`Error::Url`], [`Error::Unreachable`] or [`Error::Refused`].
pub fn connect<'a>(url: &'a str, name: &'a str) -> BoxFuture<'a, Result<Connection, Error>> {
    Box::pin(async move { Ok(connect_with_socket(url, name).await?.0) })
}

/// The same, with a handle by which the connection can be cut.
fn connect_with_socket<'a>(url: &'a str, name: &'a str) -> BoxFuture<'a, Result<(Connection, Socket), Error>> {
    Box::pin(async move {
        let mut uri = AMQPUri::from_str(url).map_err(Error::Url)?;
        if uri.scheme == AMQPScheme::AMQPS {
            return Err(Error::Url("this program is built without TLS; use amqp:// on a network you trust".to_owned()));
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let at = format!("{}:{}", uri.authority.host, uri.authority.port);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
        match tokio::time::timeout(limit, socket::open(uri, properties)).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(error)) => Err(match protocol_error(&error) {
                Some(
                    AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                    | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH),
                ) => Error::Refused(error.to_string()),
                Some(AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_)) | None => {
                    Error::Unreachable { at, reason: error.to_string() }
                }
            }),
            Err(_) => Err(Error::Unreachable { at, reason: format!("no answer within {ANSWER_SECONDS_MAX} s") }),
        }
    })
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
