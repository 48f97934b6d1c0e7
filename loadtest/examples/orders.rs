//! How fast orders are paid for, and end: `cargo build --release --bins && cargo run --release -p loadtest --example orders`.
//!
//! Private servers. First, orders are paid for by one payment process whose simulated gateway takes 20 ms, with as many
//! connections to the database as it has by default. Then as many holds run out at one moment, on one item, while buyers go on
//! buying it; and then as many live holds are looked at, of which none is due.

mod program;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, future::try_join_all};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use program::{start, stop};
use shared::{
    broker,
    contract::{Code, PAYMENT_QUEUE, PURCHASE_EXCHANGE, PaymentRequest, PurchaseRequest, Verdict},
    devstack::Servers,
    store,
    topology::Topology,
};
use sqlx::{PgPool, Row};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Orders that are paid for.
const PAYMENTS: i64 = 20_000;
/// Holds that run out at once.
const HOLDS: i64 = 100_000;
/// Holds that do not.
const LIVE_HOLDS: i64 = 1_000_000;
/// Purchases of the item whose holds run out, and how many of them are under way at a time.
const PURCHASES_A_ROUND: usize = 500;
/// Nothing here takes this long.
const WAIT_MAX: Duration = Duration::from_secs(120);

const PUT_ON_SALE: &str = "INSERT INTO items (id, stock, available, held) VALUES ($1, $2 + $3, $3, $2)";
/// $2 orders of one unit of $1, held for $3 seconds.
const HOLD: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT gen_random_uuid(), 'r-' || g, $1, 'b-' || g, 1, now() + make_interval(secs => $3), now()
FROM generate_series(1, $2) AS g RETURNING id";
const STILL_HELD: &str = "SELECT held FROM items WHERE id = $1";
const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'turnstile-payment %'";
/// How `release` finds what is due.
const LOOK: &str = "
SELECT id FROM orders WHERE state = 'reserved' AND hold_until <= now() ORDER BY hold_until LIMIT 2000
FOR NO KEY UPDATE SKIP LOCKED";

#[tokio::main]
async fn main() -> Result<()> {
    let servers = Servers::start(&[]).await?;
    servers.postgres.create_database("sale").await?;
    let pool = store::pool(&servers.postgres.url("sale"), "measuring", 4)?;
    store::migrate(&pool).await?;
    let connection = Connection::connect(&servers.rabbitmq.url("/"), ConnectionProperties::default()).await?;
    let mut shop = Shop::open(connection.create_channel().await?).await?;
    pay(&servers, &pool, &mut shop).await?;
    run_out(&servers, &pool, &mut shop).await?;
    look(&pool).await?;
    servers.stop().await
}

async fn pay(servers: &Servers, pool: &PgPool, shop: &mut Shop) -> Result<()> {
    let orders = hold(pool, "paid", PAYMENTS, 3_600.0).await?;
    let requests: Vec<_> = orders
        .into_iter()
        .map(|order_id| PaymentRequest {
            request_id: order_id.to_string(),
            order_id,
            payment_method: "card".to_owned(),
        })
        .map(|request| serde_json::to_vec(&request))
        .collect::<Result<_, _>>()?;
    // All are in the queue before the first is paid: what counts is how fast it runs empty.
    shop.send("", PAYMENT_QUEUE, &requests).await?;
    let started = Instant::now();
    let payment = start("payment", servers, &[("GATEWAY", "simulated"), ("GATEWAY_LATENCY_MS", "20")]).await?;
    ensure!(shop.verdict().await? == Code::Paid);
    let first = started.elapsed();
    for _ in 1..PAYMENTS {
        ensure!(shop.verdict().await? == Code::Paid);
    }
    let rate = (PAYMENTS - 1) as f64 / (started.elapsed() - first).as_secs_f64();
    let connections: i64 = sqlx::query(CONNECTIONS).fetch_one(pool).await?.get(0);
    println!("{PAYMENTS} payments of one item, 20 ms at the gateway: {rate:.0} payments/s, {connections} connections");
    stop(payment).await
}

