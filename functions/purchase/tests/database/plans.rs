//! Whatever is in the tables, what a purchase asks for is found by key, and a step of the walk reads no more than its pages.

use crate::*;
use purchase::retention::{Kept, SETTINGS};
use purchase::store::{READ_HISTORIES, READ_OWNERS, READ_TIERS};
use seed::plan;

const MANY: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at, is_counted)
SELECT gen_random_uuid(), 'r', 'ticket', 'b-' || g % 100, 1, now(), now(), true FROM generate_series(1, 20000) AS g;
ANALYZE orders";

#[tokio::test]
async fn everything_is_found_by_key_whatever_is_in_the_tables() {
    let by_both = "Index Cond: ((item = pair.item) AND (buyer = pair.buyer))";
    for loaded in [false, true] {
        let pool = database(&[("ticket", 1)]).await;
        if loaded {
            execute(&pool, MANY).await;
        }
        for (statement, parts) in [
            (READ_OWNERS, ["Index Scan using orders_pkey", "verdicts_pkey"]),
            (READ_HISTORIES, ["orders_by_buyer", by_both]),
            (READ_TIERS, ["buyers_pkey", "Index"]),
            (&Kept::Verdicts.step(), ["Tid Range Scan on verdicts", "Index Scan using verdict_walk_pkey"]),
            (&Kept::Orders.step(), ["Tid Range Scan on orders", "order_history_pkey"]),
        ] {
            let settings: &[_] = if statement.contains("_walk") { &SETTINGS } else { &[] };
            let plan = plan(&pool, settings, statement).await;
            let reads_whole =
                ["Seq Scan", "Hash Join", "Merge Join", "hashed SubPlan"].iter().any(|scan| plan.contains(scan));
            assert!(parts.iter().all(|part| plan.contains(part)) && !reads_whole, "{plan}");
        }
    }
}
