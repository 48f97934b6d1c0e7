//! The rules of a sale against a real database: what counts, what is read, and that nobody passes a limit between the
//! reading and the commit. What each rule says is tested where it is written.

use crate::{
    CANCEL_ONE, Reader, VERDICTS, by as with, count, database, decides, item, joined, purchase, request, run,
    until_waiting, violated_by, with_attempts, with_every_strategy,
};
use purchase::{
    store::{READ_HISTORIES, READ_TIERS, read},
    strategy::StrategyName,
};
use shared::{
    db,
    messages::{Code, PurchaseRequest},
    order::State,
};
use sqlx::{AssertSqlSafe, PgPool, Row};
use std::time::Duration;
use tokio::task::JoinHandle;

const CONFLICTS: &str = "SELECT sum(conflicts)::bigint FROM items";
/// What ann has, by the orders themselves.
const LIVE_UNITS: &str = "
SELECT coalesce(sum(quantity), 0)::bigint FROM orders
WHERE buyer = 'ann' AND state IN ('reserved', 'paying', 'paid')";
#[tokio::test]
async fn the_rules_of_an_item_hold() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 100), ("free", 100)]).await;
        run(&pool, "UPDATE items SET counts_orders = true, max_per_buyer = 3, tiers = '{vip}' WHERE id = 'a'").await;
        run(&pool, "INSERT INTO buyers (id, tier) VALUES ('ann', 'vip')").await;
        let of = |number, buyer: &str, item, quantity| PurchaseRequest {
            buyer: buyer.to_owned(),
            ..request(number, item, quantity)
        };
        let asked = [of(1, "ann", "a", 2), of(2, "bob", "a", 1), of(3, "ann", "free", 50), of(4, "ann", "a", 2)];
        let expected = [Code::Reserved, Code::NotEligible, Code::Reserved, Code::BuyerLimit];
        assert_eq!(crate::codes(&with(strategy, &pool), &asked).await, expected, "{strategy:?}");

        // Many at once for the same buyer, each with one unit more than is allowed to all of them.
        let deciders = (0..8).map(|number| decides(&with(strategy, &pool), &[of(100 + number, "ann", "a", 1)]));
        let verdicts = joined(deciders).await.concat();
        let reserved = verdicts.iter().filter(|verdict| verdict.code == Code::Reserved).count();
        assert_eq!(reserved, 1, "{strategy:?}: ann had two of three");
    })
    .await;
}

#[tokio::test]
async fn a_buyer_gets_as_much_as_one_buyer_may_have_and_others_get_theirs() {
    let pool = ruled("max_per_buyer = 3").await;
    assert_eq!(codes(&pool, &[by("ann", 1, 2), by("bob", 2, 3)]).await, [Code::Reserved; 2]);
    let asked = [by("ann", 3, 2), by("ann", 4, 1), by("ann", 5, 1), by("bob", 6, 1)];
    assert_eq!(codes(&pool, &asked).await, [Code::BuyerLimit, Code::Reserved, Code::BuyerLimit, Code::BuyerLimit]);
    assert_eq!(item(&pool, "ticket").await.0, 100 - 6);
}

#[tokio::test]
async fn a_cooldown_ends_by_the_databases_clock_to_the_microsecond() {
    let pool = ruled("cooldown_ms = 3600000").await;
    assert_eq!(codes(&pool, &[by("ann", 1, 1)]).await, [Code::Reserved]);
    let again = by("ann", 2, 1);
    let mut connection = pool.acquire().await.unwrap();
    let mut reader = Reader::reads(&mut connection, &again).await;
    let reserved_at: time::OffsetDateTime =
        sqlx::query_scalar("SELECT created_at FROM orders").fetch_one(&pool).await.unwrap();
    let ends_at = reserved_at + Duration::from_secs(3_600);
    for (now, expected) in [(ends_at - Duration::from_micros(1), Code::Cooldown), (ends_at, Code::Reserved)] {
        reader.verdicts.now = now;
        let (found, _) = reader.decides();
        assert_eq!(found.code, expected, "at {now}: {}", found.message);
    }

    assert_eq!(codes(&pool, &[again]).await, [Code::Cooldown]);
    run(&pool, "UPDATE orders SET created_at = created_at - interval '1 hour'").await;
    assert_eq!(codes(&pool, &[by("ann", 3, 1), by("ann", 4, 1)]).await, [Code::Reserved, Code::Cooldown]);
}

