//! Requests that are under way: each waits for its verdict here, whoever of those that sent it still does.

use crate::collector::{Collected, Line};
use crate::place::Pace;
use crate::problem::Problem;
use crate::verdict::Verdict;
use shared::worker::Service;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

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
    pub(crate) asked_at: Instant,
    /// In the line that this door has made.
    place: u64,
    pace: Arc<Mutex<Pace>>,
    is_alone: Arc<AtomicBool>,
    is_over: AtomicBool,
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

    /// Whether it is waited for here no more, whatever came of it.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        *self.state.borrow() == State::Confirmed
    }

    /// How many are in front of it in its line, how long it will be until it is decided, in milliseconds, as far as there is a pace to
    /// go by, and whether that is all that is in front, as far as can be told.
    pub(crate) fn position(&self) -> (u64, Option<u64>, bool) {
        let (pace, now) = (locked(&self.pace), Instant::now().into());
        let (ahead, wait_ms) = pace.ahead(self.place, now);
        (ahead, wait_ms, pace.moves(now) && self.is_alone.load(Ordering::Relaxed))
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

/// When a request is given up that the broker has not confirmed. Dropped before, it holds all the same.
struct Limit {
    tickets: Arc<Tickets>,
    ticket: Arc<Ticket>,
    at: Instant,
}

impl Drop for Limit {
    fn drop(&mut self) {
        // Without a runtime the process is about to end, and nothing is published any more.
        let Ok(runtime) = Handle::try_current() else { return };
        if *self.ticket.state.borrow() == State::Sent {
            let (tickets, ticket, at) = (Arc::clone(&self.tickets), Arc::clone(&self.ticket), self.at);
            runtime.spawn(async move {
                ticket.confirmed(at).await;
                tickets.not_taken(&ticket, Problem::NotConfirmed);
            });
        }
    }
}

/// All of them, of which there are no more than there is room for.
#[derive(Debug)]
pub(crate) struct Tickets {
    room: Arc<Semaphore>,
    room_max: usize,
    held: Mutex<Held>,
    asked: mpsc::UnboundedSender<Arc<Ticket>>,
    /// Whether nobody else publishes, as far as is known.
    is_alone: Arc<AtomicBool>,
    /// How many verdicts on purchases we were told.
    told: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    /// Of several with one id, the first: it has the verdict that is recorded, where they ask for different things.
    by_id: HashMap<String, Arc<Ticket>>,
    /// With how many are in each.
    lines: HashMap<Line, (usize, Arc<Mutex<Pace>>)>,
}

impl Tickets {
    /// And what is asked, in its order.
    pub(crate) fn new(room_max: usize) -> (Self, mpsc::UnboundedReceiver<Arc<Ticket>>) {
        let (asked, receiver) = mpsc::unbounded_channel();
        let (held, is_alone, told) = Default::default();
        (Self { room: Arc::new(Semaphore::new(room_max)), room_max, held, asked, is_alone, told }, receiver)
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
        let (request_id, state, asked_at) = (request_id.to_owned(), watch::Sender::new(State::Sent), Instant::now());
        let mut held = locked(&self.held);
        let (count, pace) = held.lines.entry(line.clone()).or_default();
        *count += 1;
        let (pace, is_alone) = (Arc::clone(pace), Arc::clone(&self.is_alone));
        let (place, is_over) = (locked(&pace).publish(asked_at.into()), AtomicBool::new(false));
        let ticket =
            Ticket { line, request_id, buyer, body, state, asked_at, place, pace, is_alone, is_over, _room: room };
        let ticket = Arc::new(ticket);
        // A repeat takes over from one that may still be given up.
        let is_first = |held: &Arc<Ticket>| held.is_confirmed() || held.body != ticket.body;
        if !held.by_id.get(&ticket.request_id).is_some_and(is_first) {
            held.by_id.insert(ticket.request_id.clone(), Arc::clone(&ticket));
        }
        // In the order of the places. Its receiver lives for as long as the program serves.
        self.asked.send(Arc::clone(&ticket)).map_err(|_| Problem::NotReady)?;
        Ok(ticket)
    }

    /// The request with this id that is under way here.
    pub(crate) fn get(&self, request_id: &str) -> Option<Arc<Ticket>> {
        locked(&self.held).by_id.get(request_id).cloned()
    }

    /// Waits for what becomes of a request, as long as its sender does, but no longer than until the process is told to stop; and for
    /// the broker's word in any case, within limits. What is not confirmed by then is given up, also where its sender has left.
    pub(crate) async fn outcome(self: &Arc<Self>, ticket: &Arc<Ticket>, wait: Duration, service: &Service) -> Outcome {
        let at = Instant::now() + wait.max(Duration::from_secs(CONFIRM_SECONDS_MAX));
        let limit = Limit { tickets: Arc::clone(self), ticket: Arc::clone(ticket), at };
        drop(ticket.decided(wait, service.stopped()).await);
        tokio::select! {
            () = ticket.confirmed(limit.at) => (),
            () = service.stopped() => {
                ticket.confirmed(Instant::now() + Duration::from_secs(CONFIRM_STOPPED_SECONDS_MAX)).await;
            }
        }
        self.not_taken(ticket, Problem::NotConfirmed);
        outcome_of(&ticket.state.borrow())
    }

    pub(crate) fn decide(&self, ticket: &Arc<Ticket>, verdict: Verdict) {
        locked(&ticket.pace).decide(ticket.place, Instant::now().into());
        ticket.state.send_replace(State::Decided(verdict.clone()));
        // A repeat has the verdict of the first, which may be lost.
        if let Some(first) = self.remove(ticket).filter(|first| first.body == ticket.body) {
            self.decide(&first, verdict);
        }
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
        locked(&self.held).by_id.len()
    }

    /// Notes that so many verdicts on purchases have come.
    pub(crate) fn told(&self, verdicts: usize) {
        self.told.fetch_add(verdicts as u64, Ordering::Relaxed);
    }

    pub(crate) fn told_in_all(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    pub(crate) fn know_others(&self, are_none: bool) {
        self.is_alone.store(are_none, Ordering::Relaxed);
    }

    /// Unless another one has the id, which is returned then.
    fn remove(&self, ticket: &Arc<Ticket>) -> Option<Arc<Ticket>> {
        let mut held = locked(&self.held);
        let other = held.by_id.get(&ticket.request_id).filter(|first| !Arc::ptr_eq(first, ticket)).cloned();
        if other.is_none() {
            held.by_id.remove(&ticket.request_id);
        }
        if !ticket.is_over.swap(true, Ordering::Relaxed)
            && let Some((count, _)) = held.lines.get_mut(&ticket.line)
        {
            *count -= 1;
            if *count == 0 {
                held.lines.remove(&ticket.line);
            }
        }
        other
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_first_requests_but_a_repeat_takes_over_from_one_that_may_be_given_up() {
        let (tickets, _asked) = Tickets::new(9);
        let ask = |body: &str| {
            let line = Line { exchange: "purchase", routing_key: "ticket".to_owned() };
            tickets.ask(line, "r-1", None, body.to_owned()).unwrap()
        };
        let is_held = |ticket: &Arc<Ticket>| tickets.get("r-1").is_some_and(|held| Arc::ptr_eq(&held, ticket));
        let (first, of_another_content, repeat) = (ask("a"), ask("b"), ask("a"));
        assert!(is_held(&repeat) && !is_held(&of_another_content));
        tickets.not_taken(&first, Problem::NotConfirmed);
        assert!(is_held(&repeat) && first.is_over());
        repeat.confirm();
        let again = ask("a");
        assert!(is_held(&repeat), "the queue has it");
        let verdict = Verdict::read(r#"{"status":"reserved","code":"reserved","message":""}"#, "r-1").unwrap();
        tickets.decide(&again, verdict);
        assert!(again.is_over() && repeat.is_over() && tickets.get("r-1").is_none(), "one verdict is both's");
    }
}
