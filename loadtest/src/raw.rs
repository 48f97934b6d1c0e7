//! Just enough of AMQP 0-9-1 to publish what no client library would: a sender who means ill.

use anyhow::{Context, Result, ensure};
use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const METHOD_FRAME: u8 = 1;
const HEADER_FRAME: u8 = 2;
const BODY_FRAME: u8 = 3;
const FRAME_END: u8 = 0xCE;
/// Larger ones than this the broker does not send us.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// What a frame has besides its payload.
const FRAME_BYTES: usize = 8;
/// What a frame with [`nested_headers`] has besides their levels.
const NESTED_FRAME_BYTES: usize = FRAME_BYTES + 23;
/// What a level of [`nested_headers`] takes.
const LEVEL_BYTES: usize = 5;

/// A property of a message, by its place in the properties' flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    AppId = 3,
    Expiration = 8,
    ReplyTo = 9,
    CorrelationId = 10,
    Priority = 11,
    Headers = 13,
}

/// Properties of any bytes, also such as are not UTF-8: priority a byte, headers the content of their table, all others text.
/// In the order of their places, the highest first.
pub fn properties(values: &[(Property, &[u8])]) -> Vec<u8> {
    let flags = values.iter().fold(0_u16, |flags, (property, _)| flags | 1 << *property as u16);
    let values = values.iter().flat_map(|(property, value)| match property {
        Property::Priority => value.to_vec(),
        Property::Headers => long(value),
        Property::AppId | Property::Expiration | Property::ReplyTo | Property::CorrelationId => short(value),
    });
    flags.to_be_bytes().into_iter().chain(values).collect()
}

/// A correlation id of any bytes, and where the reply goes.
pub fn addressed(correlation_id: &[u8], reply_to: &[u8]) -> Vec<u8> {
    properties(&[(Property::CorrelationId, correlation_id), (Property::ReplyTo, reply_to)])
}

/// The header `x-death` as the broker never writes it, and the name of an application of any bytes.
pub fn forged_death(app_id: &[u8]) -> Vec<u8> {
    properties(&[(Property::Headers, &death()), (Property::AppId, app_id)])
}

/// The same header, in a message that expires in a millisecond.
pub fn expiring_death() -> Vec<u8> {
    properties(&[(Property::Headers, &death()), (Property::Expiration, b"1")])
}

fn death() -> Vec<u8> {
    [&short(b"x-death")[..], b"A", &size(5), b"I", &1_i32.to_be_bytes()].concat()
}

/// The headers by which a message asks for copies by other routing keys.
pub fn copies(keys: &[&str]) -> Vec<u8> {
    let keys: Vec<u8> = keys.iter().flat_map(|key| [&b"S"[..], &long(key.as_bytes())].concat()).collect();
    let header = |name: &[u8]| [&short(name)[..], b"A", &long(&keys)].concat();
    properties(&[(Property::Headers, &[header(b"CC"), header(b"BCC")].concat())])
}

/// The header `x-delivery-count`, as often as there are counts.
pub fn delivery_counts(counts: &[u64]) -> Vec<u8> {
    let entry = |count: &u64| [&short(b"x-delivery-count")[..], b"l", &count.to_be_bytes()].concat();
    let table: Vec<u8> = counts.iter().flat_map(entry).collect();
    properties(&[(Property::Headers, &table)])
}

/// One header: an array in an array in an array, `depth` deep.
pub fn nested_headers(depth: usize) -> Vec<u8> {
    let mut table = short(b"deep");
    for level in 0..depth {
        table.push(b'A');
        table.extend(size(LEVEL_BYTES * (depth - 1 - level)));
    }
    properties(&[(Property::Headers, &table)])
}

/// Publishes one message, and returns when the broker has taken it.
pub async fn publish(amqp_url: &str, exchange: &str, routing_key: &str, body: &[u8], properties: &[u8]) -> Result<()> {
    let mut sender = RawSender::connect(amqp_url).await?;
    sender.publish(exchange, routing_key, properties, body).await?;
    sender.close().await
}

