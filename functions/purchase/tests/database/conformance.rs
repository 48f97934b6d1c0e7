//! What every strategy promises. (That one request id gets one verdict is in `repeats.rs`, with every strategy, too.)

use crate::{
    Blocker, MOVE_ON, answers, by, count, database, item, request, shared_redis, verdict, with_attempts,
    with_every_strategy,
};
use purchase::{
    Purchase,
    strategy::{Strategy, StrategyOptions},
};
use shared::{
    messages::{Code, PurchaseRequest, Status, Verdict},
    retry::RetryPolicy,
};
use sqlx::PgPool;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Somebody else takes the last unit of the item `a`, and gives one back.
const TAKE_LAST: &str = "UPDATE items SET available = 0, held = stock, version = version + 1 WHERE id = 'a'";
const GIVE_BACK: &str = "UPDATE items SET available = 1, held = stock - 1, version = version + 1 WHERE id = 'a'";
/// A live order gives its units back, as the release function has it do.
const CANCEL_ONE: &str = "
WITH cancelled AS (
    UPDATE orders SET state = 'cancelled'
    WHERE id = (SELECT id FROM orders WHERE state = 'reserved' LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING item, quantity
)
UPDATE items SET available = available + quantity, held = held - quantity, version = version + 1
FROM cancelled WHERE items.id = cancelled.item";
/// Units of an item whose orders do not add up to what it holds.
const UNBALANCED: &str = "
SELECT count(*) FROM items WHERE held <> (
    SELECT coalesce(sum(quantity), 0) FROM orders WHERE orders.item = items.id AND state = 'reserved')";

#[tokio::test]
async fn the_same_requests_get_the_same_verdicts_word_for_word() {
    let mut expected = Vec::new();
    with_every_strategy(async |strategy| {
        let purchase = by(strategy, &sale().await);
        let mut told = Vec::new();
        for batch in batches() {
            told.extend(answers(&purchase, &batch).await.iter().map(verdict).map(comparable));
        }
        if expected.is_empty() {
            let codes: std::collections::HashSet<_> = told.iter().map(|verdict| verdict.code).collect();
            assert_eq!(codes.len(), 8, "each code that no rule about time needs: {codes:?}");
            expected.clone_from(&told);
        }
        for (told, expected) in told.iter().zip(&expected) {
            assert_eq!(told, expected, "{strategy:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn deciders_in_each_others_way_never_oversell_and_send_nobody_away_while_units_are_left() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 40), ("b", 40)]).await;
        let reserved = deciders_cross(&by(strategy, &pool)).await;
        assert_eq!(reserved, 80, "160 wishes for 80 units");
        assert_eq!(count(&pool, "SELECT sum(quantity)::bigint FROM orders").await, 80);
        assert_eq!(count(&pool, "SELECT count(*) FROM verdicts").await, 160);
        assert_eq!((item(&pool, "a").await.0, item(&pool, "b").await.0), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn units_that_come_back_in_mid_sale_are_sold_again_and_nothing_is_lost() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 10), ("b", 10)]).await;
        let deciding = tokio::spawn({
            let purchase = by(strategy, &pool);
            async move { deciders_cross(&purchase).await }
        });
        let mut cancelled = 0;
        while !deciding.is_finished() {
            cancelled += sqlx::query(CANCEL_ONE).execute(&pool).await.unwrap().rows_affected();
        }
        let reserved = deciding.await.unwrap() as u64;
        assert!(
            cancelled > 0 && reserved > 20 && reserved <= 20 + cancelled,
            "{reserved} sold, {cancelled} given back"
        );
        assert_eq!(count(&pool, UNBALANCED).await, 0);
        assert_eq!(count(&pool, "SELECT count(*) FROM verdicts").await, 160);
        // Whoever asks now gets what is left, to the last unit.
        let left = item(&pool, "a").await.0;
        let requests: Vec<_> = (0..=left).map(|number| request(format!("late-{number}"), "a", 1)).collect();
        let statuses: Vec<_> =
            answers(&by(strategy, &pool), &requests).await.iter().map(|answer| verdict(answer).status).collect();
        let is_reserved = |status: &&Status| **status == Status::Reserved;
        assert_eq!(statuses.iter().filter(is_reserved).count() as i64, left, "{strategy:?}: {statuses:?}");
    })
    .await;
}

#[tokio::test]
async fn a_decision_that_is_no_longer_right_is_made_again() {
    with_every_strategy(async |strategy| {
        for (before, meanwhile, expected) in [(1, TAKE_LAST, Code::SoldOut), (0, GIVE_BACK, Code::Reserved)] {
            let pool = database(&[("a", 1)]).await;
            let update = "UPDATE items SET available = $1, held = 1 - $1";
            sqlx::query(update).bind(before).execute(&pool).await.unwrap();
            let blocker = Blocker::runs(&pool, meanwhile).await;
            let deciding = decides(&by(strategy, &pool), request(1, "a", 1));
            blocker.release_when_waited_for(&pool).await;
            assert_eq!(deciding.await.unwrap().code, expected, "{strategy:?}");
            assert_eq!(item(&pool, "a").await.0, 0);
        }
    })
    .await;
}

#[tokio::test]
async fn only_the_strategies_that_read_first_conflict_over_a_decision_that_is_still_right() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 5)]).await;
        let blocker = Blocker::runs(&pool, MOVE_ON).await;
        let deciding = decides(&by(strategy, &pool), request(1, "a", 1));
        blocker.release_when_waited_for(&pool).await;
        let verdict = deciding.await.unwrap();
        assert_eq!((verdict.code, verdict.item_version), (Code::Reserved, Some(1)), "decided on the row as it is");
        let conflicts = match strategy {
            Strategy::Optimistic => 1,
            Strategy::Pessimistic | Strategy::Atomic | Strategy::Redis => 0,
        };
        assert_eq!(item(&pool, "a").await, (4, 1, 2, conflicts), "{strategy:?}");
    })
    .await;
}

