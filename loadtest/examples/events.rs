//! How fast events are told: `cargo build --release --bins && cargo run --release -p loadtest --example events`.
//!
//! Private servers, one relay, one consumer on a quorum queue that is bound to everything. First a backlog is drained, of
//! rows like those of a busy sale, and of rows of one event each; then events are committed at a steady rate, and each
//! arrival is held against the event's `at`, on the same clock; then the outbox is read once more, as a round does.

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use shared::{
    broker,
    contract::{EVENTS_EXCHANGE, Event},
    devstack::{Program, Servers, Supervised},
    outbox::Bell,
    store,
    topology::Topology,
};
use sqlx::{AssertSqlSafe, PgPool, Row};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

const QUEUE: &str = "measured";
/// Events of each backlog.
const BACKLOG: i64 = 100_000;
/// The steady rate: this many events in each commit, and a commit this often.
const EVENTS_A_COMMIT: i64 = 10;
const COMMIT_EVERY_MS: u64 = 10;
const STEADY_SECONDS: u64 = 20;
/// What a round reads, as `functions/relay/src/round.rs` has it.
const FRONT: &str = "EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM outbox ORDER BY id LIMIT 500";
/// $1 orders, in rows of $2.
const SAY: &str = "
WITH made AS (
    INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
    SELECT gen_random_uuid(), 'request-' || g, 'ticket', 'buyer-' || g, 1, now() + interval '1 h', now()
    FROM generate_series(1, $1) AS g RETURNING id, substr(request_id, 9)::bigint AS number
)
INSERT INTO outbox (kind, order_ids)
SELECT 'order.reserved', array_agg(id) FROM made GROUP BY (number - 1) / $2 ORDER BY (number - 1) / $2";

#[tokio::main]
async fn main() -> Result<()> {
    let servers = Servers::start(&[]).await?;
    servers.postgres.create_database("sale").await?;
    let pool = store::pool(&servers.postgres.url("sale"), "measuring", 4)?;
    store::migrate(&pool).await?;
    let connection = Connection::connect(&servers.rabbitmq.url("/"), ConnectionProperties::default()).await?;
    let mut events = listen(&connection.create_channel().await?).await?;

    for per_row in [100, 1] {
        say(&pool, BACKLOG, per_row).await?;
        let relay = relay(&servers).await?;
        arrival(&mut events).await?;
        let started = Instant::now();
        for _ in 1..BACKLOG {
            arrival(&mut events).await?;
        }
        let rate = BACKLOG as f64 / started.elapsed().as_secs_f64();
        println!("backlog of {BACKLOG} events in rows of {per_row}: {rate:.0} events/s");
        stop(relay).await?;
    }

    let relay = relay(&servers).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut lags = steady(&pool, &mut events).await?;
    lags.sort_unstable();
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let rate = lags.len() as u64 / STEADY_SECONDS;
    println!("at {rate} events/s: median {:.1} ms, p99 {:.1} ms, most {:.1} ms", at(0.5), at(0.99), at(1.0));
    front("after all these", &pool).await?;

    // Somebody's long transaction, that has written, keeps what is dead from being cleared away.
    let mut reader = pool.begin().await?;
    sqlx::query("SET LOCAL idle_in_transaction_session_timeout = 0").execute(&mut *reader).await?;
    sqlx::query("SELECT pg_current_xact_id()").execute(&mut *reader).await?;
    say(&pool, BACKLOG, 1).await?;
    Bell::hang(&pool).ring();
    let started = Instant::now();
    for _ in 0..BACKLOG {
        arrival(&mut events).await?;
    }
    let rate = BACKLOG as f64 / started.elapsed().as_secs_f64();
    println!("the same in rows of 1, during a long transaction: {rate:.0} events/s");
    front("after these, still during it", &pool).await?;
    reader.rollback().await?;
    stop(relay).await?;
    servers.stop().await
}

/// Commits at the steady rate while listening; how long each event was on its way, from its `at`.
async fn steady(pool: &PgPool, events: &mut Consumer) -> Result<Vec<Duration>> {
    let commits = STEADY_SECONDS * 1_000 / COMMIT_EVERY_MS;
    let saying = async {
        let bell = Bell::hang(pool);
        let mut ticks = tokio::time::interval(Duration::from_millis(COMMIT_EVERY_MS));
        for _ in 0..commits {
            ticks.tick().await;
            say(pool, EVENTS_A_COMMIT, EVENTS_A_COMMIT).await?;
            bell.ring();
        }
        anyhow::Ok(())
    };
    let listening = async {
        let mut lags: Vec<Duration> = Vec::new();
        for _ in 0..commits * EVENTS_A_COMMIT as u64 {
            let event = arrival(events).await?;
            lags.push((OffsetDateTime::now_utc() - event.at).try_into()?);
        }
        anyhow::Ok(lags)
    };
    let ((), lags) = futures_util::future::try_join(saying, listening).await?;
    Ok(lags)
}

async fn say(pool: &PgPool, orders: i64, per_row: i64) -> Result<()> {
    sqlx::query(SAY).bind(orders).bind(per_row).execute(pool).await.map(drop).context("commit events")
}

async fn arrival(events: &mut Consumer) -> Result<Event> {
    let delivery =
        tokio::time::timeout(Duration::from_secs(60), events.next()).await?.context("the queue is gone")??;
    Ok(serde_json::from_slice(&delivery.data)?)
}

async fn listen(channel: &Channel) -> Result<Consumer> {
    broker::declare(channel, &Topology::read()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), options, arguments).await?;
    let none = FieldTable::default;
    channel.queue_bind(QUEUE.into(), EVENTS_EXCHANGE.into(), "#".into(), QueueBindOptions::default(), none()).await?;
    channel.basic_qos(2_000, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    Ok(channel.basic_consume(QUEUE.into(), "".into(), options, none()).await?)
}

async fn relay(servers: &Servers) -> Result<Supervised> {
    let ourselves = std::env::current_exe()?;
    let programs = ourselves.parent().and_then(|examples| examples.parent()).context("find the programs")?;
    let path = programs.join("relay");
    ensure!(path.is_file(), "there is no {}; build it with `cargo build --release --bins`", path.display());
    let program = Program::new(path)
        .env("AMQP_URL", servers.rabbitmq.url("/"))
        .env("DATABASE_URL", servers.postgres.url("sale"))
        .env("RUST_LOG", "warn,lapin=off")
        .log(servers.folder().join("relay.log"));
    Supervised::spawn(program).await
}

async fn stop(mut relay: Supervised) -> Result<()> {
    let ended = relay.stop().await?;
    ensure!(ended.success(), "the relay ended with {ended}");
    Ok(())
}

async fn front(when: &str, pool: &PgPool) -> Result<()> {
    let rows = "SELECT last_value FROM outbox_id_seq";
    let rows: i64 = sqlx::query(rows).fetch_one(pool).await?.get(0);
    let plan = sqlx::raw_sql(AssertSqlSafe(FRONT)).fetch_all(pool).await?;
    let lines: Vec<String> = plan.iter().map(|line| line.get(0)).collect();
    let of = |word: &str| lines.iter().find(|line| line.contains(word)).map_or("", |line| line.trim()).to_owned();
    println!("front of the outbox {when} ({rows} rows so far): {}; {}", of("Execution Time"), of("Buffers: shared"));
    Ok(())
}
