//! Whatever is in the tables, a payment's rows are found by key, and payments under way by their own small indexes.

use super::*;
use payment::recovery::TAKE_UP;
use payment::store::{ASK_AGAIN, END, PUT_OFF, PUT_UNDER_WAY, READ_PAYMENTS, VOID};
use shared::devstack::seed::assert_plans;
use shared::idempotency::store::READ;
use shared::order::store::{GIVE_BACK, LOCK_ITEMS, LOCK_ORDERS, MOVE_ON, SELL};

const FULL: &str = "
INSERT INTO items (id, stock, available) SELECT 'i-' || g, 1, 1 FROM generate_series(1, 5000) AS g;
INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
SELECT gen_random_uuid(), 'r-' || g, 'a', 'b', 1, CASE WHEN g % 1000 = 0 THEN 'paying' ELSE 'reserved' END,
       now() + g * interval '1 s', now()
FROM generate_series(1, 50000) AS g;
INSERT INTO payments (order_id, request_id, fingerprint, payment_method, asked_at, is_under_way)
SELECT id, 'p-' || id, gen_random_uuid(), 'card', now(), state = 'paying' FROM orders;
INSERT INTO verdicts (request_id, fingerprint, status, reply, decided_at)
SELECT 'p-' || id, gen_random_uuid(), 'done', '{}', now() FROM orders WHERE state <> 'paying';
ANALYZE items; ANALYZE orders; ANALYZE payments; ANALYZE verdicts";

#[tokio::test]
async fn every_statement_of_a_payment_goes_by_key() {
    let plans: [(&str, &[&str]); 13] = [
        (LOCK_ORDERS, &["orders_pkey"]),
        (READ_PAYMENTS, &["payments_pkey", "a_request_pays_for_one_order"]),
        (READ, &["verdicts_pkey"]),
        (MOVE_ON, &["orders_pkey"]),
        (PUT_UNDER_WAY, &[]),
        (ASK_AGAIN, &["payments_pkey"]),
        (END, &["payments_pkey"]),
        (PUT_OFF, &["payments_pkey"]),
        (VOID, &["payments_pkey"]),
        (LOCK_ITEMS, &["items_pkey"]),
        (SELL, &["items_pkey"]),
        (GIVE_BACK, &["items_pkey"]),
        (TAKE_UP, &["payments_to_ask", "payments_pkey", "orders_pkey", "payment_pace_pkey"]),
    ];
    for plan in assert_plans(&database(&[]).await, &[], FULL, &plans).await {
        // An index that is read whole is no better than a table that is: each is asked for what is wanted.
        let lines = |words: [&str; 2]| plan.lines().filter(|line| words.iter().any(|word| line.contains(word))).count();
        let scans = lines(["Index Scan", "Index Only Scan"]);
        assert!(scans <= lines(["Index Cond", "payment_pace_pkey"]), "{plan}");
    }
}
