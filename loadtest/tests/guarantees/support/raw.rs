//! Just enough of AMQP 0-9-1 to publish properties that no client library would.

use lapin::uri::AMQPUri;
use std::str::FromStr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const METHOD_FRAME: u8 = 1;
const HEADER_FRAME: u8 = 2;
const BODY_FRAME: u8 = 3;
const FRAME_END: u8 = 0xCE;

/// A correlation id of any bytes, also such as are not UTF-8, and where the reply goes.
pub(crate) fn addressed(correlation_id: &[u8], reply_to: &[u8]) -> Vec<u8> {
    [&(1_u16 << 10 | 1 << 9).to_be_bytes()[..], &short(correlation_id), &short(reply_to)].concat()
}

/// The header `x-death` as an array of one number, and the name of an application of any bytes.
pub(crate) fn forged_death(app_id: &[u8]) -> Vec<u8> {
    let table = [&short(b"x-death")[..], b"A", &5_u32.to_be_bytes(), b"I", &1_u32.to_be_bytes()].concat();
    let size = u32::try_from(table.len()).unwrap().to_be_bytes();
    [&(1_u16 << 13 | 1 << 3).to_be_bytes()[..], &size, &table, &short(app_id)].concat()
}

/// One header: an array in an array in an array, `depth` deep.
pub(crate) fn nested_headers(depth: usize) -> Vec<u8> {
    let mut value = Vec::new();
    for level in (0..depth).rev() {
        let size = u32::try_from((depth - 1 - level) * 5).unwrap();
        value.splice(0..0, [&b"A"[..], &size.to_be_bytes()].concat());
    }
    let table = [&short(b"deep")[..], &value].concat();
    let size = u32::try_from(table.len()).unwrap().to_be_bytes();
    [&(1_u16 << 13).to_be_bytes()[..], &size, &table].concat()
}

/// Publishes `body` with these properties: flags, then values.
pub(crate) async fn publish(amqp_url: &str, exchange: &str, routing_key: &str, body: &[u8], properties: &[u8]) {
    let uri = AMQPUri::from_str(amqp_url).unwrap();
    let mut stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await.unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
    expect(&mut stream, (10, 10)).await;
    let start_ok = [&[0; 4][..], &short(b"PLAIN"), &[0, 0, 0, 12], b"\0guest\0guest", &short(b"en_US")].concat();
    method(&mut stream, 0, (10, 11), &start_ok).await;
    expect(&mut stream, (10, 30)).await;
    method(&mut stream, 0, (10, 31), &[0, 1, 0, 2, 0, 0, 0, 0]).await;
    method(&mut stream, 0, (10, 40), &[&short(uri.vhost.as_bytes())[..], &[0, 0]].concat()).await;
    expect(&mut stream, (10, 41)).await;
    method(&mut stream, 1, (20, 10), &[0]).await;
    expect(&mut stream, (20, 11)).await;
    let publish = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key.as_bytes()), &[0]].concat();
    method(&mut stream, 1, (60, 40), &publish).await;
    let size = u64::try_from(body.len()).unwrap().to_be_bytes();
    frame(&mut stream, HEADER_FRAME, 1, &[&60_u16.to_be_bytes()[..], &[0, 0], &size, properties].concat()).await;
    frame(&mut stream, BODY_FRAME, 1, body).await;
    // An orderly close is answered after what was sent before it was taken.
    method(&mut stream, 0, (10, 50), &[&200_u16.to_be_bytes()[..], &[0; 5]].concat()).await;
    expect(&mut stream, (10, 51)).await;
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text].concat()
}

async fn method(stream: &mut TcpStream, channel: u16, (class, method): (u16, u16), arguments: &[u8]) {
    let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
    frame(stream, METHOD_FRAME, channel, &payload).await;
}

async fn frame(stream: &mut TcpStream, kind: u8, channel: u16, payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let bytes = [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat();
    stream.write_all(&bytes).await.unwrap();
}

async fn expect(stream: &mut TcpStream, method: (u16, u16)) {
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.unwrap();
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut payload = vec![0; usize::try_from(size).unwrap() + 1];
    stream.read_exact(&mut payload).await.unwrap();
    let found = (u16::from_be_bytes([payload[0], payload[1]]), u16::from_be_bytes([payload[2], payload[3]]));
    assert_eq!(found, method, "{}", String::from_utf8_lossy(&payload));
}
