//! Whatever is in the tables, items and orders are found by key, and the walk goes along it.

use super::*;
use restock::{
    count::{BEGIN, END, IS_COUNTING, LOOK, MARK},
    store::{CHANGE, LOCK_ITEMS},
};

const MANY: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r', 'a', 'b', 1, now(), now() FROM generate_series(1, 100000);
ANALYZE orders";

#[tokio::test]
async fn orders_are_walked_along_their_key_and_marked_by_it() {
    for loaded in [false, true] {
        let pool = database(&[]).await;
        if loaded {
            execute(&pool, MANY).await;
        }
        let look = plan(&pool, &[], LOOK).await;
        for part in ["Index Scan using orders_pkey", "Index Cond: (id > $1)", "Limit"] {
            assert!(look.contains(part) && !look.contains("Seq Scan"), "{part}\n{look}");
        }
        let mark = plan(&pool, &[], MARK).await;
        assert!(mark.contains("orders_pkey") && !mark.contains("Seq Scan"), "{mark}");
    }
}

#[tokio::test]
async fn items_are_locked_and_updated_by_key() {
    let pool = database(&[]).await;
    for statement in [LOCK_ITEMS, BEGIN, IS_COUNTING, END, CHANGE] {
        let plan = plan(&pool, &[], statement).await;
        assert!(plan.contains("items_pkey") && !plan.contains("Seq Scan"), "{plan}");
    }
}
