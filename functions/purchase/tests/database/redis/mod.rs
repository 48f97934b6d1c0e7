//! The redis strategy, where it differs from the others: what Redis counts, what becomes of it when Redis is not what it was, and
//! that PostgreSQL has the last word. Each test has a Redis of its own, to do to it whatever happens to one.

mod counter;
mod faults;
mod fence;
mod truth;

use crate::request;
use purchase::{
    Purchase,
    store::read,
    strategy::{Counter, RedisOptions, StrategyName, StrategyOptions},
};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use shared::{
    devstack::{Folder, Redis},
    messages::{Code, PurchaseRequest},
    retry::RetryPolicy,
};
use sqlx::{PgPool, Row};
use std::{collections::HashMap, ops::Range, sync::Arc};
use uuid::Uuid;

async fn redis() -> Redis {
    Redis::start(&Arc::new(Folder::create().unwrap())).await.unwrap()
}

fn options(redis: &Redis) -> RedisOptions {
    RedisOptions { redis_url: redis.url() }
}

/// A worker whose strategy this is.
fn worker(pool: &PgPool, redis: &Redis) -> Purchase {
    let options =
        StrategyOptions { strategy: StrategyName::Redis, redis: options(redis), ..StrategyOptions::default() };
    Purchase::new(pool.clone(), options, RetryPolicy::default()).unwrap()
}

/// What becomes of requests for a unit of the item `a`, in one batch.
async fn sold(worker: &Purchase, numbers: Range<u32>) -> Vec<Code> {
    let requests: Vec<_> = numbers.map(|number| request(number, "a", 1)).collect();
    crate::codes(worker, &requests).await
}

/// So many of this, then so many of that, and so on.
fn codes(expected: &[(usize, Code)]) -> Vec<Code> {
    expected.iter().flat_map(|(count, code)| std::iter::repeat_n(*code, *count)).collect()
}

/// The units that are left before each request, as a worker that counts has Redis say it.
async fn left(counter: &Counter, pool: &PgPool, requests: &[PurchaseRequest]) -> Vec<Option<i64>> {
    let requests: Vec<&PurchaseRequest> = requests.iter().collect();
    let mut connection = pool.acquire().await.unwrap();
    let (snapshot, _) = read(&mut connection, &requests).await.unwrap();
    let left = counter.left(&mut connection, &snapshot.items, &requests).await.unwrap();
    let mut left: HashMap<_, _> = left.into_iter().map(|(item, left)| (item, left.into_iter())).collect();
    requests.iter().map(|request| Some(left.get_mut(request.item.as_str())?.next()?.1)).collect()
}

async fn epoch(pool: &PgPool) -> Uuid {
    sqlx::query("SELECT epoch FROM redis_fence").fetch_one(pool).await.unwrap().get(0)
}

/// The units that Redis had left of the item `a`, as it counted in that epoch.
async fn counted(redis: &Redis, epoch: Uuid) -> Option<i64> {
    let key = format!("turnstile:{}:item:a", epoch.simple());
    ask(redis, redis::cmd("HGET").arg(key).arg("left")).await
}

async fn ask<T: FromRedisValue>(redis: &Redis, command: &redis::Cmd) -> T {
    command.query_async(&mut connect(redis).await).await.unwrap()
}

async fn connect(redis: &Redis) -> MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}
