//! The payment function against a real PostgreSQL, and its HTTP gateway against a real HTTP server: who meets whom, and who
//! crashes where, is forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod bank;
mod crashes;
mod http;
mod meeting;
mod paying;
mod plans;
mod server;

use bank::Bank;
use payment::{Payment, asks::Asks, gateway::Gateway, pay::Till};
use shared::{
    db,
    devstack::Fixture,
    handler::Answer,
    messages::{PaymentRequest, Verdict},
    order::State,
    outbox::Notifier,
};
use sqlx::{PgPool, Postgres, Row, Transaction};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// Enough for every test here to have its sessions at once.
const CONNECTIONS_MAX: u32 = 8;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long ago enough for a payment to be lost; the tests that are about it say how long that is.
const LOST_SECONDS: u32 = 300;

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

fn request(id: impl std::fmt::Display, order_id: Uuid, payment_method: &str) -> PaymentRequest {
    PaymentRequest { request_id: format!("p-{id}"), order_id, payment_method: payment_method.to_owned() }
}

/// A payment function as it is after its process started: it knows nothing but the database and the bank.
fn process(pool: &PgPool, bank: &Arc<Bank>) -> Payment {
    Payment::new(pool.clone(), Arc::clone(bank) as Arc<dyn Gateway>, LOST_SECONDS)
}

/// The same, for a test that says itself how long to wait for the bank.
fn till(pool: &PgPool, bank: &Arc<Bank>) -> Till {
    Till { pool: pool.clone(), asks: Asks::of(bank.clone()), notifier: Notifier::start(pool) }
}

/// What a process of its own answers, once the bank has said it all.
async fn answers(pool: &PgPool, bank: &Arc<Bank>, requests: &[PaymentRequest]) -> Vec<Answer> {
    till(pool, bank).pay(requests, PATIENCE).await.unwrap()
}

/// The code that a lone request is answered with.
async fn code(pool: &PgPool, bank: &Arc<Bank>, request: PaymentRequest) -> &'static str {
    verdict(&answers(pool, bank, &[request]).await[0]).code.as_str()
}

fn verdict(answer: &Answer) -> Verdict {
    match answer {
        Answer::Verdict(body) => serde_json::from_str(body).unwrap(),
        Answer::Rejected(rejection) => rejection.verdict(),
        Answer::Requeue => panic!("the gateway has said it"),
    }
}

/// (held, sold, version)
async fn item(pool: &PgPool, id: &str) -> (i64, i64, i64) {
    let row = sqlx::query("SELECT held, sold, version FROM items WHERE id = $1").bind(id);
    let row = row.fetch_one(pool).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

async fn state(pool: &PgPool, order: Uuid) -> State {
    let row = sqlx::query("SELECT state FROM orders WHERE id = $1").bind(order).fetch_one(pool).await.unwrap();
    State::read(row.get(0)).unwrap()
}

/// Where the order went, step by step, with the request that caused it.
async fn history(pool: &PgPool, order: Uuid) -> Vec<(String, String)> {
    let read = "SELECT to_state, request_id FROM order_history WHERE order_id = $1 ORDER BY at";
    let rows = sqlx::query(read).bind(order).fetch_all(pool).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn steps(steps: &[(&str, &str)]) -> Vec<(String, String)> {
    steps.iter().map(|(to, by)| ((*to).to_owned(), (*by).to_owned())).collect()
}

/// The kinds of event in the outbox, in order.
async fn told(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT kind FROM outbox ORDER BY id").fetch_all(pool).await.unwrap()
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(pool).await.unwrap().get(0)
}

/// A transaction that holds an order's row until it is dropped.
async fn lock_order(pool: &PgPool, id: Uuid) -> Transaction<'static, Postgres> {
    let mut transaction = pool.begin().await.unwrap();
    let lock = "SELECT 1 FROM orders WHERE id = $1 FOR NO KEY UPDATE";
    sqlx::query(lock).bind(id).execute(&mut *transaction).await.unwrap();
    transaction
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
