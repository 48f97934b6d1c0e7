//! The operator's command line against real servers. (What needs workers is among the tests of the whole system.)
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod auditing;
mod forgetting;
mod known;
mod outbox;
mod plans;
mod reading;
mod unfelt;
mod unprepared;

use admin::failure::Failure;
use admin::report::Report;
use admin::{CommandLine, run};
use clap::Parser;
use serde_json::Value;
use shared::config::StoreOptions;
use shared::db;
use shared::devstack::{FUNCTIONS, as_role, fixture};
use shared::order::State;
use shared::table::Style;
use sqlx::PgPool;
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
    store: StoreOptions,
    pool: PgPool,
}

impl Shop {
    /// Its schema up to date, nothing on sale.
    async fn open() -> Self {
        let shop = Self::without_schema().await;
        db::migrate(&shop.pool).await.unwrap();
        shop
    }

    async fn without_schema() -> Self {
        let database_url = fixture::database().await;
        let pool = db::pool(&database_url, "test", 4).unwrap();
        Self { store: StoreOptions { database_url, database_connections_max: 1 }, pool }
    }

    async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    async fn put_on_sale(&self, item: &str, stock: i64, version: i64, conflicts: i64) {
        let insert = sqlx::query(PUT_ON_SALE).bind(item).bind(stock).bind(version).bind(conflicts);
        insert.execute(&self.pool).await.unwrap();
    }

    /// Makes an order of one unit with all that belongs to one in this state.
    async fn order(&self, item: &str, state: State) -> Uuid {
        let id = Uuid::now_v7();
        let order = sqlx::query(ORDER).bind(id).bind(item).bind(state.as_str());
        order.execute(&self.pool).await.unwrap();
        sqlx::query(VERDICT).bind(id).execute(&self.pool).await.unwrap();
        let begun = ("reserved", "paying", "payment_begun");
        let (charge, steps) = match state {
            State::Reserved => (None, vec![]),
            State::Paying => (None, vec![begun]),
            State::Paid => (Some("charge-1"), vec![begun, ("paying", "paid", "payment_captured")]),
            State::Expired => (None, vec![("reserved", "expired", "hold_passed")]),
            State::Cancelled => (None, vec![("reserved", "cancelled", "cancel")]),
        };
        if steps.contains(&begun) {
            sqlx::query(PAYMENT).bind(id).bind(charge).execute(&self.pool).await.unwrap();
        }
        for (from, to, cause) in steps {
            sqlx::query(STEP).bind(id).bind(from).bind(to).bind(cause).execute(&self.pool).await.unwrap();
        }
        let is_sold = state == State::Paid;
        if state.holds_units() || is_sold {
            sqlx::query(MOVE_UNIT).bind(item).bind(is_sold).execute(&self.pool).await.unwrap();
        }
        id
    }

    /// Runs a command on this database, as a role that may do so much and no more.
    async fn run(&self, arguments: &[&str]) -> Result<Report, Failure> {
        let role = match arguments {
            ["migrate" | "forget", ..] => "turnstile_migrator",
            ["restored", ..] | ["outbox", "replay" | "drop", ..] => FUNCTIONS,
            _ => "turnstile_reader",
        };
        run_with(&[arguments, &["--database-url", &as_role(&self.store.database_url, role)]].concat()).await
    }

    async fn text(&self, arguments: &[&str]) -> String {
        self.run(arguments).await.unwrap().text
    }

    /// The document that a command prints for programs.
    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[arguments, &["--json"]].concat()).await).unwrap()
    }
}

async fn run_with(arguments: &[&str]) -> Result<Report, Failure> {
    run(CommandLine::try_parse_from([&["admin"], arguments].concat()).unwrap(), Style::Plain).await
}
