//! The audit's SQL against a real database: it reads this sale and no other, and each fault that is seeded is seen.

use loadtest::{
    answers::Answers,
    audit::{
        Audit, Evidence,
        database_state::{self, OrderHistory, RecordedPayment, RecordedTransition},
    },
    orders::plan::FollowUp,
    schedule::{Scenario, Schedule},
};
use shared::{
    db,
    devstack::Fixture,
    messages::{Code, Order, Verdict},
};
use sqlx::{PgPool, postgres::PgQueryResult};
use std::{collections::HashMap, time::Duration};
use time::OffsetDateTime;
use uuid::Uuid;

const TAKE_UNIT: &str =
    "UPDATE items SET available = available - 1, held = held + 1, version = version + 1 WHERE id = $1";
const ADD_ORDER: &str = "
    INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
    VALUES ($1, $2, $3, 'b', 1, $4, now(), now())";
const ADD_VERDICT: &str = "
    INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at)
    VALUES ($1, $2, gen_random_uuid(), $3, $4, now())";
const ADD_STEPS: &str = "
    INSERT INTO order_history (order_id, from_state, to_state, cause, request_id, at) VALUES
    ($1, 'paying', 'paid', 'payment_captured', 'p', now() + interval '1 s'),
    ($1, 'reserved', 'paying', 'payment_begun', 'p', now())";
const ADD_PAYMENT: &str = "
    INSERT INTO payments (order_id, request_id, fingerprint, payment_method, asked_at, charge_id)
    VALUES ($1, $1::text, gen_random_uuid(), 'card', now(), 'charge-1')";
const ADD_UNPUBLISHED: &str = "INSERT INTO outbox (kind, order_ids) VALUES ('order.paid', ARRAY[$1, $1]::uuid[])";
const ADD_REPLY: &str = "
    INSERT INTO verdicts (request_id, fingerprint, status, reply, decided_at)
    VALUES ($1, gen_random_uuid(), 'done', 'told', now())";

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
    let database = database().await;
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

async fn database() -> PgPool {
    let fixture = Fixture::new().await;
    let database = db::pool(&fixture.database_url, "test", 2).unwrap();
    db::migrate(&database).await.unwrap();
    database
}

async fn add_order(database: &PgPool, id: Uuid, request_id: &str, item: &str, state: &str) {
    let insert = sqlx::query(ADD_ORDER).bind(id).bind(request_id).bind(item).bind(state);
    insert.execute(database).await.unwrap();
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
            add_order(database, Uuid::now_v7(), &id, item, "reserved").await;
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

#[tokio::test]
async fn the_history_on_record_is_read_and_that_of_other_sales_is_not() {
    let database = database().await;
    let (schedule, order) = live(&database, "ours").await;
    live(&database, "theirs").await;

    let step = |from: &str, to: &str, cause: &str| RecordedTransition {
        order_id: order,
        from: from.into(),
        to: to.into(),
        cause: cause.into(),
        request_id: Some("p".into()),
    };
    let follow_up = FollowUp::request_id_of(schedule.requests[0].request_id).to_string();
    let expected = OrderHistory {
        transitions: vec![step("reserved", "paying", "payment_begun"), step("paying", "paid", "payment_captured")],
        payments: vec![RecordedPayment { order_id: order, charge_id: Some("charge-1".into()) }],
        follow_up_replies: HashMap::from([(follow_up, "told".into())]),
        unpublished: 1,
    };
    assert_eq!(database_state::read_history(&database, &schedule).await.unwrap(), expected);
}

#[tokio::test]
async fn a_sale_has_ended_when_nothing_is_held_and_everything_is_published() {
    let database = database().await;
    let (schedule, _) = live(&database, "ours").await;
    let hold_ms: i64 = sqlx::query_scalar("SELECT hold_ms FROM items").fetch_one(&database).await.unwrap();
    assert_eq!(hold_ms, 1_500);
    assert_eq!(database_state::held(&database, &schedule).await.unwrap(), 0);
    let hold = "UPDATE items SET available = available - 1, held = held + 1";
    sqlx::query(hold).execute(&database).await.unwrap();
    assert_eq!(database_state::held(&database, &schedule).await.unwrap(), 1);

    let last = database_state::last_unpublished(&database).await.unwrap().unwrap();
    assert!(database_state::is_unpublished(&database, last).await.unwrap());
    sqlx::query("DELETE FROM outbox").execute(&database).await.unwrap();
    assert!(!database_state::is_unpublished(&database, last).await.unwrap());
    assert_eq!(database_state::last_unpublished(&database).await.unwrap(), None);
}

/// A sale whose only order was paid.
async fn live(database: &PgPool, salt: &str) -> (Schedule, Uuid) {
    let scenario = Scenario { buyers: 1, items: 1, stock: 1, quantities: 1..=1, rate: 0.0, seed: 1 };
    let schedule = Schedule::new(&scenario, salt);
    database_state::put_on_sale(database, &schedule.items, Some(Duration::from_millis(1_500))).await.unwrap();
    let (purchase, order) = (schedule.requests[0].request_id, Uuid::now_v7());
    add_order(database, order, &purchase.to_string(), &schedule.items[0].id, "paid").await;
    for statement in [ADD_STEPS, ADD_PAYMENT, ADD_UNPUBLISHED] {
        sqlx::query(statement).bind(order).execute(database).await.unwrap();
    }
    let follow_up = FollowUp::request_id_of(purchase).to_string();
    sqlx::query(ADD_REPLY).bind(follow_up).execute(database).await.unwrap();
    (schedule, order)
}
