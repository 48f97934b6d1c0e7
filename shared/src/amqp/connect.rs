//! Connecting: to the first node of the broker that answers, with a handle by which the connection can be cut.

use super::socket::Socket;
use super::{Error, answered, protocol_error, readable};
use crate::config::{BrokerOptions, UNREADABLE_URL, check_url, parameter};
use crate::tls::{self, Setting, Tls};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::AsyncTcpStream;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ErrorKind};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Where the broker is not asked otherwise (`?heartbeat=` in the URL), a dead peer is noticed within twice this.
const HEARTBEAT_SECONDS: u16 = 5;

/// How the broker says whom it takes us for, when it refuses a message that names another user.
const CALLED: &str = "but authenticated user was '";

/// What there is to change about TLS.
const SETTING: Setting =
    Setting { schemes: ["amqps://", "amqp://"], authority: "?cacertfile=FILE in the URL, or a function's AMQP_CA," };

#[derive(Debug)]
struct Node {
    uri: AMQPUri,
    /// Where it is spoken to so.
    tls: Option<Tls>,
}

/// The nodes of one broker, and which of them is tried first. Clones go on together from a node that failed one of them,
/// and every node of the list has its turn before one is tried again.
#[derive(Debug, Clone)]
pub struct Nodes {
    list: Arc<[Node]>,
    first: Arc<AtomicUsize>,
    /// What the broker calls our user, where it is not as the URL does: by OAuth 2, or where it maps names.
    called: Arc<OnceLock<String>>,
}

impl Nodes {
    /// Reads `amqp://…`, or several with commas between them. Which is tried first is left to chance, so that many
    /// workers with one list spread over its nodes.
    pub fn read(urls: &str) -> Result<Self, Error> {
        Self::read_with(urls, None)
    }

    /// The same. Those of `amqps://…` that name no authority (`?cacertfile=`, as everywhere with RabbitMQ) have to have a
    /// certificate of this one, or else of the system's.
    pub fn read_with(urls: &str, authority: Option<&Path>) -> Result<Self, Error> {
        let read = |url: &str| read_one(url.trim(), authority);
        let list: Arc<[Node]> = urls.split(',').map(read).collect::<Result<_, _>>()?;
        let chance = fastrand::usize(..list.len());
        Ok(Self { list, first: Arc::new(AtomicUsize::new(chance)), called: Arc::default() })
    }

    pub fn of(options: &BrokerOptions) -> Result<Self, Error> {
        Self::read_with(&options.amqp_url, options.amqp_ca.as_deref())
    }

    /// Says which of them can be listened to on the way.
    pub(crate) fn warn_of_plain(&self) {
        let remedy = "where the broker has TLS, AMQP_URL is amqps://…";
        let plain = self.list.iter().find(|node| node.tls.is_none() && !tls::is_local(&node.uri.authority.host));
        plain.inspect(|node| tls::warn_of_plain("the broker is plain", &node.uri.authority.host, remedy));
    }

    /// Host and port of each, and whether it speaks TLS, the one to be tried first at the front.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, u16, Option<&Tls>)> {
        self.in_turn().map(|(_, Node { uri, tls })| (uri.authority.host.as_str(), uri.authority.port, tls.as_ref()))
    }

    /// What the broker calls us, as far as it has said; else the user that the node is told that is tried first: whoever has just
    /// connected is that one.
    pub fn user(&self) -> &str {
        let (_, node) = self.in_turn().next().expect("a list has a node at least");
        self.called.get().unwrap_or(&node.uri.authority.userinfo.username)
    }

    /// Whether this is the broker's word that it calls us otherwise, the first of its kind. All clones go by it from now on.
    pub fn learns_user(&self, error: &Error) -> bool {
        let error = error.to_string();
        let called = error.split_once(CALLED).and_then(|(_, rest)| rest.split_once('\'')).map(|(name, _)| name);
        called.is_some_and(|name| self.called.set(name.to_owned()).is_ok())
    }

    /// All have the same.
    pub(super) fn vhost(&self) -> &str {
        &self.list[0].uri.vhost
    }

    /// Goes on with the next node of the list: the one at the front let us down.
    pub fn go_on(&self) {
        self.first.fetch_add(1, Ordering::Relaxed);
    }

    /// Every node once, with its place in the list.
    fn in_turn(&self) -> impl Iterator<Item = (usize, &Node)> {
        let (count, first) = (self.list.len(), self.first.load(Ordering::Relaxed) % self.list.len());
        (0..count).map(move |turn| (first + turn) % count).map(|place| (place, &self.list[place]))
    }

    /// The node at this place of the list is well: whoever connects next begins with it.
    fn begin_with(&self, place: usize) {
        self.first.store(place, Ordering::Relaxed);
    }
}

