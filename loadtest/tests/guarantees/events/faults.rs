//! Relays die, servers go away: events come again with the same ids, none is lost, and the first copies keep
//! the order.

use super::{OUTBOX, record};
use crate::support::listener::{self, Listener};
use crate::support::queue::{bind, table, text};
use crate::support::sale::{rabbitmqctl, signal};
use crate::support::shop::{Shop, until};
use lapin::options::QueueDeclareOptions;
use lapin::{Connection, ConnectionProperties};
use nix::sys::signal::Signal;
use shared::db;
use shared::devstack::Servers;
use shared::messages::{EVENTS_EXCHANGE, EventKind};

/// Events to be in the middle of.
const MANY: i64 = 10_000;
/// Keeps events through a restart of the broker.
const KEPT: &str = "kept";

#[tokio::test]
async fn a_relay_killed_between_publishing_and_deleting_has_its_events_repeated_by_the_next() {
    let mut shop = Shop::open(&[("ticket", 10)]).await;
    let mut listener = Listener::to(&shop, "order.#").await;
    let _purchase = shop.worker("w", &[]).await;
    let mut doomed = shop.worker_of("relay", "doomed", &[("TURNSTILE_PAUSE_AT", "published")]).await;
    shop.purchase("first").await;
    let first = listener.next().await;
    assert_eq!(first.relay, "doomed");
    shop.paused("doomed").await;
    assert_eq!(shop.count(OUTBOX).await, 1, "published, and not deleted");
    doomed.kill().await.unwrap();

    let _next = shop.worker_of("relay", "next", &[]).await;
    let repeated = listener.next().await;
    assert_eq!(repeated.relay, "next");
    assert_eq!(repeated.event, first.event, "the same event, with the same id");
    shop.buy("second", "ticket").await;
    assert_eq!(listener.next().await.event.order.unwrap().request_id, "second");
    shop.outbox_is_empty().await;
}

#[tokio::test]
async fn servers_that_restart_or_run_out_of_memory_cost_no_event_and_no_row() {
    let (mut servers, mut shop) = Shop::private(&[]).await;
    let arguments = table(&[("x-queue-type", text("quorum"))]);
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    shop.channel.queue_declare(KEPT.into(), options, arguments).await.unwrap();
    bind(&shop.channel, KEPT, EVENTS_EXCHANGE, "order.reserved.#").await;

    let _relays = [
        shop.worker_of("relay", "r1", &[("TURN_SECONDS_MAX", "3")]).await,
        shop.worker_of("relay", "r2", &[("TURN_SECONDS_MAX", "3")]).await,
    ];
    // An orderly stop first: what a broker knows of a queue that is a second old may not outlive a power cut.
    let mut recorded = in_mid_way(&shop).await;
    servers.rabbitmq.restart().await.unwrap();
    shop.outbox_is_empty().await;
    recorded += in_mid_way(&shop).await;
    servers.rabbitmq.kill_and_restart().await.unwrap();
    shop.outbox_is_empty().await;
    recorded += in_mid_way(&shop).await;
    servers.postgres.kill_and_restart().await.unwrap();
    shop.pool = db::pool(&shop.database_url, "test", 4).unwrap();
    shop.outbox_is_empty().await;

    watermark(&servers, "0.000001").await;
    record_orders(&shop, 100).await;
    until("it notices", async || {
        let logs = [shop.log("r1").await, shop.log("r2").await].concat();
        logs.contains("the broker is short of memory or disk")
    })
    .await;
    assert_eq!(shop.count(OUTBOX).await, 10);
    watermark(&servers, "0.4").await;
    shop.outbox_is_empty().await;

    assert_eq!(shop.count("SELECT count(*) FROM outbox_failed").await, 0, "an outage is nobody's fault");
    let connection = Connection::connect(&shop.amqp_url, ConnectionProperties::default()).await.unwrap();
    let mut listener = Listener::of(&connection.create_channel().await.unwrap(), KEPT).await;
    let mut first_copies = Vec::new();
    for _ in 0..recorded + 100 {
        first_copies.push(listener.next_new().await.event_id);
    }
    assert!(listener::are_in_order(&first_copies), "the first copies are in order");
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn connections_to_the_database_that_have_died_in_silence_cost_the_relay_seconds() {
    let shop = Shop::open(&[]).await;
    let mut listener = Listener::to(&shop, "item.#").await;
    let _relay = shop.worker_of("relay", "r", &[("TURN_SECONDS_MAX", "3")]).await;
    record(&shop, EventKind::ItemOpened, "before").await;
    assert_eq!(listener.next().await.event.item, "before");
    // So that it does not die with the turn.
    let turn = shop.begin("SELECT 1 FROM outbox_turn FOR UPDATE").await;
    let theirs = "SELECT pid FROM pg_stat_activity WHERE application_name = 'turnstile-relay r'";
    let processes: Vec<i32> = sqlx::query_scalar(theirs).fetch_all(&shop.pool).await.unwrap();
    processes.iter().for_each(|process| signal(process.unsigned_abs(), Signal::SIGSTOP));
    turn.rollback().await.unwrap();
    record(&shop, EventKind::ItemOpened, "after").await;
    assert_eq!(listener.next().await.event.item, "after");
    processes.iter().for_each(|process| signal(process.unsigned_abs(), Signal::SIGCONT));
    let log = shop.log("r").await;
    assert!(processes.len() >= 2 && log.contains("no answer within"), "{processes:?}");
    until("it says that it goes on", async || shop.log("r").await.contains("over: events cannot be published")).await;
}

async fn watermark(servers: &Servers, share: &str) {
    rabbitmqctl(&servers.rabbitmq, &["set_vm_memory_high_watermark", share]).await;
}

/// Commits many events, as often as it takes to see some of them published and others not; returns how many there were.
async fn in_mid_way(shop: &Shop) -> i64 {
    let (mut recorded, mut left) = (0, 0);
    while left == 0 {
        record_orders(shop, MANY).await;
        recorded += MANY;
        until("some are published", async || {
            left = shop.count(OUTBOX).await;
            left < MANY / 10
        })
        .await;
    }
    recorded
}

/// Commits many orders, and one row of the outbox for each ten of them.
async fn record_orders(shop: &Shop, orders: i64) {
    let insert = "
        WITH made AS (
            INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
            SELECT gen_random_uuid(), 'r-' || g, 'ticket', 'b', 1, now() + interval '1 h', now()
            FROM generate_series(1, $1) AS g RETURNING id, substr(request_id, 3)::bigint AS number
        )
        INSERT INTO outbox (kind, order_ids)
        SELECT 'order.reserved', array_agg(id ORDER BY number) FROM made
        GROUP BY (number - 1) / 10 ORDER BY (number - 1) / 10";
    sqlx::query(insert).bind(orders).execute(&shop.pool).await.unwrap();
}
