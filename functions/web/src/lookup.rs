//! Many that look for something at the same time are one query: while one is under way, and for a moment after it, what is looked for
//! is collected. So the database is asked no more often, however many look.

use shared::db::answered;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// The most that one query looks for. How many look for it has its bound elsewhere: each does so for one request or one stream, of
/// which `REQUESTS_MAX` and `STREAMS_MAX` are let in.
const KEYS_MAX: usize = 1_000;

/// The database does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Away;

/// Who looks for something.
type Looker<V> = oneshot::Sender<Result<Option<V>, Away>>;

#[derive(Debug)]
pub(crate) struct Lookup<K, V> {
    looking: mpsc::UnboundedSender<(K, Looker<V>)>,
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

async fn look<K, V, Query, Asking>(pause: Duration, query: Query, mut receiver: mpsc::UnboundedReceiver<(K, Looker<V>)>)
where
    K: Clone + Eq + Hash,
    V: Clone,
    Query: Fn(Vec<K>) -> Asking,
    Asking: Future<Output = Result<HashMap<K, V>, sqlx::Error>>,
{
    let mut is_away = false;
    while let Some(first) = receiver.recv().await {
        let lookers = collect(first, &mut receiver);
        let found = answered(query(lookers.keys().cloned().collect())).await;
        match &found {
            Err(error) if !is_away => tracing::warn!(%error, "nothing can be looked up"),
            Ok(_) if is_away => tracing::info!("what was decided can be looked up again"),
            Ok(_) | Err(_) => (),
        }
        is_away = found.is_err();
        for (key, lookers) in lookers {
            let found = found.as_ref().map(|found| found.get(&key).cloned()).map_err(|_| Away);
            lookers.into_iter().for_each(|looker| drop(looker.send(found.clone())));
        }
        sleep(pause).await;
    }
}

/// What is looked for at this moment, and by whom. Who has gone meanwhile looks for nothing.
fn collect<K: Eq + Hash, V>(
    first: (K, Looker<V>),
    receiver: &mut mpsc::UnboundedReceiver<(K, Looker<V>)>,
) -> HashMap<K, Vec<Looker<V>>> {
    let mut lookers: HashMap<K, Vec<Looker<V>>> = HashMap::new();
    let mut next = Some(first);
    while let Some((key, looker)) = next {
        if !looker.is_closed() {
            lookers.entry(key).or_default().push(looker);
        }
        next = if lookers.len() < KEYS_MAX { receiver.try_recv().ok() } else { None };
    }
    lookers
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Semaphore;

    /// What the queries look for that are made where one is under way already, and then all of these look at once.
    async fn asked(keys: impl IntoIterator<Item = u32>) -> (Vec<usize>, Vec<Result<Option<String>, Away>>) {
        let (asked, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let lookup = {
            let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
            Lookup::start(Duration::ZERO, move |keys: Vec<u32>| {
                asked.lock().unwrap().push(keys.len());
                let gate = Arc::clone(&gate);
                async move {
                    drop(gate.acquire().await.unwrap());
                    Ok(keys.into_iter().filter(|key| *key < 2).map(|key| (key, key.to_string())).collect())
                }
            })
        };
        let others = async {
            while asked.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            let others = join_all(keys.into_iter().map(|key| lookup.get(key)));
            tokio::join!(others, async { gate.add_permits(1) }).0
        };
        let (first, others) = tokio::join!(lookup.get(1), others);
        assert_eq!(first, Ok(Some("1".to_owned())));
        let asked = asked.lock().unwrap().split_off(1);
        (asked, others)
    }

    #[tokio::test]
    async fn who_looks_while_a_query_is_under_way_shares_the_next_one() {
        let (asked, found) = asked([1, 1, 2, 3, 1]).await;
        let one = || Ok(Some("1".to_owned()));
        assert_eq!((asked, found), (vec![3], vec![one(), one(), Ok(None), Ok(None), one()]), "each key once");
    }

    #[tokio::test]
    async fn many_keys_are_several_queries_and_many_who_look_for_one_are_not() {
        let many = 3 * u32::try_from(KEYS_MAX).unwrap();
        for (keys, expected) in
            [((0..many).map(|_| 1).collect::<Vec<_>>(), vec![1]), ((0..many).collect(), vec![KEYS_MAX; 3])]
        {
            let (asked, found) = asked(keys).await;
            assert_eq!((asked, found.len()), (expected, 3 * KEYS_MAX));
        }
    }
}
