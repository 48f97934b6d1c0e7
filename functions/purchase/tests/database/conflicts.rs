//! How do you test an optimistic lock? Let two read the same version, and have both commit. And whatever the strategy: what is
//! committed is right on the row as it is by then, though it was read as it was before.

use crate::*;
use shared::db;
use std::time::Duration;

/// Another function's request has this id.
const RECORD: &str = "
INSERT INTO verdicts (request_id, fingerprint, status, reply, decided_at)
VALUES ('r-2', gen_random_uuid(), 'done', '{}', now())";

#[tokio::test]
async fn of_two_deciders_that_read_the_same_version_one_wins_and_the_other_decides_again() {
    let sale = optimistic(&[("ticket", 1)]).await;
    let (first, second) = (request(1, "ticket", 1), request(2, "ticket", 1));
    let (mut one, mut other) = (sale.pool.acquire().await.unwrap(), sale.pool.acquire().await.unwrap());

    // Both read version 0 with one unit left, and both decide to sell it.
    let by_one = Reader::reads(&mut one, &first).await;
    let by_other = Reader::reads(&mut other, &second).await;
    assert_eq!((by_one.units(), by_other.units()), (1, 1));

    assert_eq!(by_one.commits(&mut one).await.unwrap(), 1, "the first to commit wins");
    assert_eq!(by_other.commits(&mut other).await.unwrap(), 0, "the version has moved on");
    assert_eq!(sale.count(VERDICTS).await, 1, "the loser left no trace");

    // Decided again, on what is there now.
    assert_eq!(sale.codes(&[second]).await, [Code::SoldOut]);
    assert_eq!(sale.item("ticket").await, (0, 1, 2, 0));
}

