//! One request over HTTP/1.1 on a connection of its own, and what can become of it.
//!
//! Knows nothing of purchases. Invariant: whatever goes wrong is one of [`FailureKind`]'s kinds.

use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::FailureKind;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// No answer.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: FailureKind,
    /// For people.
    pub(super) text: String,
}

/// What was asked, and is not yet answered: kept outside the future, which a buyer out of patience drops.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Connecting {
    /// How long it took to connect, once that was done.
    pub(super) took: Option<Duration>,
}

/// Asks, and waits for the whole answer.
///
/// # Errors
/// There is none.
pub(super) async fn exchange(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
    connecting: &mut Connecting,
) -> Result<(StatusCode, Bytes), Fault> {
    let started = Instant::now();
    let stream = TcpStream::connect(address).await.map_err(|error| fault_of(&error))?;
    connecting.took = Some(started.elapsed());
    stream.set_nodelay(true).map_err(|error| fault_of(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| fault_of(&error))?;
    let asking = async move {
        let answer = sender.send_request(request).await.map_err(|error| fault_of(&error))?;
        let (status, body) = (answer.status(), Limited::new(answer.into_body(), ANSWER_BYTES_MAX));
        let body = body.collect().await.map_err(|error| fault_of(error.as_ref()))?;
        Ok((status, body.to_bytes()))
    };
    // The connection is driven until the sender is gone; whatever it fails of, the answer tells.
    let (answered, _ended) = tokio::join!(asking, connection);
    answered
}

/// `method path` with this JSON body, for one connection.
pub(super) fn request(address: SocketAddr, method: Method, path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .header(CONTENT_TYPE, "application/json");
    request.body(Full::from(body)).expect("constant names and a socket's address are valid headers")
}

fn fault_of(error: &(dyn Error + 'static)) -> Fault {
    let causes = || std::iter::successors(Some(error), |cause: &&(dyn Error + 'static)| (*cause).source());
    let text = causes().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let kind = causes().find_map(kind_of).unwrap_or(FailureKind::Other);
    Fault { kind, text }
}

/// What this cause alone says.
fn kind_of(cause: &(dyn Error + 'static)) -> Option<FailureKind> {
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        // `io::ErrorKind` is open-ended, so a `match` could not be exhaustive.
        let is = |kinds: &[ErrorKind]| kinds.contains(&error.kind());
        let cut = [
            ErrorKind::ConnectionReset,
            ErrorKind::ConnectionAborted,
            ErrorKind::BrokenPipe,
            ErrorKind::NotConnected,
            ErrorKind::UnexpectedEof,
        ];
        return if is(&[ErrorKind::ConnectionRefused]) {
            Some(FailureKind::Refused)
        } else if is(&cut) {
            Some(FailureKind::Reset)
        } else if is(&[ErrorKind::TimedOut]) {
            Some(FailureKind::TimedOut)
        } else {
            None
        };
    }
    let error = cause.downcast_ref::<hyper::Error>()?;
    let is_cut = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
    is_cut.then_some(FailureKind::Reset)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_error_of_the_system_has_its_kind() {
        for (error, kind) in [
            (ErrorKind::ConnectionRefused, FailureKind::Refused),
            (ErrorKind::ConnectionReset, FailureKind::Reset),
            (ErrorKind::BrokenPipe, FailureKind::Reset),
            (ErrorKind::TimedOut, FailureKind::TimedOut),
            (ErrorKind::AddrNotAvailable, FailureKind::Other),
        ] {
            assert_eq!(fault_of(&io::Error::from(error)).kind, kind, "{error:?}");
            let within = io::Error::other(io::Error::from(error));
            assert_eq!(fault_of(&within).kind, FailureKind::Other, "io::Error hides what it wraps: {error:?}");
        }
    }
}
