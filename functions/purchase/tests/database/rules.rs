//! The rules of a sale against a real database: what counts, what is read, and that nobody passes a limit between the
//! reading and the commit. What each rule says is tested where it is written.

use crate::*;
use purchase::rules::BuyerHistory;
use purchase::store::{READ_HISTORIES, READ_TIERS};
use shared::db;
use shared::order::State;
use sqlx::Row;

#[tokio::test]
async fn the_rules_of_an_item_hold_and_each_item_has_its_own() {
    with_every_strategy(&[("a", 100), ("free", 100)], async |sale| {
        sale.run("UPDATE items SET counts_orders = true, max_per_buyer = 3, tiers = '{vip,gold}' WHERE id = 'a'").await;
        sale.run("INSERT INTO buyers (id, tier) VALUES ('ann', 'vip'), ('b-2', 'basic'), ('auth0|o''x@a.b', 'vip')")
            .await;
        let asked = [
            by_ann(request(1, "a", 2)),
            request(2, "a", 1),
            request(3, "a", 1),
            by_ann(request(4, "free", 50)),
            by_ann(request(5, "a", 2)),
        ];
        let found = sale.verdicts(&asked).await;
        let codes: Vec<_> = found.iter().map(|verdict| verdict.code).collect();
        let (reserved, not_eligible) = (Code::Reserved, Code::NotEligible);
        assert_eq!(codes, [reserved, not_eligible, not_eligible, reserved, Code::BuyerLimit], "{:?}", sale.strategy);
        assert_eq!(found[1].message, "a is for buyers of tier vip or gold only; yours is basic.");
        sale.run("UPDATE buyers SET tier = 'gold' WHERE id = 'b-2'").await;
        // The same buyer as before, who has as much as the earlier batch says.
        let request_of = |id: &str, buyer: &str| PurchaseRequest { buyer: buyer.to_owned(), ..request(id, "a", 1) };
        let by_address = request_of("ann@example.com", "auth0|o'x@a.b");
        let asked = [request_of("6", "b-2"), request_of("7", "ann"), request_of("8", "ann"), by_address];
        assert_eq!(sale.codes(&asked).await, [reserved, reserved, Code::BuyerLimit, reserved], "{:?}", sale.strategy);
        // An order is indexed by its buyer only where a rule may ask.
        assert_eq!(sale.count("SELECT count(*) FROM orders WHERE is_counted = (item = 'a')").await, 5);
    })
    .await;
}

#[tokio::test]
async fn what_is_held_or_paid_for_counts_and_what_was_given_back_does_not() {
    for (rules, code) in [("max_per_buyer = 1", Code::BuyerLimit), ("cooldown_ms = 3600000", Code::Cooldown)] {
        let sale = ruled(rules).await;
        for state in State::ALL {
            let (buyer, expected) = match state {
                State::Reserved | State::Paying | State::Paid => (state.as_str(), code),
                State::Expired | State::Cancelled => (state.as_str(), Code::Reserved),
            };
            let of = |number| PurchaseRequest {
                buyer: buyer.to_owned(),
                ..request(format!("{buyer}-{number}"), "ticket", 1)
            };
            let reserved_at = sale.verdicts(&[of(1)]).await[0].decided_at;
            let (snapshot, _) = read(&mut sale.pool.acquire().await.unwrap(), &[&of(2)]).await.unwrap();
            let history = snapshot.items["ticket"].histories[buyer];
            assert_eq!(history, BuyerHistory { units: 1, last_at: reserved_at }, "to the microsecond");
            let order = sqlx::query("UPDATE orders SET state = $1 WHERE buyer = $1").bind(buyer);
            assert_eq!(order.execute(&sale.pool).await.unwrap().rows_affected(), 1);
            assert_eq!(sale.codes(&[of(2)]).await, [expected], "{rules}, {state:?}");
        }
        // A cooldown ends by the database's clock; a limit does not.
        sale.run("UPDATE orders SET created_at = created_at - interval '1 hour'").await;
        let paid = PurchaseRequest { buyer: "paid".to_owned(), ..request("late", "ticket", 1) };
        let expected = if code == Code::Cooldown { Code::Reserved } else { code };
        assert_eq!(sale.codes(&[paid]).await, [expected], "{rules}");
    }
}

