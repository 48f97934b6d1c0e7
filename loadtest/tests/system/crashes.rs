//! Workers die, freeze and drain; every request still has one verdict, and every buyer hears of it.

use crate::shop::{Shop, until};
use shared::devstack::{Signal, fixture};

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
    for (strategy, place) in [
        ("optimistic", "decided"),
        ("optimistic", "replied"),
        ("pessimistic", "decided"),
        ("atomic", "decided"),
        ("atomic", "replied"),
        ("redis", "decided"),
        ("redis", "replied"),
    ] {
        let mut shop = Shop::open(&[("ticket", 1)]).await;
        // It commits, and stands still before the reply, or before the acknowledgement.
        let redis_url = fixture::redis().await.url();
        let environment = [("TURNSTILE_PAUSE_AT", place), ("STRATEGY", strategy), ("REDIS_URL", &redis_url)];
        let mut doomed = shop.worker("doomed", &environment).await;
        shop.buy("first", "ticket").await;
        until("it stands still", async || shop.log("doomed").await.contains("paused")).await;
        let recorded: String =
            sqlx::query_scalar("SELECT reply FROM verdicts").fetch_one(&shop.pool).await.expect("it is committed");
        let told = if place == "replied" { Some(shop.reply().await) } else { None };
        assert!(told.is_none_or(|told| told.body == recorded), "as it was committed");
        doomed.kill().await.unwrap();

        let _next = shop.worker("next", &environment[1..]).await;
        let repeated = shop.reply().await;
        assert_eq!((repeated.worker_id.as_str(), repeated.body), ("next", recorded));
        shop.buy("second", "ticket").await;
        assert_eq!(shop.reply().await.code(), "sold_out");
        assert_eq!(shop.stock("ticket").await, (0, 1));
        assert_eq!(shop.count("SELECT count(*) FROM orders").await, 1);
    }
}

#[tokio::test]
async fn a_worker_told_to_stop_settles_what_is_in_hand_and_leaves_the_rest_in_order() {
    let mut shop = Shop::open(&[("ticket", 1_000)]).await;
    let count = 2_000;
    for number in 0..count {
        shop.buy(&format!("r-{number:04}"), "ticket").await;
    }
    let mut first = shop.worker("first", &[("BATCH_MAX", "20")]).await;
    // In mid-sale, by what a buyer sees.
    let mut replies = shop.replies(100).await;
    first.send(Signal::Terminate).unwrap();
    assert_eq!(first.wait().await.unwrap().code(), Some(0), "a drain is a success");
    let decided_by_first = shop.count("SELECT count(*) FROM verdicts").await;
    assert!((100..i64::from(count)).contains(&decided_by_first), "{decided_by_first}: it stopped in mid-sale");

    let _second = shop.worker("second", &[]).await;
    while replies.len() < usize::try_from(count).unwrap() {
        let reply = shop.reply().await;
        assert!(replies.insert(reply.correlation_id.clone(), reply).is_none(), "a drained worker leaves no repeats");
    }
    for number in 0..count {
        let expected = if number < 1_000 { "reserved" } else { "sold_out" };
        assert_eq!(replies[&format!("r-{number:04}")].code(), expected, "first come, first served: {number}");
    }
}

#[tokio::test]
async fn a_message_that_brings_its_worker_down_is_found_and_its_neighbours_are_served() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    for number in 0..30 {
        shop.buy(&format!("r-{number:02}"), "ticket").await;
    }
    // Each of these dies when it is about to decide the first message, as a worker would that it makes run out of
    // memory. At first their whole windows come back with it; from then on, it is tried alone.
    let mut workers = 0;
    while shop.depth("dead").await == 0 {
        let id = format!("doomed-{workers}");
        let mut doomed = shop.worker(&id, &[("TURNSTILE_PAUSE_AT", "handling r-00")]).await;
        until("it is about to decide the message, or is spared it", async || {
            shop.depth("dead").await == 1 || shop.log(&id).await.contains("paused")
        })
        .await;
        doomed.kill().await.unwrap();
        workers += 1;
        assert!(workers <= 31, "the delivery limit ends it");
    }
    assert!(workers >= 10, "it was given a chance: {workers}");
    let _worker = shop.worker("next", &[]).await;
    let replies = shop.replies(29).await;
    assert!((1..30).all(|number| replies[&format!("r-{number:02}")].code() == "reserved"), "its neighbours are served");
    assert_eq!(shop.dead(1).await, [("by the broker".to_owned(), crate::shop::request("r-00", "ticket", 1).into())]);
}

#[tokio::test]
async fn a_frozen_worker_that_wakes_after_its_partition_moved_on_changes_nothing() {
    // Decided on an item's row, fenced by its version; and decided without one, fenced by the request id.
    for (item, code) in [("ticket", "reserved"), ("nothing", "unknown_item")] {
        let mut shop = Shop::open(&[("ticket", 1)]).await;
        // The broker gives a silent connection up after two heartbeats.
        let amqp_url = format!("{}?heartbeat=1", shop.amqp_url);
        let environment = [("TURNSTILE_PAUSE_AT", "committing"), ("AMQP_URL", &amqp_url)];
        let mut sleeper = shop.worker("sleeper", &environment).await;
        shop.buy("first", item).await;
        until("it has decided", async || shop.log("sleeper").await.contains("paused")).await;
        sleeper.send(Signal::Stop).unwrap();

        let mut next = shop.worker("next", &[]).await;
        let told = shop.reply().await;
        assert_eq!((told.code().as_str(), told.worker_id.as_str()), (code, "next"));
        shop.buy("second", item).await;
        let second = shop.reply().await;

        sleeper.send(Signal::Continue).unwrap();
        until("its commit has failed", async || shop.log("sleeper").await.contains("conflict; deciding again")).await;
        next.kill().await.unwrap();
        shop.buy("third", item).await;
        let mut third = shop.reply().await;
        if third.correlation_id == "first" {
            assert_eq!(third.body, told.body, "it may still say what is on record");
            third = shop.reply().await;
        }
        assert_eq!((third.correlation_id.as_str(), third.worker_id.as_str()), ("third", "sleeper"), "back at work");
        assert_eq!(shop.stock("ticket").await, if item == "ticket" { (0, 1) } else { (1, 0) });
        assert_eq!(second.code(), if item == "ticket" { "sold_out" } else { code });
        assert_eq!(third.code(), second.code());
        assert_eq!(shop.count("SELECT count(*) FROM verdicts").await, 3);
    }
}
