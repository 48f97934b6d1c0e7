//! What the broker sends, made readable: the client library gives up a connection over one short string that is not UTF-8, and
//! reads nested headers by recursion, and a sender may write both.
//!
//! Invariants: bytes are changed in place, none is added and none removed; and what the library would have read, nested no
//! deeper than [`DEPTH_MAX`] and of no more values than [`VALUES_MAX`], passes as it is. The library sees no properties that were
//! not walked through. (That none can be is not to be expected: the broker reads them before it takes a message.)

use super::properties::COUNT_HEADERS;
use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use std::{
    future::Future,
    io::{self, IoSlice, Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// What stands for each byte that is not UTF-8: Unicode's SUBSTITUTE, a control character of one byte. No id and no name of a
/// queue may have one.
const SUBSTITUTE: u8 = 0x1A;
/// Tables and arrays deeper than this are read as text: those are bytes, and their contents are no longer looked at.
const DEPTH_MAX: usize = 8;
/// How many values a message's headers may have, also in tables and arrays. What is more is read as text: of a value of one byte
/// the library makes one of 32.
const VALUES_MAX: usize = 256;
/// What is read at once; a frame that is larger takes more.
const BUFFER_BYTES: usize = 64 * 1024;

const METHOD_FRAME: u8 = 1;
const HEADER_FRAME: u8 = 2;
const BODY_FRAME: u8 = 3;
const HEARTBEAT_FRAME: u8 = 8;
/// Of a frame, before its payload: type, channel, size.
const FRAME_HEAD_BYTES: usize = 7;
/// Of a content header, before its properties: class, weight, size of the body.
const CONTENT_HEAD_BYTES: usize = 12;

#[derive(Clone, Copy)]
enum Field {
    Short,
    Table,
    /// So many bytes of anything else.
    Other(usize),
}

use Field::{Other, Short, Table};

/// The methods in which the broker repeats a sender's words, by class and method. (It cuts a long explanation off anywhere.)
const METHODS: [([u8; 4], &[Field]); 5] = [
    // connection.close and channel.close: code, text.
    ([0, 10, 0, 50], &[Other(2), Short]),
    ([0, 20, 0, 40], &[Other(2), Short]),
    // basic.return: code, text, exchange, routing key.
    ([0, 60, 0, 50], &[Other(2), Short, Short, Short]),
    // basic.deliver: consumer tag, delivery tag and flag, exchange, routing key.
    ([0, 60, 0, 60], &[Short, Other(9), Short, Short]),
    // basic.get-ok: delivery tag and flag, exchange, routing key.
    ([0, 60, 0, 71], &[Other(9), Short, Short]),
];

/// A message's properties, in the order of their flags: content type and encoding, headers, delivery mode, priority, correlation
/// id, reply to, expiration, message id, timestamp, type, user, application, cluster.
const PROPERTIES: [Field; 14] =
    [Short, Short, Table, Other(1), Other(1), Short, Short, Short, Short, Other(8), Short, Short, Short, Short];

/// tokio, with connections whose bytes are made readable.
pub(super) fn runtime() -> Runtime<RuntimeParts<Tokio, Reading>> {
    Runtime::new(RuntimeParts::new(Tokio::current(), Reading(Tokio::current())))
}

#[derive(Debug, Clone)]
pub(super) struct Reading(Tokio);

impl Reactor for Reading {
    type TcpStream = Readable<<Tokio as Reactor>::TcpStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Readable::new(connecting.await?)) }
    }
}

/// A connection. What was read is handed out frame by frame.
pub(super) struct Readable<S> {
    stream: S,
    /// Up to `taken`, handed out; up to `mended`, to be handed out; up to `filled`, the beginning of a frame.
    buffer: Vec<u8>,
    taken: usize,
    mended: usize,
    filled: usize,
}

