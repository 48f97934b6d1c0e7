//! The crowd: every buyer at once, each on a connection of his own, with no patience to spare.
//!
//! Knows nothing of how a door decides. Invariant: each buyer comes once, nobody tries again, and each has exactly one
//! [`Visit`].

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::{Method, StatusCode};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::FailureKind;
use super::http::{Connecting, Fault, exchange, request};
use super::server::Form;
use crate::failure::Failure;
use crate::scenario::Schedule;

/// How one buyer fared. Times are from the first moment of the crowd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visit {
    /// When he began to connect.
    pub(super) came: Duration,
    /// How long it took to connect; `None` where that was never done.
    pub(super) connecting: Option<Duration>,
    /// When he knew, or gave up.
    pub(super) left: Duration,
    /// What became of him.
    pub(super) end: End,
}

/// What became of a buyer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// 200
    Sold,
    /// 410
    SoldOut,
    /// Anything else, and what it said.
    Failed(FailureKind, String),
}

impl End {
    /// Whether the server answered.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::Sold | Self::SoldOut | Self::Failed(FailureKind::Conflict | FailureKind::Unavailable, _) => true,
            Self::Failed(FailureKind::Refused | FailureKind::Reset | FailureKind::TimedOut | FailureKind::Other, _) => {
                false
            }
        }
    }
}

/// Sends everybody to this address, and returns when the last one has left; visits are in the schedule's order.
///
/// # Errors
/// A buyer's own code broke.
pub(super) async fn come(address: SocketAddr, schedule: &Schedule, patience: Duration) -> Result<Vec<Visit>, Failure> {
    let forms: Vec<Vec<u8>> = forms(schedule).context("write what the buyers send").map_err(Failure::Broken)?;
    let mut crowd = JoinSet::new();
    let start = Instant::now();
    for (index, form) in forms.into_iter().enumerate() {
        crowd.spawn(async move { (index, visit(address, form, patience, start).await) });
    }
    let mut visits: Vec<(usize, Visit)> = Vec::with_capacity(schedule.requests.len());
    while let Some(visited) = crowd.join_next().await {
        visits.push(visited.context("a buyer broke").map_err(Failure::Broken)?);
    }
    visits.sort_by_key(|(index, _)| *index);
    Ok(visits.into_iter().map(|(_, visit)| visit).collect())
}

fn forms(schedule: &Schedule) -> serde_json::Result<Vec<Vec<u8>>> {
    let form = |(index, due): (usize, &crate::scenario::Due)| {
        serde_json::to_vec(&Form {
            request_id: due.request_id,
            item: schedule.items[due.item as usize].id.clone(),
            buyer: Schedule::buyer(index),
            quantity: NonZeroU16::MIN,
        })
    };
    schedule.requests.iter().enumerate().map(form).collect()
}

async fn visit(address: SocketAddr, form: Vec<u8>, patience: Duration, start: Instant) -> Visit {
    let came = start.elapsed();
    let mut connecting = Connecting::default();
    let asking = exchange(address, request(address, Method::POST, "/purchase", form), &mut connecting);
    let answered = timeout(patience, asking).await;
    let end = match answered {
        Ok(Ok((status, body))) => end(status, &body),
        Ok(Err(Fault { kind, text })) => End::Failed(kind, text),
        Err(_) => End::Failed(FailureKind::TimedOut, "no answer in time".to_owned()),
    };
    Visit { came, connecting: connecting.took, left: start.elapsed(), end }
}

fn end(status: StatusCode, body: &[u8]) -> End {
    let said = || format!("{status}: {}", String::from_utf8_lossy(body));
    match status {
        StatusCode::OK => End::Sold,
        StatusCode::GONE => End::SoldOut,
        StatusCode::CONFLICT => End::Failed(FailureKind::Conflict, said()),
        StatusCode::SERVICE_UNAVAILABLE => End::Failed(FailureKind::Unavailable, said()),
        // A status is a number, of which the doors use these.
        _ => End::Failed(FailureKind::Other, said()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::scenario::Scenario;

    /// How three buyers fare where the server does this to each connection.
    async fn kinds(serve: impl AsyncFn(TcpStream), patience: Duration) -> Vec<Option<FailureKind>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let schedule = schedule();
        let serving = async {
            loop {
                serve(listener.accept().await.unwrap().0).await;
            }
        };
        tokio::select! {
            visits = come(address, &schedule, patience) => visits.unwrap().iter().map(kind).collect(),
            () = serving => unreachable!("it serves for ever"),
        }
    }

    fn schedule() -> Schedule {
        Schedule::new(&Scenario { buyers: 3, items: 1, stock: 1, quantities: 1..=1, rate: 0.0, seed: 1 }, "t")
    }

    fn kind(visit: &Visit) -> Option<FailureKind> {
        match &visit.end {
            End::Failed(kind, _) => Some(*kind),
            End::Sold | End::SoldOut => None,
        }
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn where_nobody_listens_everybody_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let visits = come(address, &schedule(), PATIENCE).await.unwrap();
        assert_eq!(visits.iter().map(kind).collect::<Vec<_>>(), [Some(FailureKind::Refused); 3]);
        assert!(visits.iter().all(|visit| visit.connecting.is_none()), "{visits:?}");
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_without_an_answer_is_a_reset() {
        let kinds = kinds(async |mut stream| drop(stream.read(&mut [0; 1]).await), PATIENCE).await;
        assert_eq!(kinds, [Some(FailureKind::Reset); 3]);
    }

    #[tokio::test]
    async fn a_server_that_answers_too_late_has_not_answered() {
        let open = std::cell::RefCell::new(Vec::new());
        let kinds = kinds(async |stream| open.borrow_mut().push(stream), Duration::from_millis(50)).await;
        assert_eq!(kinds, [Some(FailureKind::TimedOut); 3]);
    }

    #[tokio::test]
    async fn what_the_server_says_decides() {
        for (status, kind) in [
            ("200 OK", None),
            ("410 Gone", None),
            ("409 Conflict", Some(FailureKind::Conflict)),
            ("503 Service Unavailable", Some(FailureKind::Unavailable)),
            ("500 Internal Server Error", Some(FailureKind::Other)),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            let serve = async |mut stream: TcpStream| {
                stream.read(&mut [0; 4_096]).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            assert_eq!(kinds(serve, PATIENCE).await, [kind; 3], "{status}");
        }
    }
}
