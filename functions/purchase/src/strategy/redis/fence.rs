//! The fence: whether Redis still is the one that was known, and in which epoch it counts.
//!
//! Knows the database alone. Invariant: two Redis servers, or one before and after a restart, never have the same epoch.

use shared::error::Error;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

/// How often the row is looked at, when other workers find other servers at the same time.
const LOOKS_MAX: u32 = 5;

/// The epoch of the Redis with this run id, where it is the one that was known.
const READ: &str = "SELECT epoch FROM redis_fence WHERE is_only AND run_id = $1";

/// A new epoch for a Redis that was not known; nothing where somebody else was faster with it.
const MOVE_ON: &str = "
UPDATE redis_fence SET epoch = gen_random_uuid(), run_id = $1 WHERE is_only AND run_id <> $1 RETURNING epoch";

/// The epoch in which the Redis with this run id counts; a new one where it is not the Redis that was known.
///
/// # Errors
/// The database's; [`Error::Away`] where workers find one server after the other, all at once.
pub(super) async fn epoch(connection: &mut PgConnection, run_id: &str) -> Result<Uuid, Error> {
    for _ in 0..LOOKS_MAX {
        if let Some(row) = sqlx::query(READ).bind(run_id).fetch_optional(&mut *connection).await? {
            return Ok(row.try_get("epoch")?);
        }
        if let Some(row) = sqlx::query(MOVE_ON).bind(run_id).fetch_optional(&mut *connection).await? {
            let epoch = row.try_get("epoch")?;
            tracing::info!(run_id, %epoch, "this Redis was not known; it counts from the start");
            return Ok(epoch);
        }
    }
    Err(Error::Away("Redis is another one for each worker that asks; does REDIS_URL name one server?".to_owned()))
}
