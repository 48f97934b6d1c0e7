//! Whatever is in the tables, what is due is found at the beginning of its index, and everything else by key.

use super::*;
use release::{expire::SETTINGS, store::EXPIRE};

const MANY: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r', 'a', 'b', 1, now() + g * interval '1 s', now() FROM generate_series(1, 100000) AS g;
ANALYZE orders";

#[tokio::test]
async fn a_look_at_what_is_due_reads_no_hold_that_is_not() {
    for loaded in [false, true] {
        let pool = database(&[]).await;
        if loaded {
            execute(&pool, MANY).await;
        }
        let plan = plan(&pool, &SETTINGS, EXPIRE).await;
        for part in
            ["Index Scan using orders_by_hold", "Index Cond: (hold_until <= now())", "Index Scan using orders_pkey"]
        {
            assert!(plan.contains(part), "loaded: {loaded}, {part}\n{plan}");
        }
        // What is sorted is the batch in hand, not the orders.
        assert!(!plan.contains("Seq Scan") && !plan.contains("Sort Key: orders"), "{plan}");
    }
}
