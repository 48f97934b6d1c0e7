//! The release function against a real PostgreSQL: who meets whom is forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod cancelling;
mod expiry;
mod meeting;
mod plans;

use release::{
    Release,
    expire::{PassedOver, expire},
    store::BATCH_ORDERS_MAX,
};
use shared::{
    devstack::seed::{
        self, Due, all_of, codes, count, database, database_of_holds, execute, history, hold, lock, one_hold, plan,
        state, until_waiting, verdict,
    },
    handler::{Answer, Handler},
    messages::{Code, ReleaseRequest, Status},
    order::State,
};
use sqlx::{PgPool, postgres::PgConnectOptions};
use uuid::Uuid;

fn request(id: impl std::fmt::Display, order_id: Uuid) -> ReleaseRequest {
    ReleaseRequest { request_id: format!("c-{id}"), order_id }
}

async fn answers(pool: &PgPool, requests: &[ReleaseRequest]) -> Vec<Answer> {
    Release::new(pool.clone()).handle(requests).await.unwrap()
}

/// Ends what is due; returns how many orders expired.
async fn expired(pool: &PgPool) -> i64 {
    expire(&mut pool.acquire().await.unwrap(), &mut PassedOver::default()).await.unwrap() as i64
}

/// (available, held, version)
async fn item(pool: &PgPool, id: &str) -> (i64, i64, i64) {
    let item = seed::item(pool, id).await;
    (item.available, item.held, item.version)
}