#[tokio::test]
async fn only_buyers_of_a_tier_get_an_item_that_is_for_them() {
    let pool = ruled("tiers = '{vip,gold}'").await;
    run(&pool, "INSERT INTO buyers (id, tier) VALUES ('ann', 'vip'), ('bob', 'basic')").await;
    let asked = [by("ann", 1, 1), by("bob", 2, 1), by("eve", 3, 1)];
    assert_eq!(codes(&pool, &asked).await, [Code::Reserved, Code::NotEligible, Code::NotEligible]);
    let repeated = &crate::verdicts(&purchase(&pool), &asked[1..2]).await[0];
    assert_eq!(repeated.message, "ticket is for buyers of tier vip or gold only; yours is basic.");
    run(&pool, "UPDATE buyers SET tier = 'gold' WHERE id = 'bob'").await;
    assert_eq!(codes(&pool, &[by("bob", 4, 1)]).await, [Code::Reserved]);
}

#[tokio::test]
async fn rules_are_combined_freely_and_each_item_has_its_own() {
    let pool = ruled("max_per_buyer = 2, cooldown_ms = 3600000, tiers = '{vip}', opens_at = now()").await;
    run(&pool, "INSERT INTO items (id, stock, available) VALUES ('free', 100, 100)").await;
    run(&pool, "INSERT INTO buyers (id, tier) VALUES ('ann', 'vip')").await;
    let free = PurchaseRequest { item: "free".to_owned(), ..by("ann", 3, 50) };
    let again = PurchaseRequest { request_id: "r-4".to_owned(), ..free.clone() };
    let asked = [by("bob", 1, 1), by("ann", 2, 1), free, again, by("ann", 5, 1)];
    let expected = [Code::NotEligible, Code::Reserved, Code::Reserved, Code::Reserved, Code::Cooldown];
    assert_eq!(codes(&pool, &asked).await, expected);
    run(&pool, "UPDATE orders SET created_at = created_at - interval '1 hour'").await;
    let asked = [by("ann", 6, 2), by("ann", 7, 1), by("ann", 8, 1)];
    assert_eq!(codes(&pool, &asked).await, [Code::BuyerLimit, Code::Reserved, Code::BuyerLimit]);
}

#[tokio::test]
async fn what_is_held_or_paid_for_counts_and_what_was_given_back_does_not() {
    for (rules, code) in [("max_per_buyer = 1", Code::BuyerLimit), ("cooldown_ms = 3600000", Code::Cooldown)] {
        let pool = ruled(rules).await;
        for state in State::ALL {
            let expected = match state {
                State::Reserved | State::Paying | State::Paid => code,
                State::Expired | State::Cancelled => Code::Reserved,
            };
            let buyer = state.as_str();
            assert_eq!(codes(&pool, &[by(buyer, format!("{buyer}-1"), 1)]).await, [Code::Reserved]);
            let order = sqlx::query("UPDATE orders SET state = $1 WHERE buyer = $1");
            assert_eq!(order.bind(buyer).execute(&pool).await.unwrap().rows_affected(), 1);
            assert_eq!(codes(&pool, &[by(buyer, format!("{buyer}-2"), 1)]).await, [expected], "{rules}, {state:?}");
        }
    }
}

