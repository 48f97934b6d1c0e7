//! A server that counts in Redis, as many shops have it.

use super::Purchase;
use crate::failure::Failure;
use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use redis::Script;
use redis::aio::MultiplexedConnection;
use std::sync::Arc;

/// As shops that count in Redis do it: one script, one key, no order.
const TAKE: &str = "if tonumber(redis.call('GET', KEYS[1])) < tonumber(ARGV[1]) then return 0 end \
                    redis.call('DECRBY', KEYS[1], ARGV[1]) return 1";

/// A handler of one script, with so many units of an item.
pub(super) async fn routes(url: &str, item: &str, units: u64) -> Result<Router, Failure> {
    let connecting = async {
        let mut redis = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        redis::cmd("SET").arg(item).arg(units).exec_async(&mut redis).await?;
        redis::RedisResult::Ok(redis)
    };
    let redis = connecting.await.context("Redis cannot be used").map_err(Failure::Unreachable)?;
    Ok(Router::new().route("/purchase", post(take)).with_state(Arc::new((redis, Script::new(TAKE)))))
}

async fn take(
    State(of): State<Arc<(MultiplexedConnection, Script)>>,
    Json(purchase): Json<Purchase>,
) -> Result<StatusCode, StatusCode> {
    let (mut redis, script) = (of.0.clone(), &of.1);
    let taken = script.key(&purchase.item).arg(purchase.quantity).invoke_async::<u8>(&mut redis).await;
    let is_taken = taken.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)? == 1;
    Ok(if is_taken { StatusCode::OK } else { StatusCode::GONE })
}
