//! The buyers: publish every request when it is due, and take in the verdicts, over AMQP.
//!
//! An open loop: a slow broker delays sends, never the intended times that latency counts from. When the broker goes away,
//! whatever has no verdict is sent again: to ask again is to send it again. Requests of one item are published in the
//! schedule's order, in every session, so what a queue holds of an item is always a prefix of that order.

mod session;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use shared::amqp::Nodes;
use tokio::sync::watch;

use crate::answers::Answers;
use crate::failure::Failure;
use crate::life::follow_ups::FollowUps;
use crate::life::plan::Plan;
use crate::schedule::Schedule;
use session::Session;

/// How often the broker may be lost in one sale.
const RECONNECTS_MAX: u32 = 100;
/// How often one reconnection is tried.
const ATTEMPTS_MAX: u32 = 300;
/// Between two of these attempts: with all of them, a broker may be away for a minute and more.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(200);

/// All buyers of one sale.
pub struct Buyers {
    nodes: Nodes,
    schedule: Arc<Schedule>,
    shared: Arc<Shared>,
    session: Option<Session>,
    reconnects: u32,
}

/// What publishers, reader and sampler share.
struct Shared {
    /// When the sale began.
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
    /// How many requests were ever published: they go out in order, so this is the last one's place.
    published: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buyers {
    /// Connects, so that the sale itself begins with the first request; who gets units then follows the plan.
    pub async fn connect(amqp_url: &str, schedule: Arc<Schedule>, plan: Option<Plan>) -> Result<Self, Failure> {
        let answers = Answers::to(&schedule.requests);
        let follow_ups = plan.map(|plan| FollowUps::to(&schedule.requests, plan));
        let shared = Arc::new(Shared {
            start: OnceLock::new(),
            state: Mutex::new(State { answers, follow_ups, published: 0 }),
            answered: watch::Sender::new(0),
            open: watch::Sender::new(0),
        });
        let nodes = Nodes::read(amqp_url)?;
        let session = Session::open(&nodes, Arc::clone(&shared)).await?;
        Ok(Self { nodes, schedule, shared, session: Some(session), reconnects: 0 })
    }

    /// How many requests have a verdict, as it grows.
    pub fn answered(&self) -> watch::Receiver<usize> {
        self.shared.answered.subscribe()
    }

    /// Tells how many buyers have sent their request and have no verdict, whenever it is asked.
    pub fn waiting(&self) -> impl Fn() -> u64 + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            let answered = *shared.answered.borrow();
            shared.state().published.saturating_sub(answered) as u64
        }
    }

    /// Sends every request when it is due, and returns when each has its verdict, and each follow-up too. May be dropped at
    /// any moment.
    pub async fn buy(&mut self) -> Result<(), Failure> {
        let start = *self.shared.start.get_or_init(Instant::now);
        loop {
            let session = match self.session.take() {
                Some(session) => session,
                None => self.reopen().await?,
            };
            match self.session.insert(session).sell(&self.schedule, start).await {
                Ok(()) => return Ok(()),
                Err(lost) if self.reconnects < RECONNECTS_MAX => {
                    tracing::warn!(error = %lost, "the broker went away; connecting again");
                    self.session = None;
                    self.nodes.go_on();
                    self.reconnects += 1;
                }
                Err(lost) => {
                    let often = format!("RabbitMQ was lost {RECONNECTS_MAX} times in one sale");
                    return Err(Failure::Unreachable(anyhow::Error::new(lost).context(often)));
                }
            }
        }
    }

    /// Takes in whatever replies are still under way and closes; returns what the buyers were told of their purchases and
    /// follow-ups, and how often they lost the broker. To be called when no worker replies any more.
    pub async fn leave(mut self) -> (Answers, Option<FollowUps>, u32) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.close().await
        {
            tracing::warn!(%error, "the broker went away before the last replies were in");
        }
        let mut state = self.shared.state();
        (std::mem::take(&mut state.answers), state.follow_ups.take(), self.reconnects)
    }

    async fn reopen(&self) -> Result<Session, Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Session::open(&self.nodes, Arc::clone(&self.shared)).await {
                Err(Failure::Unreachable(_)) if attempts < ATTEMPTS_MAX => tokio::time::sleep(ATTEMPT_PAUSE).await,
                opened => return opened,
            }
        }
    }
}
