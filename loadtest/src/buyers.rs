//! The buyers: send every request when it is due, and take in the verdicts, over AMQP or by HTTP.
//!
//! An open loop: a slow broker delays sends, never the intended times that latency counts from. When the broker goes away,
//! whatever has no verdict is sent again, in arrays anew where there are arrays: to ask again is to send it again. Requests of one
//! item are published in the schedule's order, in every session, so what a queue holds of an item is always a prefix of that order.

mod collected;
mod http;
mod session;

use crate::answers::Answers;
use crate::failure::Failure;
use crate::orders::follow_ups::FollowUps;
use crate::orders::plan::{FollowUp, Plan};
use crate::queues::{LOSSES_MAX, once_back};
use crate::result::DoorsReport;
use crate::schedule::Schedule;
pub use http::Doors;
use session::Session;
use shared::amqp::Nodes;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub struct Buyers {
    schedule: Arc<Schedule>,
    shared: Arc<Shared>,
    way: Way,
    reconnects: u32,
}

/// How requests get into the queue.
enum Way {
    Queue { nodes: Nodes, session: Option<Box<Session>> },
    Http(Doors),
}

/// What publishers and reader share.
struct Shared {
    start: OnceLock<Instant>,
    state: Mutex<State>,
    /// How many requests have a verdict.
    answered: watch::Sender<usize>,
    /// How many follow-ups have none.
    open: watch::Sender<usize>,
}

struct State {
    answers: Answers,
    /// `None` where nobody follows up.
    follow_ups: Option<FollowUps>,
    /// What doors answered that is no verdict.
    doors: DoorsReport,
}

impl Shared {
    fn of(schedule: &Schedule, plan: Option<Plan>) -> Arc<Self> {
        let answers = Answers::to(&schedule.requests);
        let follow_ups = plan.map(|plan| FollowUps::to(&schedule.requests, plan));
        let state = Mutex::new(State { answers, follow_ups, doors: DoorsReport::default() });
        let (answered, open) = (watch::Sender::new(0), watch::Sender::new(0));
        Arc::new(Self { start: OnceLock::new(), state, answered, open })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the start of the sale.
    fn elapsed(&self) -> Duration {
        self.start.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Takes in a reply; returns what its buyers ask for next.
    fn take_in(&self, correlation_id: &str, worker_id: &str, body: &[u8]) -> Vec<FollowUp> {
        let at = self.elapsed();
        let mut state = self.state();
        let State { answers, follow_ups, .. } = &mut *state;
        let (mut next, mut is_follow_up) = (Vec::new(), false);
        if let Some(follow_ups) = follow_ups {
            is_follow_up = follow_ups.answered(correlation_id, worker_id, body, at);
            for (index, verdict) in answers.replies(correlation_id, body) {
                next.extend(follow_ups.bought(index, verdict, at));
            }
            set(&self.open, follow_ups.open);
        }
        if !is_follow_up {
            set(&self.answered, answers.record(correlation_id, worker_id, body, at));
        }
        next
    }
}

fn set(counter: &watch::Sender<usize>, count: usize) {
    counter.send_if_modified(|known| std::mem::replace(known, count) != count);
}

impl Buyers {
    /// Connects, so that the sale itself begins with the first request; who gets units then follows the plan.
    pub async fn connect(amqp_url: &str, schedule: Arc<Schedule>, plan: Option<Plan>) -> Result<Self, Failure> {
        let (shared, nodes) = (Shared::of(&schedule, plan), Nodes::read(amqp_url)?);
        let session = Some(Box::new(Session::open(&nodes, &shared).await?));
        Ok(Self { schedule, shared, way: Way::Queue { nodes, session }, reconnects: 0 })
    }

    /// The same, of those who come by HTTP, and connect when they come.
    pub fn by_http(doors: Doors, schedule: Arc<Schedule>, plan: Option<Plan>) -> Self {
        Self { shared: Shared::of(&schedule, plan), schedule, way: Way::Http(doors), reconnects: 0 }
    }

    pub fn answered(&self) -> watch::Receiver<usize> {
        self.shared.answered.subscribe()
    }

    /// Sends every request when it is due, and returns when each has its verdict, and each follow-up too. May be dropped at
    /// any moment.
    pub async fn buy(&mut self) -> Result<(), Failure> {
        let start = *self.shared.start.get_or_init(Instant::now);
        let (nodes, kept) = match &mut self.way {
            Way::Queue { nodes, session } => (nodes, session),
            Way::Http(doors) => return Ok(http::buy(doors, &self.shared, &self.schedule, start).await?),
        };
        loop {
            let session = match kept.take() {
                Some(session) => session,
                None => Box::new(once_back(|| Session::open(nodes, &self.shared)).await?),
            };
            let Err(lost) = kept.insert(session).sell(&self.schedule, start).await else { return Ok(()) };
            if self.reconnects == LOSSES_MAX {
                let often = format!("RabbitMQ was lost {LOSSES_MAX} times in one sale");
                return Err(Failure::Unreachable(lost.context(often)));
            }
            tracing::warn!(error = %lost, "the broker went away; connecting again");
            *kept = None;
            nodes.go_on();
            self.reconnects += 1;
        }
    }

    /// Takes in whatever replies are still under way and closes; returns what there is to know. To be called when no worker replies
    /// any more.
    pub async fn leave(mut self) -> Left {
        if let Way::Queue { session, .. } = &mut self.way
            && let Some(session) = session.take()
            && let Err(error) = session.close().await
        {
            tracing::warn!(%error, "the broker went away before the last replies were in");
        }
        let is_http = matches!(self.way, Way::Http(_));
        let mut state = self.shared.state();
        let (answers, follow_ups) = (std::mem::take(&mut state.answers), state.follow_ups.take());
        let doors = is_http.then(|| std::mem::take(&mut state.doors));
        Left { answers, follow_ups, doors, reconnects: self.reconnects }
    }
}

/// What buyers know in the end.
pub struct Left {
    /// What they were told of their purchases.
    pub answers: Answers,
    /// And of their follow-ups.
    pub follow_ups: Option<FollowUps>,
    /// What they met at the doors, where they came by HTTP.
    pub doors: Option<DoorsReport>,
    /// How often they lost the broker.
    pub reconnects: u32,
}
