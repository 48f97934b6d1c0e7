//! Each fault that is seeded in the database is seen by name, and nothing else.

use crate::Shop;
use admin::audit::{CHECKS, Limits, audit};
use serde_json::json;
use shared::order::State;
use std::collections::BTreeSet;

pub(crate) const LIMITS: Limits = Limits {
    verdicts_days: 30,
    paying_seconds_max: 300,
    pending_seconds_max: 1_200,
    overdue_seconds_max: 60,
    outbox_lag_seconds_max: 60,
};

/// Lets the database hold what the schema forbids, as a fault in the schema would.
const DROP_CHECKS: [&str; 5] = [
    "ALTER TABLE items DROP CONSTRAINT stock_is_conserved, DROP CONSTRAINT items_available_check",
    "ALTER TABLE order_history DROP CONSTRAINT transition_is_allowed, DROP CONSTRAINT request_is_named,
     DROP CONSTRAINT order_history_order_id_fkey",
    "ALTER TABLE payments DROP CONSTRAINT payments_order_id_fkey",
    "DROP INDEX an_order_ends_once",
    "ALTER TABLE outbox_failed DROP CONSTRAINT outbox_failed_pkey",
];

/// What is done to a right sale of 10 units and an order in each state, and the checks that must be off.
const FAULTS: [(&str, &[&str]); 23] = [
    ("SELECT 1", &[]),
    ("UPDATE items SET sold = sold + 1", &["stock_conserved", "stock_matches_orders"]),
    ("UPDATE items SET available = available - 9, stock = stock - 9", &["stock_conserved"]),
    ("UPDATE items SET stock = stock + 1", &["stock_conserved"]),
    ("UPDATE items SET held = held - 1, available = available + 1", &["stock_matches_orders"]),
    ("DELETE FROM items", &["stock_matches_orders"]),
    ("DELETE FROM orders WHERE state = 'reserved'", &["stock_matches_orders", "verdicts_have_orders"]),
    (
        "DELETE FROM verdicts WHERE request_id IN (SELECT request_id FROM orders WHERE state = 'paid')",
        &["orders_have_verdicts"],
    ),
    // Two senders of one id.
    (
        "WITH orders_of_two AS (UPDATE orders SET request_id = 'r-0', sender = state WHERE state IN ('reserved', 'paid'))
         UPDATE verdicts SET request_id = CASE state WHEN 'paid' THEN 'r-0' ELSE 'r-0 reserved' END, sender = state
         FROM orders WHERE orders.request_id = verdicts.request_id AND state IN ('reserved', 'paid')",
        &[],
    ),
    (
        "WITH orders_of_two AS (UPDATE orders SET request_id = 'r-0', sender = state WHERE state IN ('reserved', 'paid')),
         one AS (UPDATE verdicts SET request_id = 'r-0', sender = state
                 FROM orders WHERE orders.request_id = verdicts.request_id AND state = 'paid')
         DELETE FROM verdicts USING orders WHERE orders.request_id = verdicts.request_id AND state = 'reserved'",
        &["orders_have_verdicts"],
    ),
    ("UPDATE verdicts SET reply = '{}'", &["verdicts_have_orders"]),
    ("UPDATE orders SET hold_until = now() - interval '2 min' WHERE state = 'reserved'", &["holds_end"]),
    ("UPDATE order_history SET at = at - interval '10 min'", &["payments_end"]),
    (
        "WITH old AS (UPDATE order_history SET at = at - interval '21 min') UPDATE payments SET said = 'pending'",
        &["payments_end"],
    ),
    (
        "UPDATE payments SET is_under_way = true, void_at = now() - interval '21 min', said = 'refused' FROM orders
         WHERE orders.id = payments.order_id AND state = 'paid'",
        &["payments_end"],
    ),
    (
        "INSERT INTO order_history SELECT order_id, from_state, to_state, cause, request_id, clock_timestamp()
         FROM order_history WHERE to_state = 'expired'",
        &["orders_end_once", "history_leads_to_state"],
    ),
    ("DELETE FROM order_history WHERE to_state = 'cancelled'", &["orders_end_once", "history_leads_to_state"]),
    ("UPDATE order_history SET from_state = 'paying' WHERE to_state = 'expired'", &["history_leads_to_state"]),
    ("UPDATE orders SET state = 'cancelled' WHERE state = 'expired'", &["history_leads_to_state"]),
    ("UPDATE payments SET charge_id = NULL", &["charges_match_paid_orders"]),
    ("UPDATE payments SET charge_id = 'charge-2' WHERE charge_id IS NULL", &["charges_match_paid_orders"]),
    (
        "INSERT INTO outbox (kind, item, detail, at) VALUES ('item.created', 'ticket', '{}', now() - interval '2 min')",
        &["outbox_is_told"],
    ),
    (
        "INSERT INTO outbox_failed (id, kind, at, reason) VALUES (1, 'item.created', now(), 'too large')",
        &["outbox_fails_nowhere"],
    ),
];

