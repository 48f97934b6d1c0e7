//! Rounds against a real PostgreSQL and a real RabbitMQ: who has the turn is forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod plans;
mod turns;

use relay::publish::EventPublisher;
use relay::{Round, publish_round, settings};
use shared::amqp::{self, Nodes, Publisher};
use shared::db;
use shared::devstack::{FUNCTIONS, Fixture};
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;

/// Nothing here takes this long.
const WITHIN: Duration = Duration::from_secs(30);
const TURN_SECONDS_MAX: u32 = 30;

/// A migrated database, and a broker with the topology, of the test's own.
struct Servers {
    pool: PgPool,
    amqp_url: String,
    nodes: Nodes,
}

/// A relay, without what has it go round by itself.
struct Instance {
    store: PgConnection,
    publisher: EventPublisher,
}

impl Servers {
    async fn open() -> Self {
        let fixture = Fixture::new().await;
        let pool = db::pool(&fixture.database_url, "test", 4).unwrap();
        db::migrate(&pool).await.unwrap();
        let nodes = Nodes::read(&fixture.amqp_url).unwrap();
        let publisher = Publisher::open(&nodes, "test", "test").await.unwrap();
        amqp::declare(publisher.channel()).await.unwrap();
        publisher.close().await;
        Self { pool, amqp_url: fixture.amqp_url.clone(), nodes }
    }

    /// A connection as a relay's rounds have it.
    async fn connect(&self, turn_seconds_max: u32) -> PgConnection {
        let options = PgConnectOptions::clone(&self.pool.connect_options()).username(FUNCTIONS);
        let settings = settings(turn_seconds_max);
        db::connect(&options, &settings.each_ref().map(|(name, value)| (*name, value.as_str()))).await.unwrap()
    }

    async fn instance(&self) -> Instance {
        let publisher = EventPublisher::connect(&self.nodes, "test", "test").await.unwrap();
        Instance { store: self.connect(TURN_SECONDS_MAX).await, publisher }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Commits rows of an item each.
    async fn add_rows(&self, rows: i64) {
        let insert = "INSERT INTO outbox (kind, item, detail)
                      SELECT 'item.opened', 'a', '{}' FROM generate_series(1, $1)";
        sqlx::query(insert).bind(rows).execute(&self.pool).await.unwrap();
    }

    /// Commits rows of this many orders each.
    async fn add_rows_of_orders(&self, rows: i64, orders: i64) {
        let insert = "
            WITH made AS (
                INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
                SELECT gen_random_uuid(), 'r-' || g, 'a', 'b', 1, now() + interval '1 h', now()
                FROM generate_series(0, $1 * $2 - 1) AS g RETURNING id, substr(request_id, 3)::bigint AS number
            )
            INSERT INTO outbox (kind, order_ids) SELECT 'order.reserved', array_agg(id) FROM made GROUP BY number / $2";
        sqlx::query(insert).bind(rows).bind(orders).execute(&self.pool).await.unwrap();
    }
}

impl Instance {
    async fn round(&mut self) -> Round {
        publish_round(&mut self.store, &mut self.publisher, WITHIN).await.unwrap()
    }
}
