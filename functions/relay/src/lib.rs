//! Takes rows out of the transactional outbox, and publishes their events to the topic exchange `events`.
//!
//! A round ([`publish_round`]) reads the first rows ([`store`]), makes their events (`decide`), has them published and
//! confirmed ([`publish`]), and deletes the rows. Any number of instances may run: one at a time has the turn.
//!
//! Only what is committed is published, and a row is deleted only when each of its events is confirmed: so every event is
//! published **at least once**. It is repeated where an instance dies, freezes, or loses a server in between: the next
//! round, of any instance, begins with the same row. Events have stable ids, and rows are taken from the front, so **the
//! first copies of the events of an order, and of those that move an item's stock, come in the order in which they
//! happened**; only repeats come late. A consumer that drops the ids that it knows sees each event once and in order. Two
//! exceptions: a row that is given up is left out, and what comes behind it goes on; and a queue that refuses for want of
//! room (`x-overflow: reject-publish`) gets what it refused after what it took behind that.

mod decide;
pub mod publish;
pub mod store;

use anyhow::Context;
use clap::Args;
use futures_util::FutureExt;
use publish::EventPublisher;
use shared::{
    config::StoreOptions,
    db,
    fail_point::pause_at,
    outbox::CHANNEL,
    retry::RetryPolicy,
    worker::{Program, Ready, Service},
};
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgListener},
};
use std::time::{Duration, Instant};
use store::Batch;

/// What `--help` says.
pub const PROGRAM: Program = Program {
    name: "relay",
    about: "A Turnstile function: publishes what happened to the exchange `events`, once it is committed.",
    after_help: "Start a second one, on another host, in case of a failure: one at a time publishes, the others stand by. \
                 SIGTERM and Ctrl-C finish the round in hand, then the program exits with 0.\n\n\
                 Exit codes: 0 done, 2 usage, 69 a server is unreachable, 78 configuration.",
    without: &["batch_max", "database_connections_max", "metrics_address"],
};

/// The pause between two looks where nobody notifies: at random within a second. Whoever commits notifies a moment later,
/// so this is for those that die in between, and for the turn of an instance that died.
const LOOKS: RetryPolicy = RetryPolicy { wait_ms: 1_000, factor: 1.0, wait_ms_max: 1_000, attempts_max: u32::MAX };
/// How often a broker that reads nothing is looked at.
const BLOCKED_LOOK_MS: u64 = 250;

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    store: StoreOptions,
    /// How long one round may take, in seconds, before the database ends it and another instance goes on: what a frozen
    /// instance, or one whose host is lost, holds the others up for.
    #[arg(long, env = "TURN_SECONDS_MAX", default_value_t = 15, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(3..=300))]
    turn_seconds_max: u32,
}

