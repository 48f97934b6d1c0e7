//! The restock function against a real PostgreSQL: who meets whom is forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod counting;
mod meeting;
mod operating;
mod plans;

use restock::Restock;
use shared::{
    db,
    devstack::Fixture,
    handler::{Answer, Handler},
    messages::{Code, HOLD_MS_DEFAULT, Operation, RestockRequest, Rules, Verdict},
};
use sqlx::{PgPool, Postgres, Row, Transaction};

/// Enough for every test here to have its sessions at once.
const CONNECTIONS_MAX: u32 = 8;

/// Sessions of this test's database that wait for a lock.
const WAITING_HERE: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// A migrated database of the test's own, with these items: stock, of which some is held and some is sold.
async fn database(items: &[(&str, i64, i64, i64)]) -> PgPool {
    let fixture = Fixture::new().await;
    let pool = db::pool(&fixture.database_url, "test", CONNECTIONS_MAX).unwrap();
    db::migrate(&pool).await.unwrap();
    for (id, stock, held, sold) in items {
        let insert = "INSERT INTO items (id, stock, available, held, sold) VALUES ($1, $2, $2 - $3 - $4, $3, $4)";
        sqlx::query(insert).bind(id).bind(stock).bind(held).bind(sold).execute(&pool).await.unwrap();
    }
    pool
}

fn request(id: impl std::fmt::Display, item: &str, operation: Operation) -> RestockRequest {
    RestockRequest { request_id: format!("s-{id}"), item: item.to_owned(), operation }
}

fn create(stock: i64, rules: Rules) -> Operation {
    Operation::Create { stock, hold_ms: HOLD_MS_DEFAULT, opens_at: None, closes_at: None, rules }
}

fn at_most(units: i64) -> Rules {
    Rules { max_per_buyer: Some(units), ..Rules::default() }
}

async fn answers(pool: &PgPool, requests: &[RestockRequest]) -> Vec<Answer> {
    Restock::new(pool.clone()).handle(requests).await.unwrap()
}

/// The code that one request alone gets.
async fn code(pool: &PgPool, request: RestockRequest) -> Code {
    verdict(&answers(pool, &[request]).await[0]).code
}

fn codes(answers: &[Answer]) -> Vec<Code> {
    answers.iter().map(|answer| verdict(answer).code).collect()
}

fn verdict(answer: &Answer) -> Verdict {
    match answer {
        Answer::Verdict(body) => serde_json::from_str(body).unwrap(),
        Answer::Rejected(rejection) => rejection.verdict(),
        Answer::Requeue => panic!("it is decided at once"),
    }
}

/// (stock, available, held, sold, version)
async fn item(pool: &PgPool, id: &str) -> (i64, i64, i64, i64, i64) {
    let row = sqlx::query("SELECT stock, available, held, sold, version FROM items WHERE id = $1").bind(id);
    let row = row.fetch_one(pool).await.unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))
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