#[tokio::test]
async fn a_history_that_is_newer_than_the_item_is_read_again_with_it_and_so_is_one_that_is_out_of_date() {
    let sale = ruled("max_per_buyer = 1").await;
    assert_eq!(sale.codes(&[by_ann(request(1, "ticket", 1))]).await, [Code::Reserved]);
    // The decider has read the item, and waits to read the orders; meanwhile one of them is cancelled.
    let mut blocker = sale.blocker("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await;
    let deciding = sale.decides(&[by_ann(request(2, "ticket", 1))]);
    until_waiting(&sale.pool, 1).await;
    sqlx::query(CANCEL_ONE).bind("ann").execute(&mut *blocker).await.unwrap();
    blocker.commit().await.unwrap();
    let verdict = &deciding.await.unwrap()[0];
    assert_eq!((verdict.code, verdict.item_version), (Code::Reserved, Some(2)), "decided on one state, not on two");
    assert_eq!(sale.item("ticket").await.3, 1);

    // A refusal is not committed either once the buyer has given back.
    let verdict = &sale.decided_while(&CANCEL_ONE.replace("$1", "'ann'"), &[by_ann(request(3, "ticket", 1))]).await[0];
    assert_eq!((verdict.code, verdict.item_version), (Code::Reserved, Some(4)));
    assert_eq!((sale.item("ticket").await.3, sale.count(LIVE_UNITS).await), (2, 1));
}

#[tokio::test]
async fn under_the_row_lock_the_history_is_read_after_it() {
    let sale = ruled("max_per_buyer = 1").await;
    // Another worker has bought for the same buyer and not committed yet.
    let mut other = sale.pool.begin().await.unwrap();
    let reader = Reader::reads(&mut other, &by_ann(request(1, "ticket", 1))).await;
    assert_eq!(reader.commits(&mut other).await.unwrap(), 1);

    let deciding = sale.by_one_attempt().decides(&[by_ann(request(2, "ticket", 1))]);
    sale.release_when_waited_for(other).await;
    assert_eq!(deciding.await.unwrap()[0].code, Code::BuyerLimit);
    assert_eq!(sale.count(LIVE_UNITS).await, 1);
}

#[tokio::test]
async fn a_sale_without_rules_reads_nothing_of_its_buyers() {
    let sale = optimistic(&[("free", 9), ("limited", 9), ("exclusive", 9)]).await;
    sale.run("UPDATE items SET counts_orders = true, max_per_buyer = 1 WHERE id = 'limited'").await;
    sale.run("UPDATE items SET tiers = '{vip}' WHERE id = 'exclusive'").await;
    // One that has run nothing yet: each statement is on record with its connection from the first time that it runs.
    let mut connection = db::connect(&sale.pool.connect_options(), &[]).await.unwrap();
    let mut read_for = Vec::new();
    for item in ["free", "exclusive", "limited"] {
        read(&mut connection, &[&request(1, item, 1)]).await.unwrap();
        let ran = sqlx::raw_sql("SELECT statement FROM pg_prepared_statements ORDER BY prepare_time");
        let statements = ran.fetch_all(&mut connection).await.unwrap();
        read_for.push(statements.iter().map(|statement| statement.get(0)).collect::<Vec<String>>());
    }
    let [free, exclusive, limited] = &read_for[..] else { panic!("three items") };
    assert_eq!(free.len(), 1, "the items with the verdicts: {free:?}");
    assert!(!free[0].contains("orders") && !free[0].contains("buyers"), "{free:?}");
    assert_eq!(exclusive[1..], [READ_TIERS], "an item for some buyers asks who they are, and no more");
    assert_eq!(limited[2..], [READ_HISTORIES], "a limit asks what they have");
}

#[tokio::test]
async fn rules_that_no_decision_could_read_cannot_be_set() {
    let cases = [
        ("UPDATE items SET max_per_buyer = 1", "rules_find_their_orders"),
        ("UPDATE items SET cooldown_ms = 1", "rules_find_their_orders"),
        ("UPDATE items SET max_per_buyer = 1, counts_orders = true, is_counting = true", "rules_find_their_orders"),
        ("UPDATE items SET counts_orders = true, max_per_buyer = 0", "items_max_per_buyer_check"),
        ("UPDATE items SET tiers = '{}'", "items_tiers_check"),
        ("UPDATE items SET tiers = '{vip,NULL}'", "items_tiers_check"),
        ("UPDATE items SET tiers = '{{vip},{gold}}'", "items_tiers_check"),
    ];
    assert_violates(&database(&[("ticket", 1)]).await, &cases).await;
}

/// A sale of 100 units of `ticket` under these rules.
async fn ruled(rules: &str) -> Sale {
    let sale = optimistic(&[("ticket", 100)]).await;
    let update = &format!("UPDATE items SET counts_orders = true, {rules}");
    sqlx::query(update).execute(&sale.pool).await.unwrap();
    sale
}
