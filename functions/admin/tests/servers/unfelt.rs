//! No sale feels an operator who looks.

use crate::Shop;
use crate::auditing::LIMITS;
use admin::Limit;
use admin::audit::audit;
use admin::items::CONFLICTS;
use admin::look::{LookBack, Scan, look};
use admin::orders::{HISTORY, ORDER, PAYMENT, find};
use admin::outbox::LIST;
use shared::items::{ITEM, ITEMS};
use shared::order::State;

/// Lets nobody in but those who take the weakest lock there is: that of a plain `SELECT`.
const ONLY_READERS: &str = "
LOCK TABLE items, orders, order_history, payments, verdicts, outbox, outbox_failed IN EXCLUSIVE MODE";
const LOCK_ROWS: [&str; 2] = ["SELECT 1 FROM items FOR UPDATE", "SELECT 1 FROM orders FOR UPDATE"];
/// The locks that the session at hand has, that of its own transaction's number aside.
const OUR_LOCKS: &str = "
SELECT DISTINCT locktype || ' ' || mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'";

#[tokio::test]
async fn whoever_only_looks_waits_for_no_lock_of_a_sale() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 1, 1).await;
    let order = shop.order("ticket", State::Paid).await.to_string();
    let mut selling = shop.pool.begin().await.unwrap();
    for lock in [ONLY_READERS, LOCK_ROWS[0], LOCK_ROWS[1]] {
        sqlx::query(lock).execute(&mut *selling).await.unwrap();
    }
    let commands: [&[&str]; 7] = [
        &["items"],
        &["item", "ticket"],
        &["conflicts"],
        &["order", &order],
        &["orders", "--item", "ticket"],
        &["audit"],
        &["outbox", "list"],
    ];
    for command in commands {
        let report = shop.run(command).await.unwrap_or_else(|failure| panic!("{command:?}: {failure}"));
        assert!(
            report.is_well && report.text.contains("ticket") != matches!(command, ["audit" | "outbox", ..]),
            "{}",
            report.text
        );
    }
    selling.rollback().await.unwrap();
}

#[tokio::test]
async fn no_sale_waits_for_a_lock_of_whoever_only_looks() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 1, 1).await;
    let order = shop.order("ticket", State::Paid).await;
    let locks = look(&shop.store, Scan::Whole { seconds_max: 10 }, async |connection| {
        for list in [ITEMS, CONFLICTS, LIST] {
            sqlx::query(list).bind(10_i64).fetch_all(&mut *connection).await?;
        }
        sqlx::query(ITEM).bind(["ticket"]).fetch_all(&mut *connection).await?;
        for of_order in [ORDER, HISTORY, PAYMENT] {
            sqlx::query(of_order).bind(order).fetch_all(&mut *connection).await?;
        }
        find(connection, None, None, Limit { limit: 10 }, LookBack { look_back: 10 }).await?;
        audit(connection, LIMITS, 5).await?;
        sqlx::query_scalar::<_, String>(OUR_LOCKS).fetch_all(connection).await
    });
    assert_eq!(locks.await.unwrap(), ["relation AccessShareLock"]);
}

#[tokio::test]
async fn what_looks_can_write_nothing_and_ends_in_time() {
    let shop = Shop::open().await;
    for (scan, statement, words) in [
        (Scan::ByKey, "INSERT INTO buyers VALUES ('b', 'vip')", "read-only"),
        (Scan::Whole { seconds_max: 1 }, "SELECT pg_sleep(600)", "within 1 s"),
    ] {
        let ended = look(&shop.store, scan, async |connection| sqlx::query(statement).execute(connection).await);
        assert!(ended.await.is_err_and(|failure| failure.to_string().contains(words)), "{statement}");
    }
}
