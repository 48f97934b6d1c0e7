//! One immutable verdict per request id, whoever asks, however often, at the same instant, whatever the strategy.

use crate::{
    ORDERS, VERDICTS, answers, by, codes, count, database, item, joined, request, shared_redis, verdict,
    with_every_strategy,
};
use purchase::{Purchase, strategy::StrategyOptions};
use shared::{
    handler::Answer,
    messages::{Code, PurchaseRequest},
    retry::RetryPolicy,
};

#[tokio::test]
async fn a_repeat_gets_the_same_verdict_byte_for_byte() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("ticket", 1)]).await;
        let purchase = by(strategy, &pool);
        let requests = [request(1, "ticket", 1), request(2, "ticket", 1), request(3, "none", 1)];
        let first = answers(&purchase, &requests).await;
        // Refusals are recorded, too.
        assert_eq!(codes(&purchase, &requests).await, [Code::Reserved, Code::SoldOut, Code::UnknownItem]);
        assert_eq!((count(&pool, VERDICTS).await, count(&pool, ORDERS).await), (3, 1));
        assert_eq!(first, answers(&purchase, &requests).await);
        assert_eq!(item(&pool, "ticket").await, (0, 1, 1, 0), "asking again changes nothing");
    })
    .await;
}

#[tokio::test]
async fn a_hundred_copies_in_one_batch_are_one_purchase() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("ticket", 100)]).await;
        let copies = vec![request(1, "ticket", 1); 100];
        let answers = answers(&by(strategy, &pool), &copies).await;
        assert!(answers.iter().all(|answer| *answer == answers[0]));
        assert_eq!(item(&pool, "ticket").await, (99, 1, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn copies_decided_at_the_same_instant_are_one_purchase() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("ticket", 100)]).await;
        let deciders = (0..12).map(|_| {
            let purchase = by(strategy, &pool);
            tokio::spawn(async move { answers(&purchase, &[request(1, "ticket", 1)]).await })
        });
        let found = joined(deciders).await.concat();
        assert!(found.iter().all(|answer| *answer == found[0]));
        assert_eq!(count(&pool, ORDERS).await, 1);
        assert_eq!(item(&pool, "ticket").await.0, 99);
    })
    .await;
}

#[tokio::test]
async fn the_same_id_with_other_content_is_told_so_and_changes_nothing() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 9), ("b", 9)]).await;
        let purchase = by(strategy, &pool);
        let first = answers(&purchase, &[request(1, "a", 1)]).await;
        let other_buyer = PurchaseRequest { buyer: "somebody-else".to_owned(), ..request(1, "a", 1) };
        for other in [request(1, "a", 2), request(1, "b", 1), request(1, "none", 1), other_buyer] {
            assert_eq!(codes(&purchase, &[other]).await, [Code::RequestIdReused]);
        }
        assert_eq!(first, answers(&purchase, &[request(1, "a", 1)]).await, "the first keeps its verdict");
        assert_eq!((item(&pool, "a").await.0, item(&pool, "b").await.0), (8, 9));
    })
    .await;
}

#[tokio::test]
async fn one_id_for_two_items_at_the_same_instant_buys_one_of_them() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 9), ("b", 9)]).await;
        for round in 0..20 {
            // Two items are two partitions, so two workers may well decide these at once.
            let deciders = ["a", "b"].map(|item| {
                let purchase = by(strategy, &pool);
                tokio::spawn(async move { answers(&purchase, &[request(round, item, 1)]).await })
            });
            let both = joined(deciders).await.concat();
            let reused = both.iter().filter(|answer| matches!(answer, Answer::Rejected(_))).count();
            assert_eq!(reused, 1, "round {round}: {both:?}");
        }
        let left = item(&pool, "a").await.0 + item(&pool, "b").await.0;
        let bought = count(&pool, ORDERS).await;
        assert_eq!(18 - left, bought, "stock and orders agree");
        assert_eq!(count(&pool, VERDICTS).await, 20);
    })
    .await;
}

#[tokio::test]
async fn requests_that_compete_are_each_decided_once() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 50)]).await;
        let options = StrategyOptions { strategy, in_flight: 8, redis_url: shared_redis() };
        let purchase = Purchase::new(pool.clone(), options, RetryPolicy::default()).unwrap();
        let requests: Vec<_> = (0..100).map(|number| request(number, "a", 1)).collect();
        let found = answers(&purchase, &[&requests[..], &requests].concat()).await;
        assert_eq!(found[..100], found[100..], "a copy gets the same");
        let reserved = found[..100].iter().filter(|answer| verdict(answer).code == Code::Reserved).count();
        assert_eq!((reserved, item(&pool, "a").await.0), (50, 0), "{strategy:?}");
        assert_eq!(count(&pool, VERDICTS).await, 100);
    })
    .await;
}
