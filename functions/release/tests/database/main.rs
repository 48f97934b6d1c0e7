//! The release function against a real PostgreSQL: who meets whom is forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod cancelling;
mod expiry;
mod meeting;
mod plans;

use release::{
    Release,
    expire::{PassedOver, expire},
};
use shared::{
    db,
    devstack::Fixture,
    handler::{Answer, Handler},
    messages::{ReleaseRequest, Verdict},
    order::State,
};
use sqlx::{PgPool, Postgres, Row, Transaction};
use uuid::Uuid;

/// Enough for every test here to have its sessions at once.
const CONNECTIONS_MAX: u32 = 8;

const PUT_ON_SALE: &str = "INSERT INTO items (id, stock, available, held) VALUES ($1, $2, 0, $2)";
const HOLD: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
VALUES ($1, 'r-' || $1, $2, 'b', $3, now() + make_interval(secs => $4), now())";
/// Sessions of this test's database that wait for a lock.
const WAITING_HERE: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// When a test's hold runs out.
#[derive(Clone, Copy)]
enum Due {
    Now,
    InAnHour,
}

/// A migrated database of the test's own, with these items, all of whose units are held.
async fn database(items: &[(&str, i64)]) -> PgPool {
    let fixture = Fixture::new().await;
    let pool = db::pool(&fixture.database_url, "test", CONNECTIONS_MAX).unwrap();
    db::migrate(&pool).await.unwrap();
    for (id, held) in items {
        sqlx::query(PUT_ON_SALE).bind(id).bind(held).execute(&pool).await.unwrap();
    }
    pool
}

/// Makes the order that holds these units.
async fn hold(pool: &PgPool, item: &str, quantity: i64, due: Due) -> Uuid {
    let id = Uuid::now_v7();
    let seconds = match due {
        Due::Now => -1.0,
        Due::InAnHour => 3_600.0,
    };
    sqlx::query(HOLD).bind(id).bind(item).bind(quantity).bind(seconds).execute(pool).await.unwrap();
    id
}

fn request(id: impl std::fmt::Display, order_id: Uuid) -> ReleaseRequest {
    ReleaseRequest { request_id: format!("c-{id}"), order_id }
}

async fn answers(pool: &PgPool, requests: &[ReleaseRequest]) -> Vec<Answer> {
    Release::new(pool.clone()).handle(requests).await.unwrap()
}

fn verdict(answer: &Answer) -> Verdict {
    match answer {
        Answer::Verdict(body) => serde_json::from_str(body).unwrap(),
        Answer::Rejected(rejection) => rejection.verdict(),
        Answer::Requeue => panic!("it is decided at once"),
    }
}

/// Ends what is due; returns how many orders expired.
async fn expired(pool: &PgPool) -> i64 {
    expire(&mut pool.acquire().await.unwrap(), &mut PassedOver::default()).await.unwrap() as i64
}

/// (available, held, version)
async fn item(pool: &PgPool, id: &str) -> (i64, i64, i64) {
    let row = sqlx::query("SELECT available, held, version FROM items WHERE id = $1").bind(id);
    let row = row.fetch_one(pool).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

async fn state(pool: &PgPool, order: Uuid) -> State {
    let row = sqlx::query("SELECT state FROM orders WHERE id = $1").bind(order).fetch_one(pool).await.unwrap();
    State::read(row.get(0)).unwrap()
}

/// The order's history: (from, to, cause, request id).
async fn history(pool: &PgPool, order: Uuid) -> Vec<(String, String, String, Option<String>)> {
    let read = "SELECT from_state, to_state, cause, request_id FROM order_history WHERE order_id = $1 ORDER BY at";
    let rows = sqlx::query(read).bind(order).fetch_all(pool).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(pool).await.unwrap().get(0)
}

/// A transaction that holds an item's row until it is dropped.
async fn lock_item(pool: &PgPool, id: &str) -> Transaction<'static, Postgres> {
    let mut transaction = pool.begin().await.unwrap();
    let lock = "SELECT 1 FROM items WHERE id = $1 FOR NO KEY UPDATE";
    sqlx::query(lock).bind(id).execute(&mut *transaction).await.unwrap();
    transaction
}

/// Ends when this many sessions wait for a lock that another one holds.
async fn until_waiting(pool: &PgPool, sessions: i64) {
    while count(pool, WAITING_HERE).await < sessions {
        tokio::task::yield_now().await;
    }
}
