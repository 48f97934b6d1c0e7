//! Whatever is in the tables, a payment's rows are found by key, and payments under way by their own small indexes.

use crate::database;
use payment::{
    lost::TAKE_UP,
    rows::{ASK_AGAIN, END, LOCK_ITEMS, LOCK_ORDERS, MOVE_ON, PUT_UNDER_WAY, READ_PAYMENTS, READ_VERDICTS, SELL},
};
use sqlx::{AssertSqlSafe, PgPool, Row};

const MANY: &str = "
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
    for loaded in [false, true] {
        let pool = database(&[("a", 1)]).await;
        if loaded {
            sqlx::raw_sql(MANY).execute(&pool).await.unwrap();
        }
        for (statement, types, arguments, indexes) in [
            (LOCK_ORDERS, "(uuid[])", "('{}')", &["orders_pkey"][..]),
            (READ_PAYMENTS, "(uuid[], text[])", "('{}', '{r}')", &["payments_pkey", "a_request_pays_for_one_order"]),
            (READ_VERDICTS, "(text[])", "('{r}')", &["verdicts_pkey"]),
            (
                MOVE_ON,
                "(uuid[], text[], text, text, text, timestamptz)",
                "('{}', '{}', 'paying', 'paid', 'payment_captured', now())",
                &["orders_pkey"],
            ),
            (PUT_UNDER_WAY, "(uuid[], text[], uuid[], text[], timestamptz)", "('{}', '{}', '{}', '{}', now())", &[]),
            (ASK_AGAIN, "(uuid[], timestamptz)", "('{}', now())", &["payments_pkey"]),
            (END, "(uuid[], text[])", "('{}', '{}')", &["payments_pkey"]),
            (LOCK_ITEMS, "(text[])", "('{a}')", &["items_pkey"]),
            (SELL, "(text[], bigint[])", "('{a}', '{1}')", &["items_pkey"]),
            (TAKE_UP, "(float8, bigint)", "(300, 100)", &["orders_being_paid", "payments_pkey"]),
        ] {
            let plan = plan(&pool, statement, types, arguments).await;
            assert!(!plan.contains("Seq Scan"), "loaded: {loaded}\n{plan}");
            for index in indexes {
                assert!(plan.contains(index), "loaded: {loaded}, {index}\n{plan}");
            }
            // An index that is read whole is no better than a table that is: each is asked for what is wanted. Whoever is
            // being paid for is few, so that index alone may be read from its beginning.
            let looked_up =
                plan.lines().filter(|line| line.contains("Index Cond") || line.contains("orders_being_paid"));
            let scans = plan.lines().filter(|line| line.contains("Index Scan") || line.contains("Index Only Scan"));
            assert!(scans.count() <= looked_up.count(), "loaded: {loaded}\n{plan}");
        }
    }
}

/// The plan that the function's connections make.
async fn plan(pool: &PgPool, statement: &str, types: &str, arguments: &str) -> String {
    let mut connection = pool.acquire().await.unwrap();
    let explain = format!("PREPARE it {types} AS {statement}; EXPLAIN EXECUTE it {arguments}");
    let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut *connection).await.unwrap();
    sqlx::raw_sql("DEALLOCATE it").execute(&mut *connection).await.unwrap();
    plan.iter().map(|line| line.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}
