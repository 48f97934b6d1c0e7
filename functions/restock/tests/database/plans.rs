//! Whatever is in the tables, items and orders are found by key, and the walk goes along it.

use super::*;
use restock::count::{BEGIN, END, IS_COUNTING, LOOK, MARK};
use restock::store::{CHANGE, LOCK_ITEMS};
use shared::devstack::seed::assert_plans;

const FULL: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r', 'a', 'b', 1, now(), now() FROM generate_series(1, 100000);
ANALYZE orders";

#[tokio::test]
async fn items_and_orders_are_found_by_key_and_orders_are_walked_along_it() {
    let plans: [(&str, &[&str]); 7] = [
        (LOOK, &["Index Scan using orders_pkey", "Index Cond: (id > $1)", "Limit"]),
        (MARK, &["orders_pkey"]),
        (LOCK_ITEMS, &["items_pkey"]),
        (BEGIN, &["items_pkey"]),
        (IS_COUNTING, &["items_pkey"]),
        (END, &["items_pkey"]),
        (CHANGE, &["items_pkey"]),
    ];
    assert_plans(&database(&[]).await, &[], FULL, &plans).await;
}