impl<S> Readable<S> {
    fn new(stream: S) -> Self {
        Self { stream, buffer: vec![0; BUFFER_BYTES], taken: 0, mended: 0, filled: 0 }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readable<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, buffer, taken, mended, filled } = self.get_mut();
        while taken == mended {
            buffer.copy_within(*taken..*filled, 0);
            (*filled, *taken, *mended) = (*filled - *taken, 0, 0);
            if *filled == buffer.len() {
                buffer.resize(2 * buffer.len(), 0);
            }
            let count = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer[*filled..]))?;
            if count == 0 && *filled == 0 {
                return Poll::Ready(Ok(0));
            }
            *filled += count;
            // At the end, what is left is no whole frame.
            *mended = if count == 0 { *filled } else { mend_frames(&mut buffer[..*filled]) };
        }
        let count = out.len().min(*mended - *taken);
        out[..count].copy_from_slice(&buffer[*taken..*taken + count]);
        *taken += count;
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readable<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(context)
    }
}

/// Makes the whole frames readable that stand at the front; says how many bytes these are.
fn mend_frames(bytes: &mut [u8]) -> usize {
    let mut mended = 0;
    while let Some(head) = bytes[mended..].first_chunk::<FRAME_HEAD_BYTES>() {
        let [kind, _, _, size @ ..] = *head;
        if !matches!(kind, METHOD_FRAME | HEADER_FRAME | BODY_FRAME | HEARTBEAT_FRAME) {
            // No frame: whoever is there speaks another protocol, or another version. The library says so.
            return bytes.len();
        }
        let (begin, size) = (mended + FRAME_HEAD_BYTES, u32::from_be_bytes(size) as usize);
        // Behind the payload is one byte more.
        let Some([payload @ .., _]) = bytes.get_mut(begin..=begin + size) else { break };
        match kind {
            METHOD_FRAME => mend_method(payload),
            HEADER_FRAME => mend_content_header(payload),
            _ => Some(()),
        };
        mended = begin + size + 1;
    }
    mended
}

fn mend_method(payload: &mut [u8]) -> Option<()> {
    let (method, arguments) = payload.split_first_chunk_mut::<4>()?;
    let (_, fields) = METHODS.iter().find(|(known, _)| known == method)?;
    let mut cursor = Cursor { bytes: arguments, at: 0 };
    fields.iter().try_for_each(|field| cursor.mend(*field))
}

/// Properties that cannot be walked through to their end are cleared: the library would read them by recursion.
fn mend_content_header(payload: &mut [u8]) -> Option<()> {
    let mut cursor = Cursor { bytes: payload, at: CONTENT_HEAD_BYTES };
    let flags = cursor.number(2)?;
    let is_there = |(place, _): &(usize, &Field)| flags & (1 << (15 - place)) != 0;
    let mended = PROPERTIES.iter().enumerate().filter(is_there).try_for_each(|(_, field)| cursor.mend(*field));
    if mended.is_none() {
        payload[CONTENT_HEAD_BYTES..][..2].fill(0);
    }
    mended
}

