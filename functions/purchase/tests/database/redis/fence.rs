//! Redis is not what it was: restarted, flushed, away. What it counted before is never asked about again.

use super::{Sale, assert_away, codes, worker};
use crate::{VERDICTS, count, database, request};
use purchase::{
    Purchase,
    strategy::{StrategyName, StrategyOptions},
};
use shared::{
    messages::Code::{Reserved, SoldOut},
    retry::RetryPolicy,
};

#[tokio::test]
async fn an_old_snapshot_is_there_and_is_not_used() {
    let mut sale = sold_nine_with_a_snapshot_of_six().await;
    let before = sale.epoch().await;
    sale.redis.kill_and_restart().await.unwrap();
    assert_eq!(sale.counted_in(before).await, Some(6), "as many as there were when the snapshot was made");
    assert_away(&sale.worker).await;
    assert_eq!(sale.sells(9..14).await, codes(&[(1, Reserved), (4, SoldOut)]));
    assert_ne!(sale.epoch().await, before);
    assert_eq!(sale.counted_in(before).await, Some(6), "nobody asked");
    let (available, held, _, conflicts) = sale.row().await;
    assert_eq!((available, held, conflicts), (0, 10, 0), "nothing that was not true came from Redis");
}

#[tokio::test]
async fn without_the_fence_an_old_snapshot_would_be_used_and_still_sell_nothing_twice() {
    let mut sale = sold_nine_with_a_snapshot_of_six().await;
    sale.redis.kill_and_restart().await.unwrap();
    // The fence takes it for the Redis that was known.
    let info: redis::InfoDict = sale.ask(redis::cmd("INFO").arg("server")).await;
    let forge = sqlx::query("UPDATE redis_fence SET run_id = $1").bind(info.get::<String>("run_id").unwrap());
    forge.execute(&sale.pool).await.unwrap();

    assert_away(&sale.worker).await;
    assert_eq!(sale.sells(9..14).await, codes(&[(1, Reserved), (4, SoldOut)]));
    let (available, held, _, conflicts) = sale.row().await;
    assert_eq!((available, held), (0, 10));
    assert!(conflicts > 0, "it is PostgreSQL that did not believe it");
}

#[tokio::test]
async fn a_redis_that_starts_empty_counts_what_is_left() {
    let mut sale = Sale::of(10).await;
    sale.sells(0..9).await;
    sale.redis.kill_and_restart().await.unwrap();
    assert_away(&sale.worker).await;
    assert_eq!(sale.sells(9..12).await, codes(&[(1, Reserved), (2, SoldOut)]));
    assert_eq!(sale.counted().await, Some(0));
    assert_eq!(sale.row().await.3, 0, "without a conflict");
}

#[tokio::test]
async fn what_is_missing_is_never_sold_out() {
    let sale = Sale::of(10).await;
    for (numbers, what) in [(0..3, "FLUSHALL"), (3..6, "FLUSHDB")] {
        assert_eq!(sale.sells(numbers).await, codes(&[(3, Reserved)]));
        sale.say(what).await;
    }
    assert_eq!(sale.sells(6..12).await, codes(&[(4, Reserved), (2, SoldOut)]));
    assert_eq!(sale.row().await.3, 0, "without a conflict");
    // Its scripts are learnt again with the next connection.
    sale.say("SCRIPT FLUSH").await;
    assert_away(&sale.worker).await;
    assert_eq!(sale.sells(12..13).await, [SoldOut]);
}

#[tokio::test]
async fn workers_that_meet_a_redis_at_once_agree_on_its_epoch() {
    let sale = Sale::of(100).await;
    let workers: Vec<Purchase> = (0..8).map(|_| worker(&sale.pool, &sale.redis, RetryPolicy::default())).collect();
    let requests: Vec<_> = (0..8).map(|number| [request(number, "a", 1)]).collect();
    let selling = workers.iter().zip(&requests).map(|(worker, request)| crate::codes(worker, request));
    futures_util::future::join_all(selling).await;
    assert_eq!(sale.counted().await, Some(92));
    let keys: Vec<String> = sale.ask(redis::cmd("KEYS").arg("*:item:*")).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
}

#[tokio::test]
async fn a_redis_that_is_away_holds_the_batch_and_leaves_no_trace() {
    let Sale { redis, pool, worker } = Sale::of(1).await;
    redis.stop().await.unwrap();
    assert_away(&worker).await;
    assert_eq!(count(&pool, VERDICTS).await, 0);
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_a_matter_of_configuration() {
    let pool = database(&[]).await;
    for wrong in ["", "localhost", "http://localhost", "redis://host:port"] {
        let options = |strategy| StrategyOptions { strategy, redis_url: wrong.to_owned(), in_flight: 1 };
        let with = |strategy| Purchase::new(pool.clone(), options(strategy), RetryPolicy::default());
        let unusable = with(StrategyName::Redis).err().expect(wrong);
        assert!(unusable.to_string().contains("REDIS_URL"), "{wrong}: {unusable}");
        assert!(with(StrategyName::default()).is_ok(), "no other strategy looks at it");
    }
}

/// Of ten units, four are sold, Redis keeps its snapshot, and five more are sold.
async fn sold_nine_with_a_snapshot_of_six() -> Sale {
    let sale = Sale::of(10).await;
    assert_eq!(sale.sells(0..4).await, codes(&[(4, Reserved)]));
    sale.redis.save().await.unwrap();
    assert_eq!(sale.sells(4..9).await, codes(&[(5, Reserved)]));
    sale
}
