//! No unit is sold twice, and nobody is sent away while units are left: whoever decides at the same time, and whatever comes
//! back.

use crate::{
    CANCEL_ONE, CONNECTIONS_MAX, GIVE_BACK, ORDERS, TAKE_LAST, VERDICTS, by, count, database, decided_while, item,
    joined, request, reserved, run, violated_by, with_attempts, with_every_strategy,
};
use purchase::Purchase;
use shared::{db, devstack::fixture, messages::Code};

/// Units of an item whose orders do not add up to what it holds.
const UNBALANCED: &str = "
SELECT count(*) FROM items WHERE held <> (
    SELECT coalesce(sum(quantity), 0) FROM orders WHERE orders.item = items.id AND state = 'reserved')";

#[tokio::test]
async fn never_oversells_even_by_hand() {
    let pool = database(&[("ticket", 1)]).await;
    for (statement, constraint) in [
        ("UPDATE items SET available = available - 2, held = held + 2", "items_available_check"),
        ("UPDATE items SET available = available - 1", "stock_is_conserved"),
        ("UPDATE items SET held = held + 1", "stock_is_conserved"),
        ("UPDATE items SET available = 2, held = -1", "items_held_check"),
        ("INSERT INTO items (id, stock, available) VALUES ('b', 1, 2)", "stock_is_conserved"),
        ("INSERT INTO items (id, stock, available) VALUES ('not an id', 1, 1)", "items_id_check"),
    ] {
        assert_eq!(violated_by(&pool, statement).await.as_deref(), Some(constraint), "{statement}");
    }
    assert_eq!(item(&pool, "ticket").await, (1, 0, 0, 0));
}

#[tokio::test]
async fn many_workers_that_start_at_once_migrate_once() {
    let url = fixture::database().await;
    let workers = (0..8).map(|_| {
        let pool = db::pool(&url, "test", CONNECTIONS_MAX).unwrap();
        tokio::spawn(async move { db::migrate(&pool).await })
    });
    joined(workers).await.into_iter().for_each(Result::unwrap);
}

#[tokio::test]
async fn deciders_in_each_others_way_never_oversell_and_send_nobody_away_while_units_are_left() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 40), ("b", 40)]).await;
        assert_eq!(deciders_cross(&by(strategy, &pool)).await, 80, "160 requests for 80 units");
        assert_eq!(count(&pool, "SELECT sum(quantity)::bigint FROM orders").await, 80);
        assert_eq!((count(&pool, ORDERS).await, count(&pool, VERDICTS).await), (80, 160));
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
        let sold = deciding.await.unwrap() as u64;
        assert!(cancelled > 0 && sold > 20 && sold <= 20 + cancelled, "{sold} sold, {cancelled} given back");
        assert_eq!(count(&pool, UNBALANCED).await, 0);
        assert_eq!(count(&pool, VERDICTS).await, 160);
        // Whoever asks now gets what is left, to the last unit.
        let left = item(&pool, "a").await.0;
        let requests: Vec<_> = (0..=left).map(|number| request(format!("late-{number}"), "a", 1)).collect();
        assert_eq!(reserved(&by(strategy, &pool), &requests).await as i64, left, "{strategy:?}");
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
            let decided = decided_while(&pool, meanwhile, &by(strategy, &pool), &[request(1, "a", 1)]).await;
            assert_eq!(decided[0].code, expected, "{strategy:?}");
            assert_eq!(item(&pool, "a").await.0, 0);
        }
    })
    .await;
}

#[tokio::test]
async fn when_attempts_run_out_the_decision_is_made_under_a_lock_and_is_never_sold_out() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 1)]).await;
        run(&pool, "UPDATE items SET available = 0, held = 1").await;
        let purchase = with_attempts(strategy, 1, &pool);
        let decided = decided_while(&pool, GIVE_BACK, &purchase, &[request(1, "a", 1)]).await;
        assert_eq!(decided[0].code, Code::Reserved, "{strategy:?}");
    })
    .await;
}

/// Eight deciders ask for two items in opposite orders, so that row locks could cross: 160 requests. Returns how many got theirs.
async fn deciders_cross(purchase: &Purchase) -> usize {
    let deciders = (0..8).map(|decider| {
        let purchase = purchase.clone();
        tokio::spawn(async move {
            let mut sold = 0;
            for round in 0..10 {
                let items = if decider % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
                let requests = items.map(|item| request(format!("{decider}-{round}-{item}"), item, 1));
                sold += reserved(&purchase, &requests).await;
            }
            sold
        })
    });
    joined(deciders).await.into_iter().sum()
}
