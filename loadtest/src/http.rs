//! HTTP/1.1, as a client speaks it. By hand, but for reading what is answered: it is the socket that says when a request was on its
//! way, how long connecting took, and how a connection failed.

use httparse::{EMPTY_HEADER, Header, Response, Status};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 32;
/// What a process has open beside its connections, generously.
const FILES_BESIDE: u64 = 64;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Unanswered {
    /// Nobody listens (ECONNREFUSED).
    Refused,
    /// The connection was closed, or reset, before the answer.
    Reset,
    TimedOut,
    /// No free port, no free file descriptor, no HTTP.
    Other,
}

impl Unanswered {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the standard library may add kinds")]
    pub(crate) fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::NotConnected | ErrorKind::UnexpectedEof => Self::Reset,
            ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Other,
        }
    }

    /// As results have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Other => "other",
        }
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    host: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Where to ask for what was not known yet.
    pub(crate) location: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    /// To this address, by this name.
    pub(crate) async fn open(address: SocketAddr, host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host: host.to_owned() })
    }

    /// Returns when all of it is on its way. `headers` are whole lines.
    pub(crate) async fn send(&mut self, method_and_path: &str, headers: &str, body: &[u8]) -> io::Result<()> {
        let (host, length) = (&self.host, body.len());
        let head = format!(
            "{method_and_path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        );
        self.stream.write_all(&[head.as_bytes(), body].concat()).await
    }

    /// Waits for the whole answer.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        let mut received = Vec::with_capacity(1_024);
        loop {
            let is_over = self.stream.read_buf(&mut received).await? == 0;
            if let Some(answer) = read(&received, is_over)? {
                return Ok(answer);
            }
            if is_over {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if received.len() > ANSWER_BYTES_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }
}

/// What was answered, if this is all of it: as much as is announced, or all until the connection is over.
fn read(received: &[u8], is_over: bool) -> io::Result<Option<Answer>> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut response = Response::new(&mut headers);
    let parsed = response.parse(received).map_err(|_| ErrorKind::InvalidData)?;
    let (Status::Complete(head), Some(status)) = (parsed, response.code) else { return Ok(None) };
    let value = |name: &str| value_of(response.headers, name);
    let body = match value("content-length").map(str::parse::<usize>) {
        Some(length) => received[head..].get(..length.map_err(|_| ErrorKind::InvalidData)?),
        None => is_over.then_some(&received[head..]),
    };
    let location = value("location").map(ToOwned::to_owned);
    Ok(body.map(|body| Answer { status, location, body: body.to_vec() }))
}

fn value_of<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok()
}

/// As far as so many connections need it, and no further than to the hard limit; returns how many of them there may be.
pub(crate) fn raise_open_files(connections: u32) -> nix::Result<u32> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let files = hard.min(u64::from(connections) + FILES_BESIDE).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, files, hard)?;
    Ok(u32::try_from(files.saturating_sub(FILES_BESIDE)).map_or(connections, |room| room.min(connections)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_what_it_announces_or_at_the_end_of_the_connection() {
        let answer = |status, location: Option<&str>, body: &str| {
            Some(Answer { status, location: location.map(str::to_owned), body: body.as_bytes().to_vec() })
        };
        for (received, is_over, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsold", false, answer(200, None, "sold")),
            (
                "HTTP/1.1 202 Accepted\r\nLocation: /p/1\r\nContent-Length: 0\r\n\r\n",
                false,
                answer(202, Some("/p/1"), ""),
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nsold", true, None),
            ("HTTP/1.1 200 OK\r\n\r\nsold", false, None),
            ("HTTP/1.1 200 OK\r\n\r\nsold", true, answer(200, None, "sold")),
            ("HTTP/1.1 200 OK\r\nconte", false, None),
            ("", true, None),
        ] {
            assert_eq!(read(received.as_bytes(), is_over).unwrap(), expected, "{received:?}");
        }
        for wrong in ["SSH-2.0\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"] {
            assert_eq!(read(wrong.as_bytes(), false).unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }
}
