//! The buyers: publish every request when it is due, and take in the verdicts, over AMQP.
//!
//! An open loop: a slow broker delays sends, never the intended times that latency counts from. One channel publishes in
//! the schedule's order, another connection takes in the replies, so neither waits for the other. When the broker goes
//! away, both are opened anew and whatever has no verdict yet is sent again, in order: to ask again is to send it again.
//! Where the sale has a [`Plan`], whoever is told `reserved` follows up at once, from the same session.
//! Knows nothing of workers and databases. Invariant: requests of one item are published in the schedule's order, in
//! every session, so what a queue holds of an item is always a prefix of that order.

mod following;
mod session;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use shared::amqp::Nodes;
use tokio::sync::watch;

use crate::answers::Answers;
use crate::failure::Failure;
use crate::orders::follow_ups::FollowUps;
use crate::orders::plan::Plan;
use crate::scenario::Schedule;
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
    told: Arc<Told>,
    session: Option<Session>,
    reconnects: u32,
}

/// What the reader and the publisher share.
struct Told {
    /// When the sale began.
    start: OnceLock<Instant>,
    answers: Mutex<Answers>,
    /// How many requests have a verdict.
    answered: watch::Sender<usize>,
    /// How many requests were ever published: they go out in order, so this is the last one's place.
    published: AtomicUsize,
    /// Where buyers follow up: what they asked for, and were told.
    follow_ups: Option<Mutex<FollowUps>>,
    /// How many of them have no answer.
    open_follow_ups: watch::Sender<usize>,
}

impl Told {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        // Nothing that holds the lock leaves the answers half changed.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether buyers ask for more than their purchases.
    fn follows_up(&self) -> bool {
        self.follow_ups.is_some()
    }

    /// As [`Told::answers`].
    fn follow_ups(&self) -> Option<MutexGuard<'_, FollowUps>> {
        Some(self.follow_ups.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Buyers {
    /// Connects, so that the sale itself begins with the first request; who gets units then follows the plan.
    ///
    /// # Errors
    /// The broker cannot be reached, or refuses.
    pub async fn connect(amqp_url: &str, schedule: Arc<Schedule>, plan: Option<Plan>) -> Result<Self, Failure> {
        let answers = Mutex::new(Answers::to(&schedule.requests));
        let (start, answered, published) = (OnceLock::new(), watch::Sender::new(0), AtomicUsize::new(0));
        let follow_ups = plan.map(|plan| Mutex::new(FollowUps::to(&schedule.requests, plan)));
        let open_follow_ups = watch::Sender::new(0);
        let told = Arc::new(Told { start, answers, answered, published, follow_ups, open_follow_ups });
        let nodes = Nodes::read(amqp_url)?;
        let session = Session::open(&nodes, Arc::clone(&told)).await?;
        Ok(Self { nodes, schedule, told, session: Some(session), reconnects: 0 })
    }

    /// How many requests have a verdict, as it grows.
    #[must_use]
    pub fn answered(&self) -> watch::Receiver<usize> {
        self.told.answered.subscribe()
    }

    /// Tells how many buyers have sent their request and have no verdict, whenever it is asked.
    pub fn waiting(&self) -> impl Fn() -> u64 + Send + 'static {
        let told = Arc::clone(&self.told);
        move || {
            let answered = *told.answered.borrow();
            told.published.load(Ordering::Relaxed).saturating_sub(answered) as u64
        }
    }

    /// Sends every request when it is due, and returns when each has its verdict, and each follow-up too. May be dropped at
    /// any moment.
    ///
    /// # Errors
    /// The broker stays away.
    pub async fn buy(&mut self) -> Result<(), Failure> {
        let start = *self.told.start.get_or_init(Instant::now);
        loop {
            let pending = self.told.answers().unanswered();
            let open = self.told.follow_ups().map_or(0, |follow_ups| follow_ups.open);
            if pending.is_empty() && open == 0 {
                return Ok(());
            }
            let session = match self.session.take() {
                Some(session) => self.session.insert(session),
                None => {
                    let session = self.reopen().await?;
                    self.session.insert(session)
                }
            };
            match session.sell(&self.schedule, start, &pending).await {
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
        let follow_ups = self.told.follow_ups().map(|mut follow_ups| std::mem::take(&mut *follow_ups));
        (std::mem::take(&mut *self.told.answers()), follow_ups, self.reconnects)
    }

    async fn reopen(&self) -> Result<Session, Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Session::open(&self.nodes, Arc::clone(&self.told)).await {
                Err(Failure::Unreachable(_)) if attempts < ATTEMPTS_MAX => tokio::time::sleep(ATTEMPT_PAUSE).await,
                opened => return opened,
            }
        }
    }
}
