//! One verdict for each request id, and every buyer hears of it, however often they ask and whoever dies.

use crate::support::shop::Shop;
use shared::devstack::fixture;

#[tokio::test]
async fn a_hundred_copies_of_one_request_across_workers_are_one_purchase() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let _workers = [shop.worker("w1", &[]).await, shop.worker("w2", &[]).await, shop.worker("w3", &[]).await];
    let four = vec!["same".to_owned(); 4];
    for _ in 0..20 {
        shop.buy("same", "ticket").await;
        shop.buy_together(&four, "ticket").await;
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
    let places = decided.into_iter().chain([("optimistic", "replied")]);
    let (alone, together) = (vec!["first".to_owned()], ["first", "other"].map(str::to_owned).to_vec());
    for ((strategy, place), ids) in places.flat_map(|place| [(place, &alone), (place, &together)]) {
        let mut shop = Shop::open(&[("ticket", 1)]).await;
        // It commits, and stands still before the reply, or before the acknowledgement.
        let redis_url = fixture::redis().await.url();
        let environment = [("TURNSTILE_PAUSE_AT", place), ("STRATEGY", strategy), ("REDIS_URL", &redis_url)];
        let mut doomed = shop.worker("doomed", &environment).await;
        shop.buy_together(ids, "ticket").await;
        shop.paused("doomed").await;
        let recorded: Vec<String> =
            sqlx::query_scalar("SELECT reply FROM verdicts ORDER BY request_id").fetch_all(&shop.pool).await.unwrap();
        assert_eq!(recorded.len(), ids.len(), "it is committed");
        for told in recorded.iter().filter(|_| place == "replied") {
            assert_eq!(shop.reply().await.body, *told, "as it was committed");
        }
        doomed.kill().await.unwrap();

        let _next = shop.worker("next", &environment[1..]).await;
        for recorded in recorded {
            let repeated = shop.reply().await;
            assert_eq!((repeated.worker_id.as_str(), repeated.body), ("next", recorded));
        }
        assert_eq!(shop.purchase("second").await.code(), "sold_out");
        assert_eq!(shop.stock("ticket").await, (0, 1));
        assert_eq!(shop.count("SELECT count(*) FROM orders").await, 1);
    }
}
