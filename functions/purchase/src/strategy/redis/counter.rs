//! What Redis counts: how many units of an item are left, before each of the requests that it is asked about.
//!
//! It answers as fast as it can, and may be wrong: units that came back, or were taken away, behind its back; units that it
//! gave to a request that never came to be recorded. Whoever asks has PostgreSQL confirm, and has Redis forget what was
//! not true. Invariant: an item that it does not count is loaded from PostgreSQL, and never taken for sold out.

use super::link::{Link, Question, Row};
use clap::Args;
use shared::{
    config::Unusable,
    error::Error,
    messages::{PurchaseRequest, Request},
};
use sqlx::PgConnection;
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};
use tokio::sync::Mutex;
use uuid::Uuid;

/// How often an item is asked about when it is not counted: it is loaded in between, unless others have it forgotten, or
/// Redis runs out of room, just as fast.
const ASKS_MAX: u32 = 3;

/// What is in stock, by PostgreSQL.
const READ_COUNTS: &str = "SELECT id, version, available FROM items WHERE id = ANY($1)";

/// Where Redis is, unless told otherwise.
const REDIS_URL_DEFAULT: &str = "redis://127.0.0.1:6379";

/// Where Redis is.
#[derive(Debug, Clone, Args)]
pub struct RedisOptions {
    /// Where Redis is: redis://USER:PASSWORD@HOST:PORT/DATABASE, or redis+unix:///path of a Unix socket. Only the strategy
    /// `redis` uses it.
    #[arg(long, env = "REDIS_URL", default_value = REDIS_URL_DEFAULT, hide_env_values = true)]
    pub redis_url: String,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { redis_url: REDIS_URL_DEFAULT.to_owned() }
    }
}

/// Asks Redis. Connects when first asked, and again after every fault; copies share the connection.
#[derive(Clone)]
pub struct Counter {
    client: redis::Client,
    link: Arc<Mutex<Option<Arc<Link>>>>,
}

impl fmt::Debug for Counter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        formatter.write_str("Counter")
    }
}

impl Counter {
    /// A counter at the Redis that the options name.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub fn new(options: &RedisOptions) -> Result<Self, Unusable> {
        let unusable = |error: redis::RedisError| Unusable(format!("REDIS_URL cannot be read: {error}"));
        let client = redis::Client::open(options.redis_url.as_str()).map_err(unusable)?;
        let without_delay = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let info = client.get_connection_info().clone().set_tcp_settings(without_delay);
        let client = redis::Client::open(info).map_err(unusable)?;
        Ok(Self { client, link: Arc::default() })
    }

    /// Connects now, so that the first buyer does not wait for it.
    ///
    /// # Errors
    /// Redis or the database is away or unfit.
    pub async fn connect(&self, database: &mut PgConnection) -> Result<(), Error> {
        self.link(database).await.map(|_| ())
    }

    /// The units left before each request, in order: it gets its units if its quantity is no more. Who asks again about a
    /// request that got its units is told the same. `None`: nobody counts its item.
    ///
    /// # Errors
    /// Redis or the database is away or unfit.
    pub async fn left(
        &self,
        database: &mut PgConnection,
        requests: &[&PurchaseRequest],
    ) -> Result<Vec<Option<i64>>, Error> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let link = self.link(database).await?;
        let left = left(&link, database, requests).await;
        self.checked(&link, left).await
    }

    /// Has these items loaded from PostgreSQL when they are next asked about.
    ///
    /// # Errors
    /// Redis or the database is away or unfit.
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

async fn left(
    link: &Link,
    database: &mut PgConnection,
    requests: &[&PurchaseRequest],
) -> Result<Vec<Option<i64>>, Error> {
    let mut left = vec![None; requests.len()];
    let mut unanswered: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, request) in requests.iter().enumerate() {
        unanswered.entry(&request.item).or_default().push(place);
    }
    for _ in 0..ASKS_MAX {
        let questions: Vec<Question<'_>> = unanswered
            .iter()
            .map(|(item, places)| Question { item, requests: places.iter().map(|at| named(requests[*at])).collect() })
            .collect();
        for (question, answer) in questions.iter().zip(link.take(&questions).await?) {
            if let Some(answer) = answer {
                let places = unanswered.remove(question.item).unwrap_or_default();
                places.into_iter().zip(answer).for_each(|(place, units)| left[place] = Some(units));
            }
        }
        if unanswered.is_empty() {
            break;
        }
        let rows = read_counts(database, unanswered.keys().copied().collect()).await?;
        let known: HashSet<&str> = rows.iter().map(|row| row.item.as_str()).collect();
        unanswered.retain(|item, _| known.contains(item));
        if unanswered.is_empty() {
            break;
        }
        link.load(&rows).await?;
    }
    Ok(left)
}

async fn read_counts(database: &mut PgConnection, items: Vec<&str>) -> Result<Vec<Row>, Error> {
    use sqlx::Row as _;
    let rows = sqlx::query(READ_COUNTS).bind(items).fetch_all(database).await?;
    let count = |row: sqlx::postgres::PgRow| {
        Ok(Row { item: row.try_get("id")?, version: row.try_get("version")?, available: row.try_get("available")? })
    };
    rows.into_iter().map(count).collect()
}

/// The same name only for the same id and content.
fn named(request: &PurchaseRequest) -> (Uuid, u32) {
    (Uuid::new_v5(&request.fingerprint(), request.request_id.as_bytes()), request.quantity)
}
