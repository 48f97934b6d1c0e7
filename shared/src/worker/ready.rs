//! Readiness: tells whoever manages this process whether it consumes; systemd by a datagram, a probe by a file.
//!
//! Invariant: the file is there while every partition is subscribed to (of a function without a queue: while its servers
//! answer), and at no other time but after a `kill -9`, until the next start.

use sd_notify::NotifyState;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Stands for being ready; dropped, this worker is not.
#[derive(Debug)]
pub struct Ready(Option<PathBuf>);

impl Ready {
    /// Says that this worker consumes.
    pub(super) fn announce(file: Option<&Path>) -> Self {
        notify(NotifyState::Ready);
        if let Some(file) = file
            && let Err(error) = fs::write(file, "")
        {
            tracing::warn!(%error, file = %file.display(), "the ready file cannot be written; probes will not see it");
        }
        Self(file.map(Path::to_owned))
    }

    /// Removes what an earlier process may have left.
    pub(super) fn clear(file: Option<&Path>) {
        if let Some(file) = file
            && let Err(error) = fs::remove_file(file)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, file = %file.display(), "the ready file cannot be removed");
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        Self::clear(self.0.as_deref());
    }
}

/// Says that this worker drains.
pub(super) fn draining() {
    notify(NotifyState::Stopping);
}

/// `NOTIFY_SOCKET` names who listens, systemd's `Type=notify` among others; without it, nobody does.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
