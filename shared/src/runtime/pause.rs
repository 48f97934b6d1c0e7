//! A fail point: a named place where a test can have a worker stand still, to kill it at exactly that moment.

/// Stands still for ever if the environment variable `TURNSTILE_PAUSE_AT` names this place. Debug builds only; in a
/// release build it is nothing.
pub async fn pause_at(place: &str) {
    if cfg!(debug_assertions) && std::env::var("TURNSTILE_PAUSE_AT").is_ok_and(|name| name == place) {
        tracing::warn!(place, "paused, as TURNSTILE_PAUSE_AT says");
        std::future::pending::<()>().await;
    }
}
