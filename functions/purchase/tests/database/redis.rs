//! The redis strategy, where it differs from the others: what Redis counts, that PostgreSQL has the last word, and what becomes
//! of a Redis that is not what it was. Each test has a Redis of its own, to do to it whatever happens to one.

use crate::*;
use ::redis::{FromRedisValue, InfoDict, Script, aio::MultiplexedConnection, cmd};
use purchase::strategy::Counter;
use shared::{
    devstack::{Folder, Redis},
    error::Error,
    messages::Code::{DeadlinePassed, Reserved, SoldOut},
};
use std::{ops::Range, sync::Arc};
use time::macros::datetime;

mod faults;

/// The largest batch that a worker can be told to make.
const BATCH_MAX: u32 = 5_000;
/// Units come back.
const ADD: &str = "UPDATE items SET stock = stock + 3, available = available + 3, version = version + 1";
const TAKE_AWAY: &str = "UPDATE items SET stock = 3, available = 2, version = version + 1";

/// A Redis, and a sale of these items that it counts.
async fn counted(items: &[(&str, i64)]) -> (Redis, Sale) {
    let redis = Redis::start(&Arc::new(Folder::create().unwrap())).await.unwrap();
    let sale = Sale::of(database(items).await, StrategyName::Redis, &redis.url());
    (redis, sale)
}

impl Sale {
    /// In one batch, requests for a unit of `a` each: so many get this, then so many get that, and so on.
    async fn sells(&self, numbers: Range<u32>, expected: &[(usize, Code)]) {
        let requests: Vec<_> = numbers.map(|number| request(number, "a", 1)).collect();
        let expected: Vec<_> = expected.iter().flat_map(|(count, code)| std::iter::repeat_n(*code, *count)).collect();
        assert_eq!(self.codes(&requests).await, expected);
    }

    /// The units that there were for these requests by Redis' word, which another worker has take them: of each item, in the
    /// order of the requests.
    async fn another_worker_takes(&self, requests: &[PurchaseRequest]) -> Vec<i64> {
        let requests: Vec<&PurchaseRequest> = requests.iter().collect();
        let (mut connection, counter) =
            (self.pool.acquire().await.unwrap(), Counter::new(&self.redis_url, None).unwrap());
        let (mut snapshot, verdicts) = read(&mut connection, &requests).await.unwrap();
        counter.count(&mut connection, &requests, &mut snapshot, &verdicts, &Conflicts::new()).await.unwrap();
        let mut items: Vec<_> = requests.iter().map(|request| &request.item).collect();
        items.dedup();
        items.iter().map(|item| snapshot.items[*item].available).collect()
    }

    async fn conflicts(&self) -> i64 {
        self.item("a").await.3
    }

    async fn epoch(&self) -> Uuid {
        sqlx::query_scalar("SELECT epoch FROM redis_fence").fetch_one(&self.pool).await.unwrap()
    }

    /// The units of `a` that Redis has left, as it counted in this epoch.
    async fn counted_in(&self, epoch: Uuid) -> Option<i64> {
        self.say(&format!("HGET turnstile:{}:item:a left", epoch.simple())).await
    }

    /// The same, as it counts now.
    async fn counted(&self) -> Option<i64> {
        self.counted_in(self.epoch().await).await
    }

    async fn say<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = cmd(words.next().unwrap());
        words.for_each(|word| _ = command.arg(word));
        command.query_async(&mut self.connect().await).await.unwrap()
    }

    async fn connect(&self) -> MultiplexedConnection {
        ::redis::Client::open(&*self.redis_url).unwrap().get_multiplexed_async_connection().await.unwrap()
    }
}

#[tokio::test]
async fn who_asks_again_takes_nothing_more_unless_the_count_was_loaded_anew() {
    let (_redis, sale) = counted(&[("a", 4), ("b", 4)]).await;
    let requests = [request(1, "a", 2), request(1, "a", 2), request(2, "a", 1), request(3, "b", 3)];
    for _ in 0..2 {
        assert_eq!(sale.another_worker_takes(&requests).await, [4, 4]);
        assert_eq!(sale.counted().await, Some(1));
    }
    // The same id with other content is somebody else, to Redis.
    assert_eq!(sale.another_worker_takes(&[by_ann(request(1, "a", 1))]).await, [1]);
    // Who asks for too much is passed over.
    assert_eq!(sale.another_worker_takes(&[request(4, "b", 2), request(5, "b", 1)]).await, [1]);
    assert_eq!(sale.another_worker_takes(&[request(6, "a", 1), request(7, "b", 1)]).await, [0, 0]);

    sale.say::<()>(&format!("HDEL turnstile:{}:item:a left", sale.epoch().await.simple())).await;
    assert_eq!(sale.another_worker_takes(&[request(8, "a", 2), request(1, "a", 2)]).await, [4]);
    assert_eq!(sale.counted().await, Some(0), "both take theirs, of what the row says");
}

