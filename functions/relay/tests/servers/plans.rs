//! Whatever has gone through the outbox, its first rows are found at the front of its key, and everything else by key.

use crate::{Servers, TURN_SECONDS_MAX};
use relay::{
    round::{DELETE, GIVE_UP, READ, READ_ORDERS},
    settings,
};
use shared::db;
use sqlx::{AssertSqlSafe, PgPool, Row, postgres::PgConnectOptions};

#[tokio::test]
async fn a_round_reads_and_writes_by_key_alone() {
    for loaded in [false, true] {
        let servers = Servers::open().await;
        if loaded {
            servers.say(20_000).await;
            servers.say_orders(200, 100).await;
            sqlx::raw_sql("ANALYZE outbox; ANALYZE orders").execute(&servers.pool).await.unwrap();
        }
        for (statement, types, arguments, index) in [
            (READ, "(bigint, bigint)", "(500, 2000)", "Index Scan using outbox_pkey on outbox"),
            (READ_ORDERS, "(uuid[])", "(ARRAY[gen_random_uuid()])", "orders_pkey"),
            (DELETE, "(bigint[])", "(ARRAY[1])", "outbox_pkey"),
            (GIVE_UP, "(bigint[], text[])", "(ARRAY[1], ARRAY['r'])", "Index Scan using outbox_pkey on outbox"),
        ] {
            let plan = plan(&servers.pool, statement, types, arguments).await;
            assert!(has(&plan, index) && !has(&plan, "Seq Scan"), "{plan:#?}");
            // Nothing is sorted: rows come in the order of the key, and are numbered in it.
            assert!(!has(&plan, "Sort"), "{plan:#?}");
        }
    }
}

#[tokio::test]
async fn rows_that_have_gone_through_are_not_in_the_way_of_those_to_come() {
    let servers = Servers::open().await;
    let mut instance = servers.instance(TURN_SECONDS_MAX).await;
    for _ in 0..20 {
        servers.say(1_000).await;
        while servers.count("SELECT count(*) FROM outbox").await > 0 {
            instance.round().await.unwrap();
        }
    }
    servers.say(10).await;
    // 20,000 entries in some 56 pages; those that are known to be dead are passed over within their pages, and no row of
    // the table is looked up for them.
    let explain = format!("PREPARE it (bigint, bigint) AS {READ}; EXPLAIN (ANALYZE, BUFFERS) EXECUTE it (500, 2000)");
    let mut hits = Vec::new();
    for _ in 0..2 {
        let mut connection = db::connect(&servers.pool.connect_options()).await.unwrap();
        let plan = sqlx::raw_sql(AssertSqlSafe(explain.clone())).fetch_all(&mut connection).await.unwrap();
        let line = plan.iter().map(|line| line.get::<String, _>(0)).find(|line| line.contains("Buffers: shared"));
        hits.push(line.unwrap());
    }
    let pages: u64 = hits[1].split("hit=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(pages < 100, "{hits:?}");
}

/// The plan that the relay's connection makes.
async fn plan(pool: &PgPool, statement: &str, types: &str, arguments: &str) -> Vec<String> {
    let options = PgConnectOptions::clone(&pool.connect_options()).options(settings(TURN_SECONDS_MAX));
    let mut connection = db::connect(&options).await.unwrap();
    let explain = format!("PREPARE it {types} AS {statement}; EXPLAIN EXECUTE it {arguments}");
    let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut connection).await.unwrap();
    plan.iter().map(|line| line.get(0)).collect()
}

fn has(plan: &[String], part: &str) -> bool {
    plan.iter().any(|line| line.contains(part))
}
