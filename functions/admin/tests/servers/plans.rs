//! However many orders there are, the latest are found at the end of the primary key; and no walk reads a table at once.

use crate::Shop;
use admin::forget::{FORGET_ORDERS, FORGET_VERDICTS, LOOK, READ_VERDICTS};
use admin::orders::{FIND, REACH};
use shared::devstack::seed::assert_plans;

const FULL: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r', 'a', 'b', 1, now(), now() FROM generate_series(1, 20000);
ANALYZE orders";

#[tokio::test]
async fn the_latest_orders_are_read_from_the_end_of_the_primary_key() {
    let parts: &[&str] = &["Index Scan Backward using orders_pkey", "!Sort"];
    assert_plans(&Shop::open().await.pool, &[], FULL, &[(FIND, parts), (REACH, parts)]).await;
}

#[tokio::test]
async fn a_buyer_is_forgotten_by_steps_and_by_key() {
    let [orders, history, payments] = FORGET_ORDERS;
    let statements: [(&str, &[&str]); 6] = [
        (LOOK, &["Limit", "Index Scan using orders_pkey"]),
        (READ_VERDICTS, &["Tid Range Scan on verdicts"]),
        (FORGET_VERDICTS, &["verdicts_pkey"]),
        (orders, &["orders_pkey"]),
        (history, &["order_history_pkey"]),
        (payments, &["payments_pkey"]),
    ];
    assert_plans(&Shop::open().await.pool, &[], FULL, &statements).await;
}
