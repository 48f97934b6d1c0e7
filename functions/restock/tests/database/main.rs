//! The restock function against a real PostgreSQL: who meets whom is forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod counting;
mod meeting;
mod operating;
mod plans;

use restock::Restock;
use restock::count::STEP_ORDERS;
use serde_json::Value;
use shared::db;
use shared::devstack::seed::{
    self, Fault, all_of, assert_one_verdict_per_id, codes, count, database, functions, lock, until_decided,
    until_waiting, verdict,
};
use shared::handler::{Answer, Handler};
use shared::messages::{
    Code, HOLD_MS_DEFAULT, Operation, Request, RestockRequest, Rules, STOCK_MAX, TIERS_MAX, TIME_MS_MAX,
};
use sqlx::{PgPool, Postgres, Row, Transaction};
use std::collections::BTreeSet;
use tokio::task::JoinHandle;

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
    Restock::new(functions(pool)).handle(requests).await.unwrap()
}

/// The code that one request alone gets.
async fn code(pool: &PgPool, request: RestockRequest) -> Code {
    verdict(&answers(pool, &[request]).await[0]).code
}

/// The same, once it is waited for.
fn setting(pool: &PgPool, request: RestockRequest) -> JoinHandle<Code> {
    let pool = pool.clone();
    tokio::spawn(async move { code(&pool, request).await })
}

/// (stock, available, held, sold, version)
async fn item(pool: &PgPool, id: &str) -> (i64, i64, i64, i64, i64) {
    let item = seed::item(pool, id).await;
    (item.stock, item.available, item.held, item.sold, item.version)
}
