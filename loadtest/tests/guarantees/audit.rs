//! The audit's SQL against a real database: it reads this sale, all of it, and no other. What the audit makes of that is
//! tested in `src/audit`, with a fault for each invariant.

use loadtest::audit::database_state;
use loadtest::orders::plan::FollowUp;
use loadtest::schedule::{Scenario, Schedule};
use shared::db;
use shared::devstack::fixture;
use sqlx::PgPool;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use uuid::Uuid;

/// An order ($1, of the request $2 for the item $3) that was paid, and the reply to the follow-up ($4).
const RECORD: &str = "
WITH made AS (
    INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
    VALUES ($1, $2, $3, 'b', 1, 'paid', now(), now())
),
steps AS (
    INSERT INTO order_history (order_id, from_state, to_state, cause, request_id, at) VALUES
    ($1, 'paying', 'paid', 'payment_captured', 'p', now() + interval '1 s'),
    ($1, 'reserved', 'paying', 'payment_begun', 'p', now())
),
charged AS (
    INSERT INTO payments (order_id, request_id, fingerprint, payment_method, asked_at, charge_id)
    VALUES ($1, 'p-' || $2, gen_random_uuid(), 'card', now(), 'charge-1')
),
waiting AS (INSERT INTO outbox (kind, order_ids) VALUES ('order.paid', ARRAY[$1, $1]::uuid[])),
sold AS (UPDATE items SET available = 1, sold = 2, version = 4, conflicts = 5 WHERE id = $3)
INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at) VALUES
($2, $3, gen_random_uuid(), 'reserved', 'yours', now()), ($4, NULL, gen_random_uuid(), 'done', 'told', now())";
/// What is on record of this sale's item though nobody asked for it, and of its second request ($2) as if it had been for
/// something else.
const ASTRAY: &str = "
WITH unasked AS (
    INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
    VALUES (gen_random_uuid(), 'stranger', $1, 'b', 2, 'reserved', now(), now())
)
INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at) VALUES
('stranger', $1, gen_random_uuid(), 'sold_out', 'gone', now()),
($2, 'elsewhere', gen_random_uuid(), 'refused', 'no', now())";

#[tokio::test]
async fn a_sale_on_record_is_read_with_what_went_astray_and_no_other_sale_is() {
    let database = database().await;
    let (schedule, order) = sale(&database, "ours").await;
    sale(&database, "theirs").await;
    let (item, [paid, second]) = (schedule.items[0].id.as_str(), [0, 1].map(|at| request(&schedule, at)));
    sqlx::query(ASTRAY).bind(item).bind(&second).execute(&database).await.unwrap();

    let state = database_state::read(&database, &schedule, true).await.unwrap();
    let [row] = &state.items[..] else { panic!("one item: {state:?}") };
    let units = [row.stock, row.available, row.held, row.sold, row.version, row.conflicts];
    assert_eq!((row.id.as_str(), units), (item, [3, 1, 0, 2, 4, 5]));
    let verdicts: BTreeSet<_> =
        state.verdicts.iter().map(|row| (&*row.reply, &*row.request_id, &*row.item, row.status.as_str())).collect();
    let expected = [
        ("gone", "stranger", item, "sold_out"),
        ("no", &second, "elsewhere", "refused"),
        ("yours", &paid, item, "reserved"),
    ];
    assert_eq!(verdicts, expected.into());
    let orders: BTreeSet<_> =
        state.orders.iter().map(|row| (row.quantity, &*row.request_id, &*row.item, &*row.state)).collect();
    assert_eq!(orders, [(1, &*paid, item, "paid"), (2, "stranger", item, "reserved")].into());

    let steps: Vec<_> = state.transitions.iter().map(|row| (row.order_id, &*row.from, &*row.to, &*row.cause)).collect();
    assert_eq!(steps, [(order, "reserved", "paying", "payment_begun"), (order, "paying", "paid", "payment_captured")]);
    assert!(state.transitions.iter().all(|row| row.request_id.as_deref() == Some("p")));
    assert_eq!(state.charge_ids, HashMap::from([(order, Some("charge-1".to_owned()))]));
    let follow_up = FollowUp::request_id_of(schedule.requests[0].request_id).to_string();
    assert_eq!(state.follow_up_replies, HashMap::from([(follow_up, "told".to_owned())]));
    assert_eq!(state.unpublished, 1);
}

#[tokio::test]
async fn a_sale_has_ended_when_nothing_is_held_and_everything_is_published() {
    let database = database().await;
    let (schedule, _) = sale(&database, "ours").await;
    assert_eq!(database_state::held(&database, &schedule).await.unwrap(), 0);
    sqlx::query("UPDATE items SET available = 0, held = 1 WHERE hold_ms = 1500").execute(&database).await.unwrap();
    assert_eq!(database_state::held(&database, &schedule).await.unwrap(), 1);

    let last = database_state::last_unpublished(&database).await.unwrap();
    assert!(last.is_some());
    assert_eq!(database_state::first_unpublished(&database, last).await.unwrap(), last);
    sqlx::query("DELETE FROM outbox").execute(&database).await.unwrap();
    assert_eq!(database_state::first_unpublished(&database, last).await.unwrap(), None);
    assert_eq!(database_state::last_unpublished(&database).await.unwrap(), None);
}

async fn database() -> PgPool {
    let database = db::pool(&fixture::database().await, "test", 2).unwrap();
    db::migrate(&database).await.unwrap();
    database
}

/// A sale of which the first request's order was paid.
async fn sale(database: &PgPool, salt: &str) -> (Schedule, Uuid) {
    let scenario = Scenario { buyers: 2, stock: 3, seed: 1, ..Scenario::default() };
    let schedule = Schedule::new(&scenario, salt);
    database_state::put_on_sale(database, &schedule.items, Some(Duration::from_millis(1_500))).await.unwrap();
    let (item, order) = (schedule.items[0].id.as_str(), Uuid::now_v7());
    let follow_up = FollowUp::request_id_of(schedule.requests[0].request_id).to_string();
    let record = sqlx::query(RECORD).bind(order).bind(request(&schedule, 0)).bind(item).bind(follow_up);
    record.execute(database).await.unwrap();
    (schedule, order)
}

fn request(schedule: &Schedule, at: usize) -> String {
    schedule.requests[at].request_id.to_string()
}
