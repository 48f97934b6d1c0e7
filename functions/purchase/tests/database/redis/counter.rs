//! What Redis counts.

use super::{Sale, connect, counter, left};
use crate::{database, request};
use purchase::strategy::Counter;
use shared::{devstack::Redis, messages::PurchaseRequest, retry::RetryPolicy};
use sqlx::PgPool;

/// The largest batch that a worker can be told to make.
const BATCH_MAX: u32 = 5_000;

/// A counter, and a database whose items it counts.
struct Counted {
    counter: Counter,
    pool: PgPool,
}

impl Counted {
    /// With a Redis of its own, which is there for as long as it is kept.
    async fn new(items: &[(&str, i64)]) -> (Redis, Self) {
        let Sale { redis, pool, .. } = Sale::with(items, RetryPolicy::default()).await;
        let counter = counter(&redis);
        (redis, Self { counter, pool })
    }

    async fn left(&self, requests: &[PurchaseRequest]) -> Vec<Option<i64>> {
        left(&self.counter, &self.pool, requests).await
    }

    async fn forget(&self, item: &str) {
        self.counter.forget(&mut self.pool.acquire().await.unwrap(), &[item]).await.unwrap();
    }
}

#[tokio::test]
async fn units_are_given_in_order_and_who_asks_for_too_much_is_passed_over() {
    let (_redis, counted) = Counted::new(&[("a", 5), ("b", 1), ("none", 0)]).await;
    let asked =
        [("a", 3), ("b", 1), ("a", 4), ("a", 2), ("none", 1), ("a", 1), ("b", 1), ("nowhere", 1)].into_iter().zip(1..);
    let requests: Vec<_> = asked.map(|((item, quantity), number)| request(number, item, quantity)).collect();
    let expected = [Some(5), Some(1), Some(2), Some(2), Some(0), Some(0), Some(0), None];
    assert_eq!(counted.left(&requests).await, expected, "an item that is not in the database is not counted");
    assert_eq!(counted.left(&[]).await, []);
}

#[tokio::test]
async fn who_asks_again_is_told_the_same_and_takes_nothing_more() {
    let (_redis, counted) = Counted::new(&[("a", 4)]).await;
    let requests = [request(1, "a", 2), request(1, "a", 2), request(2, "a", 1)];
    assert_eq!(counted.left(&requests).await, [Some(4), Some(4), Some(2)]);
    assert_eq!(counted.left(&requests).await, [Some(4), Some(4), Some(2)]);
    // The same id with other content is somebody else, to Redis.
    let other = PurchaseRequest { buyer: "another".to_owned(), ..request(1, "a", 1) };
    assert_eq!(counted.left(&[other, request(3, "a", 1)]).await, [Some(1), Some(0)]);
}

#[tokio::test]
async fn what_is_forgotten_is_loaded_again_and_so_are_those_who_had_got_units() {
    let (_redis, counted) = Counted::new(&[("a", 4), ("b", 4)]).await;
    let requests = [request(1, "a", 3), request(2, "b", 3)];
    assert_eq!(counted.left(&requests).await, [Some(4), Some(4)]);
    counted.forget("a").await;
    let again = [request(3, "a", 2), request(1, "a", 3), request(4, "b", 2), request(2, "b", 3)];
    assert_eq!(counted.left(&again).await, [Some(4), Some(2), Some(1), Some(4)], "b is as it was");
}

#[tokio::test]
async fn of_two_workers_that_load_an_item_at_once_one_gives_its_unit() {
    let names: Vec<String> = (0..50).map(|number| format!("item-{number}")).collect();
    let items: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let (redis, one) = Counted::new(&items).await;
    let other = Counted { counter: counter(&redis), pool: one.pool.clone() };
    for item in &names {
        let (first, second) = ([request("1", item, 1)], [request("2", item, 1)]);
        let (first, second) = tokio::join!(one.left(&first), other.left(&second));
        let mut left = [first[0], second[0]];
        left.sort_unstable();
        assert_eq!(left, [Some(0), Some(1)], "{item}");
    }
}

#[tokio::test]
async fn an_older_reading_of_an_item_never_replaces_a_newer_one() {
    let sale = Sale::of(0).await;
    let mut connection = connect(&sale.redis).await;
    let script = redis::Script::new(include_str!("../../../src/strategy/redis/load.lua"));
    let steps = [
        (10, 7, "loaded", true),
        (11, 6, "older", false),
        (12, 7, "the same: units are taken already", false),
        (13, 8, "newer", true),
    ];
    for (left, version, name, is_taken) in steps {
        let mut invocation = script.key("count");
        let invocation = invocation.arg(left).arg(version).arg(name).arg(60_000);
        assert_eq!(invocation.invoke_async::<bool>(&mut connection).await.unwrap(), is_taken, "{name}");
    }
    redis::cmd("HDEL").arg("count").arg("left").exec_async(&mut connection).await.unwrap();
    for (version, is_taken) in [(7, false), (8, true)] {
        let mut invocation = script.key("count");
        let invocation = invocation.arg(1).arg(version).arg("forgotten").arg(60_000);
        assert_eq!(invocation.invoke_async::<bool>(&mut connection).await.unwrap(), is_taken, "{version}");
    }
}

#[tokio::test]
async fn two_databases_share_one_redis_and_not_their_counts() {
    let (redis, one) = Counted::new(&[("a", 4)]).await;
    let other = Counted { counter: counter(&redis), pool: database(&[("a", 7)]).await };
    assert_eq!(one.left(&[request(1, "a", 1)]).await, [Some(4)]);
    assert_eq!(other.left(&[request(1, "a", 1)]).await, [Some(7)]);
    assert_eq!(one.left(&[request(2, "a", 1)]).await, [Some(3)]);
}

#[tokio::test]
async fn a_batch_as_large_as_any_is_one_question_for_one_item_or_for_as_many_as_there_are_requests() {
    let names: Vec<String> = (0..BATCH_MAX).map(|number| format!("item-{number}")).collect();
    let mut items: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    items.push(("hot", i64::from(BATCH_MAX)));
    let (_redis, counted) = Counted::new(&items).await;
    let hot: Vec<_> = (0..BATCH_MAX).map(|number| request(format!("hot-{number}"), "hot", 1)).collect();
    let each: Vec<_> = names.iter().map(|name| request(name, name, 1)).collect();
    for _ in 0..2 {
        let left = counted.left(&hot).await;
        assert!(left.iter().zip((1..=i64::from(BATCH_MAX)).rev()).all(|(found, left)| *found == Some(left)));
        assert!(counted.left(&each).await.iter().all(|found| *found == Some(1)));
    }
}
