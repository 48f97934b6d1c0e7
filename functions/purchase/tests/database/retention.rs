//! Verdicts past their time go, without anybody waiting for it, and what is asked after that is asked for the first time.

use crate::*;
use purchase::retention::{KEEP_VERDICTS_DAYS, Kept, step, walk};
use shared::db::is_conflict;

/// Verdicts of 40 days ago, on the item `old`; four fill a page.
const LOAD_OLD: &str = "
INSERT INTO verdicts SELECT 'old-' || g, 'old', gen_random_uuid(), 'sold_out', repeat('x', 1900), now() - interval '40 days'
FROM generate_series(1, $1) AS g";
const MAKE_DUE: &str = "UPDATE verdict_walk SET due_at = now()";
const PAGES: &str = "SELECT pg_relation_size('verdicts') / current_setting('block_size')::bigint";
const NEXT_PAGE: &str = "SELECT next_page FROM verdict_walk";

#[tokio::test]
async fn verdicts_past_their_time_go_and_the_others_stay() {
    let sale = optimistic(&[("ticket", 9)]).await;
    let (gone, kept) = (request(1, "ticket", 1), request(2, "ticket", 1));
    let first = sale.answers(&[gone.clone(), kept.clone()]).await;
    let age = "UPDATE verdicts SET decided_at = now() - CASE request_id
               WHEN 'r-1' THEN interval '30 days 1 minute' ELSE interval '29 days 23 hours' END";
    sale.run(age).await;
    assert_eq!(walk_all(&sale.pool).await, 1);

    let again = sale.answers(&[gone.clone(), kept]).await;
    assert_eq!(again[1], first[1], "kept: the same, byte for byte");
    assert_ne!(again[0], first[0], "gone: asked for the first time");
    assert_eq!(sale.answers(&[gone]).await[0], again[0], "and from then on the same again");
    assert_eq!(sale.item("ticket").await.0, 6);
    assert_eq!(sale.count(ORDERS).await, 3, "orders stay, also two of one request id");
}

#[tokio::test]
async fn all_workers_together_walk_once_a_day_and_one_walks_while_the_others_do_not_wait() {
    let sale = optimistic(&[]).await;
    assert_eq!(walk_all(&sale.pool).await, 0);
    load_old(&sale.pool, 3).await;
    assert_eq!(walk_all(&sale.pool).await, 0, "it is not time yet");
    sale.run("UPDATE verdict_walk SET due_at = due_at - interval '1 day'").await;

    let held = HeldWalk::over(&sale, "old-2").await;
    let mut other = sale.pool.acquire().await.unwrap();
    assert_eq!(step(&mut other, Kept::Verdicts, KEEP_VERDICTS_DAYS).await.unwrap(), None);
    assert_eq!(held.release().await, 3, "each goes once");
    assert_eq!(step(&mut other, Kept::Verdicts, KEEP_VERDICTS_DAYS).await.unwrap(), None);
}

#[tokio::test]
async fn a_table_of_many_steps_is_walked_wholly_and_a_broken_off_walk_goes_on_where_it_was() {
    let sale = optimistic(&[]).await;
    let step_pages = Kept::Verdicts.step_pages();
    load_old(&sale.pool, 4 * 4 * step_pages).await;
    assert!(sale.count(PAGES).await > 3 * step_pages);
    let all = sale.count(VERDICTS).await;
    let first = step(&mut sale.pool.acquire().await.unwrap(), Kept::Verdicts, KEEP_VERDICTS_DAYS).await.unwrap();
    let Some((deleted, Some(_))) = first else { panic!("there is more to do: {first:?}") };
    assert_eq!((deleted > 0, sale.count(NEXT_PAGE).await), (true, step_pages));
    sale.run(MAKE_DUE).await;
    assert_eq!(walk_all(&sale.pool).await, all - deleted);
    assert_eq!((sale.count(VERDICTS).await, sale.count(NEXT_PAGE).await), (0, 0), "the next begins at the beginning");
}

#[tokio::test]
async fn a_request_repeated_while_its_verdict_goes_gets_the_old_one_until_it_is_gone() {
    let sale = optimistic(&[("ticket", 9)]).await;
    let repeated = [request(1, "ticket", 1)];
    let old = sale.answers(&[repeated[0].clone(), request(2, "ticket", 1)]).await;
    sale.run("UPDATE verdicts SET decided_at = now() - interval '40 days'").await;

    // The walk has deleted the first verdict, not yet committed, and is stopped at the second.
    let held = HeldWalk::over(&sale, "r-2").await;
    assert_eq!(sale.answers(&repeated).await[0], old[0], "byte for byte, and without waiting for the walk");
    assert_eq!(sale.codes(&[request(3, "ticket", 1)]).await, [Code::Reserved], "nor do others wait");
    assert_eq!(held.release().await, 2);

    let new = sale.answers(&repeated).await;
    assert_ne!(new[0], old[0], "a new decision");
    assert_eq!(sale.answers(&repeated).await, new);
}

#[tokio::test]
async fn a_commit_that_meets_a_verdict_on_its_way_out_waits_and_then_holds_or_is_decided_again() {
    let sale = optimistic(&[]).await;
    for (round, goes) in [(1, true), (2, false)] {
        // Read before the id was recorded, on no item's row: only the verdicts' key stands between the two.
        let request = request(round, "none", 1);
        let mut late = sale.pool.acquire().await.unwrap();
        let reader = Reader::reads(&mut late, &request).await;
        sale.answers(std::slice::from_ref(&request)).await;
        let deleter = sale.blocker(&format!("DELETE FROM verdicts WHERE request_id = 'r-{round}'")).await;
        let committing = tokio::spawn(async move { reader.commits(&mut late).await });
        until_waiting(&sale.pool, 1).await;
        match goes {
            true => deleter.commit().await.unwrap(),
            false => deleter.rollback().await.unwrap(),
        }
        match committing.await.unwrap() {
            Ok(_) => assert!(goes, "the verdict is gone, the new one stands in its place"),
            Err(error) => assert!(!goes && is_conflict(&error), "it stayed, and is found when decided again: {error}"),
        }
        assert_eq!(sale.count(VERDICTS).await, round, "one verdict for each id");
    }
}

