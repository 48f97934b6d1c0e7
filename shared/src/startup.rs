//! A server that is not there yet is waited for, for a limited time.

use crate::retry::RetryPolicy;
use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// What an attempt comes to that succeeds, or fails otherwise than because the server is away, or comes too late.
pub async fn wait_for_server<T, E: Display, Attempt: Future<Output = Result<T, E>>>(
    server: &str,
    seconds_max: u64,
    is_away: impl Fn(&E) -> bool,
    attempt: impl Fn() -> Attempt,
) -> Result<T, E> {
    let (started, limit) = (Instant::now(), Duration::from_secs(seconds_max));
    let mut waits = RetryPolicy::SERVER_AWAY.waits();
    loop {
        match attempt().await {
            Err(error) if is_away(&error) && started.elapsed() < limit => {
                tracing::warn!(%error, "waiting for {server}");
                tokio::time::sleep(waits.next().unwrap_or_default()).await;
            }
            outcome => return outcome,
        }
    }
}