#[tokio::test]
async fn when_attempts_run_out_the_decision_is_made_under_a_lock_and_is_never_sold_out() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 1)]).await;
        sqlx::query("UPDATE items SET available = 0, held = 1").execute(&pool).await.unwrap();
        let blocker = Blocker::runs(&pool, GIVE_BACK).await;
        let deciding = decides(&with_attempts(strategy, 1, &pool), request(1, "a", 1));
        blocker.release_when_waited_for(&pool).await;
        assert_eq!(deciding.await.unwrap().code, Code::Reserved, "{strategy:?}");
    })
    .await;
}

#[tokio::test]
async fn the_rules_of_an_item_hold() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 100), ("free", 100)]).await;
        let rules = "UPDATE items SET counts_orders = true, max_per_buyer = 3, tiers = '{vip}' WHERE id = 'a'";
        sqlx::query(rules).execute(&pool).await.unwrap();
        sqlx::query("INSERT INTO buyers (id, tier) VALUES ('ann', 'vip')").execute(&pool).await.unwrap();
        let wish = |number, buyer: &str, item, quantity| PurchaseRequest {
            buyer: buyer.to_owned(),
            ..request(number, item, quantity)
        };
        let asked =
            [wish(1, "ann", "a", 2), wish(2, "bob", "a", 1), wish(3, "ann", "free", 50), wish(4, "ann", "a", 2)];
        let told: Vec<_> =
            answers(&by(strategy, &pool), &asked).await.iter().map(|answer| verdict(answer).code).collect();
        assert_eq!(told, [Code::Reserved, Code::NotEligible, Code::Reserved, Code::BuyerLimit], "{strategy:?}");

        // Many at once for the same buyer, each with one unit more than is allowed to all of them.
        let deciders = (0..8).map(|number| decides(&by(strategy, &pool), wish(100 + number, "ann", "a", 1)));
        let mut reserved = 0;
        for decider in deciders.collect::<Vec<_>>() {
            reserved += usize::from(decider.await.unwrap().code == Code::Reserved);
        }
        assert_eq!(reserved, 1, "{strategy:?}: ann had two of three");
    })
    .await;
}