async fn run_out(servers: &Servers, pool: &PgPool, shop: &mut Shop) -> Result<()> {
    let purchase = start("purchase", servers, &[]).await?;
    hold(pool, "hot", HOLDS, 0.0).await?;
    // A worker that has answered once is there.
    shop.buy("hot", 1).await?;
    let alone = Instant::now();
    let mut bought_alone = 0;
    while alone.elapsed() < Duration::from_secs(3) {
        bought_alone += shop.buy("hot", PURCHASES_A_ROUND).await?;
    }
    let alone = bought_alone as f64 / alone.elapsed().as_secs_f64();

    let release = start("release", servers, &[]).await?;
    let begun: i64 = sqlx::query(STILL_HELD).bind("hot").fetch_one(pool).await?.get(0);
    let held_before = begun - HOLDS;
    let (started, mut bought) = (Instant::now(), 0);
    loop {
        bought += shop.buy("hot", PURCHASES_A_ROUND).await?;
        let held: i64 = sqlx::query(STILL_HELD).bind("hot").fetch_one(pool).await?.get(0);
        if held - bought as i64 <= held_before {
            break;
        }
        ensure!(started.elapsed() < WAIT_MAX, "the holds do not run out");
    }
    let seconds = started.elapsed().as_secs_f64();
    let ratio = bought as f64 / seconds / alone;
    println!(
        "{HOLDS} holds ran out within {seconds:.1} s of the start of `release`; meanwhile purchases of the item, \
         {PURCHASES_A_ROUND} at a time, went on at {ratio:.2} x the pace before"
    );
    stop(release).await?;
    stop(purchase).await
}

async fn look(pool: &PgPool) -> Result<()> {
    hold(pool, "live", LIVE_HOLDS, 3_600.0).await?;
    sqlx::query("VACUUM ANALYZE orders").execute(pool).await?;
    let mut micros: Vec<u128> = Vec::new();
    for _ in 0..101 {
        let started = Instant::now();
        ensure!(sqlx::query(LOOK).fetch_all(pool).await?.is_empty(), "nothing is due");
        micros.push(started.elapsed().as_micros());
    }
    micros.sort_unstable();
    println!("a look at {LIVE_HOLDS} live holds of which none is due: median {} µs", micros[50]);
    Ok(())
}

async fn hold(pool: &PgPool, item: &str, orders: i64, seconds: f64) -> Result<Vec<Uuid>> {
    let more = 10_000_000_i64;
    sqlx::query(PUT_ON_SALE).bind(item).bind(orders).bind(more).execute(pool).await?;
    let mut connection = pool.acquire().await?;
    sqlx::query("SET statement_timeout = 0").execute(&mut *connection).await?;
    let rows = sqlx::query(HOLD).bind(item).bind(orders).bind(seconds).fetch_all(&mut *connection).await?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().context("read the orders' ids")
}

/// Somebody who sends requests, and hears the verdicts.
struct Shop {
    channel: Channel,
    reply_queue: ShortString,
    replies: Consumer,
}

impl Shop {
    async fn open(channel: Channel) -> Result<Self> {
        broker::declare(&channel, &Topology::read()).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let reply_queue = channel.queue_declare("".into(), options, FieldTable::default()).await?.name().clone();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = channel.basic_consume(reply_queue.clone(), "".into(), options, FieldTable::default()).await?;
        Ok(Self { channel, reply_queue, replies })
    }

    async fn send(&self, exchange: &str, key: &str, bodies: &[Vec<u8>]) -> Result<()> {
        let properties = BasicProperties::default().with_delivery_mode(2).with_reply_to(self.reply_queue.clone());
        let sends = bodies.iter().map(|body| async {
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let sent =
                self.channel.basic_publish(exchange.into(), key.into(), options, body, properties.clone()).await?;
            ensure!(sent.await?.is_ack(), "the broker did not take it");
            Ok(())
        });
        try_join_all(sends).await.map(drop)
    }

    async fn verdict(&mut self) -> Result<Code> {
        let reply = tokio::time::timeout(WAIT_MAX, self.replies.next()).await.context("a verdict comes")?;
        let verdict: Verdict = serde_json::from_slice(&reply.context("the queue is gone")??.data)?;
        Ok(verdict.code)
    }

    /// Buys one unit so many times, and hears that they are reserved. How many that were.
    async fn buy(&mut self, item: &str, count: usize) -> Result<usize> {
        let request = |_| {
            let (request_id, buyer) = (Uuid::now_v7().to_string(), "b".to_owned());
            serde_json::to_vec(&PurchaseRequest {
                request_id,
                item: item.to_owned(),
                buyer,
                quantity: 1,
                deadline: None,
            })
        };
        let bodies: Vec<_> = (0..count).map(request).collect::<Result<_, _>>()?;
        self.send(PURCHASE_EXCHANGE, item, &bodies).await?;
        for _ in 0..count {
            ensure!(self.verdict().await? == Code::Reserved);
        }
        Ok(count)
    }
}
