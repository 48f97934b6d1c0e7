//! The clients: every buyer at once, each on a connection of their own; nobody comes twice, and each has one [`Visit`].

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::process::{Process, processes_for, received};
use super::server::{Baseline, Purchase};
use crate::failure::Failure;

/// From the word to the first buyer: long enough for every process to be there.
const RUN_UP: Duration = Duration::from_millis(500);
/// The subcommand that is a process of clients.
const CLIENTS: &str = "baseline-clients";
/// Between two looks at how late this process is.
const LAG_PAUSE: Duration = Duration::from_millis(10);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// How one buyer fared. Times are from the moment when everybody begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Visit {
    pub(super) request_id: Uuid,
    /// When they began to connect.
    pub(super) came: Duration,
    /// How long it took to connect; `None` where that was never done.
    pub(super) connecting: Option<Duration>,
    /// When they knew, or gave up.
    pub(super) left: Duration,
    pub(super) ending: Ending,
}

/// What became of a buyer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    /// 200
    Sold,
    /// 410
    SoldOut,
    /// 409: the server lost the race for the row until its attempts were used up.
    Conflict,
    /// 503: the server had no connection to the database in time, or waited too long for a lock.
    Unavailable,
    /// Nobody listens (ECONNREFUSED).
    Refused,
    /// The connection was closed, or reset, before the answer.
    Reset,
    /// No answer within the buyer's time.
    TimedOut,
    /// Another status, no free port, no free file descriptor; and what it said.
    Other(String),
}

/// All of them, and the longest that something waited for our own process to get to it: what the buyers saw that
/// late, the server may have done in time.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Visits {
    pub(super) visits: Vec<Visit>,
    pub(super) lag: Duration,
}

/// Whom one process sends, and when.
#[derive(Serialize, Deserialize)]
struct Share {
    address: SocketAddr,
    item: String,
    buyers: u32,
    timeout: Duration,
    at: SystemTime,
}

/// Sends everybody to this address at once, from as many processes as it takes, and returns when the last one has left.
pub(super) async fn come(
    program: &Path,
    address: SocketAddr,
    item: &str,
    baseline: &Baseline,
) -> Result<Visits, Failure> {
    let (number, at) = (processes_for(baseline.buyers)?, SystemTime::now() + RUN_UP);
    let mut processes = Vec::new();
    for place in 0..number {
        let buyers = baseline.buyers / number + u32::from(place < baseline.buyers % number);
        let share = Share { address, item: item.to_owned(), buyers, timeout: baseline.timeout, at };
        processes.push(Process::start(program, CLIENTS, &share).await?);
    }
    let mut all = Visits::default();
    for process in processes {
        let (process, Visits { visits, lag }) = process.receive().await?;
        all.visits.extend(visits);
        all.lag = all.lag.max(lag);
        process.end().await?;
    }
    Ok(all)
}

/// Is one of the processes.
pub(crate) async fn serve() -> Result<(), Failure> {
    let share = received()?;
    let visits = send_all(share).await.and_then(|visits| Ok(serde_json::to_string(&visits)?));
    println!("{}", visits.map_err(Failure::Broken)?);
    Ok(())
}

async fn send_all(share: Share) -> anyhow::Result<Visits> {
    let Share { address, item, buyers, timeout, at } = share;
    sleep(at.duration_since(SystemTime::now()).unwrap_or_default()).await;
    // All processes know the moment by the clock on the wall alone; from there on, time is measured by the steady one.
    let late = SystemTime::now().duration_since(at).unwrap_or_default();
    let start = Instant::now().checked_sub(late).unwrap_or_else(Instant::now);
    let lag = Arc::new(AtomicU64::default());
    let mut watching = JoinSet::new();
    watching.spawn(watch_lag(Arc::clone(&lag)));
    let mut visiting = JoinSet::new();
    for number in 0..buyers {
        let (request_id, item, buyer) = (Uuid::now_v7(), item.clone(), format!("buyer-{number}"));
        visiting.spawn(visit(address, Purchase { request_id, item, buyer, quantity: 1 }, timeout, start));
    }
    let mut visits = Vec::with_capacity(visiting.len());
    while let Some(visit) = visiting.join_next().await {
        visits.push(visit.context("a buyer broke")?);
    }
    Ok(Visits { visits, lag: Duration::from_micros(lag.load(Ordering::Relaxed)) })
}

/// Notes how much later than asked for it is woken, at the most: all that is ready comes before it.
async fn watch_lag(most_us: Arc<AtomicU64>) {
    loop {
        let due = Instant::now() + LAG_PAUSE;
        sleep(LAG_PAUSE).await;
        most_us.fetch_max(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

async fn visit(address: SocketAddr, purchase: Purchase, limit: Duration, start: Instant) -> Visit {
    let came = start.elapsed();
    let body = serde_json::to_vec(&purchase).expect("a purchase is JSON");
    let mut connecting = None;
    let answered = timeout(limit, exchange(address, "POST /purchase", &body, &mut connecting)).await;
    let left = start.elapsed();
    let ending = match answered {
        // On a busy machine an answer may be found before it is found that it is too late.
        Ok(_) if left.saturating_sub(came) > limit => Ending::TimedOut,
        Ok(Ok((status, body))) => Ending::of_status(status, &body),
        Ok(Err(error)) => Ending::of_error(&error),
        Err(_) => Ending::TimedOut,
    };
    Visit { request_id: purchase.request_id, came, connecting, left, ending }
}

/// Asks over HTTP/1.1 on a connection of its own, and waits for the whole answer. By hand, for it is the socket that says
/// how long connecting took, and how a connection failed.
pub(super) async fn exchange(
    address: SocketAddr,
    method_and_path: &str,
    body: &[u8],
    connecting: &mut Option<Duration>,
) -> io::Result<(u16, String)> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    *connecting = Some(started.elapsed());
    stream.set_nodelay(true)?;
    let head = format!(
        "{method_and_path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    Ok((status.ok_or(ErrorKind::InvalidData)?, body.to_owned()))
}

impl Ending {
    fn of_status(status: u16, body: &str) -> Self {
        match status {
            200 => Self::Sold,
            410 => Self::SoldOut,
            409 => Self::Conflict,
            503 => Self::Unavailable,
            other => Self::Other(format!("{other}: {body}")),
        }
    }

    fn of_error(error: &io::Error) -> Self {
        // `io::ErrorKind` is open-ended, so a `match` could not be exhaustive.
        const CUT: [ErrorKind; 5] = [
            ErrorKind::ConnectionReset,
            ErrorKind::ConnectionAborted,
            ErrorKind::BrokenPipe,
            ErrorKind::NotConnected,
            ErrorKind::UnexpectedEof,
        ];
        let kind = error.kind();
        if kind == ErrorKind::ConnectionRefused {
            Self::Refused
        } else if CUT.contains(&kind) {
            Self::Reset
        } else if kind == ErrorKind::TimedOut {
            Self::TimedOut
        } else {
            Self::Other(format!("{kind:?}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests;
