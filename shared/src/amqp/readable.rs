//! What the broker sends, made readable: the client library gives up a connection over one short string that is not UTF-8, and
//! over headers that are larger than a frame may be, and reads nested ones by recursion. A sender may write all of that.
//!
//! Invariants: bytes are changed in place, none is added and none removed; and what the library would have read, nested no
//! deeper than [`fields::DEPTH_MAX`] and of no more values than [`fields::VALUES_MAX`], passes as it is. The library sees no properties that were
//! not walked through. (That none can be is not to be expected: the broker reads them before it takes a message.)

mod fields;

use super::socket::Socket;
use crate::tls::{Tls, Wire, over};
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use fields::{drop_headers, frame_max_of, mend_content_header, mend_method};
use futures_util::Stream;
use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What is read at once; a frame that is larger takes more.
const BUFFER_BYTES: usize = 64 * 1024;

const METHOD_FRAME: u8 = 1;
const HEADER_FRAME: u8 = 2;
const BODY_FRAME: u8 = 3;
const HEARTBEAT_FRAME: u8 = 8;
/// Of a frame, before its payload: type, channel, size.
const FRAME_HEAD_BYTES: usize = 7;
const FRAME_END: u8 = 0xCE;
/// A frame that says nothing.
const HEARTBEAT: [u8; FRAME_HEAD_BYTES + 1] = [HEARTBEAT_FRAME, 0, 0, 0, 0, 0, 0, FRAME_END];
/// tokio, with connections whose bytes are made readable, over TLS or not. `socket` is a handle on the first that is made.
pub(super) fn runtime(socket: Socket, tls: Option<Tls>) -> Runtime<RuntimeParts<Tokio, Reading>> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), Reading { tokio, socket, tls }))
}

#[derive(Debug, Clone)]
pub(super) struct Reading {
    tokio: Tokio,
    socket: Socket,
    tls: Option<Tls>,
}

impl Reactor for Reading {
    type TcpStream = Readable<Box<dyn Wire>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.tokio.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let Self { socket, tls, .. } = self.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let handle = Socket::handle(&stream)?;
            let stream = over(stream, tls.as_ref()).await?;
            socket.keep(handle);
            Ok(Readable::new(stream))
        }
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
    /// So much is written, and has not left us yet.
    unsent: usize,
    /// The largest frame that the broker agreed to. It keeps to that but for headers: to what a sender wrote it adds its own.
    frame_max: Option<usize>,
}

impl<S> Readable<S> {
    fn new(stream: S) -> Self {
        Self { stream, buffer: vec![0; BUFFER_BYTES], taken: 0, mended: 0, filled: 0, unsent: 0, frame_max: None }
    }
}

impl<S: AsyncRead + Unpin> futures_io::AsyncRead for Readable<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, buffer, taken, mended, filled, frame_max, .. } = self.get_mut();
        while taken == mended {
            buffer.copy_within(*taken..*filled, 0);
            (*filled, *taken, *mended) = (*filled - *taken, 0, 0);
            if *filled == buffer.len() {
                buffer.resize(2 * buffer.len(), 0);
            }
            let mut space = ReadBuf::new(&mut buffer[*filled..]);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut space))?;
            let count = space.filled().len();
            if count == 0 && *filled == 0 {
                return Poll::Ready(Ok(0));
            }
            *filled += count;
            // At the end, what is left is no whole frame.
            *mended = if count == 0 { *filled } else { mend_frames(&mut buffer[..*filled], frame_max) };
        }
        let count = out.len().min(*mended - *taken);
        out[..count].copy_from_slice(&buffer[*taken..*taken + count]);
        *taken += count;
        Poll::Ready(Ok(count))
    }
}

/// What is written is with the kernel, and goes out even where the connection is cut right after. (TLS would keep some of it to
/// itself, and the library takes an acknowledgement that was written for one that is on its way.)
impl<S: AsyncWrite + Unpin> futures_io::AsyncWrite for Readable<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, unsent, .. } = self.get_mut();
        // Whoever asks again after it was not sent asks with the same bytes.
        if *unsent == 0 {
            *unsent = ready!(Pin::new(&mut *stream).poll_write_vectored(context, slices))?;
        }
        ready!(Pin::new(stream).poll_flush(context))?;
        Poll::Ready(Ok(mem::take(unsent)))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Makes the whole frames readable that stand at the front; says how many bytes these are.
fn mend_frames(bytes: &mut [u8], frame_max: &mut Option<usize>) -> usize {
    let mut mended = 0;
    while let Some(head) = bytes[mended..].first_chunk::<FRAME_HEAD_BYTES>() {
        let [kind, _, _, size @ ..] = *head;
        if !matches!(kind, METHOD_FRAME | HEADER_FRAME | BODY_FRAME | HEARTBEAT_FRAME) {
            // No frame: whoever is there speaks another protocol, or another version. The library says so.
            return bytes.len();
        }
        let (begin, size) = (mended + FRAME_HEAD_BYTES, u32::from_be_bytes(size) as usize);
        // Behind the payload is one byte more.
        let Some(frame @ [.., _]) = bytes.get_mut(mended..=begin + size) else { break };
        let payload = &mut frame[FRAME_HEAD_BYTES..][..size];
        match kind {
            METHOD_FRAME => {
                *frame_max = frame_max_of(payload).or(*frame_max);
                mend_method(payload);
            }
            HEADER_FRAME => {
                mend_content_header(payload);
                if frame_max.is_some_and(|max| frame.len() > max) {
                    shorten(frame);
                }
            }
            _ => (),
        }
        mended = begin + size + 1;
    }
    mended
}

/// Leaves out the headers of this frame, and fills what becomes free with heartbeats.
fn shorten(frame: &mut [u8]) {
    let size = frame.len() - HEARTBEAT.len();
    let left = drop_headers(&mut frame[FRAME_HEAD_BYTES..][..size], HEARTBEAT.len());
    frame[FRAME_HEAD_BYTES - 4..FRAME_HEAD_BYTES]
        .copy_from_slice(&u32::try_from(left).expect("less than it was").to_be_bytes());
    frame[FRAME_HEAD_BYTES + left] = FRAME_END;
    for heartbeat in frame[FRAME_HEAD_BYTES + left + 1..].chunks_exact_mut(HEARTBEAT.len()) {
        heartbeat.copy_from_slice(&HEARTBEAT);
    }
}

#[cfg(test)]
mod tests;
