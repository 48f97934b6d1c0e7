//! The item's row changes while somebody decides: they have read it as it was, and wait for whoever changes it. What is
//! committed must be right on the row as it is by then, whatever the strategy.

use crate::{Blocker, by, database, decides, migrated, request, run, until_waiting, with_every_strategy};
use purchase::strategy::StrategyName;
use shared::{
    db,
    devstack::fixture,
    messages::{Code, Verdict},
};
use sqlx::PgPool;
use std::time::Duration;

const CLOSE: &str = "UPDATE items SET closes_at = now(), version = version + 1 WHERE id = 'a'";
const OPEN: &str = "UPDATE items SET opens_at = NULL, version = version + 1 WHERE id = 'a'";
const PUT_OFF: &str = "UPDATE items SET opens_at = '2200-01-01 10:00 UTC', version = version + 1 WHERE id = 'a'";
const HOLD_LONGER: &str = "UPDATE items SET hold_ms = 3600000, version = version + 1 WHERE id = 'a'";
const LIMIT_BUYERS: &str = "
UPDATE items SET counts_orders = true, max_per_buyer = 1, version = version + 1 WHERE id = 'a'";

#[tokio::test]
async fn a_sale_that_is_closed_meanwhile_sells_nothing() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 5)]).await;
        assert_eq!(decided_while(&pool, strategy, 1, CLOSE).await.code, Code::SaleClosed, "{strategy:?}");
    })
    .await;
}

#[tokio::test]
async fn a_sale_that_is_opened_or_put_off_meanwhile_is_told_as_it_is() {
    with_every_strategy(async |strategy| {
        for (meanwhile, code, message) in [(OPEN, Code::Reserved, "held"), (PUT_OFF, Code::SaleNotOpen, "2200-01-01")] {
            let pool = database(&[("a", 5)]).await;
            run(&pool, "UPDATE items SET opens_at = '2100-01-01 10:00 UTC'").await;
            let verdict = decided_while(&pool, strategy, 1, meanwhile).await;
            assert_eq!(verdict.code, code, "{strategy:?}");
            assert!(verdict.message.contains(message), "{strategy:?}: {}", verdict.message);
        }
    })
    .await;
}

#[tokio::test]
async fn rules_about_buyers_that_are_set_meanwhile_hold() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 5)]).await;
        assert_eq!(decided_while(&pool, strategy, 2, LIMIT_BUYERS).await.code, Code::BuyerLimit, "{strategy:?}");
    })
    .await;
}

#[tokio::test]
async fn units_are_held_as_long_as_the_item_says_by_then() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 5)]).await;
        let verdict = decided_while(&pool, strategy, 1, HOLD_LONGER).await;
        let held = verdict.order.unwrap().hold_until - verdict.decided_at.unwrap();
        assert_eq!(held, Duration::from_secs(3_600), "{strategy:?}");
    })
    .await;
}

/// Whatever the database's own order of words is ("a" before "B", in English), or else two functions lock two rows in opposite
/// orders.
#[tokio::test]
async fn rows_are_locked_in_the_order_of_their_ids_bytes() {
    with_every_strategy(async |strategy| {
        let pool = english().await;
        let blocker = Blocker::runs(&pool, "UPDATE items SET version = version + 1 WHERE id = 'B'").await;
        let deciding = decides(&by(strategy, &pool), &[request(1, "a", 1), request(2, "B", 1)]);
        until_waiting(&pool, 1).await;
        let free = "SELECT id FROM items WHERE id = 'a' FOR NO KEY UPDATE SKIP LOCKED";
        assert!(sqlx::query(free).fetch_optional(&pool).await.unwrap().is_some(), "{strategy:?}: B first, then a");
        blocker.release_when_waited_for(&pool).await;
        assert!(deciding.await.unwrap().iter().all(|verdict| verdict.code == Code::Reserved));
    })
    .await;
}

/// What becomes of a request for `quantity` units of the item `a`, when its row is changed at that moment.
async fn decided_while(pool: &PgPool, strategy: StrategyName, quantity: u32, change: &'static str) -> Verdict {
    crate::decided_while(pool, change, &by(strategy, pool), &[request(1, "a", quantity)]).await.remove(0)
}

/// A database of the test's own that sorts words as English does, with the items `a` and `B`.
async fn english() -> PgPool {
    let url = fixture::database().await;
    let (path, query) = url.split_once('?').unwrap();
    let name = path.rsplit('/').next().unwrap();
    let create = format!("CREATE DATABASE {name}_english TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
    let other = db::pool(&url, "test", 1).unwrap();
    sqlx::query(sqlx::AssertSqlSafe(create)).execute(&other).await.unwrap();
    let pool = migrated(&format!("{path}_english?{query}")).await;
    run(&pool, "INSERT INTO items (id, stock, available) VALUES ('a', 9, 9), ('B', 9, 9)").await;
    pool
}
