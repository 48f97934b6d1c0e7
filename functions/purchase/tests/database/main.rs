//! The purchase function against a real PostgreSQL, and a real Redis: conflicts are forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod conflicts;
mod conformance;
mod extremes;
mod keep;
mod meanwhile;
mod redis;
mod repeats;
mod replay;
mod rules;
mod stock;

use clap::ValueEnum;
use purchase::{
    Purchase,
    strategy::{RedisOptions, Strategy, StrategyOptions},
};
use shared::{
    db,
    devstack::{Fixture, fixture},
    handler::{Answer, Handler},
    messages::{PurchaseRequest, Verdict},
    retry::RetryPolicy,
};
use sqlx::{PgPool, Row};
use std::sync::OnceLock;

/// Enough for every test here to run its deciders at once.
const CONNECTIONS_MAX: u32 = 16;

/// A migrated database of the test's own, with these items and their stock on sale.
async fn database(items: &[(&str, i64)]) -> PgPool {
    let fixture = Fixture::new().await;
    let pool = migrated(&fixture.database_url).await;
    for (id, stock) in items {
        let insert = "INSERT INTO items (id, stock, available) VALUES ($1, $2, $2)";
        sqlx::query(insert).bind(id).bind(stock).execute(&pool).await.unwrap();
    }
    pool
}

async fn migrated(database_url: &str) -> PgPool {
    let pool = db::pool(database_url, "test", CONNECTIONS_MAX).unwrap();
    db::migrate(&pool).await.unwrap();
    pool
}

fn purchase(pool: &PgPool) -> Purchase {
    by(Strategy::Optimistic, pool)
}

fn by(strategy: Strategy, pool: &PgPool) -> Purchase {
    with_attempts(strategy, RetryPolicy::default().attempts_max, pool)
}

fn with_attempts(strategy: Strategy, attempts_max: u32, pool: &PgPool) -> Purchase {
    let options = StrategyOptions { strategy, redis: shared_redis(), ..StrategyOptions::default() };
    Purchase::new(pool.clone(), options, RetryPolicy { attempts_max, ..RetryPolicy::default() }).unwrap()
}

/// Where the Redis is that all tests may use, once one of them has asked for it.
static REDIS_URL: OnceLock<String> = OnceLock::new();

fn shared_redis() -> RedisOptions {
    REDIS_URL.get().map(|url| RedisOptions { redis_url: url.clone() }).unwrap_or_default()
}

/// Runs a test of what is promised whatever the strategy.
async fn with_every_strategy(mut test: impl AsyncFnMut(Strategy)) {
    let redis_url = fixture::redis().await.url();
    REDIS_URL.get_or_init(|| redis_url);
    for strategy in Strategy::value_variants() {
        eprintln!("with strategy {strategy:?}");
        test(*strategy).await;
    }
}

fn request(id: impl std::fmt::Display, item: &str, quantity: u32) -> PurchaseRequest {
    PurchaseRequest {
        request_id: format!("r-{id}"),
        item: item.to_owned(),
        buyer: format!("b-{id}"),
        quantity,
        deadline: None,
    }
}

async fn answers(purchase: &Purchase, requests: &[PurchaseRequest]) -> Vec<Answer> {
    purchase.handle(requests).await.unwrap()
}

fn verdict(answer: &Answer) -> Verdict {
    match answer {
        Answer::Verdict(body) => serde_json::from_str(body).unwrap(),
        Answer::Rejected(rejection) => rejection.verdict(),
        Answer::Requeue => panic!("it is decided at once"),
    }
}

/// (available, held, version, conflicts)
async fn item(pool: &PgPool, id: &str) -> (i64, i64, i64, i64) {
    let row = sqlx::query("SELECT available, held, version, conflicts FROM items WHERE id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(pool).await.unwrap().get(0)
}

/// Sessions of this test's database that wait for a lock. (`pg_locks` would show those of the whole server: a row's
/// waiter waits for a transaction, which belongs to no database.)
const WAITING_HERE: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// Ends when this many sessions wait for a lock that another one holds.
async fn until_waiting(pool: &PgPool, sessions: i64) {
    while count(pool, WAITING_HERE).await < sessions {
        tokio::task::yield_now().await;
    }
}

/// Somebody else has decided on the item `a` meanwhile.
const MOVE_ON: &str = "UPDATE items SET version = version + 1 WHERE id = 'a'";

/// A transaction that has changed an item's row and holds it until released.
struct Blocker(sqlx::Transaction<'static, sqlx::Postgres>);

impl Blocker {
    async fn runs(pool: &PgPool, update: &'static str) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query(update).execute(&mut *transaction).await.unwrap();
        Self(transaction)
    }

    /// The other side has read the row as it was, and now waits for ours.
    async fn release_when_waited_for(self, pool: &PgPool) {
        until_waiting(pool, 1).await;
        self.0.commit().await.unwrap();
    }
}
