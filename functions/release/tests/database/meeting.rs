//! Those who are after the same order, or the same item, at the same instant: one wins, and units come back once.

use super::*;
use futures_util::future::{join, join_all};
use tokio::task::JoinHandle;

fn expiring(pool: &PgPool) -> JoinHandle<i64> {
    let pool = pool.clone();
    tokio::spawn(async move { expired(&pool).await })
}

fn cancelling(pool: &PgPool, order: Uuid) -> JoinHandle<Vec<Answer>> {
    let pool = pool.clone();
    tokio::spawn(async move { answers(&pool, &[request(1, order)]).await })
}

#[tokio::test]
async fn of_two_expirers_one_ends_a_hold_and_the_other_does_not_wait_for_it() {
    let (pool, order) = one_hold(Due::Now).await;
    let item_in_use = lock(&pool, "items", "a").await;
    let one = expiring(&pool);
    until_waiting(&pool, 1).await;
    assert_eq!(expired(&pool).await, 0, "the order is in the other's hands");
    item_in_use.rollback().await.unwrap();
    assert_eq!(one.await.unwrap(), 1);
    assert_eq!((item(&pool, "a").await, history(&pool, order).await.len()), ((1, 0, 1), 1));
}

#[tokio::test]
async fn a_cancel_that_meets_an_expiry_waits_for_it_and_comes_too_late() {
    let (pool, order) = one_hold(Due::Now).await;
    let item_in_use = lock(&pool, "items", "a").await;
    let expiring = expiring(&pool);
    until_waiting(&pool, 1).await;
    let cancelling = cancelling(&pool, order);
    until_waiting(&pool, 2).await;
    item_in_use.rollback().await.unwrap();
    assert_eq!(expiring.await.unwrap(), 1);
    assert_eq!(codes(&cancelling.await.unwrap()), [Code::AlreadyExpired]);
    assert_eq!(state(&pool, order).await, State::Expired);
    assert_eq!((item(&pool, "a").await, history(&pool, order).await.len()), ((1, 0, 1), 1));
}

#[tokio::test]
async fn an_expiry_that_meets_a_cancel_passes_the_order_over() {
    let (pool, order) = one_hold(Due::Now).await;
    let item_in_use = lock(&pool, "items", "a").await;
    let cancelling = cancelling(&pool, order);
    until_waiting(&pool, 1).await;
    assert_eq!(expired(&pool).await, 0);
    item_in_use.rollback().await.unwrap();
    assert_eq!(codes(&cancelling.await.unwrap()), [Code::Cancelled]);
    assert_eq!(expired(&pool).await, 0, "it has ended");
    assert_eq!(state(&pool, order).await, State::Cancelled);
    assert_eq!((item(&pool, "a").await, history(&pool, order).await.len()), ((1, 0, 1), 1));
}

#[tokio::test]
async fn many_who_expire_and_cancel_at_once_give_every_unit_back_once() {
    let pool = &database_of_holds(&[("a", 60), ("b", 60)]).await;
    let orders: &[_; 120] = &holds(pool, std::array::from_fn(|number| ["a", "b"][number % 2]), Due::Now).await;
    // Each wants all of them, in an order of its own.
    let cancellers = (0..4).map(async |canceller: usize| {
        let mut cancelled = 0;
        for some in [&orders[canceller * 30..], &orders[..canceller * 30]].concat().chunks(10) {
            let requests = some.iter().map(|order| request(format!("{canceller}-{order}"), *order));
            let found = codes(&answers(pool, &requests.collect::<Vec<_>>()).await);
            cancelled += found.iter().filter(|code| **code == Code::Cancelled).count() as i64;
        }
        cancelled
    });
    let expirer = async {
        let mut ended = 0;
        while count(pool, "SELECT count(*) FROM orders WHERE state = 'reserved'").await > 0 {
            ended += expired(pool).await;
        }
        ended
    };
    let (cancelled, ended) = join(join_all(cancellers), expirer).await;
    assert_eq!(cancelled.into_iter().sum::<i64>() + ended, 120, "each order ended once");
    assert_eq!(count(pool, "SELECT count(*) FROM order_history").await, 120);
    let ((a, held_of_a, _), (b, held_of_b, _)) = (item(pool, "a").await, item(pool, "b").await);
    assert_eq!((a, held_of_a, b, held_of_b), (60, 0, 60, 0));
}
