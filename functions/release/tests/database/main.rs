//! The release function against a real PostgreSQL: who meets whom is forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod cancelling;
mod expiry;
mod meeting;
mod plans;
mod rows;

use release::Release;
use release::expire::Expirer;
use release::store::BATCH_ORDERS_MAX;
use shared::db;
use shared::devstack::seed::{
    self, Due, Fault, assert_one_verdict_per_id, by, codes, count, database, database_of_holds, execute, functions,
    history, hold, holds, lock, one_hold, sold_to, state, until_decided, until_waiting, verdict, violated_by,
};
use shared::handler::{Answer, Handler};
use shared::isolation::Isolation;
use shared::messages::{Code, ReleaseRequest, Sender, Status};
use shared::order::State;
use shared::outbox::Notifier;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;
use uuid::Uuid;

fn request(id: impl std::fmt::Display, order_id: Uuid) -> ReleaseRequest {
    ReleaseRequest { request_id: format!("c-{id}"), order_id, sender: None }
}

async fn answers(pool: &PgPool, requests: &[ReleaseRequest]) -> Vec<Answer> {
    Release::new(functions(pool)).handle(requests).await.unwrap()
}

/// Ends what is due; returns how many orders expired.
async fn expired(pool: &PgPool) -> i64 {
    Expirer::new(pool, Isolation::new(pool), Notifier::start(pool)).expire().await.unwrap() as i64
}

/// (available, held, version)
async fn item(pool: &PgPool, id: &str) -> (i64, i64, i64) {
    let item = seed::item(pool, id).await;
    (item.available, item.held, item.version)
}
