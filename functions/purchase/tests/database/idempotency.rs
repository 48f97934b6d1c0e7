//! One immutable verdict per request id, whoever asks, however often, at the same instant, whatever the strategy.

use crate::*;
use time::macros::datetime;

#[tokio::test]
async fn a_repeat_gets_the_same_verdict_byte_for_byte_and_other_content_is_told_so() {
    with_every_strategy(&[("ticket", 1), ("other", 9)], async |sale| {
        let requests = [request(1, "ticket", 1), request(2, "ticket", 1), request(3, "none", 1)];
        let first = sale.answers(&requests).await;
        // Refusals are recorded, too.
        assert_eq!(seed::codes(&first), [Code::Reserved, Code::SoldOut, Code::UnknownItem]);
        for other in
            [request(1, "ticket", 2), request(1, "other", 1), request(1, "none", 1), by_ann(request(1, "ticket", 1))]
        {
            assert_eq!(sale.codes(&[other]).await, [Code::RequestIdReused]);
        }
        assert_eq!(sale.answers(&requests).await, first, "each keeps its verdict");
        assert_eq!((sale.count(VERDICTS).await, sale.count(ORDERS).await), (3, 1));
        assert_eq!(sale.item("ticket").await, (0, 1, 1, 0), "asking again changes nothing");
        assert_eq!(sale.item("other").await, (9, 0, 0, 0));
    })
    .await;
}

/// What a worker of an older version records of a purchase that has a deadline: this golden fingerprint, and no content.
const BY_OLDER: &str = "UPDATE verdicts SET content = DEFAULT";
const FINGERPRINT: &str = "SELECT fingerprint::text FROM verdicts WHERE request_id = 'r-1'";

#[tokio::test]
async fn whoever_asks_again_with_another_deadline_asks_for_the_same_also_of_what_an_older_version_recorded() {
    let [first_deadline, later] = [datetime!(2096-11-27 10:00 UTC), datetime!(2096-11-27 10:01:00.000_001 UTC)];
    let with = |deadline, request| PurchaseRequest { deadline, ..request };
    with_every_strategy(&[("ticket", 2), ("other", 9)], async |sale| {
        let requests =
            [request(1, "ticket", 2), request(2, "ticket", 1), request(3, "none", 1), request(4, "other", 1)];
        let mut first = sale.answers(&requests.clone().map(|request| with(Some(first_deadline), request))).await;
        assert_eq!(seed::codes(&first), [Code::Reserved, Code::SoldOut, Code::UnknownItem, Code::Reserved]);
        let recorded: String = sqlx::query_scalar(FINGERPRINT).fetch_one(&sale.pool).await.unwrap();
        assert_eq!(recorded, "ade71828-89b1-5abb-ac8e-009a95325ff5", "by it, an older version knows its repeat");
        // Without a deadline, the first time.
        first.extend(sale.answers(&[request(5, "other", 1)]).await);
        for by_older in [false, true] {
            for deadline in [Some(first_deadline), Some(later), None] {
                let again = [&requests[..], &[request(5, "other", 1)]].concat();
                let again: Vec<_> = again.into_iter().map(|request| with(deadline, request)).collect();
                assert_eq!(sale.answers(&again).await, first, "{:?}, {deadline:?}", sale.strategy);
                for (other, what) in [
                    (request(1, "ticket", 1), "another quantity."),
                    (by_ann(request(1, "ticket", 2)), "another buyer."),
                    (by_ann(request(1, "other", 2)), "another item and buyer."),
                    (request(2, "other", 1), "another item."),
                ] {
                    let verdict = &sale.verdicts(&[with(deadline, other)]).await[0];
                    assert!(verdict.code == Code::RequestIdReused && verdict.message.contains(what), "{verdict:?}");
                }
                // Nothing on record says so in words.
                let other = with(deadline, request(2, "ticket", 2));
                let expected = if by_older { Code::SoldOut } else { Code::RequestIdReused };
                assert_eq!(sale.codes(&[other]).await, [expected]);
            }
            sale.run(BY_OLDER).await;
        }
        assert_eq!((sale.count(VERDICTS).await, sale.count(ORDERS).await), (5, 3));
    })
    .await;
}

#[tokio::test]
async fn a_hundred_copies_in_one_batch_and_at_the_same_instant_are_one_purchase() {
    with_every_strategy(&[("alone", 100), ("ticket", 100)], async |sale| {
        let found = sale.answers(&vec![request("alone", "alone", 1); 100]).await;
        assert!(found.iter().all(|answer| *answer == found[0]));
        assert_eq!(sale.item("alone").await, (99, 1, 1, 0));

        let deciders = (0..12).map(|_| {
            let sale = sale.by_another();
            tokio::spawn(async move { sale.answers(&vec![request(1, "ticket", 1); 8]).await })
        });
        let found = all_of(deciders).await.concat();
        assert!(found.iter().all(|answer| *answer == found[0]));
        assert_eq!((sale.item("ticket").await.0, sale.count(ORDERS).await), (99, 2));
    })
    .await;
}