/// What a round's connection has on top of the pool's settings.
///
/// A deletion that is lost in a crash of the database is a repeat, which may happen at any time; so commits need not wait
/// for the disk, nor have purchases wait behind them. (What is *read* here is on disk: a commit is visible only then.)
#[must_use]
pub fn settings(turn_seconds_max: u32) -> [(&'static str, String); 2] {
    [("synchronous_commit", "off".to_owned()), ("idle_in_transaction_session_timeout", format!("{turn_seconds_max}s"))]
}

/// Serves until told to stop, through every outage.
///
/// # Errors
/// The database cannot be used at the start.
pub async fn serve(service: Service, options: Options) -> anyhow::Result<()> {
    let name = format!("turnstile-{} {}", PROGRAM.name, service.worker.worker_id);
    let pool = tokio::select! {
        opened = db::open(&options.store, &name, service.worker.startup_seconds_max) => opened?,
        () = service.stopped() => return Ok(()),
    };
    let mut waits = RetryPolicy::SERVER_AWAY.waits();
    while !service.is_stopped() {
        let started = Instant::now();
        if let Err(error) = serve_connected(&service, options.turn_seconds_max, &pool, &name).await {
            if started.elapsed() > Duration::from_millis(RetryPolicy::SERVER_AWAY.wait_ms_max) {
                waits = RetryPolicy::SERVER_AWAY.waits();
            }
            service.nodes.go_on();
            let wait = waits.next().unwrap_or_default();
            let wait_ms = wait.as_millis();
            tracing::warn!(error = format!("{error:#}"), wait_ms, "events cannot be published; connecting again");
            service.wait(wait).await;
        }
    }
    Ok(())
}

/// Connects, and goes round after round, until told to stop.
async fn serve_connected(service: &Service, turn_seconds_max: u32, pool: &PgPool, name: &str) -> anyhow::Result<()> {
    let mut connections = tokio::select! {
        opened = Connections::open(service, turn_seconds_max, pool, name) => opened?,
        () = service.stopped() => return Ok(()),
    };
    // The rest of the turn is for the database.
    let within = Duration::from_secs(turn_seconds_max.into()) * 2 / 3;
    let mut looks = LOOKS.waits();
    while !service.is_stopped() {
        connections.forget_notifications();
        match publish_round(&mut connections.store, &mut connections.publisher, within).await {
            Ok(Round::MoreToPublish) => (),
            Ok(Round::AllSettled) => tokio::select! {
                notified = connections.notified(looks.next().unwrap_or_default()) => notified?,
                () = service.stopped() => (),
            },
            // Whoever has the turn is notified, too; that it is there is looked at now and then.
            Ok(Round::OthersTurn) => service.wait(looks.next().unwrap_or_default()).await,
            Err(error) if connections.publisher.is_blocked() => {
                wait_while_blocked(service, &connections.publisher, &error).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the broker reads again, on the same connection: what was sent is in its buffers, and a new connection each
/// time would have it published that often.
async fn wait_while_blocked(service: &Service, publisher: &EventPublisher, error: &anyhow::Error) {
    tracing::warn!(error = format!("{error:#}"), "the broker is short of memory or disk; waiting until it is not");
    while publisher.is_blocked() && !service.is_stopped() {
        service.wait(Duration::from_millis(BLOCKED_LOOK_MS)).await;
    }
}

/// Connections to both servers.
struct Connections {
    store: PgConnection,
    listener: PgListener,
    publisher: EventPublisher,
    _ready: Ready,
}

impl Connections {
    async fn open(service: &Service, turn_seconds_max: u32, pool: &PgPool, name: &str) -> anyhow::Result<Self> {
        let options = PgConnectOptions::clone(&pool.connect_options()).options(settings(turn_seconds_max));
        let mut listener = PgListener::connect_with(pool).await.context("the database")?;
        // Notifications are lost while it is away, so its end is an end of all.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await.context("the database")?;
        let store = db::connect(&options).await.context("the database")?;
        let publisher = EventPublisher::connect(&service.nodes, name, &service.worker.worker_id).await?;
        tracing::info!("publishing events");
        Ok(Self { store, listener, publisher, _ready: service.announce() })
    }

    /// Waits for a notification, or until it is time to look.
    async fn notified(&mut self, wait: Duration) -> anyhow::Result<()> {
        match tokio::time::timeout(wait, self.listener.try_recv()).await {
            Ok(heard) => heard.context("the database")?.map(drop).context("the database does not notify any more"),
            Err(_) => Ok(()),
        }
    }

    /// Forgets the notifications before the next look: that finds it all.
    fn forget_notifications(&mut self) {
        while let Some(Ok(Some(_))) = self.listener.try_recv().now_or_never() {}
    }
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Another instance has the turn.
    OthersTurn,
    /// What was there is settled.
    AllSettled,
    MoreToPublish,
}

/// Takes the turn, reads the first rows, publishes and deletes them, in one transaction on a connection with [`settings`];
/// publishing is done `within` this time.
///
/// # Errors
/// The database or the broker is away, or takes nothing. Nothing is deleted then, and all is published again.
pub async fn publish_round(
    connection: &mut PgConnection,
    publisher: &mut EventPublisher,
    within: Duration,
) -> anyhow::Result<Round> {
    let mut transaction = connection.begin().await.context("the database")?;
    let outcome = publish_in_turn(&mut transaction, publisher, within).await;
    if matches!(outcome, Ok(Round::AllSettled | Round::MoreToPublish)) {
        transaction.commit().await.context("the database")?;
    } else {
        // At once, and not when the connection is used next: the turn must not wait for that.
        transaction.rollback().await.ok();
    }
    outcome
}

async fn publish_in_turn(
    connection: &mut PgConnection,
    publisher: &mut EventPublisher,
    within: Duration,
) -> anyhow::Result<Round> {
    let Some(Batch { rows, orders, is_full }) = store::read(connection).await.context("the database")? else {
        return Ok(Round::OthersTurn);
    };
    if rows.is_empty() {
        return Ok(Round::AllSettled);
    }
    let (mut ids, mut messages, mut published, mut given_up) = (vec![], vec![], vec![], vec![]);
    for row in &rows {
        match decide::messages(row, &orders) {
            Ok(of_row) => {
                ids.push(row.id);
                messages.push(of_row);
            }
            Err(poison) => given_up.push((row.id, poison.to_string())),
        }
    }
    for (id, outcome) in ids.into_iter().zip(publisher.publish(&messages, within).await?) {
        match outcome {
            Ok(()) => published.push(id),
            Err(reason) => given_up.push((id, reason)),
        }
    }
    pause_at("published").await;
    store::settle(connection, &published, &given_up).await.context("the database")?;
    for (row, reason) in &given_up {
        tracing::error!(row, reason, "a row of the outbox cannot be published; it is kept in outbox_failed");
    }
    let is_done = published.len() + given_up.len() == rows.len() && !is_full;
    Ok(if is_done { Round::AllSettled } else { Round::MoreToPublish })
}
