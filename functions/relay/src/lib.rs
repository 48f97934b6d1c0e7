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
use decide::{Order, Row};
use futures_util::FutureExt;
use publish::EventPublisher;
use shared::config::StoreOptions;
use shared::db;
use shared::fail_point::pause_at;
use shared::messages::time::text;
use shared::outbox::CHANNEL;
use shared::retry::RetryPolicy;
use shared::worker::{Outage, Program, Service};
use sqlx::postgres::PgListener;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use store::Batch;
use time::OffsetDateTime;
use uuid::Uuid;

/// What `--help` says.
const PROGRAM: Program = Program {
    name: "relay",
    about: "A Turnstile function: publishes what happened to the exchange `events`, once it is committed.",
    after_help: "Start a second one, on another host, in case of a failure: one at a time publishes, the others stand by. \
                 SIGTERM and Ctrl-C finish the round in hand, then the program exits with 0.\n\n\
                 Exit codes: 0 done, 2 usage, 69 a server is unreachable, 78 configuration.",
    without: &[
        "batch_max",
        "database_connections_max",
        "metrics_address",
        "refuse_default_exchange",
        "trusted_users",
        "replay_users",
    ],
};

/// The pause between two looks where nobody notifies: at random within a second. Whoever commits notifies a moment later,
/// so this is for those that die in between, and for the turn of an instance that died.
const LOOKS: RetryPolicy = RetryPolicy { wait_ms: 1_000, factor: 1.0, wait_ms_max: 1_000, attempts_max: u32::MAX };
/// How often a broker that reads nothing is looked at.
const BLOCKED_LOOK: Duration = Duration::from_millis(250);
/// How often it is made sure that notifications still come.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);
/// Whose trouble it is.
const DATABASE: &str = "the database";