#[tokio::test]
async fn a_conflict_is_tried_again_alone_and_counted_where_the_version_is_what_counts() {
    with_every_strategy(&[("a", 5), ("b", 5)], async |sale| {
        let verdicts = sale.decided_while(MOVE_ON, &[request(1, "a", 1), request(2, "b", 1)]).await;
        assert!(verdicts.iter().all(|verdict| verdict.code == Code::Reserved));
        assert_eq!(verdicts[0].item_version, Some(1), "decided on the row as it is");
        let conflicts = match sale.strategy {
            StrategyName::Optimistic => 1,
            StrategyName::Pessimistic | StrategyName::Atomic | StrategyName::Redis => 0,
        };
        // a: one move by the blocker, one sale on the version after it; b went through at once, once.
        assert_eq!(sale.item("a").await, (4, 1, 2, conflicts), "{:?}", sale.strategy);
        assert_eq!(sale.item("b").await, (4, 1, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn an_item_that_conflicts_is_counted_though_a_request_id_is_contended_at_the_same_time() {
    with_every_strategy(&[("a", 1), ("limited", 5)], async |sale| {
        sale.run("UPDATE items SET counts_orders = true, max_per_buyer = 1 WHERE id = 'limited'").await;
        let (row, id) = (sale.blocker(TAKE_LAST).await, sale.blocker(RECORD).await);
        let deciding = sale.decides(&[request(1, "a", 1), request(2, "a", 1), request(3, "limited", 1)]);
        sale.release_when_waited_for(row).await;
        sale.release_when_waited_for(id).await;
        let codes: Vec<_> = deciding.await.unwrap().iter().map(|verdict| verdict.code).collect();
        assert_eq!(codes, [Code::SoldOut, Code::RequestIdReused, Code::Reserved], "{:?}", sale.strategy);
        let conflicts = match sale.strategy {
            // One attempt conflicts over the item, and the id undoes the next one.
            StrategyName::Optimistic | StrategyName::Atomic => 1,
            // Redis is asked once more.
            StrategyName::Redis => 2,
            // The item is waited for, and the id undoes the first attempt.
            StrategyName::Pessimistic => 0,
        };
        assert_eq!(sale.item("a").await.3, conflicts, "{:?}", sale.strategy);
    })
    .await;
}

/// Two units of each item are asked for.
#[tokio::test]
async fn what_changes_meanwhile_is_decided_on_as_it_is_by_then() {
    const LATER: &str = "opens_at = '2100-01-01 10:00 UTC'";
    let cases = [
        ("closed", "", "closes_at = now()", Code::SaleClosed, "closed at"),
        ("opened", LATER, "opens_at = NULL", Code::Reserved, "held"),
        ("put-off", LATER, "opens_at = '2200-01-01 10:00 UTC'", Code::SaleNotOpen, "2200-01-01"),
        ("limited", "", "counts_orders = true, max_per_buyer = 1", Code::BuyerLimit, "1 more, not 2"),
        ("held-longer", "", "hold_ms = 3600000", Code::Reserved, "held"),
        ("taken", "", "available = 0, held = stock", Code::SoldOut, "is sold out"),
        ("partly-taken", "", "available = 1, held = stock - 1", Code::SoldOut, "1 of partly-taken left, 2 asked for."),
        ("given-back", "available = 0, held = stock", "available = stock, held = 0", Code::Reserved, "held"),
    ];
    with_every_strategy(&cases.map(|case| (case.0, 2)), async |sale| {
        for (item, before, meanwhile, code, message) in cases {
            let change = |set| format!("UPDATE items SET version = version + 1{set} WHERE id = '{item}'");
            let separate = if before.is_empty() { "" } else { ", " };
            sqlx::query(&change(format!("{separate}{before}"))).execute(&sale.pool).await.unwrap();
            let request = [request(item, item, 2)];
            let decided = sale.decided_while(&change(format!(", {meanwhile}")), &request).await.remove(0);
            assert_eq!(decided.code, code, "{:?}: {item}", sale.strategy);
            assert!(decided.message.contains(message), "{:?}: {}", sale.strategy, decided.message);
            if let Some(order) = decided.order {
                let hold = if item == "held-longer" { 3_600 } else { 600 };
                assert_eq!(order.hold_until - decided.decided_at.unwrap(), Duration::from_secs(hold), "{item}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn when_attempts_run_out_the_decision_is_made_under_a_lock_and_is_never_sold_out() {
    with_every_strategy(&[("a", 1)], async |sale| {
        sale.run("UPDATE items SET available = 0, held = 1").await;
        let decided = sale.by_one_attempt().decided_while(GIVE_BACK, &[request(1, "a", 1)]).await;
        assert_eq!(decided[0].code, Code::Reserved, "{:?}", sale.strategy);
    })
    .await;
}

/// Whatever the database's own order of words is ("a" before "B", in English), or else two functions lock two rows in opposite
/// orders.
#[tokio::test]
async fn rows_are_locked_in_the_order_of_their_ids_bytes() {
    with_every_strategy(&[], async |sale| {
        let sale = Sale::of(english().await, sale.strategy, &sale.redis_url);
        let blocker = sale.blocker("UPDATE items SET version = version + 1 WHERE id = 'B'").await;
        let deciding = sale.decides(&[request(1, "a", 1), request(2, "B", 1)]);
        until_waiting(&sale.pool, 1).await;
        let free = "SELECT count(*) FROM (SELECT id FROM items WHERE id = 'a' FOR NO KEY UPDATE SKIP LOCKED) AS free";
        assert_eq!(sale.count(free).await, 1, "{:?}: B first, then a", sale.strategy);
        sale.release_when_waited_for(blocker).await;
        assert!(deciding.await.unwrap().iter().all(|verdict| verdict.code == Code::Reserved));
    })
    .await;
}

/// A database that sorts words as English does, with the items `a` and `B`.
async fn english() -> PgPool {
    let url = fixture::database().await;
    let (path, query) = url.split_once('?').unwrap();
    let name = path.rsplit('/').next().unwrap();
    let create = format!("CREATE DATABASE {name}_english TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
    let other = db::pool(&url, "test", 1).unwrap();
    sqlx::query(&create).execute(&other).await.unwrap();
    let pool = db::pool(&format!("{path}_english?{query}"), "test", 8).unwrap();
    execute(&pool, include_str!("../../../../migrations/roles.sql")).await;
    db::migrate(&pool).await.unwrap();
    execute(&pool, "INSERT INTO items (id, stock, available) VALUES ('a', 9, 9), ('B', 9, 9)").await;
    pool
}
