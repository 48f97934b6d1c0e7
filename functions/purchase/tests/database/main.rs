//! The purchase function against a real PostgreSQL: conflicts are forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod conflicts;
mod keep;
mod repeats;
mod stock;

use purchase::Purchase;
use shared::{
    contract::{PurchaseRequest, Verdict},
    devstack::Fixture,
    handler::{Answer, Handler},
    retry::RetryPolicy,
    store,
};
use sqlx::{PgPool, Row};

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
    let pool = store::pool(database_url, "test", CONNECTIONS_MAX).unwrap();
    store::migrate(&pool).await.unwrap();
    pool
}

fn purchase(pool: &PgPool) -> Purchase {
    Purchase::new(pool.clone(), RetryPolicy::default())
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
        Answer::Later => panic!("it is decided at once"),
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
