//! What Redis counts: how many units of an item are left, in place of what its row says.
//!
//! It answers as fast as it can, and may be wrong: units that came back, or were taken away, behind its back; units that it
//! gave to a request that never came to be recorded. PostgreSQL stays the truth: what is decided on Redis' count is committed
//! where it is true on the row, and nowhere else. So a count that was lost, restored or never given back sells no unit twice,
//! and sends nobody away while units are left; it costs a round.

mod fence;
mod link;

use super::round::Conflicts;
use crate::decide::{Item, Snapshot};
use link::Link;
use shared::{
    config::Unusable, db::on_connection, error::Error, idempotency::Verdicts, messages::PurchaseRequest,
    startup::wait_for_server,
};
use sqlx::{PgConnection, PgPool};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::Mutex;

/// How often an item is asked about when it is not counted: it is loaded in between, unless others have it forgotten, or
/// Redis runs out of room, just as fast.
const LOOKUPS_MAX: u32 = 3;
/// Conflicts after which an item is decided by its row, whatever Redis says. The first one may come of a commit that is on
/// its way: who waits for that, and asks again, gets the same answer, and then it is true.
const CONFLICTS_MAX: i64 = 1;

/// Whether the item is decided by its row, whatever Redis says.
pub(super) fn is_doubtful(conflicts: &Conflicts, item: &str) -> bool {
    conflicts.get(item).is_some_and(|count| *count > CONFLICTS_MAX)
}

/// Asks Redis for units for the requests that are to be decided. What it has takes the place of what the rows say, but for
/// doubtful items, and for those whose rules look at buyers: these go by their version.
pub(super) async fn count<'a>(
    connection: &mut PgConnection,
    counter: &Counter,
    requests: &[&'a PurchaseRequest],
    snapshot: &mut Snapshot,
    verdicts: &Verdicts<'a>,
    conflicts: &Conflicts,
) -> Result<(), Error> {
    let mut ids = HashSet::new();
    let is_asked = |request: &&'a PurchaseRequest| {
        snapshot.items.get(&request.item).is_some_and(|item| !item.rules.look_at_buyers())
            && !is_doubtful(conflicts, &request.item)
            && verdicts.answer(*request).is_none()
            && ids.insert(request.request_id.as_str())
    };
    let asked: Vec<&PurchaseRequest> = requests.iter().copied().filter(is_asked).collect();
    for (item, left) in counter.left(connection, &snapshot.items, &asked).await? {
        if let Some(item) = snapshot.items.get_mut(item) {
            item.available = before_all(&left);
        }
    }
    Ok(())
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
pub(super) async fn reach(counter: &Counter, pool: &PgPool, seconds_max: u64) -> anyhow::Result<()> {
    let is_away = |error: &Error| matches!(error, Error::Away(_) | Error::Unhandled(_));
    let reached = wait_for_server("Redis", seconds_max, is_away, || async {
        on_connection(pool, async |connection| counter.link(connection).await).await.map(drop)
    });
    match reached.await {
        Err(Error::Unfit(text)) => Err(Unusable(format!("{text}; check REDIS_URL")).into()),
        Err(error) => anyhow::bail!("{error}, for {seconds_max} s; is Redis running, and does REDIS_URL name it?"),
        Ok(()) => Ok(()),
    }
}

/// Asks Redis. Connects when first asked, and again after every fault; copies share the connection.
#[derive(Clone)]
pub struct Counter {
    client: redis::Client,
    link: Arc<Mutex<Option<Arc<Link>>>>,
}

/// The quantity of a request, and the units left before it: it got its units if its quantity is no more.
type Left = (u32, i64);

impl Counter {
    /// # Errors
    /// The URL cannot be read.
    pub fn new(redis_url: &str) -> Result<Self, Unusable> {
        let unusable = |error: redis::RedisError| Unusable(format!("REDIS_URL cannot be read: {error}"));
        let client = redis::Client::open(redis_url).map_err(unusable)?;
        let without_delay = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let info = client.get_connection_info().clone().set_tcp_settings(without_delay);
        let client = redis::Client::open(info).map_err(unusable)?;
        Ok(Self { client, link: Arc::default() })
    }

