//! Requests that are under way: each waits for its verdict here, whoever of those that sent it still does.

use crate::{
    collector::{Collected, Line},
    problem::Problem,
    verdict::Verdict,
};
use shared::worker::Service;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

/// How long the broker may take to confirm before a client is told to ask again; or as long as they wait for the verdict anyway.
const CONFIRM_SECONDS_MAX: u64 = 10;
/// The same once the process is told to stop.
const CONFIRM_STOPPED_SECONDS_MAX: u64 = 3;

/// How far a request has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Sent,
    /// The broker has it.
    Confirmed,
    /// The broker has it, and it is none of ours to wait for any more.
    Forgotten,
    Decided(Verdict),
    /// The broker does not have it, as far as is known.
    NotTaken(Problem),
}

/// What comes of waiting for a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Decided(Verdict),
    /// Not decided in time.
    Waits,
    /// Nor waited for here any more.
    Forgotten,
    NotTaken(Problem),
}

#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) line: Line,
    pub(crate) request_id: String,
    pub(crate) buyer: Option<String>,
    body: String,
    state: watch::Sender<State>,
    _room: OwnedSemaphorePermit,
}

impl Collected for Arc<Ticket> {
    fn line(&self) -> &Line {
        &self.line
    }

    fn body(&self) -> &str {
        &self.body
    }

    fn is_given_up(&self) -> bool {
        matches!(*self.state.borrow(), State::NotTaken(_))
    }
}

impl Ticket {
    pub(crate) fn confirm(&self) {
        self.state.send_if_modified(|state| {
            let is_news = *state == State::Sent;
            if is_news {
                *state = State::Confirmed;
            }
            is_news
        });
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        *self.state.borrow() == State::Confirmed
    }

    /// Waits so long for the verdict, and no longer than until `stopped`; what has come of it then.
    pub(crate) async fn decided(&self, wait: Duration, stopped: impl Future<Output = ()>) -> Outcome {
        let mut state = self.state.subscribe();
        let is_over = |state: &State| !matches!(state, State::Sent | State::Confirmed);
        tokio::select! { _ = timeout(wait, state.wait_for(is_over)) => (), () = stopped => () }
        outcome_of(&self.state.borrow())
    }

    /// Waits for the broker's word.
    async fn confirmed(&self, limit: Instant) {
        let mut state = self.state.subscribe();
        drop(timeout_at(limit, state.wait_for(|state| *state != State::Sent)).await);
    }
}

fn outcome_of(state: &State) -> Outcome {
    match state {
        State::Sent | State::Confirmed => Outcome::Waits,
        State::Forgotten => Outcome::Forgotten,
        State::Decided(verdict) => Outcome::Decided(verdict.clone()),
        State::NotTaken(problem) => Outcome::NotTaken(*problem),
    }
}

/// All of them, of which there are no more than there is room for.
#[derive(Debug)]
pub(crate) struct Tickets {
    room: Arc<Semaphore>,
    room_max: usize,
    by_id: Mutex<HashMap<String, Arc<Ticket>>>,
    asked: mpsc::UnboundedSender<Arc<Ticket>>,
}

impl Tickets {
    /// And what is asked, in its order.
    pub(crate) fn new(room_max: usize) -> (Self, mpsc::UnboundedReceiver<Arc<Ticket>>) {
        let (asked, receiver) = mpsc::unbounded_channel();
        (Self { room: Arc::new(Semaphore::new(room_max)), room_max, by_id: Mutex::default(), asked }, receiver)
    }

    /// Sends a request on its way.
    pub(crate) fn ask(
        &self,
        line: Line,
        request_id: &str,
        buyer: Option<String>,
        body: String,
    ) -> Result<Arc<Ticket>, Problem> {
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| Problem::TooManyUndecided)?;
        let (request_id, state) = (request_id.to_owned(), watch::Sender::new(State::Sent));
        let ticket = Arc::new(Ticket { line, request_id, buyer, body, state, _room: room });
        self.by_id().insert(ticket.request_id.clone(), Arc::clone(&ticket));
        // Its receiver lives for as long as the program serves.
        self.asked.send(Arc::clone(&ticket)).map_err(|_| Problem::NotReady)?;
        Ok(ticket)
    }

    /// The request with this id that is under way here.
    pub(crate) fn get(&self, request_id: &str) -> Option<Arc<Ticket>> {
        self.by_id().get(request_id).cloned()
    }

    /// Waits for what becomes of a request, as long as its sender does, but no longer than until the process is told to stop; and for
    /// the broker's word in any case, within limits. What is not confirmed by then is given up.
    pub(crate) async fn outcome(&self, ticket: &Arc<Ticket>, wait: Duration, service: &Service) -> Outcome {
        let begun = Instant::now();
        drop(ticket.decided(wait, service.stopped()).await);
        let limit = begun + wait.max(Duration::from_secs(CONFIRM_SECONDS_MAX));
        tokio::select! {
            () = ticket.confirmed(limit) => (),
            () = service.stopped() => {
                ticket.confirmed(Instant::now() + Duration::from_secs(CONFIRM_STOPPED_SECONDS_MAX)).await;
            }
        }
        self.not_taken(ticket, Problem::NotConfirmed);
        outcome_of(&ticket.state.borrow())
    }

    pub(crate) fn decide(&self, ticket: &Arc<Ticket>, verdict: Verdict) {
        ticket.state.send_replace(State::Decided(verdict));
        self.remove(ticket);
    }

    /// Nobody is to go on waiting for its verdict here.
    pub(crate) fn forget(&self, ticket: &Arc<Ticket>) {
        ticket.state.send_replace(State::Forgotten);
        self.remove(ticket);
    }

    /// Of one that the broker has taken after all, nothing.
    pub(crate) fn not_taken(&self, ticket: &Arc<Ticket>, problem: Problem) {
        let is_so = ticket.state.send_if_modified(|state| {
            let is_open = *state == State::Sent;
            if is_open {
                *state = State::NotTaken(problem);
            }
            is_open
        });
        if is_so {
            self.remove(ticket);
        }
    }

    /// How many have to be forgotten, so that there is room for others.
    pub(crate) fn too_many(&self) -> usize {
        (self.room_max / 5).saturating_sub(self.room.available_permits())
    }

    /// How many are neither decided nor forgotten.
    pub(crate) fn under_way(&self) -> usize {
        self.by_id().len()
    }

    /// Unless another one has the id by now.
    fn remove(&self, ticket: &Arc<Ticket>) {
        let mut by_id = self.by_id();
        if by_id.get(&ticket.request_id).is_some_and(|held| Arc::ptr_eq(held, ticket)) {
            by_id.remove(&ticket.request_id);
        }
    }

    fn by_id(&self) -> MutexGuard<'_, HashMap<String, Arc<Ticket>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
