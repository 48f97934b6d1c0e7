//! Many that look for something at the same time are one query: while one is under way, and for a moment after it, what is looked for
//! is collected. So the database is asked no more often, however many look.

use shared::db::answered;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// The most that one query looks for.
const KEYS_MAX: usize = 1_000;

/// The database does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Away;

/// Who looks for what.
type Looking<K, V> = (K, oneshot::Sender<Result<Option<V>, Away>>);

#[derive(Debug)]
pub(crate) struct Lookup<K, V> {
    looking: mpsc::UnboundedSender<Looking<K, V>>,
}

impl<K, V> Lookup<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + 'static,
{
    /// With so long a pause behind each query.
    pub(crate) fn start<Query, Asking>(pause: Duration, query: Query) -> Self
    where
        Query: Fn(Vec<K>) -> Asking + Send + 'static,
        Asking: Future<Output = Result<HashMap<K, V>, sqlx::Error>> + Send + 'static,
    {
        let (looking, receiver) = mpsc::unbounded_channel();
        tokio::spawn(look(pause, query, receiver));
        Self { looking }
    }

    pub(crate) async fn get(&self, key: K) -> Result<Option<V>, Away> {
        let (sender, found) = oneshot::channel();
        self.looking.send((key, sender)).map_err(|_| Away)?;
        found.await.unwrap_or(Err(Away))
    }
}

async fn look<K, V, Query, Asking>(pause: Duration, query: Query, mut receiver: mpsc::UnboundedReceiver<Looking<K, V>>)
where
    K: Clone + Eq + Hash,
    V: Clone,
    Query: Fn(Vec<K>) -> Asking,
    Asking: Future<Output = Result<HashMap<K, V>, sqlx::Error>>,
{
    let mut is_away = false;
    let mut looking: Vec<Looking<K, V>> = Vec::new();
    while receiver.recv_many(&mut looking, KEYS_MAX).await > 0 {
        // Who has gone meanwhile looks for nothing.
        looking.retain(|(_, sender)| !sender.is_closed());
        let keys: HashSet<K> = looking.iter().map(|(key, _)| key.clone()).collect();
        let found = answered(query(keys.into_iter().collect())).await;
        match &found {
            Err(error) if !is_away => tracing::warn!(%error, "nothing can be looked up"),
            Ok(_) if is_away => tracing::info!("what was decided can be looked up again"),
            Ok(_) | Err(_) => (),
        }
        is_away = found.is_err();
        for (key, sender) in looking.drain(..) {
            drop(sender.send(found.as_ref().map(|found| found.get(&key).cloned()).map_err(|_| Away)));
        }
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn who_looks_while_a_query_is_under_way_shares_the_next_one() {
        let (asked, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let lookup = {
            let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
            Lookup::start(Duration::ZERO, move |keys: Vec<u32>| {
                asked.lock().unwrap().push(keys.len());
                let gate = Arc::clone(&gate);
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok(keys.into_iter().filter(|key| *key < 2).map(|key| (key, key.to_string())).collect())
                }
            })
        };
        let first = lookup.get(1);
        let others = async {
            while asked.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            let others = join_all([1, 1, 2, 3, 1].map(|key| lookup.get(key)));
            tokio::join!(others, async { gate.add_permits(2) }).0
        };
        let (first, others) = tokio::join!(first, others);
        let one = || Ok(Some("1".to_owned()));
        assert_eq!((first, others), (one(), vec![one(), one(), Ok(None), Ok(None), one()]));
        assert_eq!(*asked.lock().unwrap(), [1, 3], "each key once");
    }
}
