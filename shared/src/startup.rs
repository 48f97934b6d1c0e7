//! A server that is not there yet is waited for, for a limited time.

use crate::retry::RetryPolicy;
use std::time::{Duration, Instant};

/// What an attempt comes to that succeeds, or fails otherwise than because the server is away (`away` says why it is), or
/// comes too late.
pub async fn wait_for_server<T, E, Attempt: Future<Output = Result<T, E>>>(
    server: &str,
    seconds_max: u64,
    away: impl Fn(&E) -> Option<String>,
    attempt: impl Fn() -> Attempt,
) -> Result<T, E> {
    let (started, limit) = (Instant::now(), Duration::from_secs(seconds_max));
    let mut waits = RetryPolicy::SERVER_AWAY.waits();
    loop {
        let outcome = attempt().await;
        match outcome.as_ref().err().and_then(&away) {
            Some(error) if started.elapsed() < limit => {
                tracing::warn!(error, "waiting for {server}");
                tokio::time::sleep(waits.next().unwrap_or_default()).await;
            }
            Some(_) | None => return outcome,
        }
    }
}