fn read_one(url: &str, authority: Option<&Path>) -> Result<Node, Error> {
    check_url(url, &["amqp", "amqps"]).map_err(Error::Url)?;
    let mut uri = AMQPUri::from_str(url).map_err(|_| Error::Url(UNREADABLE_URL))?;
    // By the letter, a URL that ends in `/` names the virtual host ""; whoever writes one means `/`.
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    // The library takes an address of IPv6 for none, and would go to this machine. Behind the host is no @.
    let behind_user = url.rsplit_once('@').or_else(|| url.split_once("://")).map(|(_, host)| host);
    if let Some(host) = behind_user.and_then(|host| host.strip_prefix('[')) {
        uri.authority.host = host.split(']').next().unwrap_or_default().to_owned();
    }
    if parameter(url, &["certfile", "keyfile"]).is_some() {
        return Err(Error::Url("it names a client's certificate (certfile, keyfile), which is not supported"));
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let authority = tls::authority_of(url, authority);
    let tls = (uri.scheme == AMQPScheme::AMQPS).then(|| Tls::with(&uri.authority.host, authority.as_deref()));
    let tls = tls.transpose().map_err(|error| Error::Tls(format!("{error}; check AMQP_URL and AMQP_CA")))?;
    Ok(Node { uri, tls })
}

/// Opens a connection that the broker's operators see as `name`, to the first of the nodes that answers.
///
/// [`Error::Unreachable`] names every node; [`Error::Refused`] comes from the first that says no, as all have the same users.
pub fn connect<'a>(nodes: &'a Nodes, name: &'a str) -> BoxFuture<'a, Result<Connection, Error>> {
    Box::pin(async move { Ok(connect_with_socket(nodes, name).await?.0) })
}

pub(super) async fn connect_with_socket(nodes: &Nodes, name: &str) -> Result<(Connection, Socket), Error> {
    let (mut reasons, mut is_fault_of_tls) = (Vec::new(), true);
    for (place, node) in nodes.in_turn() {
        match connect_to(node, name).await {
            Ok(opened) => {
                nodes.begin_with(place);
                return Ok(opened);
            }
            Err(Error::Unreachable(reason)) => {
                // This one may come back.
                is_fault_of_tls = false;
                reasons.push(reason);
            }
            Err(Error::Tls(reason)) => reasons.push(reason),
            Err(error) => return Err(error),
        }
    }
    let reasons = reasons.join("; ");
    Err(if is_fault_of_tls { Error::Tls(reasons) } else { Error::Unreachable(reasons) })
}

async fn connect_to(node: &Node, name: &str) -> Result<(Connection, Socket), Error> {
    let (host, port) = (node.uri.authority.host.as_str(), node.uri.authority.port);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let opening = async { Ok(open(node, properties).await) };
    let reason = match answered(opening).await {
        Ok(Ok(opened)) => return Ok(opened),
        Ok(Err(error)) => match protocol_error(&error) {
            Some(
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH),
            ) => return Err(Error::Refused(error.to_string())),
            Some(AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_)) | None => {
                // By TLS 1.3, a broker that wants a client's certificate says so after the handshake.
                if let ErrorKind::IOError(failed) = error.kind()
                    && let Some(fault) = tls::explain(failed, SETTING)
                {
                    return Err(Error::Tls(format!("{host}:{port}: {fault}")));
                }
                error.to_string()
            }
        },
        Err(_) => format!("no answer within {} s", super::ANSWER_SECONDS_MAX),
    };
    match tls::fault(host, port, node.tls.as_ref(), SETTING).await {
        Some(fault) => Err(Error::Tls(fault)),
        None => Err(Error::Unreachable(format!("{host}:{port}: {reason}"))),
    }
}

