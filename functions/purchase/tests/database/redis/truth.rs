//! PostgreSQL has the last word: what Redis says is committed where it is true.

use super::{codes, counted, epoch, left, options, redis, sold, worker};
use crate::{ORDERS, count, database, item, request, run};
use purchase::{
    Purchase,
    strategy::{Counter, StrategyName, StrategyOptions},
};
use shared::{
    messages::{
        Code::{DeadlinePassed, Reserved, SoldOut},
        PurchaseRequest,
    },
    retry::RetryPolicy,
};

/// Units come back.
const ADD: &str = "UPDATE items SET stock = stock + 3, available = available + 3, version = version + 1";

#[tokio::test]
async fn a_unit_that_redis_gave_and_nobody_recorded_is_sold_in_the_end_and_once() {
    let redis = redis().await;
    let pool = database(&[("a", 10)]).await;
    let worker = worker(&pool, &redis);
    assert_eq!(sold(&worker, 0..2).await, codes(&[(2, Reserved)]));
    // Another worker asks for three, and is gone for ever; so are its messages.
    let lost: Vec<_> = (0..3).map(|number| request(format!("lost-{number}"), "a", 1)).collect();
    left(&Counter::new(&options(&redis)).unwrap(), &pool, &lost).await;
    assert_eq!(counted(&redis, epoch(&pool).await).await, Some(5));

    assert_eq!(sold(&worker, 2..12).await, codes(&[(8, Reserved), (2, SoldOut)]));
    assert_eq!((item(&pool, "a").await.0, count(&pool, ORDERS).await), (0, 10));
}

#[tokio::test]
async fn a_worker_that_dies_between_redis_and_the_commit_leaves_the_next_one_the_same_decision() {
    let redis = redis().await;
    let pool = database(&[("a", 3)]).await;
    let requests: Vec<_> = (0..5).map(|number| request(number, "a", 1)).collect();
    left(&Counter::new(&options(&redis)).unwrap(), &pool, &requests).await;
    assert_eq!(sold(&worker(&pool, &redis), 0..5).await, codes(&[(3, Reserved), (2, SoldOut)]));
    assert_eq!((item(&pool, "a").await.3, counted(&redis, epoch(&pool).await).await), (0, Some(0)), "no conflict");
}

#[tokio::test]
async fn units_that_come_back_behind_redis_are_sold() {
    let redis = redis().await;
    let pool = database(&[("a", 2)]).await;
    let worker = worker(&pool, &redis);
    assert_eq!(sold(&worker, 0..3).await, codes(&[(2, Reserved), (1, SoldOut)]));
    run(&pool, ADD).await;
    assert_eq!(sold(&worker, 3..8).await, codes(&[(3, Reserved), (2, SoldOut)]));
    assert_eq!(sold(&worker, 8..9).await, codes(&[(1, SoldOut)]));
    let conflicts = item(&pool, "a").await.3;
    assert_eq!(conflicts, 2, "one to ask again, one to believe the row, and none after that");
}

#[tokio::test]
async fn where_there_is_one_attempt_redis_counts_anew_after_the_decision_under_the_lock() {
    let redis = redis().await;
    let pool = database(&[("a", 2)]).await;
    let options =
        StrategyOptions { strategy: StrategyName::Redis, redis: options(&redis), ..StrategyOptions::default() };
    let retry = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    let worker = Purchase::new(pool.clone(), options, retry).unwrap();
    assert_eq!(sold(&worker, 0..3).await, codes(&[(2, Reserved), (1, SoldOut)]));
    run(&pool, ADD).await;
    for number in 3..6 {
        assert_eq!(sold(&worker, number..number + 1).await, [Reserved]);
        assert_eq!(item(&pool, "a").await.3, 1, "the first conflict was the last");
    }
}

#[tokio::test]
async fn units_that_are_taken_away_behind_redis_are_not_sold() {
    let redis = redis().await;
    let pool = database(&[("a", 9)]).await;
    let worker = worker(&pool, &redis);
    assert_eq!(sold(&worker, 0..1).await, codes(&[(1, Reserved)]));
    run(&pool, "UPDATE items SET stock = 3, available = 2, version = version + 1").await;
    assert_eq!(sold(&worker, 1..5).await, codes(&[(2, Reserved), (2, SoldOut)]));
    assert_eq!((item(&pool, "a").await.0, item(&pool, "a").await.1), (0, 3));
}

#[tokio::test]
async fn who_is_refused_for_another_reason_takes_nothing_from_those_behind() {
    let redis = redis().await;
    let pool = database(&[("a", 2)]).await;
    let late = time::macros::datetime!(2020-01-01 10:00:00 UTC);
    let late = |number| PurchaseRequest { deadline: Some(late), ..request(number, "a", 1) };
    let asked = [late(1), late(2), request(3, "a", 1), request(4, "a", 1), request(5, "a", 1)];
    let codes = crate::codes(&worker(&pool, &redis), &asked).await;
    assert_eq!(codes, [DeadlinePassed, DeadlinePassed, Reserved, Reserved, SoldOut]);
}

#[tokio::test]
async fn where_somebody_changes_the_row_all_the_time_every_unit_is_sold_once() {
    let redis = redis().await;
    let pool = database(&[("a", 50)]).await;
    let worker = worker(&pool, &redis);
    let add = "UPDATE items SET stock = stock + 1, available = available + 1, version = version + 1";
    let adding = async {
        for _ in 0..50 {
            run(&pool, add).await;
        }
    };
    let selling = async {
        let mut units = 0;
        for batch in 0..40 {
            units += sold(&worker, batch * 5..batch * 5 + 5).await.iter().filter(|code| **code == Reserved).count();
        }
        units
    };
    let ((), units) = tokio::join!(adding, selling);
    let left = item(&pool, "a").await.0;
    assert_eq!(i64::try_from(units).unwrap() + left, 100);
    let late = sold(&worker, 1_000..1_101).await.iter().filter(|code| **code == Reserved).count();
    assert_eq!((i64::try_from(late).unwrap(), item(&pool, "a").await.0), (left, 0), "to the last unit");
}
