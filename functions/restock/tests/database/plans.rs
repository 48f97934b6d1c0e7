//! Whatever is in the tables, items and orders are found by key, and the walk goes along it.

use crate::database;
use restock::{
    change::{CHANGE, LOCK_ITEMS},
    count::{BEGIN, END, IS_COUNTING, LOOK, MARK},
};
use shared::db;
use sqlx::{AssertSqlSafe, PgPool, Row};

const MANY: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r', 'a', 'b', 1, now(), now() FROM generate_series(1, 100000)";

#[tokio::test]
async fn orders_are_walked_along_their_key_and_marked_by_it() {
    for loaded in [false, true] {
        let pool = database(&[]).await;
        if loaded {
            sqlx::query(MANY).execute(&pool).await.unwrap();
            sqlx::query("ANALYZE orders").execute(&pool).await.unwrap();
        }
        let nil = "'00000000-0000-0000-0000-000000000000'";
        let look = plan(&pool, LOOK, "(uuid, bigint, text[])", &format!("({nil}, 4000, '{{a}}')")).await;
        assert!(has(&look, "Index Scan using orders_pkey") && has(&look, "Index Cond: (id > $1)"), "{look:#?}");
        assert!(has(&look, "Limit") && !has(&look, "Seq Scan"), "{look:#?}");
        let mark = plan(&pool, MARK, "(uuid[])", &format!("(ARRAY[{nil}]::uuid[])")).await;
        assert!(has(&mark, "orders_pkey") && !has(&mark, "Seq Scan"), "{mark:#?}");
    }
}

#[tokio::test]
async fn items_are_locked_and_updated_by_key() {
    let pool = database(&[]).await;
    for (statement, types, arguments) in [
        (LOCK_ITEMS, "(text[])", "('{a}')"),
        (BEGIN, "(text[])", "('{a}')"),
        (IS_COUNTING, "(text[])", "('{a}')"),
        (END, "(text[])", "('{a}')"),
        (CHANGE, "(text)", "('[{\"id\": \"a\"}]')"),
    ] {
        let plan = plan(&pool, statement, types, arguments).await;
        assert!(has(&plan, "items_pkey") && !has(&plan, "Seq Scan"), "{plan:#?}");
    }
}

/// The plan that a connection like those of the pool makes.
async fn plan(pool: &PgPool, statement: &str, types: &str, arguments: &str) -> Vec<String> {
    let mut connection = db::connect(&pool.connect_options()).await.unwrap();
    let explain = format!("PREPARE it {types} AS {statement}; EXPLAIN EXECUTE it {arguments}");
    let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut connection).await.unwrap();
    plan.iter().map(|line| line.get(0)).collect()
}

fn has(plan: &[String], part: &str) -> bool {
    plan.iter().any(|line| line.contains(part))
}
