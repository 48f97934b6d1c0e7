//! Tells what happened: takes rows out of the transactional outbox, and publishes their events to the topic exchange
//! `events`.
//!
//! A round ([`mod@round`]) reads the first rows, makes their events ([`tell`]), has them published and confirmed ([`teller`]),
//! and deletes the rows. Any number of instances may run: one at a time has the turn, the others look now and then.
//!
//! What is told, how often, and in which order. Nothing is told that is not committed, and a row is deleted only when each
//! of its events is confirmed: so every event is told **at least once**. It is told again where an instance dies, freezes,
//! or loses a server between publishing and deleting: the next round, of any instance, begins with the same row, and
//! repeats from there. Events have stable ids, and whoever publishes goes from the front in the order of the rows, so
//! whatever dies or wakes up late, **the first copies of the events of an order, and of those that move an item's stock,
//! come in the order in which they happened**: an earlier one was told by the same instance just before, or is told already.
//! Only repeats come late. A consumer that drops the ids that it knows sees each event once and in order. Two exceptions:
//! a row that is given up is left out, and what comes behind it goes on; and a queue that refuses for want of room
//! (`x-overflow: reject-publish`) gets what it refused after what it took behind that.

pub mod round;
pub mod tell;
pub mod teller;

use anyhow::Context;
use clap::Args;
use futures_util::FutureExt;
use round::{Round, round};
use shared::{
    config::StoreOptions,
    db,
    outbox::CHANNEL,
    retry::{RetryPolicy, Waits},
    worker::{Program, Ready, Service},
};
use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgListener},
};
use std::time::{Duration, Instant};
use teller::Teller;

/// What `--help` says.
pub const PROGRAM: Program = Program {
    name: "relay",
    about: "A Turnstile function: publishes what happened to the exchange `events`, once it is committed.",
    after_help: "Start a second one, on another host, in case of a failure: one at a time publishes, the others stand by. \
                 SIGTERM and Ctrl-C finish the round in hand, then the program exits with 0.\n\n\
                 Exit codes: 0 done, 2 usage, 69 a server is unreachable, 78 configuration.",
    without: &["batch_max", "database_connections_max", "metrics_address"],
};

/// The pause between two looks where nobody rings: at random within a second. Whoever commits rings a moment later, so
/// this is for those that die in between, and for the turn of an instance that died.
const LOOKS: RetryPolicy = RetryPolicy { wait_ms: 1_000, factor: 1.0, wait_ms_max: 1_000, attempts_max: u32::MAX };
/// How often a broker that reads nothing is looked at.
const BLOCKED_LOOK_MS: u64 = 250;

/// The relay's own options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
    /// How long one round may take, in seconds, before the database ends it and another instance goes on: what a frozen
    /// instance, or one whose host is lost, holds the others up for.
    #[arg(long, env = "TURN_SECONDS_MAX", default_value_t = 15, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(3..=300))]
    pub turn_seconds_max: u32,
}

impl Options {
    /// How long telling may take: the rest of the turn is for the database.
    fn within(&self) -> Duration {
        Duration::from_secs(u64::from(self.turn_seconds_max)) * 2 / 3
    }
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
        if let Err(error) = serve_linked(&service, &options, &pool, &name).await {
            if started.elapsed() > Duration::from_millis(RetryPolicy::SERVER_AWAY.wait_ms_max) {
                waits = RetryPolicy::SERVER_AWAY.waits();
            }
            service.nodes.go_on();
            let wait = waits.next().unwrap_or_default();
            let wait_ms = wait.as_millis();
            tracing::warn!(error = format!("{error:#}"), wait_ms, "events cannot be told; connecting again");
            service.wait(wait).await;
        }
    }
    Ok(())
}

/// Connections to both servers.
struct Link {
    rounds: PgConnection,
    listener: PgListener,
    teller: Teller,
    _ready: Ready,
}

impl Link {
    async fn open(service: &Service, options: &Options, pool: &PgPool, name: &str) -> anyhow::Result<Self> {
        let of_rounds = PgConnectOptions::clone(&pool.connect_options()).options(settings(options.turn_seconds_max));
        let mut listener = PgListener::connect_with(pool).await.context("the database")?;
        // Rings are lost while it is away, so its end is an end of all.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await.context("the database")?;
        let rounds = db::connect(&of_rounds).await.context("the database")?;
        let teller = Teller::connect(&service.nodes, name, &service.worker.worker_id).await?;
        tracing::info!("telling what happened");
        Ok(Self { rounds, listener, teller, _ready: service.announce() })
    }

    /// Waits until somebody rings, or until it is time to look.
    async fn rung(&mut self, wait: Duration) -> anyhow::Result<()> {
        match tokio::time::timeout(wait, self.listener.try_recv()).await {
            Ok(heard) => heard.context("the database")?.map(drop).context("the database does not ring any more"),
            Err(_) => Ok(()),
        }
    }

    /// Forgets what was rung for before the next look: that finds it all.
    fn hear_out(&mut self) {
        while let Some(Ok(Some(_))) = self.listener.try_recv().now_or_never() {}
    }
}

/// Connects, and goes round after round, until told to stop.
async fn serve_linked(service: &Service, options: &Options, pool: &PgPool, name: &str) -> anyhow::Result<()> {
    let mut link = tokio::select! {
        opened = Link::open(service, options, pool, name) => opened?,
        () = service.stopped() => return Ok(()),
    };
    let mut looks = LOOKS.waits();
    while !service.is_stopped() {
        link.hear_out();
        match round(&mut link.rounds, &mut link.teller, options.within()).await {
            Ok(Round::MoreToTell) => (),
            Ok(Round::AllSettled) => tokio::select! {
                rung = link.rung(next(&mut looks)) => rung?,
                () = service.stopped() => (),
            },
            // Whoever has the turn hears every ring, too; that it is there is looked at now and then.
            Ok(Round::OthersTurn) => service.wait(next(&mut looks)).await,
            Err(error) if link.teller.is_blocked() => unblocked(service, &link.teller, &error).await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn next(looks: &mut Waits) -> Duration {
    looks.next().unwrap_or(Duration::from_millis(LOOKS.wait_ms_max))
}

/// Waits until the broker reads again, on the same connection: what was sent is in its buffers, and a new connection each
/// time would have it told that often.
async fn unblocked(service: &Service, teller: &Teller, error: &anyhow::Error) {
    tracing::warn!(error = format!("{error:#}"), "the broker is short of memory or disk; waiting until it is not");
    while teller.is_blocked() && !service.is_stopped() {
        service.wait(Duration::from_millis(BLOCKED_LOOK_MS)).await;
    }
}
