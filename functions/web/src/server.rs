//! Connections: how many, how long they may take to say what they want, and how they end.

use crate::problem::Problem;
use anyhow::Context;
use axum::Router;
use axum::response::IntoResponse;
use futures_util::poll;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shared::config::Unusable;
use shared::worker::Service;
use socket2::SockRef;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

/// How many connections the system takes that we have not yet, where it may.
const BACKLOG: u32 = 4_096;
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";
/// How long a request may take to begin, and its headers to come; and how long a connection may be idle.
const HEADERS_SECONDS_MAX: u64 = 10;
/// What is read of them at most; what is more than the door lets pass, and less than this, is answered with a sentence.
const HEADERS_BYTES_READ_MAX: usize = 20 * 1024;
const HEADERS_MAX: usize = 128;
/// How many connections more than the most are told so. Whoever comes on top of these is cut off.
const TOLD_MAX: usize = 1_000;
/// File descriptors that are not for clients.
const DESCRIPTORS_OF_OURS: u64 = 100;
/// How long what a client is sent may be without TCP's acknowledgement, or wait because the client reads nothing (tcp(7)): then the
/// connection ends, and what it has open here with it.
const UNREAD_SECONDS_MAX: u64 = 20;
/// How many are read from at the same time. More take the order from those that come at once, fewer the time from newcomers where
/// others keep their connections busy.
const READ_AT_ONCE: usize = 64;
/// By the first the head of a request is read, by the second its body, which is there as a rule. A turn waits for nobody.
const POLLS_A_TURN: u32 = 2;
/// How long a drain may take before connections are cut.
const DRAIN_SECONDS_MAX: u64 = 10;
/// How long nobody is let in after that has failed.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn listen(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    let listening = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Each connection has it from here.
        SockRef::from(&socket).set_tcp_user_timeout(Some(Duration::from_secs(UNREAD_SECONDS_MAX)))?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let listener = listening().map_err(|error| Unusable(format!("listen on {address} ({option}): {error}")))?;
    let limit = fs::read_to_string(SOMAXCONN).ok().and_then(|text| text.trim().parse().ok());
    if let Some(limit) = limit.filter(|limit: &u32| *limit < BACKLOG) {
        tracing::warn!(
            limit,
            wanted = BACKLOG,
            "the system holds fewer connections for us than a crowd needs: net.core.somaxconn"
        );
    }
    tracing::info!(address = %listener.local_addr().context("ask where we listen")?, "listening");
    Ok(listener)
}

/// So many connections, or as many as the system lets us have.
pub(crate) fn connections_within(wanted: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard);
    let limit = usize::try_from(raised.saturating_sub(DESCRIPTORS_OF_OURS)).unwrap_or(usize::MAX).max(1);
    if limit < wanted + TOLD_MAX {
        tracing::warn!(limit, wanted, "the system lets us have fewer connections: RLIMIT_NOFILE");
    }
    wanted.min(limit.saturating_sub(TOLD_MAX).max(limit / 2))
}

/// Lets everybody in until told to stop; then finishes what is open, within a limit.
pub(crate) async fn serve(listener: TcpListener, routes: Router, connections_max: usize, service: &Service) {
    let full =
        Router::new().fallback(async || ([("connection", "close")], Problem::TooManyConnections).into_response());
    let turns = Arc::new(Semaphore::new(READ_AT_ONCE));
    let (mut connections, mut stopped) = (JoinSet::new(), std::pin::pin!(service.stopped()));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < connections_max => {
                    connections.spawn(connection(stream, routes.clone(), service.clone(), Arc::clone(&turns)));
                }
                Ok((stream, _)) if connections.len() < connections_max + TOLD_MAX => {
                    connections.spawn(connection(stream, full.clone(), service.clone(), Arc::clone(&turns)));
                }
                Ok(_) => (),
                // Out of file descriptors, say: it would fail again at once.
                Err(error) => {
                    tracing::warn!(%error, "nobody can be let in");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => (),
            () = &mut stopped => break,
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(Duration::from_secs(DRAIN_SECONDS_MAX), drained).await.is_err() {
        tracing::warn!("clients did not let us finish in time; they are cut off");
    }
}

/// Whether a client has sent something in time. It is looked for: that a socket is new counts as ready, too.
async fn has_asked(stream: &TcpStream) -> bool {
    let mut first = [0];
    let peeked = timeout(Duration::from_secs(HEADERS_SECONDS_MAX), stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1..)))
}

/// What comes first is read first. In a crowd, connections that have just been accepted would stand in front of those that were here
/// long before, and whose requests have come meanwhile. So whoever has sent something waits for their turn, in the order in which
/// that was found; which is quick, as nothing of it is read.
async fn connection(stream: TcpStream, routes: Router, service: Service, turns: Arc<Semaphore>) {
    // An answer is one small packet, and somebody waits for it.
    drop(stream.set_nodelay(true));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(HEADERS_SECONDS_MAX));
    // What waits for a client that does not read has as much room.
    builder.max_header_size(HEADERS_BYTES_READ_MAX).max_buf_size(HEADERS_BYTES_READ_MAX).max_headers(HEADERS_MAX);
    let is_there = tokio::select! { is_there = has_asked(&stream) => is_there, () = service.stopped() => true };
    if !is_there {
        return;
    }
    let mut connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Ok(_turn) = turns.acquire().await {
        for number in 0..POLLS_A_TURN {
            if number > 0 {
                yield_now().await;
            }
            if poll!(&mut connection).is_ready() {
                return;
            }
        }
    }
    let served = tokio::select! {
        served = &mut connection => served,
        () = service.stopped() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    // A connection that was merely idle has nobody who waits for an answer.
    if served.is_err_and(|error| error.is_timeout()) {
        let parts = connection.into_parts();
        if !parts.read_buf.is_empty() {
            drop(parts.io.into_inner().write_all(&Problem::TooSlow.bytes()).await);
        }
    }
}
