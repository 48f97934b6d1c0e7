//! The crowd: every buyer at once, each on a connection of his own, with no patience to spare.
//!
//! Knows nothing of how a door decides. Invariant: each buyer comes once, nobody tries again, and each has exactly one
//! [`Visit`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::FailureKind;
use super::http::{Connecting, Fault, exchange, request};
use super::server::Form;

/// Between two looks at how late this process is.
const LAG_PAUSE: Duration = Duration::from_millis(10);

/// How one buyer fared. Times are from the first moment of the crowd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a process of the crowd hands back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Visits {
    /// In the forms' order.
    pub(super) visits: Vec<Visit>,
    /// The longest that something waited for this very process to get to it: what the buyers saw that late, the door may
    /// have done in time.
    pub(super) lag: Duration,
}

/// Sends everybody to this address at this time, and returns when the last one has left.
///
/// # Errors
/// A buyer's own code broke.
pub(super) async fn come(
    address: SocketAddr,
    forms: &[Form],
    patience: Duration,
    at: SystemTime,
) -> anyhow::Result<Visits> {
    let bodies: Vec<Vec<u8>> = forms.iter().map(serde_json::to_vec).collect::<Result<_, _>>()?;
    let mut crowd = JoinSet::new();
    sleep(at.duration_since(SystemTime::now()).unwrap_or_default()).await;
    let start = Start { late: SystemTime::now().duration_since(at).unwrap_or_default(), at: Instant::now() };
    let lag = Arc::new(Mutex::new(Duration::ZERO));
    let mut watching = JoinSet::new();
    watching.spawn(watch_lag(Arc::clone(&lag)));
    for (index, body) in bodies.into_iter().enumerate() {
        crowd.spawn(async move { (index, visit(address, body, patience, start).await) });
    }
    let mut visits: Vec<(usize, Visit)> = Vec::with_capacity(forms.len());
    while let Some(visited) = crowd.join_next().await {
        visits.push(visited.context("a buyer broke")?);
    }
    drop(watching);
    visits.sort_by_key(|(index, _)| *index);
    let lag = *lag.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Visits { visits: visits.into_iter().map(|(_, visit)| visit).collect(), lag })
}

/// Notes how much later than asked for it is woken, at the most: all that is ready comes before it.
async fn watch_lag(most: Arc<Mutex<Duration>>) {
    loop {
        let due = Instant::now() + LAG_PAUSE;
        sleep(LAG_PAUSE).await;
        let mut most = most.lock().unwrap_or_else(PoisonError::into_inner);
        *most = most.max(due.elapsed());
    }
}

/// The first moment of the crowd. It is the same for all of its processes, which know it by the clock on the wall alone;
/// from there on, time is measured by the steady one.
#[derive(Debug, Clone, Copy)]
struct Start {
    late: Duration,
    at: Instant,
}

impl Start {
    fn elapsed(self) -> Duration {
        self.late + self.at.elapsed()
    }
}

async fn visit(address: SocketAddr, body: Vec<u8>, patience: Duration, start: Start) -> Visit {
    let came = start.elapsed();
    let mut connecting = Connecting::default();
    let asking = exchange(address, request(address, Method::POST, "/purchase", body), &mut connecting);
    let answered = timeout(patience, asking).await;
    let left = start.elapsed();
    let end = match answered {
        // On a busy machine an answer may be found before it is found that it is too late.
        Ok(_) if left.saturating_sub(came) > patience => too_late(),
        Ok(Ok((status, body))) => end(status, &body),
        Ok(Err(Fault { kind, text })) => End::Failed(kind, text),
        Err(_) => too_late(),
    };
    Visit { came, connecting: connecting.took, left, end }
}

fn too_late() -> End {
    End::Failed(FailureKind::TimedOut, "no answer in time".to_owned())
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

    use uuid::Uuid;

    use super::*;

    /// How three buyers fare where the server does this to each connection.
    async fn kinds(serve: impl AsyncFn(TcpStream), patience: Duration) -> Vec<Option<FailureKind>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let forms = forms();
        let serving = async {
            loop {
                serve(listener.accept().await.unwrap().0).await;
            }
        };
        tokio::select! {
            come = come(address, &forms, patience, SystemTime::now()) => come.unwrap().visits.iter().map(kind).collect(),
            () = serving => unreachable!("it serves for ever"),
        }
    }

    fn forms() -> Vec<Form> {
        let quantity = std::num::NonZeroU16::MIN;
        let form = |buyer| Form { request_id: Uuid::now_v7(), item: "i".into(), buyer: format!("{buyer}"), quantity };
        (0..3).map(form).collect()
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
        let visits = come(address, &forms(), PATIENCE, SystemTime::now()).await.unwrap().visits;
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
                // Enough for the whole request.
                assert!(stream.read(&mut [0; 4_096]).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            assert_eq!(kinds(serve, PATIENCE).await, [kind; 3], "{status}");
        }
    }
}
