//! The pessimistic strategy: lock the rows, read, decide, write, all in one short transaction.
//!
//! Under the locks nothing moves, so the version check of the commit always holds. Rows are locked in the order of their
//! ids, so that no two of these wait for each other. Invariant: what it answers is committed.

use super::{Attempt, Conflicts, optimistic};
use crate::read::lock;
use shared::{error::Error, messages::PurchaseRequest};
use sqlx::{Connection, PgConnection};

/// Locks, decides and commits. Only a request id that somebody else records at the same instant can be in its way.
///
/// # Errors
/// The database is away or unfit, or cannot take one of the requests.
pub(super) async fn attempt<'a>(
    connection: &mut PgConnection,
    requests: &[&'a PurchaseRequest],
    conflicts: &Conflicts,
) -> Result<Attempt<'a>, Error> {
    let mut transaction = connection.begin().await?;
    lock(&mut transaction, requests).await?;
    let attempt = optimistic::attempt(&mut transaction, requests, conflicts).await?;
    // Where this fails, the answers are lost with it; what was recorded all the same is found the next time. After a request
    // id conflict it rolls back, and there is no answer to lose.
    transaction.commit().await?;
    Ok(attempt)
}
