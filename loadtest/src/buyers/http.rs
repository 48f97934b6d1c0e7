//! Buyers who come by HTTP: each is let in when their request is due, on a connection of their own or on one that is kept, and asks
//! until there is a verdict.
//!
//! A buyer who gets none at one door asks at the next, after a wait with full jitter, under the same Idempotency-Key: as a shop's page
//! does, or a load balancer in front of the doors. What they met instead of a verdict is counted.

use super::{Shared, State};
use crate::answers::Answers;
use crate::http::{Answer, Connection, Unanswered, raise_open_files};
use crate::orders::plan::{FollowUp, FollowUpKind};
use crate::result::DoorsReport;
use crate::schedule::Schedule;
use crate::workers::Door;
use anyhow::Context;
use shared::retry::RetryPolicy;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

/// How long a door is to wait for the verdict, and how long a buyer waits for the door.
const WAIT_SECONDS: u64 = 10;
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// A door ends what is idle for ten seconds, and at that very moment somebody may ask.
const STALE: Duration = Duration::from_secs(5);
const NOT_YET: u16 = 202;
const TOO_SLOW: u16 = 408;
const UNAVAILABLE: u16 = 503;

/// Where buyers ask, and over how many connections.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Those that are there at present.
    pub open: watch::Receiver<Vec<Door>>,
    /// So many, which are kept; `None`: each buyer has one of their own.
    pub connections: Option<u32>,
}

/// Lets in whoever has no verdict, each when they are due, and returns when everybody has one.
pub(super) async fn buy(
    doors: &Doors,
    shared: &Arc<Shared>,
    schedule: &Arc<Schedule>,
    start: Instant,
) -> anyhow::Result<()> {
    let unanswered = shared.state().answers.unanswered();
    let most = doors.connections.unwrap_or(u32::try_from(unanswered.len())?);
    let room = raise_open_files(most).context("raise the limit of open files")?;
    if room < most {
        tracing::warn!("{room} buyers ask at once, the others when somebody has a verdict: raise `ulimit -Hn`");
    }
    let (room, kept) = (Arc::new(Semaphore::new(room.max(1) as usize)), Arc::new(Mutex::new(Vec::new())));
    let mut buying = JoinSet::new();
    for index in unanswered {
        let at = start + schedule.requests[index].at;
        if at > Instant::now() {
            sleep_until(at.into()).await;
        }
        let permit = Arc::clone(&room).acquire_owned().await?;
        while let Some(bought) = buying.try_join_next() {
            bought?;
        }
        let (shared, kept) = (Arc::clone(shared), Arc::clone(&kept));
        let buyer = Buyer { doors: doors.clone(), shared, kept, attempts: index, _permit: permit };
        buying.spawn(buyer.buy(Asked::purchase(schedule, index)?));
    }
    while let Some(bought) = buying.join_next().await {
        bought?;
    }
    Ok(())
}

/// What is asked of a door.
struct Asked {
    index: usize,
    /// Or what follows up.
    is_purchase: bool,
    id: String,
    method_and_path: String,
    body: Vec<u8>,
}

impl Asked {
    fn purchase(schedule: &Schedule, index: usize) -> serde_json::Result<Self> {
        let due = &schedule.requests[index];
        let method_and_path = format!("POST /items/{}/purchases", schedule.items[due.item as usize].id);
        let (id, body) = (due.request_id.to_string(), schedule.body(&[index])?);
        Ok(Self { index, is_purchase: true, id, method_and_path, body })
    }

    fn follow_up(follow_up: &FollowUp) -> Self {
        let (order, body) = (follow_up.order_id, follow_up.body());
        let (method_and_path, body) = match follow_up.kind {
            FollowUpKind::Pay => (format!("POST /orders/{order}/payment"), body),
            FollowUpKind::Cancel => (format!("DELETE /orders/{order}"), Vec::new()),
        };
        let id = follow_up.request_id.to_string();
        Self { index: follow_up.index, is_purchase: false, id, method_and_path, body }
    }