/// A sale with an order in each state, of a database that forbids nothing any more.
async fn sale() -> Shop {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 0, 0).await;
    for state in State::ALL {
        shop.order("ticket", state).await;
    }
    for statement in DROP_CHECKS {
        shop.execute(statement).await;
    }
    shop
}

#[tokio::test]
async fn each_fault_that_is_seeded_in_the_database_is_seen() {
    let shop = sale().await;
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (fault, expected) in FAULTS {
        let mut transaction = shop.pool.begin().await.unwrap();
        let done = sqlx::query(fault).execute(&mut *transaction).await.unwrap();
        assert!(done.rows_affected() > 0, "the fault is in: {fault}");
        let found = audit(&mut transaction, LIMITS, 5).await.unwrap();
        transaction.rollback().await.unwrap();
        let off: Vec<&str> = found.checks.iter().filter(|check| !check.holds).map(|check| check.name).collect();
        assert_eq!(off, expected, "{fault}: {found:#?}");
        assert_eq!(found.holds, expected.is_empty());
        seen.extend(off);
    }
    let all: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(seen, all, "each check has a fault that it sees");
}

#[tokio::test]
async fn all_offenders_are_counted_and_the_first_are_named() {
    let shop = sale().await;
    shop.execute("UPDATE verdicts SET reply = '{}'").await;
    let report = shop.run(&["audit", "--names", "2"]).await.unwrap();
    assert!(!report.is_well, "the program exits with 1");
    assert!(report.text.contains("✗ verdicts_have_orders") && report.text.contains("and 3 more"), "{}", report.text);
    let audit = shop.json(&["audit", "--names", "2"]).await;
    let mut checks = audit["checks"].as_array().unwrap().iter();
    let check = checks.find(|check| check["name"] == "verdicts_have_orders").unwrap();
    assert_eq!((&check["offenders"], check["named"].as_array().unwrap().len()), (&json!(5), 2));
    assert_eq!(audit["holds"], false);
}

#[tokio::test]
async fn an_order_whose_verdict_has_left_in_time_is_not_off() {
    let shop = sale().await;
    shop.execute("DELETE FROM verdicts").await;
    shop.execute("UPDATE orders SET created_at = now() - interval '31 days'").await;
    assert!(shop.run(&["audit"]).await.unwrap().is_well);
    assert!(!shop.run(&["audit", "--verdicts-days", "40"]).await.unwrap().is_well, "they should be kept still");
}

#[tokio::test]
async fn orders_that_were_deleted_in_their_time_are_not_off() {
    let shop = sale().await;
    shop.execute("UPDATE verdicts SET decided_at = now() - interval '31 days'").await;
    for table in ["order_history", "payments"] {
        let delete = format!("DELETE FROM {table} USING orders WHERE orders.id = order_id AND state = 'paid'");
        sqlx::query(&delete).execute(&shop.pool).await.unwrap();
    }
    shop.execute("DELETE FROM orders WHERE state = 'paid'").await;
    assert!(!shop.run(&["audit"]).await.unwrap().is_well);
    shop.execute("INSERT INTO orders_gone VALUES ('ticket', 1)").await;
    let report = shop.run(&["audit"]).await.unwrap();
    assert!(
        report.text.contains("✓ stock_matches_orders") && report.text.contains("✓ verdicts_have_orders"),
        "{}",
        report.text
    );
}

#[tokio::test]
async fn a_payment_that_its_gateway_has_not_decided_has_longer() {
    let shop = sale().await;
    shop.execute("UPDATE order_history SET at = at - interval '10 min'").await;
    shop.execute("UPDATE payments SET said = 'the gateway has not decided: pending'").await;
    assert!(shop.run(&["audit"]).await.unwrap().is_well);
    let report = shop.run(&["audit", "--pending-seconds-max", "60"]).await.unwrap();
    assert!(!report.is_well && report.text.contains("; the gateway has not decided: pending)"), "{}", report.text);
}

#[tokio::test]
async fn what_waits_in_the_outbox_is_counted_in_events() {
    let shop = sale().await;
    shop.execute("INSERT INTO outbox (kind, order_ids) SELECT 'order.reserved', array_agg(id) FROM orders").await;
    let audit = shop.json(&["audit"]).await;
    assert_eq!((&audit["outbox"]["rows"], &audit["outbox"]["events"]), (&json!(1), &json!(5)));
    assert_eq!(audit["holds"], true);
}

#[tokio::test]
async fn the_time_that_an_audit_takes_is_none_that_an_event_has_waited() {
    let shop = sale().await;
    let mut transaction = shop.pool.begin().await.unwrap();
    let insert = "INSERT INTO outbox (kind, order_ids, at) SELECT 'order.reserved', array_agg(id), now() FROM orders";
    sqlx::query(insert).execute(&mut *transaction).await.unwrap();
    let found = audit(&mut transaction, LIMITS, 5).await.unwrap();
    assert_eq!((found.outbox.rows, found.outbox.lag_ms), (1, 0), "it came at the instant that is looked at");
}