#[tokio::test]
async fn one_id_for_two_items_at_the_same_instant_buys_one_of_them() {
    with_every_strategy(&[("a", 20), ("b", 20)], async |sale| {
        for round in 0..20 {
            // Two items are two partitions, so two workers may well decide these at once.
            let both = all_of(["a", "b"].map(|item| sale.by_another().decides(&[request(round, item, 1)]))).await;
            let mut codes: Vec<_> = both.concat().iter().map(|verdict| verdict.code.as_str()).collect();
            codes.sort_unstable();
            assert_eq!(codes, ["request_id_reused", "reserved"], "{:?}, round {round}", sale.strategy);
        }
        let left = sale.item("a").await.0 + sale.item("b").await.0;
        assert_eq!((left, sale.count(ORDERS).await, sale.count(VERDICTS).await), (20, 20, 20));
    })
    .await;
}

#[tokio::test]
async fn an_id_is_its_senders_own_and_to_who_has_no_sender_it_is_a_reused_one() {
    let sent_by = |user, request| PurchaseRequest { sender: Some(seed::by(user)), ..request };
    with_every_strategy(&[("a", 9), ("b", 9)], async |sale| {
        // Who guesses an id, and perhaps all of the request, is first.
        let guessed = [sent_by("eve", request(1, "a", 1)), sent_by("eve", request(2, "b", 2))];
        let eves = sale.answers(&guessed).await;
        let real = [sent_by("ann", request(1, "a", 1)), sent_by("ann", request(2, "a", 1)), sent_by("ann", request(3, "a", 1))];
        let found = sale.answers(&real).await;
        assert_eq!(seed::codes(&found), [Code::Reserved; 3], "{:?}", sale.strategy);
        assert_ne!(found[0], eves[0], "an order of their own");
        assert!(sale.answers(&guessed).await == eves && sale.answers(&real).await == found, "each their own, again");
        assert_eq!(sale.codes(&[sent_by("ann", request(1, "b", 1))]).await, [Code::RequestIdReused]);
        for to_nobody in [request(1, "a", 1), request(1, "b", 1)] {
            let verdict = &sale.verdicts(&[to_nobody]).await[0];
            assert!(verdict.code == Code::RequestIdReused && verdict.message.contains("another sender."), "{verdict:?}");
        }
        let orders = "SELECT count(*) FROM orders WHERE sender = CASE WHEN quantity = 2 THEN 'eve' ELSE sender END AND sender <> ''";
        assert_eq!((sale.count(orders).await, sale.item("a").await.0), (5, 5));
        // In one batch, and at the same instant.
        let both = [sent_by("eve", request(4, "a", 1)), sent_by("ann", request(4, "a", 1))];
        assert_eq!(sale.codes(&both).await, [Code::Reserved; 2]);
        let at_once = [sent_by("eve", request(5, "a", 1)), sent_by("ann", request(5, "b", 1))];
        let at_once = all_of(at_once.map(|request| sale.by_another().decides(&[request]))).await.concat();
        assert!(at_once.iter().all(|verdict| verdict.code == Code::Reserved), "{at_once:?}");
        // What an older version recorded is anybody's.
        let old = sale.answers(&[request(6, "a", 1)]).await;
        sale.run("UPDATE verdicts SET sender = DEFAULT WHERE request_id = 'r-6'").await;
        for again in [request(6, "a", 1), sent_by("ann", request(6, "a", 1))] {
            assert_eq!(sale.answers(&[again]).await, old);
        }
        // The first one's time is past before the second one's.
        sale.run("DELETE FROM verdicts WHERE request_id = 'r-1'").await;
        assert_eq!(sale.answers(&real[..1]).await, found[..1]);
    })
    .await;
}

#[tokio::test]
async fn requests_that_compete_are_each_decided_once() {
    with_every_strategy(&[("a", 50)], async |sale| {
        let requests: Vec<_> = (0..100).map(|number| request(number, "a", 1)).collect();
        let found = Sale::with(sale.pool.clone(), sale.strategy, &sale.redis_url, 8, 8)
            .answers(&[&requests[..], &requests].concat())
            .await;
        assert_eq!(found[..100], found[100..], "a copy gets the same");
        let reserved = seed::codes(&found[..100]).iter().filter(|code| **code == Code::Reserved).count();
        assert_eq!((reserved, sale.item("a").await.0), (50, 0), "{:?}", sale.strategy);
        assert_eq!(sale.count(VERDICTS).await, 100);
    })
    .await;
}
