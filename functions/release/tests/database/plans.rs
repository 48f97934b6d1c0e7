//! Whatever is in the tables, what is due is found at the beginning of its index, and everything else by key.

use super::*;
use release::expire::SETTINGS;
use release::store::EXPIRE;
use shared::devstack::seed::assert_plans;

const FULL: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r', 'a', 'b', 1, now() + g * interval '1 s', now() FROM generate_series(1, 100000) AS g;
ANALYZE orders";

#[tokio::test]
async fn a_look_at_what_is_due_reads_no_hold_that_is_not() {
    // What is sorted is the batch in hand, not the orders.
    let parts: &[&str] = &[
        "Index Scan using orders_by_hold",
        "Index Cond: (hold_until <= now())",
        "Index Scan using orders_pkey",
        "!Sort Key: orders",
    ];
    assert_plans(&database(&[]).await, &SETTINGS, FULL, &[(EXPIRE, parts)]).await;
}
