//! No sale feels an operator who looks.

use crate::Shop;
use admin::{
    audit::{Limits, audit},
    conflicts::CONFLICTS,
    item::ITEM,
    items::ITEMS,
    options::Limit,
    order::{HISTORY, ORDER, PAYMENT},
    orders::{Wanted, find},
    read::{self, LookBack, Way},
};
use shared::order::State;
use sqlx::{Connection, Row};
use uuid::Uuid;

/// Lets nobody in but those who take the weakest lock there is: that of a plain `SELECT`.
const ONLY_READERS: &str = "
LOCK TABLE items, orders, order_history, payments, verdicts, outbox, outbox_failed IN EXCLUSIVE MODE";
const LOCK_ROWS: [&str; 2] = ["SELECT 1 FROM items FOR UPDATE", "SELECT 1 FROM orders FOR UPDATE"];
/// The locks that the session at hand has, that of its own transaction's number aside.
const OUR_LOCKS: &str = "
SELECT DISTINCT locktype || ' ' || mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'";

const LIMITS: Limits =
    Limits { verdicts_days: 30, paying_seconds_max: 300, overdue_seconds_max: 60, outbox_lag_seconds_max: 60 };

#[tokio::test]
async fn whoever_only_looks_waits_for_no_lock_of_a_sale() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 1, 1).await;
    let order = shop.order("ticket", State::Paid).await.to_string();
    let mut selling = shop.pool.begin().await.unwrap();
    sqlx::query(ONLY_READERS).execute(&mut *selling).await.unwrap();
    for lock in LOCK_ROWS {
        sqlx::query(lock).execute(&mut *selling).await.unwrap();
    }
    let commands: [&[&str]; 6] = [
        &["items"],
        &["item", "ticket"],
        &["conflicts"],
        &["order", &order],
        &["orders", "--item", "ticket"],
        &["audit"],
    ];
    for command in commands {
        let report = shop.run(command).await.unwrap_or_else(|failure| panic!("{command:?}: {failure}"));
        assert!(report.is_well && report.text.contains("ticket") != (command == ["audit"]), "{}", report.text);
    }
    selling.rollback().await.unwrap();
}

#[tokio::test]
async fn no_sale_waits_for_a_lock_of_whoever_only_looks() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 1, 1).await;
    let order = shop.order("ticket", State::Paid).await;
    let locks = read::look(&shop.pool, Way::Whole, 10, async |connection| {
        sqlx::query(ITEMS).bind(10_i64).fetch_all(&mut *connection).await?;
        sqlx::query(ITEM).bind("ticket").fetch_all(&mut *connection).await?;
        sqlx::query(CONFLICTS).bind(10_i64).fetch_all(&mut *connection).await?;
        for of_order in [ORDER, HISTORY, PAYMENT] {
            sqlx::query(of_order).bind(order).fetch_all(&mut *connection).await?;
        }
        find(connection, Wanted::default(), Limit { limit: 10 }, LookBack { look_back: 10 }).await?;
        audit(connection, LIMITS, 5).await?;
        let rows = sqlx::query(OUR_LOCKS).fetch_all(connection).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>())
    });
    assert_eq!(locks.await.unwrap(), ["relation AccessShareLock"]);
}

#[tokio::test]
async fn what_looks_can_write_nothing_and_ends_in_time() {
    let shop = Shop::open().await;
    let write = read::look(&shop.pool, Way::ByKey, 10, async |connection| {
        sqlx::query("INSERT INTO buyers VALUES ($1, 'vip')").bind(Uuid::now_v7().to_string()).execute(connection).await
    });
    assert!(write.await.is_err_and(|failure| failure.to_string().contains("read-only")));
    let slow = read::look(&shop.pool, Way::ByKey, 1, async |connection| {
        sqlx::query("SELECT pg_sleep(600)").execute(connection).await
    });
    assert!(slow.await.is_err_and(|failure| failure.to_string().contains("within 1 s")));
    let mut connection = shop.pool.acquire().await.unwrap();
    connection.ping().await.unwrap();
}
