//! The redis strategy, where it differs from the others: what Redis counts, what becomes of it when Redis is not what it was, and
//! that PostgreSQL has the last word. Each test has a Redis of its own, to do to it whatever happens to one.

mod counter;
mod faults;
mod fence;
mod truth;

use crate::{database, request};
use purchase::{
    Purchase,
    store::read,
    strategy::{Counter, StrategyName, StrategyOptions},
};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use shared::{
    devstack::{Folder, Redis},
    error::Error,
    handler::Handler,
    messages::{Code, PurchaseRequest},
    retry::RetryPolicy,
};
use sqlx::PgPool;
use std::{collections::HashMap, ops::Range, sync::Arc};
use uuid::Uuid;

/// A sale of the item `a`, with a Redis of its own.
struct Sale {
    redis: Redis,
    pool: PgPool,
    worker: Purchase,
}

impl Sale {
    async fn of(stock: i64) -> Self {
        Self::with(&[("a", stock)], RetryPolicy::default()).await
    }

    async fn with(items: &[(&str, i64)], retry: RetryPolicy) -> Self {
        let redis = Redis::start(&Arc::new(Folder::create().unwrap())).await.unwrap();
        let pool = database(items).await;
        Self { worker: worker(&pool, &redis, retry), redis, pool }
    }

    /// What becomes of requests for a unit, in one batch.
    async fn sells(&self, numbers: Range<u32>) -> Vec<Code> {
        let requests: Vec<_> = numbers.map(|number| request(number, "a", 1)).collect();
        crate::codes(&self.worker, &requests).await
    }

    /// (available, held, version, conflicts)
    async fn row(&self) -> (i64, i64, i64, i64) {
        crate::item(&self.pool, "a").await
    }

    /// What Redis says another worker is left before each request, which it then takes.
    async fn another_worker_takes(&self, requests: &[PurchaseRequest]) -> Vec<Option<i64>> {
        left(&counter(&self.redis), &self.pool, requests).await
    }

    async fn epoch(&self) -> Uuid {
        sqlx::query_scalar("SELECT epoch FROM redis_fence").fetch_one(&self.pool).await.unwrap()
    }

    /// The units that Redis has left, as it counts now.
    async fn counted(&self) -> Option<i64> {
        self.counted_in(self.epoch().await).await
    }

    async fn counted_in(&self, epoch: Uuid) -> Option<i64> {
        let key = format!("turnstile:{}:item:a", epoch.simple());
        self.ask(redis::cmd("HGET").arg(key).arg("left")).await
    }

    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> T {
        command.query_async(&mut connect(&self.redis).await).await.unwrap()
    }

    async fn say(&self, command: &str) {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        self.ask(&command).await
    }
}

async fn assert_away(worker: &Purchase) {
    let error = worker.handle(&[request("while away", "a", 1)]).await.unwrap_err();
    assert!(matches!(&error, Error::Away(text) if text.contains("Redis")), "{error}");
}

fn worker(pool: &PgPool, redis: &Redis, retry: RetryPolicy) -> Purchase {
    let strategy = StrategyName::Redis;
    let options = StrategyOptions { strategy, redis_url: redis.url(), ..StrategyOptions::default() };
    Purchase::new(pool.clone(), options, retry).unwrap()
}

fn counter(redis: &Redis) -> Counter {
    Counter::new(&redis.url()).unwrap()
}

/// The units that Redis has left before each request.
async fn left(counter: &Counter, pool: &PgPool, requests: &[PurchaseRequest]) -> Vec<Option<i64>> {
    let requests: Vec<&PurchaseRequest> = requests.iter().collect();
    let mut connection = pool.acquire().await.unwrap();
    let (snapshot, _) = read(&mut connection, &requests).await.unwrap();
    let left = counter.left(&mut connection, &snapshot.items, &requests).await.unwrap();
    let mut left: HashMap<_, _> = left.into_iter().map(|(item, left)| (item, left.into_iter())).collect();
    requests.iter().map(|request| Some(left.get_mut(request.item.as_str())?.next()?.1)).collect()
}

/// So many of this, then so many of that, and so on.
fn codes(expected: &[(usize, Code)]) -> Vec<Code> {
    expected.iter().flat_map(|(count, code)| std::iter::repeat_n(*code, *count)).collect()
}

async fn connect(redis: &Redis) -> MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}