#[tokio::test]
async fn of_two_deciders_that_read_the_same_history_one_wins_and_the_other_decides_again() {
    for (rules, code) in [("max_per_buyer = 1", Code::BuyerLimit), ("cooldown_ms = 3600000", Code::Cooldown)] {
        let pool = ruled(rules).await;
        let (first, second) = (by("ann", 1, 1), by("ann", 2, 1));
        let (mut one, mut other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        let by_one = Reader::reads(&mut one, &first).await;
        let by_other = Reader::reads(&mut other, &second).await;
        assert_eq!((by_one.decides().1, by_other.decides().1), (1, 1));

        assert_eq!(by_one.commits(&mut one).await.unwrap(), 1);
        assert_eq!(by_other.commits(&mut other).await.unwrap(), 0, "what it knew of the buyer is no longer so");
        assert_eq!(codes(&pool, &[second]).await, [code]);
    }
}

#[tokio::test]
async fn a_refusal_is_not_committed_either_once_the_buyer_has_given_back() {
    let pool = ruled("max_per_buyer = 1").await;
    assert_eq!(codes(&pool, &[by("ann", 1, 1)]).await, [Code::Reserved]);
    let again = by("ann", 2, 1);
    let mut connection = pool.acquire().await.unwrap();
    let reader = Reader::reads(&mut connection, &again).await;
    assert_eq!((reader.decides().0.code, reader.decides().1), (Code::BuyerLimit, 0));
    run(&pool, CANCEL_ONE).await;
    assert_eq!(reader.commits(&mut connection).await.unwrap(), 0);
    assert_eq!(codes(&pool, &[again]).await, [Code::Reserved]);
}

#[tokio::test]
async fn a_history_that_is_newer_than_the_item_is_read_again_with_it() {
    let pool = ruled("max_per_buyer = 1").await;
    assert_eq!(codes(&pool, &[by("ann", 1, 1)]).await, [Code::Reserved]);
    // The decider has read the item, and waits to read the orders; meanwhile one of them is cancelled.
    let mut blocker = pool.begin().await.unwrap();
    run(&mut *blocker, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await;
    let deciding = decides(&purchase(&pool), &[by("ann", 2, 1)]);
    until_waiting(&pool, 1).await;
    run(&mut *blocker, CANCEL_ONE).await;
    blocker.commit().await.unwrap();

    let verdict = &deciding.await.unwrap()[0];
    assert_eq!((verdict.code, verdict.item_version), (Code::Reserved, Some(2)), "decided on one state, not on two");
    assert_eq!(count(&pool, CONFLICTS).await, 1);
}

#[tokio::test]
async fn under_the_row_lock_the_history_is_read_after_it() {
    let pool = ruled("max_per_buyer = 1").await;
    // Another worker has bought for the same buyer and not committed yet.
    let first = by("ann", 1, 1);
    let mut other = pool.begin().await.unwrap();
    let reader = Reader::reads(&mut other, &first).await;
    assert_eq!(reader.commits(&mut other).await.unwrap(), 1);

    let deciding = decides(&with_attempts(StrategyName::Optimistic, 1, &pool), &[by("ann", 2, 1)]);
    until_waiting(&pool, 1).await;
    other.commit().await.unwrap();
    assert_eq!(deciding.await.unwrap()[0].code, Code::BuyerLimit);
    assert_eq!(count(&pool, LIVE_UNITS).await, 1);
}

#[tokio::test]
async fn deciders_in_each_others_way_never_let_a_buyer_pass_a_limit() {
    let pool = ruled("max_per_buyer = 5").await;
    // Every decider asks for the same buyer, while orders are cancelled and somebody looks all the time.
    let deciders: Vec<_> = (0..8)
        .map(|decider| {
            let purchase = purchase(&pool);
            tokio::spawn(async move {
                let mut reserved = 0;
                for round in 0..12 {
                    let asked = [1, 2].map(|quantity| by("ann", format!("{decider}-{round}-{quantity}"), quantity));
                    let found = crate::verdicts(&purchase, &asked).await;
                    let units = found.iter().filter_map(|verdict| Some(verdict.order.as_ref()?.quantity));
                    reserved += units.sum::<u32>();
                }
                reserved
            })
        })
        .collect();
    let mut cancelled = 0;
    while !deciders.iter().all(JoinHandle::is_finished) {
        let units = count(&pool, LIVE_UNITS).await;
        assert!(units <= 5, "ann has {units}");
        cancelled += sqlx::query(CANCEL_ONE).execute(&pool).await.unwrap().rows_affected();
    }
    assert!(cancelled > 0, "units were given back meanwhile");
    let reserved: u32 = joined(deciders).await.into_iter().sum();
    assert!(reserved > 5, "and bought again: {reserved}");
    assert!(count(&pool, LIVE_UNITS).await <= 5);
    assert_eq!(count(&pool, VERDICTS).await, 8 * 12 * 2);
    let (available, held, ..) = item(&pool, "ticket").await;
    assert_eq!((available, held), (100 - count(&pool, LIVE_UNITS).await, count(&pool, LIVE_UNITS).await));
}

#[tokio::test]
async fn a_sale_without_rules_reads_nothing_of_its_buyers() {
    let pool = database(&[("free", 9), ("limited", 9), ("exclusive", 9)]).await;
    run(&pool, "UPDATE items SET counts_orders = true, max_per_buyer = 1 WHERE id = 'limited'").await;
    run(&pool, "UPDATE items SET tiers = '{vip}' WHERE id = 'exclusive'").await;
    // One that has run nothing yet: each statement is on record with its connection from the first time that it runs.
    let mut connection = db::connect(&pool.connect_options()).await.unwrap();
    let ran = "SELECT statement FROM pg_prepared_statements ORDER BY prepare_time";
    let mut read_for = Vec::new();
    for item in ["free", "exclusive", "limited"] {
        read(&mut connection, &[&request(1, item, 1)]).await.unwrap();
        let statements = sqlx::raw_sql(ran).fetch_all(&mut connection).await.unwrap();
        read_for.push(statements.iter().map(|statement| statement.get(0)).collect::<Vec<String>>());
    }
    let [free, exclusive, limited] = &read_for[..] else { panic!("three items") };
    assert_eq!(free.len(), 1, "the items with the verdicts: {free:?}");
    assert!(!free.iter().any(|statement| statement.contains("orders") || statement.contains("buyers")), "{free:?}");
    assert_eq!(exclusive[1..], [READ_TIERS], "an item for some buyers asks who they are, and no more");
    assert_eq!(limited[2..], [READ_HISTORIES], "a limit asks what they have");
}

#[tokio::test]
async fn an_order_is_indexed_by_its_buyer_only_where_a_rule_may_ask() {
    let pool = ruled("max_per_buyer = 9").await;
    run(&pool, "INSERT INTO items (id, stock, available) VALUES ('free', 100, 100)").await;
    codes(&pool, &[by("ann", 1, 1), PurchaseRequest { item: "free".to_owned(), ..by("ann", 2, 1) }]).await;
    assert_eq!(count(&pool, "SELECT count(*) FROM orders WHERE is_counted AND item = 'ticket'").await, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM orders WHERE NOT is_counted AND item = 'free'").await, 1);
}

#[tokio::test]
async fn a_buyers_orders_are_found_by_index_whatever_is_in_the_table() {
    const MANY: &str = "
    INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at, is_counted)
    SELECT gen_random_uuid(), 'r', 'ticket', 'b-' || g % 100, 1, now(), now(), true FROM generate_series(1, 20000) AS g";
    for loaded in [false, true] {
        let pool = ruled("max_per_buyer = 1").await;
        if loaded {
            run(&pool, MANY).await;
            run(&pool, "ANALYZE orders").await;
        }
        let mut connection = pool.acquire().await.unwrap();
        let plan = crate::plan(&mut connection, READ_HISTORIES, "(text[], text[])", "('{ticket}', '{ann}')").await;
        let by_both = "Index Cond: ((item = pair.item) AND (buyer = pair.buyer))";
        assert!(plan.contains("orders_by_buyer") && plan.contains(by_both) && !plan.contains("Seq Scan"), "{plan}");
        let plan = crate::plan(&mut connection, READ_TIERS, "(text[])", "('{ann}')").await;
        assert!(plan.contains("buyers_pkey") && !plan.contains("Seq Scan"), "{plan}");
    }
}

#[tokio::test]
async fn rules_that_no_decision_could_read_cannot_be_set() {
    let pool = database(&[("ticket", 1)]).await;
    for (rules, constraint) in [
        ("max_per_buyer = 1", "rules_find_their_orders"),
        ("cooldown_ms = 1", "rules_find_their_orders"),
        ("counts_orders = true, max_per_buyer = 0", "items_max_per_buyer_check"),
        ("tiers = '{}'", "items_tiers_check"),
        ("tiers = '{vip,NULL}'", "items_tiers_check"),
        ("tiers = '{{vip},{gold}}'", "items_tiers_check"),
    ] {
        let update = format!("UPDATE items SET {rules}");
        assert_eq!(violated_by(&pool, &update).await.as_deref(), Some(constraint), "{rules}");
    }
}

/// A database with 100 units of `ticket` on sale, under these rules.
async fn ruled(rules: &str) -> PgPool {
    let pool = database(&[("ticket", 100)]).await;
    let update = AssertSqlSafe(format!("UPDATE items SET counts_orders = true, {rules}"));
    sqlx::query(update).execute(&pool).await.unwrap();
    pool
}

/// A request for `ticket`.
fn by(buyer: &str, number: impl std::fmt::Display, quantity: u32) -> PurchaseRequest {
    PurchaseRequest { buyer: buyer.to_owned(), ..request(number, "ticket", quantity) }
}

async fn codes(pool: &PgPool, requests: &[PurchaseRequest]) -> Vec<Code> {
    crate::codes(&purchase(pool), requests).await
}
