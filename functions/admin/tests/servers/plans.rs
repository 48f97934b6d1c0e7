//! However many orders there are, the latest are found at the end of the primary key.

use crate::Shop;
use admin::orders::{FIND, REACH};
use sqlx::{AssertSqlSafe, Row};

const MANY: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r', 'a', 'b', 1, now(), now() FROM generate_series(1, 20000)";

#[tokio::test]
async fn the_latest_orders_are_read_from_the_end_of_the_primary_key() {
    let shop = Shop::open().await;
    for is_full in [false, true] {
        if is_full {
            shop.execute(MANY).await;
            shop.execute("ANALYZE orders").await;
        }
        for (statement, types, arguments) in
            [(FIND, "(bigint, text, text, bigint)", "(1000, 'a', NULL, 50)"), (REACH, "(bigint)", "(1000)")]
        {
            let mut connection = shop.pool.acquire().await.unwrap();
            let explain = format!("PREPARE it {types} AS {statement}; EXPLAIN EXECUTE it {arguments}; DEALLOCATE it");
            let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut *connection).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|line| line.get(0)).collect();
            let has = |part: &str| plan.iter().any(|line| line.contains(part));
            assert!(has("Index Scan Backward using orders_pkey") && !has("Seq Scan") && !has("Sort"), "{plan:#?}");
        }
    }
}
