//! The redis strategy: Redis counts the units and says who gets some; the statement of the atomic strategy confirms it on the
//! item's row.
//!
//! PostgreSQL stays the truth: what Redis says is committed where it is true on the row as it is at that moment, and nowhere
//! else. So no count that was lost, restored or never given back sells a unit twice, or sends anybody away while units are
//! left; it costs a round. Items whose rules look at the buyer are left to the optimistic strategy, as `atomic` leaves them.

mod counter;
mod fence;
mod link;

use super::{Attempt, Conflicts, atomic};
use shared::{
    config::Unusable, db::on_connection, error::Error, fail_point::pause_at, messages::PurchaseRequest,
    retry::RetryPolicy,
};
use sqlx::{PgConnection, PgPool};
use std::time::{Duration, Instant};

pub use counter::{Counter, RedisOptions};

/// Conflicts after which an item is decided by its row, whatever Redis says. The first one may come of a commit that is on
/// its way: who waits for that, and asks again, is told the same, and then it is true.
const CONFLICTS_MAX: i64 = 1;

/// Asks Redis, and commits what is true of its answers. An item that conflicted too often is decided by its row, and
/// counted anew after that.
///
/// # Errors
/// Redis or the database is away or unfit, or the database cannot take one of the requests.
pub(super) async fn attempt<'a>(
    connection: &mut PgConnection,
    counter: &Counter,
    requests: &[&'a PurchaseRequest],
    conflicts: &Conflicts,
) -> Result<Attempt<'a>, Error> {
    let is_doubtful = |item: &str| conflicts.get(item).is_some_and(|count| *count > CONFLICTS_MAX);
    let (places, asked): (Vec<usize>, Vec<&PurchaseRequest>) =
        requests.iter().copied().enumerate().filter(|(_, request)| !is_doubtful(&request.item)).unzip();
    let mut counted = vec![None; requests.len()];
    for (place, left) in places.into_iter().zip(counter.left(connection, &asked).await?) {
        counted[place] = left;
    }
    pause_at("confirming").await;
    let attempt = atomic::attempt(connection, requests, Some(&counted), conflicts).await?;
    // Only now: counted anew before the commit, they would be counted with the units that it takes.
    let doubtful: Vec<&str> = attempt.committed.iter().copied().filter(|item| is_doubtful(item)).collect();
    count_anew(connection, counter, &doubtful).await;
    Ok(attempt)
}

/// Has Redis count these items anew, after a decision on their rows that it was not asked about.
pub(super) async fn count_anew(connection: &mut PgConnection, counter: &Counter, items: &[&str]) {
    if !items.is_empty()
        && let Err(error) = counter.forget(connection, items).await
    {
        // What is committed stands; a count that stays wrong is found out by the next conflict.
        tracing::debug!(%error, "Redis cannot be told to count anew");
    }
}

/// Waits for a Redis that is not there yet, for a limited time.
///
/// # Errors
/// Redis or the database stays away; [`Unusable`], where it refuses.
pub(super) async fn reach(counter: &Counter, pool: &PgPool, seconds_max: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut waits = RetryPolicy::SERVER_AWAY.waits();
    loop {
        let error = match on_connection(pool, async |connection| counter.connect(connection).await).await {
            Ok(()) => return Ok(()),
            Err(Error::Unfit(text)) => return Err(Unusable(format!("{text}; check REDIS_URL")).into()),
            Err(error @ (Error::Away(_) | Error::Unhandled(_))) => error,
        };
        if started.elapsed() >= Duration::from_secs(seconds_max) {
            anyhow::bail!("{error}, for {seconds_max} s; is Redis running, and does REDIS_URL name it?");
        }
        tracing::warn!(%error, "waiting for Redis");
        tokio::time::sleep(waits.next().unwrap_or_default()).await;
    }
}