async fn open(node: &Node, properties: ConnectionProperties) -> lapin::Result<(Connection, Socket)> {
    let socket = Socket::default();
    let connecting = Connection::connector(
        node.uri.clone(),
        readable::runtime(socket.clone(), node.tls.clone()),
        async move |uri, runtime| {
            let host = (uri.authority.host.as_str(), uri.authority.port);
            let addresses: Vec<_> = tokio::net::lookup_host(host).await?.collect();
            Ok(AsyncTcpStream::connect(&runtime, addresses).await?)
        },
        properties,
    );
    Ok((connecting.await?, socket))
}

pub(super) async fn channel(connection: &Connection) -> Result<Channel, Error> {
    answered(async { Ok(connection.create_channel().await?) }).await
}

pub(super) async fn confirming_channel(connection: &Connection) -> Result<Channel, Error> {
    answered(async {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    })
    .await
}

/// What waits in a queue of our own, at most, messages and bytes: whoever may write to it must fill nobody's memory.
pub(super) const FEW: (i64, i64) = (1_000, 1024 * 1024);
pub(super) const MANY: (i64, i64) = (100_000, 64 * 1024 * 1024);
/// What is under way to us from there: twice as much as is acknowledged at a time.
const OWN_QUEUE_WINDOW: u16 = 16;

/// A queue of our own for as long as the connection lasts, named by the broker where `name` is empty, bound to the exchange where
/// one is named, and what arrives in it. No more comes than [`go_on_after`] lets through: what is too much, the broker drops.
pub(super) async fn own_queue(
    channel: &Channel,
    name: &str,
    (messages_max, bytes_max): (i64, i64),
    exchange: Option<&str>,
) -> Result<(ShortString, Consumer), Error> {
    answered(async {
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let mut bounds = FieldTable::default();
        for (name, bound) in [("x-max-length", messages_max), ("x-max-length-bytes", bytes_max)] {
            bounds.insert(name.into(), AMQPValue::LongLongInt(bound));
        }
        let queue = channel.queue_declare(name.into(), exclusive, bounds).await?.name().clone();
        if let Some(exchange) = exchange {
            let options = QueueBindOptions::default();
            channel.queue_bind(queue.clone(), exchange.into(), "".into(), options, FieldTable::default()).await?;
        }
        channel.basic_qos(OWN_QUEUE_WINDOW, BasicQosOptions::default()).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let messages = channel.basic_consume(queue.clone(), "".into(), options, none).await?;
        Ok((queue, messages))
    })
    .await
}

/// The next message of a subscription that has no end of its own.
pub(super) async fn next(messages: &mut Consumer) -> Result<Delivery, Error> {
    let ended = || Error::Lost("the broker ended the subscription".to_owned());
    Ok(messages.next().await.ok_or_else(ended)??)
}

/// Has the broker go on with what is in a queue of our own, now and then: to be called with each message of it.
pub(super) async fn go_on_after(message: &Delivery) -> Result<(), Error> {
    if message.delivery_tag.is_multiple_of(u64::from(OWN_QUEUE_WINDOW / 2)) {
        message.acker.ack(BasicAckOptions { multiple: true }).await?;
    }
    Ok(())
}

pub(super) async fn close(connection: &Connection) -> Result<(), Error> {
    answered(async { Ok(connection.close(200, "done".into()).await?) }).await
}

#[cfg(test)]
mod tests;