    /// What is left before each of an item's requests, in order. Who asks again about a request that got its units gets the
    /// same answer. An item that is not counted is loaded by its row, and never taken for sold out; one that is missing here
    /// is one that nobody counts.
    pub async fn left<'a>(
        &self,
        database: &mut PgConnection,
        items: &HashMap<String, Item>,
        requests: &[&'a PurchaseRequest],
    ) -> Result<BTreeMap<&'a str, Vec<Left>>, Error> {
        let mut open: BTreeMap<&str, Vec<&PurchaseRequest>> = BTreeMap::new();
        for request in requests.iter().filter(|request| items.contains_key(&request.item)) {
            open.entry(&request.item).or_default().push(request);
        }
        if open.is_empty() {
            return Ok(BTreeMap::new());
        }
        let link = self.link(database).await?;
        let left = left(&link, items, open).await;
        self.checked(&link, left).await
    }

    /// Has these items loaded by their rows when they are next asked about.
    pub async fn forget(&self, database: &mut PgConnection, items: &[&str]) -> Result<(), Error> {
        let link = self.link(database).await?;
        let forgotten = link.forget(items).await;
        self.checked(&link, forgotten).await
    }

    async fn link(&self, database: &mut PgConnection) -> Result<Arc<Link>, Error> {
        let mut shared = self.link.lock().await;
        let link = match shared.take() {
            Some(link) => link,
            None => Arc::new(Link::open(&self.client, database).await?),
        };
        Ok(Arc::clone(shared.insert(link)))
    }

    /// After a fault, nobody uses the connection again.
    async fn checked<T>(&self, link: &Arc<Link>, outcome: Result<T, Error>) -> Result<T, Error> {
        if outcome.is_err() {
            self.link.lock().await.take_if(|shared| Arc::ptr_eq(shared, link));
        }
        outcome
    }
}

async fn left<'a>(
    link: &Link,
    items: &HashMap<String, Item>,
    mut open: BTreeMap<&'a str, Vec<&PurchaseRequest>>,
) -> Result<BTreeMap<&'a str, Vec<Left>>, Error> {
    let mut left = BTreeMap::new();
    for _ in 0..LOOKUPS_MAX {
        for ((item, requests), answer) in open.iter().zip(link.take(&open).await?) {
            if let Some(answer) = answer {
                left.insert(*item, requests.iter().map(|request| request.quantity).zip(answer).collect());
            }
        }
        open.retain(|item, _| !left.contains_key(item));
        if open.is_empty() {
            break;
        }
        link.load(open.keys().map(|item| (*item, &items[*item]))).await?;
    }
    Ok(left)
}

/// What Redis had before it was asked: what these requests got, and what is left behind the last of them. Some may have got
/// theirs when they were asked about before, and others since; so it is not what is left before the first.
fn before_all(left: &[Left]) -> i64 {
    let got = |&(quantity, left): &Left| Some(i64::from(quantity)).filter(|quantity| *quantity <= left).unwrap_or(0);
    let behind = left.iter().map(|of| of.1 - got(of)).min().unwrap_or(0);
    behind + left.iter().map(got).sum::<i64>()
}

#[cfg(test)]
mod tests {
    use super::before_all;

    #[test]
    fn what_redis_had_is_found_whoever_got_units_before_or_got_none() {
        for (left, had, why) in [
            (vec![(3, 5), (4, 2), (2, 2), (1, 0)], 5, "one that asks for too much is passed over"),
            (vec![(1, 3), (1, 2), (1, 1), (1, 0), (1, 0)], 3, "asked about for the first time, or all for the second"),
            (vec![(1, 1), (1, 5), (1, 4), (1, 3)], 4, "three had got theirs before, and another one since"),
            (vec![(2, 0)], 0, "nothing is left"),
        ] {
            assert_eq!(before_all(&left), had, "{why}");
        }
    }
}
