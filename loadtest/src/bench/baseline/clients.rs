//! The clients, in a process of their own: every buyer at once, on a connection of their own; nobody comes twice, and each
//! has one [`Visit`].

use crate::failure::Failure;
use crate::http::{Connection, Unanswered, raise_open_files};
use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use uuid::Uuid;

/// Between two looks at how late the clients' process is.
const LAG_PAUSE: Duration = Duration::from_millis(10);

/// How many come where, and for what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Clients {
    pub(super) address: SocketAddr,
    pub(super) item: String,
    pub(super) buyers: u32,
    pub(super) timeout: Duration,
}

/// What a buyer sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Purchase {
    /// A load tester that says the same each time has none.
    #[serde(default = "Uuid::now_v7")]
    pub(super) request_id: Uuid,
    pub(super) item: String,
    pub(super) buyer: String,
    pub(super) quantity: i64,
}

/// What became of a buyer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    /// 200
    Sold,
    /// 410
    SoldOut,
    /// 409: the server lost the race for the row until its attempts were used up.
    Conflict,
    /// 503: the server had no connection to the database in time, or waited too long for a lock.
    Unavailable,
    /// No answer, or none within the buyer's time.
    Unanswered(Unanswered),
    /// Another status.
    Other,
}

/// How one buyer fared. Times are from the moment when everybody begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Visit {
    pub(super) request_id: Uuid,
    /// When they began to connect.
    pub(super) came: Duration,
    /// How long it took to connect, where they were answered.
    pub(super) connecting: Duration,
    /// When they knew, or gave up.
    pub(super) left: Duration,
    pub(super) ending: Ending,
}

/// Sends everybody at once, and returns when the last one has left; with the longest that something waited for the clients'
/// process to get to it: what the buyers saw that late, the server may have done in time.
pub(super) async fn come(program: &Path, clients: &Clients) -> Result<(Vec<Visit>, Duration), Failure> {
    // Here each connection has its other end.
    let room = raise_open_files(clients.buyers).context("raise the limit of open files")?;
    if room < clients.buyers {
        tracing::warn!("{room} buyers come at once, the others when somebody leaves: raise `ulimit -Hn`");
    }
    let clients = serde_json::to_string(clients).map_err(|error| Failure::Broken(error.into()))?;
    let mut command = Command::new(program);
    command.arg("baseline-clients").arg(clients).stdin(Stdio::null()).kill_on_drop(true);
    let ended = command.output().await.context("start the clients").map_err(Failure::Configuration)?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        let text = anyhow!("the clients of the HTTP server ended ({}):\n{said}", ended.status);
        return Err(Failure::of_worker(ended.status, text));
    }
    Ok(serde_json::from_slice(&ended.stdout).context("read what the clients saw")?)
}

/// Is that process.
pub(crate) async fn serve(clients: &str) -> Result<(), Failure> {
    let visits = async {
        let clients = serde_json::from_str(clients).context("`loadtest compare` starts this")?;
        // On a thread that has the buyers' work to do, so that the lag is theirs.
        anyhow::Ok(serde_json::to_string(&tokio::spawn(visit_all(clients)).await??)?)
    };
    println!("{}", visits.await?);
    Ok(())
}

async fn visit_all(Clients { address, item, buyers, timeout }: Clients) -> anyhow::Result<(Vec<Visit>, Duration)> {
    // A connection is an open file: where there may be 20,000 of them, the last few of 20,000 buyers wait for the first.
    let room = Arc::new(Semaphore::new(raise_open_files(buyers)?.max(1) as usize));
    let (start, mut visiting) = (Instant::now(), JoinSet::new());
    for number in 0..buyers {
        let (request_id, item, buyer) = (Uuid::now_v7(), item.clone(), format!("buyer-{number}"));
        let (purchase, room) = (Purchase { request_id, item, buyer, quantity: 1 }, Arc::clone(&room));
        visiting.spawn(async move {
            let _room = room.acquire().await;
            visit(address, purchase, timeout, start).await
        });
    }
    let (mut visits, mut lag, mut looks) = (Vec::new(), Duration::ZERO, interval(LAG_PAUSE));
    loop {
        tokio::select! {
            visit = visiting.join_next() => match visit {
                Some(visit) => visits.push(visit?),
                None => return Ok((visits, lag)),
            },
            due = looks.tick() => lag = lag.max(due.elapsed()),
        }
    }
}

