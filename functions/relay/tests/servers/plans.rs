//! Whatever has gone through the outbox, its first rows are found at the front of its key, and everything else by key.

use crate::{Servers, TURN_SECONDS_MAX};
use relay::store::{DELETE, GIVE_UP, READ, READ_ORDERS};
use shared::devstack::seed::assert_plans;
use sqlx::Row;
use std::time::Duration;
use tokio::time::sleep;

const READERS_MAX: usize = 100;
const OLDER: &str = "
SELECT count(*) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND greatest(age(backend_xid), age(backend_xmin)) > age($1::text::xid)";
const FULL: &str = "
INSERT INTO outbox (kind, item, detail) SELECT 'item.opened', 'a', '{}' FROM generate_series(1, 20000);
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r', 'a', 'b', 1, now(), now() FROM generate_series(1, 20000);
INSERT INTO outbox (kind, order_ids) SELECT 'order.reserved', array_agg(id) FROM orders GROUP BY get_byte(uuid_send(id), 0);
ANALYZE outbox; ANALYZE orders";

#[tokio::test]
async fn a_round_reads_and_writes_by_key_alone() {
    // Nothing is sorted: rows come in the order of the key, and are numbered in it.
    let plans: [(&str, &[&str]); 4] = [
        (READ, &["Index Scan using outbox_pkey on outbox", "!Sort"]),
        (READ_ORDERS, &["orders_pkey", "!Sort"]),
        (DELETE, &["outbox_pkey", "!Sort"]),
        (GIVE_UP, &["Index Scan using outbox_pkey on outbox", "!Sort"]),
    ];
    assert_plans(&Servers::open().await.pool, &[], FULL, &plans).await;
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
    // the table is looked up for them. The first reader gets to know them, once no transaction of the server is older: an
    // autovacuum's may be, or in another database another test's.
    let last = servers.count("SELECT txid_current()").await;
    let older = async || {
        let query = sqlx::query_scalar::<_, i64>(OLDER).bind(last.to_string());
        query.fetch_one(&servers.pool).await.unwrap()
    };
    while older().await > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS) {}", READ.replace("$1", "500").replace("$2", "2000"));
    let mut plan = String::new();
    for _ in 0..READERS_MAX {
        let mut connection = servers.connect(TURN_SECONDS_MAX).await;
        let lines = sqlx::raw_sql(&explain).fetch_all(&mut connection).await.unwrap();
        plan = lines.iter().map(|line| line.get::<String, _>(0) + "\n").collect();
        if pages_of(&plan) < 100 {
            return;
        }
    }
    panic!("{plan}");
}

fn pages_of(plan: &str) -> u64 {
    let buffers = plan.split("Buffers: shared").nth(1).unwrap();
    buffers.split("hit=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}
