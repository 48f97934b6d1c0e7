//! A fail point: a named place where a test can have a worker stand still, to kill it, or freeze it, at that very moment.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// SIGCONT, which the signal library has no name for.
const CONTINUE: i32 = 18;

/// Stands still if the environment variable `TURNSTILE_PAUSE_AT` names this place, until the process gets SIGCONT; once in
/// the life of a process. Debug builds only; in a release build it is nothing.
pub async fn pause_at(place: &str) {
    static PAUSED: AtomicBool = AtomicBool::new(false);
    if cfg!(debug_assertions)
        && std::env::var("TURNSTILE_PAUSE_AT").is_ok_and(|name| name == place)
        && !PAUSED.swap(true, Ordering::Relaxed)
    {
        let mut woken = signal(SignalKind::from_raw(CONTINUE)).expect("SIGCONT can be listened for");
        tracing::warn!(place, "paused, as TURNSTILE_PAUSE_AT says");
        woken.recv().await;
    }
}
