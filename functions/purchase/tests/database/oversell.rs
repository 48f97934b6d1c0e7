//! No unit is sold twice, and nobody is sent away while units are left: whoever decides at the same time, and whatever comes
//! back.

use crate::*;
use shared::db;

/// Units of an item whose orders do not add up to what it holds.
const UNBALANCED: &str = "
SELECT count(*) FROM items WHERE held <> (
    SELECT coalesce(sum(quantity), 0) FROM orders WHERE orders.item = items.id AND state = 'reserved')";

#[tokio::test]
async fn never_oversells_even_by_hand() {
    let sale = optimistic(&[("ticket", 1)]).await;
    let cases = [
        ("UPDATE items SET available = available - 2, held = held + 2", "items_available_check"),
        ("UPDATE items SET available = available - 1", "stock_is_conserved"),
        ("UPDATE items SET held = held + 1", "stock_is_conserved"),
        ("UPDATE items SET available = 2, held = -1", "items_held_check"),
        ("INSERT INTO items (id, stock, available) VALUES ('b', 1, 2)", "stock_is_conserved"),
        ("INSERT INTO items (id, stock, available) VALUES ('not an id', 1, 1)", "items_id_check"),
    ];
    assert_violates(&sale.pool, &cases).await;
    assert_eq!(sale.item("ticket").await, (1, 0, 0, 0));
}

#[tokio::test]
async fn many_workers_that_start_at_once_migrate_once() {
    let url = fixture::database().await;
    let workers = (0..8).map(|_| {
        let pool = db::pool(&url, "test", 8).unwrap();
        tokio::spawn(async move { db::migrate(&pool).await })
    });
    assert!(all_of(workers).await.into_iter().all(|migrated| migrated.is_ok()));
}

#[tokio::test]
async fn deciders_in_each_others_way_never_oversell_nor_pass_a_limit_and_sell_what_comes_back_to_the_last_unit() {
    with_every_strategy(&[("a", 40), ("b", 40), ("mine", 100)], async |sale| {
        sale.run("UPDATE items SET counts_orders = true, max_per_buyer = 5 WHERE id = 'mine'").await;
        assert_eq!(deciders_cross(&sale, "first").await, 85, "160 requests for 80 units, and five for ann of 80");
        assert_eq!((sale.count(ORDERS).await, sale.count(VERDICTS).await), (85, 240));
        assert_eq!((sale.item("a").await.0, sale.item("b").await.0, sale.count(LIVE_UNITS).await), (0, 0, 5));

        // Again, while units are given back, and somebody looks all the time.
        let deciding = tokio::spawn({
            let sale = sale.clone();
            async move { deciders_cross(&sale, "second").await }
        });
        let mut cancelled = 0;
        while !deciding.is_finished() {
            for buyer in ["b-%", "ann"] {
                let cancel = sqlx::query(CANCEL_ONE).bind(buyer).execute(&sale.pool).await.unwrap();
                cancelled += cancel.rows_affected() as i64;
            }
            let units = sale.count(LIVE_UNITS).await;
            assert!(units <= 5, "{:?}: ann has {units}", sale.strategy);
        }
        let sold = deciding.await.unwrap();
        assert!(0 < sold && sold <= cancelled, "{sold} sold, {cancelled} given back");
        assert!(sale.count(LIVE_UNITS).await <= 5);
        assert!(sale.count("SELECT count(*) FROM orders WHERE buyer = 'ann'").await > 5, "ann has bought again");
        assert_eq!((sale.count(UNBALANCED).await, sale.count(VERDICTS).await), (0, 480));
        // Whoever asks now gets what is left, to the last unit.
        let left = sale.item("a").await.0;
        let requests: Vec<_> = (0..=left).map(|number| request(format!("late-{number}"), "a", 1)).collect();
        assert_eq!(sale.reserved(&requests).await, left, "{:?}", sale.strategy);
    })
    .await;
}

/// Eight deciders ask for two items in opposite orders, so that row locks could cross, and for one more for ann: 240 requests.
/// Returns how many got theirs.
async fn deciders_cross(sale: &Sale, wave: &'static str) -> i64 {
    let deciders = (0..8).map(|decider| {
        let sale = sale.clone();
        tokio::spawn(async move {
            let mut sold = 0;
            for round in 0..10 {
                let items = if decider % 2 == 0 { ["a", "b", "mine"] } else { ["mine", "b", "a"] };
                let requests = items.map(|item| {
                    let request = request(format!("{wave}-{decider}-{round}-{item}"), item, 1);
                    if item == "mine" { by_ann(request) } else { request }
                });
                sold += sale.reserved(&requests).await;
            }
            sold
        })
    });
    all_of(deciders).await.into_iter().sum()
}
