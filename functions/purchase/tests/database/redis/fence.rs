//! Redis is not what it was: restarted, flushed, away. What it counted before is never asked about again.

use super::{ask, codes, counted, epoch, redis, sold, worker};
use crate::{VERDICTS, count, database, item, request};
use purchase::{
    Purchase,
    strategy::{RedisOptions, StrategyName, StrategyOptions},
};
use shared::{
    error::Error,
    handler::Handler,
    messages::Code::{Reserved, SoldOut},
    retry::RetryPolicy,
};

#[tokio::test]
async fn an_old_snapshot_is_there_and_is_not_used() {
    let mut redis = redis().await;
    let pool = database(&[("a", 10)]).await;
    let worker = worker(&pool, &redis);
    assert_eq!(sold(&worker, 0..4).await, codes(&[(4, Reserved)]));
    redis.save().await.unwrap();
    assert_eq!(sold(&worker, 4..9).await, codes(&[(5, Reserved)]));
    let before = epoch(&pool).await;

    redis.kill_and_restart().await.unwrap();
    assert_eq!(counted(&redis, before).await, Some(6), "as many as there were when the snapshot was made");
    assert_away(&worker).await;
    assert_eq!(sold(&worker, 9..14).await, codes(&[(1, Reserved), (4, SoldOut)]));
    assert_ne!(epoch(&pool).await, before);
    assert_eq!(counted(&redis, before).await, Some(6), "nobody asked");
    let (available, held, _, conflicts) = item(&pool, "a").await;
    assert_eq!((available, held, conflicts), (0, 10, 0), "nothing that was not true came from Redis");
}

#[tokio::test]
async fn without_the_fence_an_old_snapshot_would_be_used_and_still_sell_nothing_twice() {
    let mut redis = redis().await;
    let pool = database(&[("a", 10)]).await;
    let worker = worker(&pool, &redis);
    sold(&worker, 0..4).await;
    redis.save().await.unwrap();
    sold(&worker, 4..9).await;
    redis.kill_and_restart().await.unwrap();
    // The fence takes it for the Redis that was known.
    let info: redis::InfoDict = ask(&redis, redis::cmd("INFO").arg("server")).await;
    let forge = sqlx::query("UPDATE redis_fence SET run_id = $1").bind(info.get::<String>("run_id").unwrap());
    forge.execute(&pool).await.unwrap();

    assert_away(&worker).await;
    assert_eq!(sold(&worker, 9..14).await, codes(&[(1, Reserved), (4, SoldOut)]));
    let (available, held, _, conflicts) = item(&pool, "a").await;
    assert_eq!((available, held), (0, 10));
    assert!(conflicts > 0, "it is PostgreSQL that did not believe it");
}

#[tokio::test]
async fn a_redis_that_starts_empty_counts_what_is_left() {
    let mut redis = redis().await;
    let pool = database(&[("a", 10)]).await;
    let worker = worker(&pool, &redis);
    sold(&worker, 0..9).await;
    redis.kill_and_restart().await.unwrap();
    assert_away(&worker).await;
    assert_eq!(sold(&worker, 9..12).await, codes(&[(1, Reserved), (2, SoldOut)]));
    assert_eq!(counted(&redis, epoch(&pool).await).await, Some(0));
    assert_eq!(item(&pool, "a").await.3, 0, "without a conflict");
}

#[tokio::test]
async fn what_is_missing_is_never_sold_out() {
    let redis = redis().await;
    let pool = database(&[("a", 10)]).await;
    let worker = worker(&pool, &redis);
    for (numbers, what) in [(0..3, "FLUSHALL"), (3..6, "FLUSHDB")] {
        assert_eq!(sold(&worker, numbers).await, codes(&[(3, Reserved)]));
        ask::<()>(&redis, &redis::cmd(what)).await;
    }
    assert_eq!(sold(&worker, 6..12).await, codes(&[(4, Reserved), (2, SoldOut)]));
    assert_eq!(item(&pool, "a").await.3, 0, "without a conflict");
    // Its scripts are learnt again with the next connection.
    ask::<()>(&redis, redis::cmd("SCRIPT").arg("FLUSH")).await;
    assert_away(&worker).await;
    assert_eq!(sold(&worker, 12..13).await, [SoldOut]);
}

#[tokio::test]
async fn workers_that_meet_a_redis_at_once_agree_on_its_epoch() {
    let redis = redis().await;
    let pool = database(&[("a", 100)]).await;
    let workers: Vec<Purchase> = (0..8).map(|_| worker(&pool, &redis)).collect();
    let selling = workers.iter().zip(0..).map(|(worker, number)| sold(worker, number..number + 1));
    futures_util::future::join_all(selling).await;
    assert_eq!(counted(&redis, epoch(&pool).await).await, Some(92));
    let keys: Vec<String> = ask(&redis, redis::cmd("KEYS").arg("*:item:*")).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
}

#[tokio::test]
async fn a_redis_that_is_away_holds_the_batch_and_leaves_no_trace() {
    let redis = redis().await;
    let pool = database(&[("a", 1)]).await;
    let worker = worker(&pool, &redis);
    redis.stop().await.unwrap();
    assert_away(&worker).await;
    assert_eq!(count(&pool, VERDICTS).await, 0);
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_a_matter_of_configuration() {
    let pool = database(&[]).await;
    for wrong in ["", "localhost", "http://localhost", "redis://host:port"] {
        let redis = RedisOptions { redis_url: wrong.to_owned() };
        let options = StrategyOptions { strategy: StrategyName::Redis, redis: redis.clone(), in_flight: 1 };
        let unusable = Purchase::new(pool.clone(), options, RetryPolicy::default()).err().expect(wrong);
        assert!(unusable.to_string().contains("REDIS_URL"), "{wrong}: {unusable}");
        let unused = StrategyOptions { redis, ..StrategyOptions::default() };
        assert!(Purchase::new(pool.clone(), unused, RetryPolicy::default()).is_ok(), "no other strategy looks at it");
    }
}

async fn assert_away(worker: &Purchase) {
    let error = worker.handle(&[request("while away", "a", 1)]).await.unwrap_err();
    assert!(matches!(&error, Error::Away(text) if text.contains("Redis")), "{error}");
}
