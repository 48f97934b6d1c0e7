//! Whatever is in the tables, what is due is found at the beginning of its index, and everything else by key.

use crate::database;
use release::{
    expire::{EXPIRE, SETTINGS},
    stock::{GIVE_BACK, LOCK_ITEMS},
};
use shared::db;
use sqlx::{AssertSqlSafe, PgPool, Row, postgres::PgConnectOptions};

const MANY: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r', 'a', 'b', 1, now() + g * interval '1 s', now() FROM generate_series(1, 100000) AS g";

#[tokio::test]
async fn a_look_at_what_is_due_reads_no_hold_that_is_not() {
    for loaded in [false, true] {
        let pool = database(&[]).await;
        if loaded {
            sqlx::query(MANY).execute(&pool).await.unwrap();
            sqlx::query("ANALYZE orders").execute(&pool).await.unwrap();
        }
        let plan = plan(&pool, EXPIRE, "(bigint, text, text, text[])", "(2000, 'expired', 'hold_passed', '{}')").await;
        assert!(
            has(&plan, "Index Scan using orders_by_hold") && has(&plan, "Index Cond: (hold_until <= now())"),
            "{plan:#?}"
        );
        assert!(has(&plan, "Index Scan using orders_pkey"), "{plan:#?}");
        // What is sorted is the batch in hand, not the orders.
        assert!(!has(&plan, "Seq Scan") && !has(&plan, "Sort Key: orders"), "{plan:#?}");
    }
}

#[tokio::test]
async fn items_are_locked_and_updated_by_key() {
    let pool = database(&[]).await;
    for (statement, types, arguments) in
        [(LOCK_ITEMS, "(text[])", "('{a}')"), (GIVE_BACK, "(text[], bigint[])", "('{a}', '{1}')")]
    {
        let plan = plan(&pool, statement, types, arguments).await;
        assert!(has(&plan, "using items_pkey") && !has(&plan, "Seq Scan"), "{plan:#?}");
    }
}

/// The plan that the expirer's connection makes.
async fn plan(pool: &PgPool, statement: &str, types: &str, arguments: &str) -> Vec<String> {
    let options = PgConnectOptions::clone(&pool.connect_options()).options(SETTINGS);
    let mut connection = db::connect(&options).await.unwrap();
    let explain = format!("PREPARE it {types} AS {statement}; EXPLAIN EXECUTE it {arguments}");
    let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut connection).await.unwrap();
    plan.iter().map(|line| line.get(0)).collect()
}

fn has(plan: &[String], part: &str) -> bool {
    plan.iter().any(|line| line.contains(part))
}
