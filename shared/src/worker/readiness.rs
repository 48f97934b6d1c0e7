//! Readiness: systemd learns by a datagram, a probe by a file, whether this process is at work. And outages, which take it
//! away: what would befall every message is said once when it begins, and once when it is over.
//!
//! Invariant: the ready file is there while every partition is subscribed to (of a function without a queue: while its
//! servers answer) and no outage goes on, and at no other time but after a `kill -9`, until the next start.

use sd_notify::NotifyState;
use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

#[derive(Debug, Clone)]
pub(super) struct Readiness(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    file: Option<PathBuf>,
    at_work: usize,
    outages: usize,
}

impl State {
    fn is_ready(&self) -> bool {
        self.at_work > 0 && self.outages == 0
    }
}

impl Readiness {
    /// Nobody is ready; nor is there the file that an earlier process may have left.
    pub(super) fn of(file: Option<PathBuf>) -> Self {
        clear(file.as_deref());
        Self(Arc::new(Mutex::new(State { file, at_work: 0, outages: 0 })))
    }

    pub(super) fn announce(&self) -> Ready {
        // Whatever may be out meanwhile: a service that says nothing in time would be started again and again.
        notify(NotifyState::Ready);
        self.change(|state| state.at_work += 1);
        Ready(self.clone())
    }

    pub(super) fn is_ready(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_ready()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_ready = state.is_ready();
        change(&mut state);
        match (was_ready, state.is_ready()) {
            (false, true) => make(state.file.as_deref()),
            (true, false) => clear(state.file.as_deref()),
            (true, true) | (false, false) => (),
        }
    }
}

/// Stands for being at work; dropped, this worker is not.
#[derive(Debug)]
pub struct Ready(Readiness);

impl Drop for Ready {
    fn drop(&mut self) {
        self.0.change(|state| state.at_work -= 1);
    }
}

/// What may keep a function from its work: as long as it goes on, the function is not ready.
#[derive(Debug)]
pub struct Outage {
    what: &'static str,
    readiness: Readiness,
    /// Has the topology looked at: something may have been deleted.
    look: Arc<Notify>,
    begun: Option<(Instant, String)>,
}

impl Outage {
    pub(super) fn of(what: &'static str, readiness: Readiness, look: Arc<Notify>) -> Self {
        Self { what, readiness, look, begun: None }
    }

    /// Notes that it has begun, or goes on; said where that is new, or the reason is another.
    pub fn goes_on(&mut self, reason: impl Display) {
        self.look.notify_one();
        let reason = reason.to_string();
        let since = match &self.begun {
            Some((_, known)) if *known == reason => return,
            Some((since, _)) => *since,
            None => {
                self.readiness.change(|state| state.outages += 1);
                Instant::now()
            }
        };
        tracing::error!(reason, "{}; trying until that is over", self.what);
        self.begun = Some((since, reason));
    }

    pub fn is_over(&mut self) {
        if let Some((since, _)) = self.end() {
            tracing::warn!(seconds = since.elapsed().as_secs_f32(), "over: {}", self.what);
        }
    }

    fn end(&mut self) -> Option<(Instant, String)> {
        let begun = self.begun.take()?;
        self.readiness.change(|state| state.outages -= 1);
        Some(begun)
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.end();
    }
}

fn make(file: Option<&Path>) {
    if let Some(file) = file
        && let Err(error) = fs::write(file, "")
    {
        tracing::warn!(%error, file = %file.display(), "the ready file cannot be written; probes will not see it");
    }
}

fn clear(file: Option<&Path>) {
    if let Some(file) = file
        && let Err(error) = fs::remove_file(file)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %file.display(), "the ready file cannot be removed");
    }
}

/// `NOTIFY_SOCKET` names who listens, systemd's `Type=notify` among others; without it, nobody does.
pub(super) fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
