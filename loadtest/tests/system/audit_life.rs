//! The audit of orders reads the database: what is there of this sale, and nothing else.

use loadtest::{
    audit::database_state::{self, OrderHistory, RecordedPayment, RecordedTransition},
    orders::plan::FollowUp,
    schedule::{Scenario, Schedule},
};
use shared::{db, devstack::Fixture};
use sqlx::PgPool;
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

const ADD_ORDER: &str = "
    INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
    VALUES ($1, $2, $3, 'b', 1, 'paid', now(), now())";
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

#[tokio::test]
async fn the_history_on_record_is_read_and_that_of_other_sales_is_not() {
    let fixture = Fixture::new().await;
    let database = db::pool(&fixture.database_url, "test", 2).unwrap();
    db::migrate(&database).await.unwrap();
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
    let fixture = Fixture::new().await;
    let database = db::pool(&fixture.database_url, "test", 2).unwrap();
    db::migrate(&database).await.unwrap();
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
    let insert = sqlx::query(ADD_ORDER).bind(order).bind(purchase.to_string()).bind(&schedule.items[0].id);
    insert.execute(database).await.unwrap();
    for statement in [ADD_STEPS, ADD_PAYMENT, ADD_UNPUBLISHED] {
        sqlx::query(statement).bind(order).execute(database).await.unwrap();
    }
    let follow_up = FollowUp::request_id_of(purchase).to_string();
    sqlx::query(ADD_REPLY).bind(follow_up).execute(database).await.unwrap();
    (schedule, order)
}
