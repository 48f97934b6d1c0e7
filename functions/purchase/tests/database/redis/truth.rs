//! PostgreSQL has the last word: what Redis says is committed where it is true.

use super::{Sale, codes};
use crate::{ORDERS, count, request, run};
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
    let sale = Sale::of(10).await;
    assert_eq!(sale.sells(0..2).await, codes(&[(2, Reserved)]));
    // Another worker asks for three, and is gone for ever; so are its messages.
    let lost: Vec<_> = (0..3).map(|number| request(format!("lost-{number}"), "a", 1)).collect();
    sale.another_worker_takes(&lost).await;
    assert_eq!(sale.counted().await, Some(5));

    assert_eq!(sale.sells(2..12).await, codes(&[(8, Reserved), (2, SoldOut)]));
    assert_eq!((sale.row().await.0, count(&sale.pool, ORDERS).await), (0, 10));
}

#[tokio::test]
async fn a_worker_that_dies_between_redis_and_the_commit_leaves_the_next_one_the_same_decision() {
    let sale = Sale::of(3).await;
    let requests: Vec<_> = (0..5).map(|number| request(number, "a", 1)).collect();
    sale.another_worker_takes(&requests).await;
    assert_eq!(sale.sells(0..5).await, codes(&[(3, Reserved), (2, SoldOut)]));
    assert_eq!((sale.row().await.3, sale.counted().await), (0, Some(0)), "no conflict");
}

#[tokio::test]
async fn units_that_come_back_behind_redis_are_sold() {
    let sale = Sale::of(2).await;
    assert_eq!(sale.sells(0..3).await, codes(&[(2, Reserved), (1, SoldOut)]));
    run(&sale.pool, ADD).await;
    assert_eq!(sale.sells(3..8).await, codes(&[(3, Reserved), (2, SoldOut)]));
    assert_eq!(sale.sells(8..9).await, codes(&[(1, SoldOut)]));
    assert_eq!(sale.row().await.3, 2, "one to ask again, one to believe the row, and none after that");
}

#[tokio::test]
async fn where_there_is_one_attempt_redis_counts_anew_after_the_decision_under_the_lock() {
    let sale = Sale::with(&[("a", 2)], RetryPolicy { attempts_max: 1, ..RetryPolicy::default() }).await;
    assert_eq!(sale.sells(0..3).await, codes(&[(2, Reserved), (1, SoldOut)]));
    run(&sale.pool, ADD).await;
    for number in 3..6 {
        assert_eq!(sale.sells(number..number + 1).await, [Reserved]);
        assert_eq!(sale.row().await.3, 1, "the first conflict was the last");
    }
}

#[tokio::test]
async fn units_that_are_taken_away_behind_redis_are_not_sold() {
    let sale = Sale::of(9).await;
    assert_eq!(sale.sells(0..1).await, codes(&[(1, Reserved)]));
    run(&sale.pool, "UPDATE items SET stock = 3, available = 2, version = version + 1").await;
    assert_eq!(sale.sells(1..5).await, codes(&[(2, Reserved), (2, SoldOut)]));
    assert_eq!((sale.row().await.0, sale.row().await.1), (0, 3));
}

#[tokio::test]
async fn who_is_refused_for_another_reason_takes_nothing_from_those_behind() {
    let sale = Sale::of(2).await;
    let late = time::macros::datetime!(2020-01-01 10:00:00 UTC);
    let late = |number| PurchaseRequest { deadline: Some(late), ..request(number, "a", 1) };
    let asked = [late(1), late(2), request(3, "a", 1), request(4, "a", 1), request(5, "a", 1)];
    let expected = [DeadlinePassed, DeadlinePassed, Reserved, Reserved, SoldOut];
    assert_eq!(crate::codes(&sale.worker, &asked).await, expected);
}

#[tokio::test]
async fn where_somebody_changes_the_row_all_the_time_every_unit_is_sold_once() {
    let sale = Sale::of(50).await;
    let adding = async {
        for _ in 0..50 {
            let add = "UPDATE items SET stock = stock + 1, available = available + 1, version = version + 1";
            run(&sale.pool, add).await;
        }
    };
    let selling = async {
        let mut sold = 0;
        for batch in 0..40 {
            sold += sale.sells(batch * 5..batch * 5 + 5).await.iter().filter(|code| **code == Reserved).count();
        }
        sold
    };
    let ((), sold) = tokio::join!(adding, selling);
    let left = sale.row().await.0;
    assert_eq!(i64::try_from(sold).unwrap() + left, 100);
    let late = sale.sells(1_000..1_101).await.iter().filter(|code| **code == Reserved).count();
    assert_eq!((i64::try_from(late).unwrap(), sale.row().await.0), (left, 0), "to the last unit");
}
