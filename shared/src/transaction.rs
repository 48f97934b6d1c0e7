//! Transactions that may lose a race: tried again, with full jitter, until one commits.

use crate::db::{is_conflict, on_connection};
use crate::error::Error;
use crate::retry::RetryPolicy;
use futures_util::future::BoxFuture;
use sqlx::{Connection, PgConnection, PgPool};

/// What a transaction does. (No closure: the compiler cannot tell that the future of a borrowing one is `Send`.)
pub trait Transaction: Sync {
    /// What may be contended, for the log.
    const CONTENDED: &'static str;
    type Done: Send;

    /// One attempt, within a transaction: nothing of it is committed where it fails.
    fn attempt(&self, connection: &mut PgConnection) -> impl Future<Output = Result<Self::Done, sqlx::Error>> + Send;
}

/// Runs a transaction, and runs it again where somebody else was faster, but not for ever. Boxed, so that the database
/// library's code is compiled once and not in every program that calls it.
pub fn run<'a, T: Transaction>(pool: &'a PgPool, transaction: &'a T) -> BoxFuture<'a, Result<T::Done, Error>> {
    Box::pin(async move {
        let contended = T::CONTENDED;
        let mut waits = RetryPolicy::default().waits();
        loop {
            let attempt = on_connection(pool, async |connection| match commit(connection, transaction).await {
                Ok(done) => Ok(Some(done)),
                // It may be committed all the same; then the next attempt finds it so.
                Err(error) if is_conflict(&error) => Ok(None),
                Err(error) => Err(error.into()),
            });
            if let Some(done) = attempt.await? {
                return Ok(done);
            }
            let Some(wait) = waits.next() else {
                return Err(Error::Row(format!("{contended} were contended to the end")));
            };
            tracing::info!(wait_ms = wait.as_millis(), "{contended} are contended; deciding again");
            tokio::time::sleep(wait).await;
        }
    })
}

async fn commit<T: Transaction>(connection: &mut PgConnection, transaction: &T) -> Result<T::Done, sqlx::Error> {
    let mut begun = connection.begin().await?;
    let done = transaction.attempt(&mut begun).await?;
    begun.commit().await?;
    Ok(done)
}