/// Goes through fields, one behind the other. `None`: they end too early, or are none.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn mend(&mut self, field: Field) -> Option<()> {
        match field {
            Short => self.mend_short(),
            Table => {
                let end = self.end()?;
                let begin = self.at;
                if self.mend_table(end).is_none() {
                    self.make_text(begin, end)?;
                }
                self.at = end;
                Some(())
            }
            Other(bytes) => self.pass(bytes),
        }
    }

    fn mend_short(&mut self) -> Option<()> {
        let (size, begin) = (self.number(1)?, self.at);
        self.pass(size)?;
        mend_text(&mut self.bytes[begin..self.at]);
        Some(())
    }

    /// The names in a table, and in all that is in it.
    fn mend_table(&mut self, end: usize) -> Option<()> {
        let (mut values, mut seen) = (0, [false; COUNT_HEADERS.len()]);
        // Where what is too much begins, while it goes on.
        let mut rest = None;
        while self.at < end {
            let entry = self.at;
            self.mend_short()?;
            let name = &mut self.bytes[entry + 1..self.at];
            // The broker writes the first of these, and a sender may have written more behind it; the library keeps the last.
            let place = COUNT_HEADERS.iter().position(|known| known.as_bytes() == name);
            let is_first = place.is_some_and(|place| !std::mem::replace(&mut seen[place], true));
            if place.is_some() && !is_first {
                name[0] = SUBSTITUTE;
            }
            self.mend_value(&mut values)?;
            if is_first || values <= VALUES_MAX {
                self.make_text(rest.take().unwrap_or(entry), entry)?;
            } else {
                rest.get_or_insert(entry);
            }
        }
        self.make_text(rest.unwrap_or(end), end)?;
        (self.at == end).then_some(())
    }

    /// A value, and all that is in it. Where that is too much, it becomes one text.
    fn mend_value(&mut self, values: &mut usize) -> Option<()> {
        let (begin, values_before) = (self.at, *values);
        // Of each table or array that we are in: where it ends, and whether its values have names. The first is the message's.
        let mut open = [(0, false); DEPTH_MAX];
        let mut depth = 0;
        loop {
            *values += 1;
            if depth > 0 && *values > VALUES_MAX {
                (self.bytes[begin], self.at, *values) = (b'S', begin + 1, values_before + 1);
                self.at = self.end()?;
                return Some(());
            }
            let place = self.at;
            match u8::try_from(self.number(1)?).ok()? {
                b'V' => Some(()),
                b't' | b'b' | b'B' => self.pass(1),
                b's' | b'U' | b'u' => self.pass(2),
                b'I' | b'i' | b'f' => self.pass(4),
                b'D' => self.pass(5),
                b'L' | b'l' | b'd' | b'T' => self.pass(8),
                kind @ (b'F' | b'A') if depth + 1 < DEPTH_MAX => {
                    depth += 1;
                    open[depth] = (self.end()?, kind == b'F');
                    Some(())
                }
                kind @ (b'S' | b'x' | b'F' | b'A') => {
                    // Text has its size before it just as tables and arrays have.
                    self.bytes[place] = if kind == b'x' { kind } else { b'S' };
                    let size = self.number(4)?;
                    self.pass(size)
                }
                _ => None,
            }?;
            while depth > 0 && self.at >= open[depth].0 {
                // Something in it was longer than all of it.
                (self.at == open[depth].0).then_some(())?;
                depth -= 1;
            }
            if depth == 0 {
                return Some(());
            }
            if open[depth].1 {
                self.mend_short()?;
            }
        }
    }

    /// Makes one entry of these bytes of a table, whose name is no name. `None`: no entry is so short.
    fn make_text(&mut self, begin: usize, end: usize) -> Option<()> {
        let entry = &mut self.bytes[begin..end];
        match entry {
            [] => (),
            [_] => return None,
            [name_bytes, name @ .., kind] if name.len() < 5 => {
                (*name_bytes, *kind) = (u8::try_from(name.len()).ok()?, b'V');
                name.fill(SUBSTITUTE);
            }
            [name_bytes, name, kind, size @ ..] => {
                (*name_bytes, *name, *kind) = (1, SUBSTITUTE, b'S');
                let (size, text) = size.split_first_chunk_mut::<4>()?;
                *size = u32::try_from(text.len()).ok()?.to_be_bytes();
            }
            _ => return None,
        }
        Some(())
    }

    /// Where what has its size before it ends.
    fn end(&mut self) -> Option<usize> {
        let size = self.number(4)?;
        self.at.checked_add(size).filter(|end| *end <= self.bytes.len())
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        let begin = self.at;
        self.pass(width)?;
        Some(self.bytes[begin..self.at].iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn pass(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }
}

fn mend_text(text: &mut [u8]) {
    let mut begin = 0;
    while let Err(error) = std::str::from_utf8(&text[begin..]) {
        let bad = begin + error.valid_up_to();
        begin = error.error_len().map_or(text.len(), |bytes| bad + bytes);
        text[bad..begin].fill(SUBSTITUTE);
    }
}

#[cfg(test)]
mod tests;