#[tokio::test]
async fn an_older_reading_of_an_item_never_replaces_a_newer_one() {
    let (_redis, sale) = counted(&[("a", 0)]).await;
    let mut connection = sale.connect().await;
    let script = Script::new(include_str!("../../src/strategy/redis/load.lua"));
    for (left, version, name, is_taken) in [
        (10, 7, "loaded", true),
        (11, 6, "older", false),
        (12, 7, "the same: units are taken already", false),
        (13, 8, "newer", true),
        (1, 7, "older than what was forgotten", false),
        (1, 8, "the same as what was forgotten", true),
    ] {
        if left == 1 {
            cmd("HDEL").arg("count").arg("left").exec_async(&mut connection).await.unwrap();
        }
        let mut load = script.key("count");
        let taken = load.arg(left).arg(version).arg(name).arg(60_000).invoke_async::<bool>(&mut connection).await;
        assert_eq!(taken.unwrap(), is_taken, "{name}");
    }
}

#[tokio::test]
async fn a_batch_as_large_as_any_is_one_question_for_one_item_or_for_as_many_as_there_are_requests() {
    let names: Vec<String> = (0..BATCH_MAX).map(|number| format!("item-{number}")).collect();
    let mut items: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    items.push(("a", i64::from(BATCH_MAX)));
    let (_redis, sale) = counted(&items).await;
    let hot: Vec<_> = (0..BATCH_MAX).map(|number| request(number, "a", 1)).collect();
    let each: Vec<_> = names.iter().map(|name| request(name, name, 1)).collect();
    for _ in 0..2 {
        assert_eq!(sale.another_worker_takes(&hot).await, [i64::from(BATCH_MAX)]);
        assert_eq!(sale.counted().await, Some(0));
        assert!(sale.another_worker_takes(&each).await.iter().all(|units| *units == 1));
    }
}

#[tokio::test]
async fn a_unit_that_redis_gave_and_nobody_recorded_is_sold_in_the_end_and_once() {
    let (_redis, sale) = counted(&[("a", 10)]).await;
    sale.sells(0..2, &[(2, Reserved)]).await;
    // Another worker asks for three, and is gone for ever; so are its messages.
    let lost: Vec<_> = (0..3).map(|number| request(format!("lost-{number}"), "a", 1)).collect();
    sale.another_worker_takes(&lost).await;
    assert_eq!(sale.counted().await, Some(5));
    sale.sells(2..12, &[(8, Reserved), (2, SoldOut)]).await;
    assert_eq!((sale.item("a").await.0, sale.count(ORDERS).await), (0, 10));
}

#[tokio::test]
async fn a_worker_that_dies_between_redis_and_the_commit_leaves_the_next_one_the_same_decision() {
    let (_redis, sale) = counted(&[("a", 3)]).await;
    let requests: Vec<_> = (0..5).map(|number| request(number, "a", 1)).collect();
    sale.another_worker_takes(&requests).await;
    sale.sells(0..5, &[(3, Reserved), (2, SoldOut)]).await;
    assert_eq!((sale.conflicts().await, sale.counted().await), (0, Some(0)), "no conflict");
}

#[tokio::test]
async fn units_that_come_back_or_are_taken_away_behind_redis_are_sold_or_are_not() {
    let (_redis, sale) = counted(&[("a", 2)]).await;
    sale.sells(0..3, &[(2, Reserved), (1, SoldOut)]).await;
    sale.run(ADD).await;
    sale.sells(3..8, &[(3, Reserved), (2, SoldOut)]).await;
    sale.sells(8..9, &[(1, SoldOut)]).await;
    assert_eq!(sale.conflicts().await, 2, "one to ask again, one to believe the row, and none after that");

    let (_redis, sale) = counted(&[("a", 9)]).await;
    sale.sells(0..1, &[(1, Reserved)]).await;
    sale.run(TAKE_AWAY).await;
    sale.sells(1..5, &[(2, Reserved), (2, SoldOut)]).await;
    let (available, held, ..) = sale.item("a").await;
    assert_eq!((available, held), (0, 3));
}

#[tokio::test]
async fn where_there_is_one_attempt_redis_counts_anew_after_the_decision_under_the_lock() {
    let (_redis, sale) = counted(&[("a", 2)]).await;
    let sale = sale.by_one_attempt();
    sale.sells(0..3, &[(2, Reserved), (1, SoldOut)]).await;
    sale.run(ADD).await;
    for number in 3..6 {
        sale.sells(number..number + 1, &[(1, Reserved)]).await;
        assert_eq!(sale.conflicts().await, 1, "the first conflict was the last");
    }
}

#[tokio::test]
async fn who_is_refused_for_another_reason_takes_nothing_from_those_behind() {
    let (_redis, sale) = counted(&[("a", 2)]).await;
    let late = |number| PurchaseRequest { deadline: Some(datetime!(2020-01-01 0:00 UTC)), ..request(number, "a", 1) };
    let asked = [late(1), late(2), request(3, "a", 1), request(4, "a", 1), request(5, "a", 1)];
    let expected = [DeadlinePassed, DeadlinePassed, Reserved, Reserved, SoldOut];
    assert_eq!(sale.codes(&asked).await, expected);
}