    /// Where its sends are noted.
    fn answers<'a>(&self, state: &'a mut State) -> Option<&'a mut Answers> {
        match self.is_purchase {
            true => Some(&mut state.answers),
            false => state.follow_ups.as_mut().map(|follow_ups| &mut follow_ups.answers),
        }
    }
}

struct Buyer {
    doors: Doors,
    shared: Arc<Shared>,
    /// Connections that nobody uses at present, each with its door, and since when.
    kept: Arc<Mutex<Vec<(Door, Connection, Instant)>>>,
    /// Which door is next.
    attempts: usize,
    _permit: OwnedSemaphorePermit,
}

impl Buyer {
    /// Asks for this, and for whatever comes of it.
    async fn buy(mut self, purchase: Asked) {
        let mut asked = vec![purchase];
        while let Some(next) = asked.pop() {
            let (door, verdict) = self.ask(&next).await;
            let follow_ups = self.shared.take_in(&next.id, &door, &verdict);
            asked.extend(follow_ups.iter().map(Asked::follow_up));
        }
    }

    /// Asks until there is a verdict; returns it, and the id of the door that it came from.
    async fn ask(&mut self, asked: &Asked) -> (String, Vec<u8>) {
        let (mut waits, mut later) = (RetryPolicy::SERVER_AWAY.waits(), None);
        loop {
            let failure = match self.next().await {
                Ok((door, mut connection, is_stale)) => {
                    let answered = timeout(ANSWER_WAIT_MAX, self.exchange(&mut connection, asked, later.as_deref()));
                    match answered.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                        // To ask again for what is refused would not help: the audit tells of what is no verdict.
                        Ok(Answer { status: status @ (200 | 400..=499), body, .. }) if status != TOO_SLOW => {
                            self.keep(door.clone(), connection);
                            return (door.id, body);
                        }
                        Ok(Answer { status: NOT_YET, location: Some(location), .. }) => {
                            self.shared.state().doors.not_yet += 1;
                            later = Some(format!("GET {location}"));
                            self.keep(door, connection);
                            continue;
                        }
                        Ok(Answer { status: UNAVAILABLE, .. }) => "unavailable",
                        Ok(_) => "other",
                        Err(error) if is_stale && error.kind() != io::ErrorKind::TimedOut => continue,
                        Err(error) => Unanswered::of(error.kind()).as_str(),
                    }
                }
                Err(error) => Unanswered::of(error.kind()).as_str(),
            };
            self.shared.state().doors.failed(failure);
            // Where it went, nobody may know of it.
            later = None;
            self.attempts += 1;
            sleep(waits.next().unwrap_or_default()).await;
        }
    }

    /// A connection that somebody has used before, or else a new one to the next door; and whether it was idle for long.
    async fn next(&mut self) -> io::Result<(Door, Connection, bool)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some((door, connection, since)) = kept {
            return Ok((door, connection, since.elapsed() > STALE));
        }
        let open = self.doors.open.borrow().clone();
        // Nobody listens where there is no door.
        let Some(door) = open.get(self.attempts % open.len().max(1)) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let connection = timeout(ANSWER_WAIT_MAX, Connection::open(door.address, &door.host)).await;
        Ok((door.clone(), connection.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?, false))
    }

    fn keep(&self, door: Door, connection: Connection) {
        if self.doors.connections.is_some() {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push((door, connection, Instant::now()));
        }
    }

    async fn exchange(&self, connection: &mut Connection, asked: &Asked, later: Option<&str>) -> io::Result<Answer> {
        let prefer = format!("prefer: wait={WAIT_SECONDS}\r\n");
        if let Some(get) = later {
            connection.send(get, &prefer, &[]).await?;
            return connection.answer().await;
        }
        if let Some(answers) = asked.answers(&mut self.shared.state()) {
            answers.sent_at(asked.index, self.shared.elapsed());
        }
        let headers = format!("{prefer}idempotency-key: {}\r\n", asked.id);
        connection.send(&asked.method_and_path, &headers, &asked.body).await?;
        connection.answer().await
    }
}

impl DoorsReport {
    fn failed(&mut self, kind: &'static str) {
        *self.failures.entry(kind).or_default() += 1;
    }
}