/// Orders that are over, and some that are not, each with a row of history of yesterday and a payment: their hold was to end 40
/// days ago, or 20.
const ENDED: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
SELECT gen_random_uuid(), state || days, 'ticket', 'b', 2, state, now() - make_interval(days => days), now() - interval '50 days'
FROM unnest(ARRAY['paid', 'expired', 'cancelled', 'reserved', 'paying']) AS state, unnest(ARRAY[20, 40, 40]) AS days;
INSERT INTO order_history SELECT id, 'reserved', 'expired', 'hold_passed', NULL, now() - interval '1 day' FROM orders;
INSERT INTO payments (order_id, request_id, fingerprint, payment_method, asked_at, is_under_way)
SELECT id, id::text, id, 'card', now(), false FROM orders";
const LEFT: &str = "
SELECT string_agg(request_id, ' ' ORDER BY request_id COLLATE \"C\") FROM orders
WHERE id IN (SELECT order_id FROM order_history) AND id IN (SELECT order_id FROM payments)";

#[tokio::test]
async fn orders_that_are_over_go_in_their_time_with_all_that_is_theirs_and_what_they_sold_stays_known() {
    let sale = optimistic(&[]).await;
    let worker = seed::functions(&sale.pool);
    let walk_orders = async || {
        sale.run("UPDATE order_walk SET due_at = now()").await;
        walk(&mut worker.acquire().await.unwrap(), Kept::Orders, KEEP_VERDICTS_DAYS).await.unwrap()
    };
    execute(&sale.pool, ENDED).await;
    assert_eq!(walk_orders().await, 0, "they ended yesterday, whenever they were to");
    sale.run("UPDATE order_history SET at = at - interval '39 days'").await;
    // Not while they count for an item's limits, of orders that are paid.
    sale.run("UPDATE orders SET is_counted = true").await;
    sale.run("INSERT INTO items (id, stock, available, counts_orders, max_per_buyer) VALUES ('ticket', 0, 0, true, 2)")
        .await;
    sale.run("UPDATE orders SET hold_until = hold_until + interval '40 days' WHERE state <> 'paid'").await;
    assert_eq!(walk_orders().await, 0, "limits count them");
    sale.run("UPDATE orders SET hold_until = hold_until - interval '40 days' WHERE state <> 'paid'").await;
    sale.run("UPDATE items SET max_per_buyer = NULL").await;
    // Neither while their events are to be published, nor while money may be given back.
    let waits = "INSERT INTO outbox (kind, order_ids, at) SELECT 'order.paid', array_agg(id), now() - interval '39 days' FROM orders";
    sale.run(waits).await;
    assert_eq!(walk_orders().await, 0);
    sale.run("DELETE FROM outbox").await;
    sale.run("UPDATE payments SET is_under_way = true").await;
    assert_eq!(walk_orders().await, 0);
    sale.run("UPDATE payments SET is_under_way = false").await;
    let held = sale.blocker("SELECT 1 FROM orders WHERE request_id = 'expired40' FOR UPDATE").await;
    assert_eq!(walk_orders().await, 4, "somebody's are passed over");
    held.rollback().await.unwrap();
    assert_eq!(walk_orders().await, 2);
    let left: String = sqlx::query_scalar(LEFT).fetch_one(&sale.pool).await.unwrap();
    assert_eq!(left, "cancelled20 expired20 paid20 paying20 paying40 paying40 reserved20 reserved40 reserved40");
    let rows = "SELECT (SELECT count(*) FROM order_history) * 100 + (SELECT count(*) FROM payments)";
    assert_eq!(sale.count(rows).await, 909);
    let sold = "SELECT sold FROM orders_gone WHERE item = 'ticket'";
    assert_eq!(sale.count(sold).await, 4);
    sale.run("UPDATE orders SET hold_until = now() - interval '31 days'").await;
    assert_eq!((walk_orders().await, sale.count(sold).await), (3, 6));
}

/// A walk that has deleted what comes before one verdict, and waits for that one, so its transaction is open.
struct HeldWalk {
    blocker: Transaction<'static, Postgres>,
    walking: JoinHandle<i64>,
}

impl HeldWalk {
    async fn over(sale: &Sale, request_id: &str) -> Self {
        let blocker =
            sale.blocker(&format!("SELECT 1 FROM verdicts WHERE request_id = '{request_id}' FOR UPDATE")).await;
        let pool = sale.pool.clone();
        let walking = tokio::spawn(async move { walk_all(&pool).await });
        until_waiting(&sale.pool, 1).await;
        Self { blocker, walking }
    }

    /// Returns how many verdicts went.
    async fn release(self) -> i64 {
        self.blocker.rollback().await.unwrap();
        self.walking.await.unwrap()
    }
}

async fn walk_all(pool: &PgPool) -> i64 {
    walk(&mut pool.acquire().await.unwrap(), Kept::Verdicts, KEEP_VERDICTS_DAYS).await.unwrap()
}

async fn load_old(pool: &PgPool, verdicts: i64) {
    sqlx::query(LOAD_OLD).bind(verdicts).execute(pool).await.unwrap();
}
