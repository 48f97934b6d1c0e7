//! Whatever has gone through the outbox, its first rows are found at the front of its key, and everything else by key.

use crate::{Servers, TURN_SECONDS_MAX};
use relay::store::{DELETE, GIVE_UP, READ, READ_ORDERS};
use sqlx::{AssertSqlSafe, Row};

#[tokio::test]
async fn a_round_reads_and_writes_by_key_alone() {
    for loaded in [false, true] {
        let servers = Servers::open().await;
        if loaded {
            servers.add_rows(20_000).await;
            servers.add_rows_of_orders(200, 100).await;
            sqlx::raw_sql("ANALYZE outbox; ANALYZE orders").execute(&servers.pool).await.unwrap();
        }
        for (statement, types, arguments, index) in [
            (READ, "(bigint, bigint)", "(500, 2000)", "Index Scan using outbox_pkey on outbox"),
            (READ_ORDERS, "(uuid[])", "(ARRAY[gen_random_uuid()])", "orders_pkey"),
            (DELETE, "(bigint[])", "(ARRAY[1])", "outbox_pkey"),
            (GIVE_UP, "(bigint[], text[])", "(ARRAY[1], ARRAY['r'])", "Index Scan using outbox_pkey on outbox"),
        ] {
            let plan = plan(&servers, statement, types, &format!("EXPLAIN EXECUTE it {arguments}")).await;
            assert!(plan.contains(index) && !plan.contains("Seq Scan"), "{plan}");
            // Nothing is sorted: rows come in the order of the key, and are numbered in it.
            assert!(!plan.contains("Sort"), "{plan}");
        }
    }
}

#[tokio::test]
async fn rows_that_have_gone_through_are_not_in_the_way_of_those_to_come() {
    let servers = Servers::open().await;
    let mut instance = servers.instance().await;
    for _ in 0..20 {
        servers.add_rows(1_000).await;
        while servers.count("SELECT count(*) FROM outbox").await > 0 {
            instance.round().await;
        }
    }
    servers.add_rows(10).await;
    // 20,000 entries in some 56 pages; those that are known to be dead are passed over within their pages, and no row of
    // the table is looked up for them. The first reader gets to know them.
    let explain = "EXPLAIN (ANALYZE, BUFFERS) EXECUTE it (500, 2000)";
    plan(&servers, READ, "(bigint, bigint)", explain).await;
    let plan = plan(&servers, READ, "(bigint, bigint)", explain).await;
    let buffers = plan.split("Buffers: shared").nth(1).unwrap();
    let pages = buffers.split("hit=").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(pages.parse::<u64>().unwrap() < 100, "{plan}");
}

/// The plan that the relay's connection makes.
async fn plan(servers: &Servers, statement: &str, types: &str, explain: &str) -> String {
    let mut connection = servers.connect(TURN_SECONDS_MAX).await;
    let prepare = AssertSqlSafe(format!("PREPARE it {types} AS {statement}; {explain}"));
    let plan = sqlx::raw_sql(prepare).fetch_all(&mut connection).await.unwrap();
    plan.iter().map(|line| line.get::<String, _>(0) + "\n").collect()
}