/// The whole program. Here and not in `main.rs`, which would compile much of it once more.
pub fn main() -> ExitCode {
    shared::worker::main_of_service(PROGRAM, serve)
}

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
pub fn settings(turn_seconds_max: u32) -> [(&'static str, String); 2] {
    [("synchronous_commit", "off".to_owned()), ("idle_in_transaction_session_timeout", format!("{turn_seconds_max}s"))]
}

/// Serves until told to stop, through every outage.
async fn serve(service: Service, options: Options) -> anyhow::Result<()> {
    let name = service.worker.name(PROGRAM.name);
    let pool = tokio::select! {
        opened = db::open(&options.store, &name, service.worker.startup_seconds_max, service.worker.migrate) => opened?,
        () = service.stopped() => return Ok(()),
    };
    let (mut outage, mut is_older) = (service.outage("events cannot be published"), false);
    let mut waits = RetryPolicy::SERVER_AWAY.waits();
    while !service.is_stopped() {
        let started = Instant::now();
        let seconds_max = options.turn_seconds_max;
        let ended = serve_connected(&service, seconds_max, &pool, &name, &mut outage, &mut is_older).await;
        if let Err(error) = ended {
            is_older |= error.is::<Older>();
            service.nodes.go_on();
            outage.goes_on(format_args!("{error:#}"));
            service.wait(RetryPolicy::SERVER_AWAY.wait_after(started.elapsed(), &mut waits)).await;
        }
    }
    Ok(())
}

/// Connects, and goes round after round, until told to stop.
async fn serve_connected(
    service: &Service,
    turn_seconds_max: u32,
    pool: &PgPool,
    name: &str,
    outage: &mut Outage,
    is_older: &mut bool,
) -> anyhow::Result<()> {
    let (mut store, mut listener, mut publisher) = tokio::select! {
        opened = open(service, turn_seconds_max, pool, name) => opened?,
        () = service.stopped() => return Ok(()),
    };
    tracing::info!("publishing events");
    let (_ready, mut listened) = (service.announce(), Instant::now());
    // The rest of the turn is for the database.
    let within = Duration::from_secs(turn_seconds_max.into()) * 2 / 3;
    let mut looks = LOOKS.waits();
    while !service.is_stopped() {
        // What was notified before a look is found by it.
        while let Some(Ok(Some(_))) = listener.try_recv().now_or_never() {}
        // Silence is what a listener hears, whether or not its connection still stands.
        if listened.elapsed() > LISTEN_AGAIN {
            listened = Instant::now();
            // Listening once more would have the library note the channel once more.
            db::answered(listener.execute("SELECT")).await.context(DATABASE)?;
        }
        let round = publish_round(&mut store, &mut publisher, within).await;
        // Who only finds that another has the turn does not know whether the database is still an older one.
        if round.is_ok() && !(*is_older && matches!(round, Ok(Round::OthersTurn))) {
            *is_older = false;
            outage.is_over();
        }
        match round {
            Ok(Round::MoreToPublish) => (),
            Ok(Round::AllSettled) => tokio::select! {
                notified = listener.try_recv() => {
                    notified.context(DATABASE)?.context("the database does not notify any more")?;
                }
                () = service.wait(looks.next().unwrap_or_default()) => (),
            },
            // Whoever has the turn is notified, too; that it is there is looked at now and then.
            Ok(Round::OthersTurn) => service.wait(looks.next().unwrap_or_default()).await,
            // On the same connection: what was sent is in its buffers, and a new one each time would have it published
            // that often.
            Err(error) if publisher.is_blocked() => {
                outage.goes_on(format_args!("the broker is short of memory or disk: {error:#}"));
                while publisher.is_blocked() && !service.is_stopped() {
                    service.wait(BLOCKED_LOOK).await;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn open(
    service: &Service,
    turn_seconds_max: u32,
    pool: &PgPool,
    name: &str,
) -> anyhow::Result<(PgConnection, PgListener, EventPublisher)> {
    let mut listener = db::answered(PgListener::connect_with(pool)).await.context(DATABASE)?;
    // Notifications are lost while it is away, so its end is an end of all.
    listener.eager_reconnect(false);
    db::answered(listener.listen(CHANNEL)).await.context(DATABASE)?;
    let settings = settings(turn_seconds_max);
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let store = db::connect(&pool.connect_options(), &settings).await.context(DATABASE)?;
    let publisher = EventPublisher::connect(&service.nodes, name, &service.worker.worker_id).await?;
    Ok((store, listener, publisher))
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

/// The database was set back: a backup was restored, or a standby took over that lacked the last commits.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database is older than what RabbitMQ has seen: its mark is of {}, RabbitMQ's of {}; was a backup restored? \
     `admin audit --known FILE` names the orders that it lost, and `admin restored` has all functions go on, which hold \
     their messages until then",
    text(*.marked_at),
    text(*.seen_at)
)]
pub struct Older {
    marked_at: OffsetDateTime,
    seen_at: OffsetDateTime,
}

/// Takes the turn, reads the first rows, publishes and deletes them, in one transaction on a connection with [`settings`];
/// publishing is done `within` this time.
///
/// # Errors
/// The database or the broker is away, or takes nothing; or the database is an [`Older`] one, and no function can record
/// anything then. Nothing is deleted, and all is published again.
pub async fn publish_round(
    connection: &mut PgConnection,
    publisher: &mut EventPublisher,
    within: Duration,
) -> anyhow::Result<Round> {
    let started = Instant::now();
    let mut transaction = db::answered(connection.begin()).await.context(DATABASE)?;
    match publish_in_turn(&mut transaction, publisher, within).await {
        Ok(Some((round, mark))) => {
            db::answered(transaction.commit()).await.context(DATABASE)?;
            if let Some(mark) = mark {
                publisher.leave_mark(mark, within.saturating_sub(started.elapsed())).await?;
            }
            Ok(round)
        }
        // Nor may the others go on.
        Err(error) if error.is::<Older>() => {
            let held = async { store::hold(&mut transaction).await.and(transaction.commit().await) };
            Err(match db::answered(held).await {
                Ok(()) => error,
                Err(free) => error.context(format!("the other functions go on ({free}), so stop them")),
            })
        }
        unsettled @ (Ok(None) | Err(_)) => {
            // At once, and not when the connection is used next: the turn must not wait for that.
            db::answered(transaction.rollback()).await.ok();
            unsettled.map(|_| Round::OthersTurn)
        }
    }
}

/// How the round ended, and the mark that is to be left, where one is; `None`: another instance has the turn.
async fn publish_in_turn(
    connection: &mut PgConnection,
    publisher: &mut EventPublisher,
    within: Duration,
) -> anyhow::Result<Option<(Round, Option<OffsetDateTime>)>> {
    let Some(batch) = db::answered(store::read(connection)).await.context(DATABASE)? else { return Ok(None) };
    let Batch { marked_at, rows, orders, is_full } = batch;
    let seen_at = publisher.mark().await?;
    if marked_at < seen_at {
        return Err(Older { marked_at, seen_at }.into());
    }
    let (is_published, is_done) = if rows.is_empty() {
        (false, true)
    } else {
        publish_rows(connection, publisher, &rows, &orders, within).await?
    };
    let mark = match publisher.is_mark_due(is_published) {
        true => Some(db::answered(store::mark(connection)).await.context(DATABASE)?),
        false => None,
    };
    Ok(Some((if is_done && !is_full { Round::AllSettled } else { Round::MoreToPublish }, mark)))
}

/// Whether any row was published, and whether all are settled.
async fn publish_rows(
    connection: &mut PgConnection,
    publisher: &mut EventPublisher,
    rows: &[Row],
    orders: &HashMap<Uuid, Order>,
    within: Duration,
) -> anyhow::Result<(bool, bool)> {
    let (mut ids, mut messages, mut published, mut given_up) = (vec![], vec![], vec![], vec![]);
    for row in rows {
        match decide::messages(row, orders) {
            Ok(of_row) => {
                ids.push(row.id);
                messages.push(of_row);
            }
            Err(reason) => given_up.push((row.id, reason)),
        }
    }
    for (id, outcome) in ids.into_iter().zip(publisher.publish(&messages, within).await?) {
        match outcome {
            Ok(()) => published.push(id),
            Err(reason) => given_up.push((id, reason)),
        }
    }
    pause_at("published").await;
    db::answered(store::settle(connection, &published, &given_up)).await.context(DATABASE)?;
    for (row, reason) in &given_up {
        tracing::error!(row, reason, "a row of the outbox cannot be published; it is kept in outbox_failed");
    }
    Ok((!published.is_empty(), published.len() + given_up.len() == rows.len()))
}
