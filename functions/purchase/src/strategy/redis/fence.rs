//! The fence: whether Redis still is the one that was known, and in which epoch it counts.

use shared::error::Error;
use sqlx::PgConnection;
use uuid::Uuid;

/// The epoch of the Redis with this run id, where it is the one that was known.
const READ_EPOCH: &str = "SELECT epoch FROM redis_fence WHERE is_only AND run_id = $1";
/// A new epoch for a Redis that was not known; nothing where somebody else was faster with it.
const NEW_EPOCH: &str = "
UPDATE redis_fence SET epoch = gen_random_uuid(), run_id = $1 WHERE is_only AND run_id <> $1 RETURNING epoch";
/// How often the fence is looked at, when other workers find other servers at the same time.
const LOOKS_MAX: u32 = 5;

/// The epoch in which the Redis with this run id counts; a new one where it is not the Redis that was known: it was restarted,
/// perhaps with an old snapshot, failed over or was replaced. So no two servers, or one before and after a restart, share one.
pub(super) async fn epoch(database: &mut PgConnection, run_id: &str) -> Result<Uuid, Error> {
    for _ in 0..LOOKS_MAX {
        if let Some(epoch) = sqlx::query_scalar(READ_EPOCH).bind(run_id).fetch_optional(&mut *database).await? {
            return Ok(epoch);
        }
        if let Some(epoch) = sqlx::query_scalar(NEW_EPOCH).bind(run_id).fetch_optional(&mut *database).await? {
            tracing::info!(run_id, %epoch, "this Redis was not known; it counts from the start");
            return Ok(epoch);
        }
    }
    Err(Error::Away("Redis is another one for each worker that asks; does REDIS_URL name one server?".to_owned()))
}
