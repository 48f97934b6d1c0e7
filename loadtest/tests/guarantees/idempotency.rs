//! One verdict for each request id, and every buyer hears of it, however often they ask and whoever dies.

use crate::support::shop::Shop;
use shared::devstack::fixture;

#[tokio::test]
async fn a_hundred_copies_of_one_request_across_workers_are_one_purchase() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let _workers = [shop.worker("w1", &[]).await, shop.worker("w2", &[]).await, shop.worker("w3", &[]).await];
    for _ in 0..100 {
        shop.buy("same", "ticket").await;
    }
    let first = shop.reply().await;
    assert_eq!(first.code(), "reserved");
    for _ in 1..100 {
        assert_eq!(shop.reply().await.body, first.body);
    }
    assert_eq!(shop.stock("ticket").await, (99, 1));
}

#[tokio::test]
async fn a_worker_killed_between_commit_and_ack_has_its_verdicts_repeated_by_the_next() {
    // What is done between reply and acknowledgement knows of no strategy.
    let decided = ["optimistic", "pessimistic", "atomic", "redis"].map(|strategy| (strategy, "decided"));
    for (strategy, place) in decided.into_iter().chain([("optimistic", "replied")]) {
        let mut shop = Shop::open(&[("ticket", 1)]).await;
        // It commits, and stands still before the reply, or before the acknowledgement.
        let redis_url = fixture::redis().await.url();
        let environment = [("TURNSTILE_PAUSE_AT", place), ("STRATEGY", strategy), ("REDIS_URL", &redis_url)];
        let mut doomed = shop.worker("doomed", &environment).await;
        shop.buy("first", "ticket").await;
        shop.paused("doomed").await;
        let recorded: String =
            sqlx::query_scalar("SELECT reply FROM verdicts").fetch_one(&shop.pool).await.expect("it is committed");
        let told = if place == "replied" { Some(shop.reply().await) } else { None };
        assert!(told.is_none_or(|told| told.body == recorded), "as it was committed");
        doomed.kill().await.unwrap();

        let _next = shop.worker("next", &environment[1..]).await;
        let repeated = shop.reply().await;
        assert_eq!((repeated.worker_id.as_str(), repeated.body), ("next", recorded));
        assert_eq!(shop.purchase("second").await.code(), "sold_out");
        assert_eq!(shop.stock("ticket").await, (0, 1));
        assert_eq!(shop.count("SELECT count(*) FROM orders").await, 1);
    }
}
