//! The audit's SQL against a real database: each fault that is seeded in it is seen, and nothing else.

use loadtest::{
    answers::Answers,
    audit::{Audit, Evidence, database_state},
    schedule::{Scenario, Schedule},
};
use shared::{
    db,
    devstack::Fixture,
    messages::{Code, Order, Verdict},
};
use sqlx::{PgPool, postgres::PgQueryResult};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

const TAKE_UNIT: &str =
    "UPDATE items SET available = available - 1, held = held + 1, version = version + 1 WHERE id = $1";
const ADD_ORDER: &str = "
    INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
    VALUES (gen_random_uuid(), $2, $1, 'b', 1, now(), now())";
const ADD_VERDICT: &str = "
    INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at)
    VALUES ($1, $2, gen_random_uuid(), $3, $4, now())";

/// Lets the database hold what the schema forbids, as a fault in the schema would.
const DROP_CHECKS: [&str; 3] = [
    "ALTER TABLE items DROP CONSTRAINT stock_is_conserved",
    "ALTER TABLE items DROP CONSTRAINT items_available_check",
    "ALTER TABLE items DROP CONSTRAINT items_held_check",
];

/// What is done to a right sale of 3 units among 10 buyers (`$1` is the item, `$2` the fourth buyer's request: the
/// first one refused), and the invariants that must be seen broken.
const FAULTS: [(&str, &[&str]); 14] = [
    ("SELECT $1, $2", &[]),
    ("UPDATE items SET sold = sold + 1 WHERE id = $1 AND $2 <> ''", &["stock_conserved", "orders_match_stock"]),
    (
        "UPDATE items SET available = -1, held = 4 WHERE id = $1 AND $2 <> ''",
        &["stock_conserved", "orders_match_stock"],
    ),
    ("UPDATE items SET available = 1 WHERE id = $1 AND $2 <> ''", &["stock_conserved", "no_false_sold_out"]),
    ("UPDATE items SET stock = 4 WHERE id = $1 AND $2 <> ''", &["stock_conserved"]),
    ("DELETE FROM items WHERE id = $1 AND $2 <> ''", &["stock_conserved"]),
    ("DELETE FROM verdicts WHERE item = $1 AND request_id = $2", &["every_request_recorded"]),
    ("UPDATE verdicts SET item = 'elsewhere' WHERE item = $1 AND request_id = $2", &["every_request_recorded"]),
    ("UPDATE verdicts SET reply = reply || ' ' WHERE item = $1 AND request_id = $2", &["replies_match_records"]),
    ("UPDATE verdicts SET status = 'refused' WHERE item = $1 AND request_id = $2", &["replies_match_records"]),
    (
        "INSERT INTO verdicts SELECT 'stranger', item, fingerprint, status, reply, decided_at FROM verdicts
         WHERE item = $1 AND request_id = $2",
        &["nothing_unknown"],
    ),
    (
        "INSERT INTO orders SELECT gen_random_uuid(), request_id, item, 'b', 1, 'reserved', decided_at, decided_at
         FROM verdicts WHERE item = $1 AND request_id = $2",
        &["never_oversold", "orders_match_stock", "orders_match_verdicts"],
    ),
    ("UPDATE orders SET state = 'paid' WHERE item = $1 AND $2 <> ''", &["orders_match_stock"]),
    (
        "DELETE FROM orders WHERE ctid IN (SELECT ctid FROM orders WHERE item = $1 AND $2 <> '' LIMIT 1)",
        &["orders_match_stock", "orders_match_verdicts"],
    ),
];

#[tokio::test]
async fn each_fault_that_is_seeded_in_the_database_is_seen() {
    let fixture = Fixture::new().await;
    let database = db::pool(&fixture.database_url, "test", 2).unwrap();
    db::migrate(&database).await.unwrap();
    for statement in DROP_CHECKS {
        sqlx::query(statement).execute(&database).await.unwrap();
    }
    for (number, (fault, expected)) in FAULTS.into_iter().enumerate() {
        let (schedule, answers) = sale(&database, &format!("case-{number}")).await;
        let fourth = schedule.requests[3].request_id.to_string();
        let item = schedule.items[0].id.as_str();
        let done: PgQueryResult = sqlx::query(fault).bind(item).bind(&fourth).execute(&database).await.unwrap();
        assert!(done.rows_affected() > 0, "the fault is in: {fault}");
        let state = database_state::read(&database, &schedule).await.unwrap();
        let audit = Audit::of(&Evidence {
            schedule: &schedule,
            answers: &answers,
            dead_growth: 0,
            endings: &[],
            database: Some(&state),
            orders: None,
        });
        let broken: Vec<&str> =
            audit.invariants.iter().filter(|invariant| !invariant.holds).map(|invariant| invariant.name).collect();
        assert_eq!(broken, expected, "{fault}: {:#?}", audit.invariants);
    }
}

/// Puts a right sale into the database, statement by statement, and into the answers.
async fn sale(database: &PgPool, salt: &str) -> (Schedule, Answers) {
    let scenario = Scenario { buyers: 10, items: 1, stock: 3, quantities: 1..=1, rate: 0.0, seed: 1 };
    let schedule = Schedule::new(&scenario, salt);
    database_state::put_on_sale(database, &schedule.items, None).await.unwrap();
    let mut answers = Answers::to(&schedule.requests);
    let item = schedule.items[0].id.as_str();
    for (index, due) in schedule.requests.iter().enumerate() {
        let id = due.request_id.to_string();
        let code = if index < 3 { Code::Reserved } else { Code::SoldOut };
        let reply = reply(&id, item, code);
        if code == Code::Reserved {
            sqlx::query(TAKE_UNIT).bind(item).execute(database).await.unwrap();
            sqlx::query(ADD_ORDER).bind(item).bind(&id).execute(database).await.unwrap();
        }
        let verdict = sqlx::query(ADD_VERDICT).bind(&id).bind(item).bind(code.status().as_str()).bind(&reply);
        verdict.execute(database).await.unwrap();
        answers.sent(&[index]);
        answers.record(&id, "worker-1", reply.into_bytes(), Duration::ZERO);
    }
    (schedule, answers)
}

fn reply(request_id: &str, item: &str, code: Code) -> String {
    let order = Order { id: Uuid::nil(), item: item.into(), quantity: 1, hold_until: OffsetDateTime::UNIX_EPOCH };
    let verdict = Verdict {
        request_id: Some(request_id.into()),
        status: code.status(),
        code,
        message: "…".into(),
        order: (code == Code::Reserved).then_some(order),
        item_version: Some(1),
        decided_at: Some(OffsetDateTime::UNIX_EPOCH),
    };
    serde_json::to_string(&verdict).unwrap()
}
