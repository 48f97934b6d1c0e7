//! Attempts that may lose a race for a row, and how often they are made again.

use shared::{
    db::is_conflict,
    error::Error,
    retry::{RetryPolicy, Waits},
};

/// What came of an attempt; `None`: it lost a race, and nothing of it is committed, or it is, and the next attempt finds it
/// so.
///
/// # Errors
/// The database is away or unfit, or cannot take what it was given.
pub(crate) fn won<T>(outcome: Result<T, sqlx::Error>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(won) => Ok(Some(won)),
        Err(error) if is_conflict(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The attempts at one thing.
pub(crate) struct Race(Waits);

impl Race {
    /// No attempt was made.
    pub(crate) fn start() -> Self {
        Self(RetryPolicy::default().waits())
    }

    /// Waits after an attempt that lost.
    ///
    /// # Errors
    /// There were too many.
    pub(crate) async fn lost(&mut self) -> Result<(), Error> {
        let Some(wait) = self.0.next() else {
            return Err(Error::Away("items or orders were contended to the end; trying again".to_owned()));
        };
        tracing::info!(wait_ms = wait.as_millis(), "items, orders or request ids are contended; trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