#[tokio::test]
async fn requests_that_compete_are_each_decided_once() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 50)]).await;
        let options = StrategyOptions { strategy, in_flight: 8, redis: shared_redis() };
        let purchase = Purchase::new(pool.clone(), options, RetryPolicy::default()).unwrap();
        let mut requests: Vec<_> = (0..100).map(|number| request(number, "a", 1)).collect();
        requests.extend(requests.clone());
        let told = answers(&purchase, &requests).await;
        assert_eq!(told[..100], told[100..], "a copy gets the same");
        let reserved = told[..100].iter().filter(|answer| verdict(answer).status == Status::Reserved).count();
        assert_eq!((reserved, item(&pool, "a").await.0), (50, 0), "{strategy:?}");
        assert_eq!(count(&pool, "SELECT count(*) FROM verdicts").await, 100);
    })
    .await;
}

/// Eight deciders ask for two items in opposite orders, so that row locks could cross: 160 wishes. Returns how many got theirs.
async fn deciders_cross(purchase: &Purchase) -> usize {
    let deciders = (0..8).map(|decider| {
        let purchase = purchase.clone();
        tokio::spawn(async move {
            let mut reserved = 0;
            for round in 0..10 {
                let items = if decider % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
                let requests = items.map(|item| request(format!("{decider}-{round}-{item}"), item, 1));
                let answers = answers(&purchase, &requests).await;
                reserved += answers.iter().filter(|answer| verdict(answer).status == Status::Reserved).count();
            }
            reserved
        })
    });
    let mut reserved = 0;
    for decider in deciders.collect::<Vec<_>>() {
        reserved += decider.await.unwrap();
    }
    reserved
}

fn decides(purchase: &Purchase, request: PurchaseRequest) -> JoinHandle<Verdict> {
    let purchase = purchase.clone();
    tokio::spawn(async move { verdict(&answers(&purchase, &[request]).await[0]) })
}

/// Items for every answer that there is.
async fn sale() -> PgPool {
    let pool = database(&[("few", 7), ("one", 1), ("none", 0), ("early", 5), ("late", 5), ("mine", 5)]).await;
    for update in [
        "UPDATE items SET opens_at = '2099-12-31 10:30:00.12Z' WHERE id = 'early'",
        "UPDATE items SET closes_at = '2020-01-01Z' WHERE id = 'late'",
        "UPDATE items SET counts_orders = true, max_per_buyer = 2 WHERE id = 'mine'",
    ] {
        sqlx::query(update).execute(&pool).await.unwrap();
    }
    pool
}

/// Quantities that fit, do not, and fit again behind one that did not; copies, repeats, and ids with other content.
fn batches() -> Vec<Vec<PurchaseRequest>> {
    let late = time::macros::datetime!(2020-01-01 10:00:00.5 UTC);
    let all = ["few", "one", "none", "early", "late", "nowhere", "mine"];
    let first = vec![
        request(1, "few", 3),
        request(2, "few", 5),
        request(3, "one", 1),
        request(4, "few", 2),
        request(1, "few", 3),
        request(2, "few", 1),
        PurchaseRequest { deadline: Some(late), ..request(5, "few", 1) },
        PurchaseRequest { deadline: Some(late), ..request(6, "nowhere", 1) },
        request(7, "few", 3),
        request(8, "few", 2),
        request(9, "few", 1),
        request(4, "few", 1),
        request(4, "few", 2),
    ];
    let second = (0..28).map(|number| request(20 + number, all[number % 7], 1 + (number % 3) as u32)).collect();
    let mine = |number| PurchaseRequest { buyer: "ann".to_owned(), ..request(number, "mine", 1) };
    vec![first.clone(), second, vec![mine(60), mine(61), mine(62)], first]
}

/// But for what differs each time: the order's id, and times.
fn comparable(mut verdict: Verdict) -> Verdict {
    let epoch = time::OffsetDateTime::UNIX_EPOCH;
    if let Some(order) = &mut verdict.order {
        let (hold, decided_at) = (order.hold_until, verdict.decided_at.unwrap());
        assert_eq!(hold - decided_at, Duration::from_secs(600));
        let text = hold.format(&time::format_description::well_known::Rfc3339).unwrap();
        assert!(verdict.message.contains(&text), "{} says until {text}", verdict.message);
        verdict.message = verdict.message.replace(&text, "then");
        (order.id, order.hold_until) = (uuid::Uuid::nil(), epoch);
    }
    verdict.decided_at = verdict.decided_at.map(|_| epoch);
    verdict
}
