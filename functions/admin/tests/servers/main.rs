//! The operator's command line against real servers. (What needs workers is among the tests of the whole system.)
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod auditing;
mod plans;
mod reading;
mod unfelt;
mod unprepared;

use admin::{
    failure::Failure,
    options::CommandLine,
    report::{Report, Style},
    run,
};
use clap::Parser;
use serde_json::Value;
use shared::{db, devstack::Fixture, order::State};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

const PUT_ON_SALE: &str = "
INSERT INTO items (id, stock, available, held, sold, version, conflicts) VALUES ($1, $2, $2, 0, 0, $3, $4)";
const ORDER: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, state, hold_until, created_at)
VALUES ($1, 'r-' || $1, $2, 'b', 1, $3, now() + interval '10 min', now() - interval '1 min')";
const VERDICT: &str = "
INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at)
SELECT request_id, item, gen_random_uuid(), 'reserved', format('{\"order\":{\"id\":\"%s\"}}', id), created_at
FROM orders WHERE id = $1";
const STEP: &str = "
INSERT INTO order_history (order_id, from_state, to_state, cause, request_id, at)
VALUES ($1, $2, $3, $4, CASE WHEN $4 <> 'hold_passed' THEN 'q-' || $1 END, clock_timestamp())";
const PAYMENT: &str = "
INSERT INTO payments (order_id, request_id, fingerprint, payment_method, asked_at, charge_id)
VALUES ($1, 'q-' || $1, gen_random_uuid(), 'card', now(), $2)";
const MOVE_UNIT: &str = "
UPDATE items SET available = available - 1, held = held + CASE WHEN $2 THEN 0 ELSE 1 END,
                 sold = sold + CASE WHEN $2 THEN 1 ELSE 0 END
WHERE id = $1";

/// A database of the test's own.
struct Shop {
    url: String,
    pool: PgPool,
}

impl Shop {
    /// Its schema up to date, nothing on sale.
    async fn open() -> Self {
        let url = Fixture::new().await.database_url;
        let pool = db::pool(&url, "test", 4).unwrap();
        db::migrate(&pool).await.unwrap();
        Self { url, pool }
    }

    async fn put_on_sale(&self, item: &str, stock: i64, version: i64, conflicts: i64) {
        let insert = sqlx::query(PUT_ON_SALE).bind(item).bind(stock).bind(version).bind(conflicts);
        insert.execute(&self.pool).await.unwrap();
    }

    /// Makes an order of one unit with all that belongs to one in this state.
    async fn order(&self, item: &str, state: State) -> Uuid {
        let id = Uuid::now_v7();
        let mut connection = self.pool.acquire().await.unwrap();
        sqlx::query(ORDER).bind(id).bind(item).bind(state.as_str()).execute(&mut *connection).await.unwrap();
        sqlx::query(VERDICT).bind(id).execute(&mut *connection).await.unwrap();
        match state {
            State::Reserved => {}
            State::Paying => begin_payment(&mut connection, id, None).await,
            State::Paid => {
                begin_payment(&mut connection, id, Some("charge-1")).await;
                step(&mut connection, id, ("paying", "paid", "payment_captured")).await;
            }
            State::Expired => step(&mut connection, id, ("reserved", "expired", "hold_passed")).await,
            State::Cancelled => step(&mut connection, id, ("reserved", "cancelled", "cancel")).await,
        }
        if state.holds_units() || state == State::Paid {
            let is_sold = state == State::Paid;
            sqlx::query(MOVE_UNIT).bind(item).bind(is_sold).execute(&mut *connection).await.unwrap();
        }
        id
    }

    /// Runs a command on this database.
    async fn run(&self, arguments: &[&str]) -> Result<Report, Failure> {
        let line = [&["admin"], arguments, &["--database-url", &self.url]].concat();
        run(CommandLine::try_parse_from(line).unwrap(), Style::Plain).await
    }

    /// The document that a command prints for programs.
    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--json"]].concat()).await.unwrap().text).unwrap()
    }
}

async fn begin_payment(connection: &mut PgConnection, id: Uuid, charge: Option<&str>) {
    sqlx::query(PAYMENT).bind(id).bind(charge).execute(&mut *connection).await.unwrap();
    step(connection, id, ("reserved", "paying", "payment_begun")).await;
}

async fn step(connection: &mut PgConnection, id: Uuid, (from, to, cause): (&str, &str, &str)) {
    sqlx::query(STEP).bind(id).bind(from).bind(to).bind(cause).execute(connection).await.unwrap();
}
