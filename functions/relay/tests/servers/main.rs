//! Rounds against a real PostgreSQL and a real RabbitMQ: who has the turn is forced, not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod plans;
mod turns;

use relay::{
    round::{Round, round},
    settings,
    teller::Teller,
};
use shared::{
    amqp::{self, Nodes, Publisher},
    db,
    devstack::Fixture,
    topology::Topology,
};
use sqlx::{PgConnection, PgPool, Row, postgres::PgConnectOptions};
use std::time::Duration;

/// Nothing here takes this long.
const WITHIN: Duration = Duration::from_secs(30);
const TURN_SECONDS_MAX: u32 = 30;

/// A migrated database, and a broker with the topology, of the test's own.
struct Servers {
    pool: PgPool,
    nodes: Nodes,
}

/// A relay, without what has it go round by itself.
struct Instance {
    rounds: PgConnection,
    teller: Teller,
}

impl Servers {
    async fn open() -> Self {
        let fixture = Fixture::new().await;
        let pool = db::pool(&fixture.database_url, "test", 4).unwrap();
        db::migrate(&pool).await.unwrap();
        let nodes = Nodes::read(&fixture.amqp_url).unwrap();
        let outgoing = Publisher::open(&nodes, "test", "test").await.unwrap();
        amqp::declare(outgoing.channel(), &Topology::read()).await.unwrap();
        outgoing.close().await;
        Self { pool, nodes }
    }

    async fn instance(&self, turn_seconds_max: u32) -> Instance {
        let options = PgConnectOptions::clone(&self.pool.connect_options()).options(settings(turn_seconds_max));
        let rounds = db::connect(&options).await.unwrap();
        Instance { rounds, teller: Teller::connect(&self.nodes, "test", "test").await.unwrap() }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query(sql).fetch_one(&self.pool).await.unwrap().get(0)
    }

    /// Commits rows of an item each.
    async fn say(&self, rows: i64) {
        let insert = "INSERT INTO outbox (kind, item, detail)
                      SELECT 'item.opened', 'a', '{}' FROM generate_series(1, $1)";
        sqlx::query(insert).bind(rows).execute(&self.pool).await.unwrap();
    }

    /// Commits rows of this many orders each.
    async fn say_orders(&self, rows: i64, orders: i64) {
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
    async fn round(&mut self) -> anyhow::Result<Round> {
        round(&mut self.rounds, &mut self.teller, WITHIN).await
    }
}