async fn visit(address: SocketAddr, purchase: Purchase, limit: Duration, start: Instant) -> Visit {
    let came = start.elapsed();
    let body = serde_json::to_vec(&purchase).expect("a purchase is JSON");
    let answered = timeout(limit, exchange(address, "POST /purchase", &body)).await;
    let left = start.elapsed();
    // On a busy machine an answer may be found before it is found that it is too late.
    let in_time = answered.ok().filter(|_| left.saturating_sub(came) <= limit);
    let (ending, connecting) = match in_time {
        Some(Ok((status, connecting))) => (Ending::of_status(status), connecting),
        Some(Err(error)) => (Ending::Unanswered(Unanswered::of(error.kind())), Duration::ZERO),
        None => (Ending::Unanswered(Unanswered::TimedOut), Duration::ZERO),
    };
    Visit { request_id: purchase.request_id, came, connecting, left, ending }
}

/// Asks on a connection of its own, and waits for the whole answer; returns its status, and how long connecting took.
pub(super) async fn exchange(address: SocketAddr, method_and_path: &str, body: &[u8]) -> io::Result<(u16, Duration)> {
    let started = Instant::now();
    let mut connection = Connection::open(address, &address.to_string()).await?;
    let connecting = started.elapsed();
    connection.send(method_and_path, "connection: close\r\n", body).await?;
    Ok((connection.answer().await?.status, connecting))
}

impl Ending {
    fn of_status(status: u16) -> Self {
        match status {
            200 => Self::Sold,
            410 => Self::SoldOut,
            409 => Self::Conflict,
            503 => Self::Unavailable,
            _ => Self::Other,
        }
    }

    /// Whether the server answered with a verdict, or why there is none.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, Self::Sold | Self::SoldOut | Self::Conflict | Self::Unavailable)
    }

    /// The kind, as results have it; `None` for a verdict.
    pub(super) fn failure(self) -> Option<&'static str> {
        match self {
            Self::Sold | Self::SoldOut => None,
            Self::Conflict => Some("conflict"),
            Self::Unavailable => Some("unavailable"),
            Self::Unanswered(why) => Some(why.as_str()),
            Self::Other => Some("other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// How three buyers fare where each connection is answered so, and then closed; or kept, where there is no answer.
    async fn endings(answer: Option<&'static str>, timeout: Duration) -> Vec<Ending> {
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        for _ in 0..3 {
            let listener = Arc::clone(&listener);
            serving.spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                // Enough for the whole request.
                assert!(stream.read(&mut [0; 4_096]).await.unwrap() > 0);
                let Some(answer) = answer else { return std::future::pending().await };
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
        }
        let clients = Clients { address, item: "i".into(), buyers: 3, timeout };
        visit_all(clients).await.unwrap().0.into_iter().map(|visit| visit.ending).collect()
    }

    #[tokio::test]
    async fn every_way_to_leave_is_told_apart() {
        let long = Duration::from_secs(60);
        for (answer, timeout, ending) in [
            (Some("HTTP/1.1 200 OK\r\n\r\nsold"), long, Ending::Sold),
            (Some("HTTP/1.1 410 Gone\r\n\r\n"), long, Ending::SoldOut),
            (Some("HTTP/1.1 409 Conflict\r\n\r\n"), long, Ending::Conflict),
            (Some("HTTP/1.1 503 Service Unavailable\r\n\r\n"), long, Ending::Unavailable),
            (Some("HTTP/1.1 500 Internal Server Error\r\n\r\n"), long, Ending::Other),
            (Some(""), long, Ending::Unanswered(Unanswered::Reset)),
            (None, Duration::from_millis(50), Ending::Unanswered(Unanswered::TimedOut)),
        ] {
            assert_eq!(endings(answer, timeout).await, [ending; 3], "{answer:?}");
        }
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let refused = exchange(closed, "GET /", &[]).await.unwrap_err();
        assert_eq!(Unanswered::of(refused.kind()), Unanswered::Refused);
    }
}