/// The same of one with headers nested as deep as the broker takes them.
pub async fn publish_nested(amqp_url: &str, exchange: &str, routing_key: &str, body: &[u8]) -> Result<()> {
    let mut sender = RawSender::connect(amqp_url).await?;
    let properties = nested_headers(sender.depth_max());
    sender.publish(exchange, routing_key, &properties, body).await?;
    sender.close().await
}

/// A connection with a channel.
#[derive(Debug)]
pub struct RawSender {
    stream: TcpStream,
    /// The largest frame that the broker takes.
    frame_bytes_max: usize,
}

impl RawSender {
    pub async fn connect(amqp_url: &str) -> Result<Self> {
        let uri: AMQPUri = amqp_url.parse().map_err(anyhow::Error::msg)?;
        let user = &uri.authority.userinfo;
        let login = ["", &user.username, &user.password].join("\0");
        let stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await?;
        let mut sender = Self { stream, frame_bytes_max: FRAME_BYTES_MAX };
        sender.stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        sender.expect((10, 10)).await?;
        let start_ok = [&[0; 4][..], &short(b"PLAIN"), &long(login.as_bytes()), &short(b"en_US")].concat();
        sender.method(0, (10, 11), &start_ok).await?;
        let tune = sender.expect((10, 30)).await?;
        let frame_max = *tune[6..].first_chunk::<4>().context("it names no size of a frame")?;
        sender.frame_bytes_max = usize::try_from(u32::from_be_bytes(frame_max))?;
        sender.method(0, (10, 31), &[&[0, 1][..], &frame_max, &[0, 0]].concat()).await?;
        sender.method(0, (10, 40), &[&short(uri.vhost.as_bytes())[..], &[0, 0]].concat()).await?;
        sender.expect((10, 41)).await?;
        sender.method(1, (20, 10), &[0]).await?;
        sender.expect((20, 11)).await?;
        Ok(sender)
    }

    /// Publishes `body` with these [`properties`].
    pub async fn publish(&mut self, exchange: &str, routing_key: &str, properties: &[u8], body: &[u8]) -> Result<()> {
        let publish = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key.as_bytes()), &[0]].concat();
        self.method(1, (60, 40), &publish).await?;
        let body_size = u64::try_from(body.len())?.to_be_bytes();
        self.frame(HEADER_FRAME, 1, &[&60_u16.to_be_bytes()[..], &[0, 0], &body_size, properties].concat()).await?;
        for part in body.chunks(self.frame_bytes_max - FRAME_BYTES) {
            self.frame(BODY_FRAME, 1, part).await?;
        }
        Ok(())
    }

    /// How deep headers can be nested in what the broker takes.
    pub fn depth_max(&self) -> usize {
        (self.frame_bytes_max - NESTED_FRAME_BYTES) / LEVEL_BYTES
    }

    /// Returns when the broker has taken what was published: an orderly close is answered after it.
    pub async fn close(mut self) -> Result<()> {
        self.method(0, (10, 50), &[&200_u16.to_be_bytes()[..], &[0; 5]].concat()).await?;
        self.expect((10, 51)).await.map(drop)
    }

    async fn method(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) -> Result<()> {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD_FRAME, channel, &payload).await
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Result<()> {
        let bytes = [&[kind][..], &channel.to_be_bytes(), &size(payload.len()), payload, &[FRAME_END]].concat();
        Ok(self.stream.write_all(&bytes).await?)
    }

    /// The payload of the frame that comes next, which is of this method.
    async fn expect(&mut self, method: (u16, u16)) -> Result<Vec<u8>> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await?;
        let size = usize::try_from(u32::from_be_bytes([head[3], head[4], head[5], head[6]]))?;
        ensure!((4..FRAME_BYTES_MAX).contains(&size), "a frame of {size} bytes");
        let mut payload = vec![0; size + 1];
        self.stream.read_exact(&mut payload).await?;
        let found = (u16::from_be_bytes([payload[0], payload[1]]), u16::from_be_bytes([payload[2], payload[3]]));
        ensure!(found == method, "not what was expected: {}", String::from_utf8_lossy(&payload));
        Ok(payload)
    }
}

/// A short string: at most 255 bytes.
fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("texts here are short")][..], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&size(bytes.len())[..], bytes].concat()
}

fn size(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("frames here are small").to_be_bytes()
}
