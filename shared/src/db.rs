//! The database: connections, migrations, and what its errors mean. Never sees the broker.

mod encryption;
mod schema;
mod session;

use crate::config::{Migrate, ONE_HOST, StoreOptions, UNREADABLE_URL, check_url, parameter};
use crate::error::{Error, SqlStateClass, classify};
use crate::startup::wait_for_server;
use futures_util::future::BoxFuture;
pub use schema::{Migrated, SCHEMA_VERSION, migrate, migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool, Postgres};
use std::collections::HashSet;
use std::future::ready;
use std::io;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::subscriber::NoSubscriber;

/// How long to wait for a free connection; longer than any statement of ours takes, so that only an outage reaches it.
const ACQUIRE_SECONDS_MAX: u64 = 5;

/// How long the database may take to answer; longer than it allows itself for a statement.
const ANSWER_SECONDS_MAX: u64 = 5;

/// What the server ends by itself: a statement of ours takes milliseconds, so who waits this long waits for a disk, or for
/// somebody else's lock. A whole batch waits with it, so a lock is not waited for longer than anybody of ours holds one.
const LIMITS: [(&str, &str); 3] =
    [("statement_timeout", "3s"), ("lock_timeout", "250ms"), ("idle_in_transaction_session_timeout", "30s")];
/// How the server's end of a connection finds out that ours is gone without a word, so that the locks of a worker whose host
/// is lost are let go. Our end has no such settings (sqlx opens the socket by itself): [`answered`] stands in for them.
const KEEPALIVE: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "25s"),
];
/// The same for what is decided apart from a batch, because it may fail.
pub(crate) const ISOLATED: [(&str, &str); 2] = [("statement_timeout", "1s"), ("lock_timeout", "100ms")];
/// Who decides, and two who find out what is in the way.
const ISOLATED_CONNECTIONS_MAX: u32 = 3;
/// Every access of ours is by key, so a statement has one good plan, whatever is in the tables and the arrays:
/// it is made once, not for each batch. Without the second setting, a plan made while the tables were empty would read
/// them whole for ever after; and with it, whatever has to read a table whole looks so dear that compiling it seems to pay.
const PLANS: [(&str, &str); 3] = [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off"), ("jit", "off")];
/// What is promised rests on these, and a role or a database may be set otherwise: whoever has waited for a row reads what is there then,
const ISOLATION: [(&str, &str); 1] = [("default_transaction_isolation", "read committed")];
/// and what is committed, and then told, is on the disk. Who asks for more has more.
const ON_DISK: &str =
    "set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false)";
/// What PgBouncer says of what a URL's `options` set.
const UNSUPPORTED: &str = "unsupported startup parameter";
/// Lifts [`LIMITS`].
const NO_LIMITS: [(&str, &str); 2] = [("statement_timeout", "0"), ("lock_timeout", "0")];

/// A pool of connections to the database at `url`; `name` is shown in `pg_stat_activity`. Connects when first used.
pub fn pool(url: &str, name: &str, connections_max: u32) -> Result<PgPool, OpenError> {
    Ok(pool_with(read(url)?.application_name(name), &[], connections_max))
}

/// Where the database at `url` is.
pub fn read(url: &str) -> Result<PgConnectOptions, OpenError> {
    check_url(url, &["postgres", "postgresql"]).map_err(OpenError::Url)?;
    // It logs the parameters that it does not know, and a misspelt `password` is one.
    let read = tracing::subscriber::with_default(NoSubscriber::new(), || PgConnectOptions::from_str(url));
    let options = read.map_err(|_| OpenError::Url(UNREADABLE_URL))?;
    let is_of_several = options.get_socket().is_none() && options.get_host().contains(',');
    if is_of_several || parameter(url, &["target_session_attrs"]).is_some() {
        return Err(OpenError::Url(ONE_HOST));
    }
    if options.get_database().is_none() {
        return Err(OpenError::Url("it names no database"));
    }
    // It would look for a host of this name, brackets and all, where the URL has an address of IPv6.
    let host = options.get_host().trim_matches(['[', ']']).to_owned();
    let options = encryption::options(url, options.host(&host))
        .map_err(|reason| OpenError::Configuration(format!("DATABASE_URL cannot be used: {reason}")))?;
    // Poolers know no such parameter, and we read no number as text.
    Ok(options.extra_float_digits(None))
}

/// A pool of connections to the same database, where nothing may take longer than a moment.
pub fn isolated(pool: &PgPool) -> PgPool {
    pool_with(PgConnectOptions::clone(&pool.connect_options()), &ISOLATED, ISOLATED_CONNECTIONS_MAX)
}

pub(crate) fn pool_with(options: PgConnectOptions, settings: &[(&str, &str)], connections_max: u32) -> PgPool {
    let set = set(&options, settings);
    PgPoolOptions::new()
        .after_connect(move |connection, _| {
            // Not by `raw_sql`, whose future the compiler does not take for Send (sqlx 0.8).
            let set = set.clone();
            Box::pin(async move { connection.execute(set.as_str()).await.map(drop) })
        })
        .max_connections(connections_max)
        .acquire_timeout(Duration::from_secs(ACQUIRE_SECONDS_MAX))
        // The default asks the server before every use whether it is still there: a round trip for each batch. A
        // connection that has died shows it in the statement itself, which is tried again; and in all that are as old.
        .test_before_acquire(false)
        .before_acquire(|_, connection| Box::pin(ready(Ok(!is_suspect(connection.age)))))
        .connect_lazy_with(options)
}

/// A pool of connections to the database that the options name, its schema up to date and the role's rights to it tried;
/// waits for a database that is not there yet, for a limited time.
pub fn open<'a>(
    options: &'a StoreOptions,
    name: &'a str,
    wait_seconds_max: u64,
    migrate: Migrate,
) -> BoxFuture<'a, Result<PgPool, OpenError>> {
    Box::pin(async move {
        let pool = pool_of(options, name)?;
        encryption::warn_of_plain(&pool.connect_options());
        let away = |error: &OpenError| match error {
            OpenError::Unreachable(reason) | OpenError::LockedOut(reason) => Some(reason.clone()),
            OpenError::Url(_) | OpenError::Pooled | OpenError::Configuration(_) => None,
        };
        wait_for_server("the database", wait_seconds_max, away, || async {
            reach(&pool).await?;
            schema::ensure_rights(&pool).await?;
            schema::ensure(&pool, migrate == Migrate::Auto).await
        })
        .await?;
        Ok(pool)
    })
}

/// The same for a program that looks at the database and must not change it: its schema is there already, and the one that
/// this program knows. One attempt.
pub fn open_as_it_is<'a>(options: &'a StoreOptions, name: &'a str) -> BoxFuture<'a, Result<PgPool, OpenError>> {
    Box::pin(async move {
        let pool = pool_of(options, name)?;
        reach(&pool).await?;
        schema::ensure(&pool, false).await?;
        Ok(pool)
    })
}

/// Brings the schema up to date, whoever else is at it. One attempt.
pub fn open_and_migrate<'a>(options: &'a StoreOptions, name: &'a str) -> BoxFuture<'a, Result<Migrated, OpenError>> {
    Box::pin(async move {
        let pool = pool_of(options, name)?;
        reach(&pool).await?;
        migrate(&pool).await.map_err(schema::of)
    })
}

fn pool_of(options: &StoreOptions, name: &str) -> Result<PgPool, OpenError> {
    pool(&options.database_url, name, options.database_connections_max)
}

/// Connects outside the pool, which keeps the reason of a failure to itself, and makes sure that a connection is one session.
async fn reach(pool: &PgPool) -> Result<(), OpenError> {
    let options = pool.connect_options();
    // An address that moves between two connections leads them to two servers, once.
    let is_one = async { Ok(session::is_one(&options).await? || session::is_one(&options).await?) };
    match answered(is_one).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(OpenError::Pooled),
        Err(sqlx::Error::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Err(OpenError::Unreachable(format!("{error}; a pooler in between needs room for two connections at least")))
        }
        Err(error) => Err(OpenError::of(&error)),
    }
}

/// A connection of its own, with these settings besides those that all have, for work that must not take one from those who
/// decide; an I/O error (timed out) where the database does not answer.
pub fn connect<'a>(
    options: &'a PgConnectOptions,
    settings: &[(&str, &str)],
) -> BoxFuture<'a, Result<PgConnection, sqlx::Error>> {
    let set = set(options, settings);
    Box::pin(async move {
        answered(async {
            let mut connection = PgConnection::connect_with(options).await?;
            connection.execute(set.as_str()).await?;
            Ok(connection)
        })
        .await
    })
}

/// What every connection of ours is set to, and these settings, in one statement. It is not part of how a connection is opened: there,
/// poolers refuse what they do not know. What the URL sets stays.
fn set(options: &PgConnectOptions, settings: &[(&str, &str)]) -> String {
    let by_url = options.get_options().unwrap_or_default();
    // `-c name=value`, or `--name=value` with hyphens for underscores.
    let name_in = |word: &str| {
        let (name, _) = word.trim_start_matches("-c").trim_start_matches("--").split_once('=')?;
        Some(name.replace('-', "_"))
    };
    let by_url: HashSet<String> = by_url.split_whitespace().filter_map(name_in).collect();
    let ours =
        LIMITS.iter().chain(&KEEPALIVE).chain(&PLANS).chain(&ISOLATION).filter(|(name, _)| !by_url.contains(*name));
    let calls = ours.chain(settings).map(|(name, value)| format!("set_config('{name}', '{value}', false)"));
    let on_disk = (!by_url.contains("synchronous_commit")).then(|| ON_DISK.to_owned());
    format!("SELECT {}", on_disk.into_iter().chain(calls).collect::<Vec<_>>().join(", "))
}

/// When the database last did not answer.
static SILENT_SINCE: Mutex<Option<Instant>> = Mutex::new(None);

/// What the database answers. Where it does not in time, it is away, and no pool uses a connection again that is as old as
/// this one: whatever has cut it off (a failover, a firewall that has forgotten it) may have cut off all of them, and each
/// would cost as much time again. A connection whose call was given up must not be used any more.
pub async fn answered<T, E: From<sqlx::Error>>(call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    match tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), call).await {
        Ok(answer) => answer,
        Err(_) => {
            *SILENT_SINCE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            let text = format!("no answer within {ANSWER_SECONDS_MAX} s");
            Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text)).into())
        }
    }
}

/// Whether a connection of this age was there when the database did not answer.
fn is_suspect(age: Duration) -> bool {
    SILENT_SINCE.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() <= age)
}

/// A connection of the pool. Boxed, as [`connect`] is: what connects is compiled here, and not once more in each caller.
pub fn acquire(pool: &PgPool) -> BoxFuture<'_, Result<PoolConnection<Postgres>, sqlx::Error>> {
    Box::pin(async move {
        match pool.acquire().await {
            // What the server said each time, such as that the role has too many connections, the pool keeps to itself.
            Err(sqlx::Error::PoolTimedOut) => {
                let outside = connect(&pool.connect_options(), &[]).await;
                Err(outside.err().unwrap_or(sqlx::Error::PoolTimedOut))
            }
            acquired => acquired,
        }
    })
}

/// Runs on a connection from the pool; one that gives no answer in time is closed and never used again. [`Error::Away`]
/// where there is none, or no answer in time.
pub async fn on_connection<T>(
    pool: &PgPool,
    run: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut connection = acquire(pool).await?;
    match answered(async { Ok::<_, sqlx::Error>(run(&mut connection).await) }).await {
        Ok(outcome) => outcome,
        Err(error) => {
            connection.close_on_drop();
            Err(error.into())
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "DATABASE_URL cannot be read ({0}); it has the form postgres://USER:PASSWORD@HOST:PORT/DATABASE, or with ?host=/folder \
         for a Unix socket"
    )]
    Url(&'static str),
    #[error(
        "between us and PostgreSQL is a pooler in transaction mode, which gives our connection to others between two of our \
         transactions; have it keep sessions for our database or user (PgBouncer: pool_mode = session), or have DATABASE_URL lead \
         past it"
    )]
    Pooled,
    /// It answers, but not in a way that waiting would change.
    #[error("{0}; check DATABASE_URL, the role's permissions and the version of this program")]
    Configuration(String),
    /// Nobody answers.
    #[error("PostgreSQL cannot be reached ({0}); is it running, and does DATABASE_URL name it?")]
    Unreachable(String),
    /// It answers, but somebody else has a lock.
    #[error("the database's tables are locked by somebody else ({0}); try again")]
    LockedOut(String),
}

impl OpenError {
    /// Whether an operator has to change something; else it may pass by itself.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Url(_) | Self::Pooled | Self::Configuration(_) => true,
            Self::Unreachable(_) | Self::LockedOut(_) => false,
        }
    }

    fn of(error: &sqlx::Error) -> Self {
        if let Some(fault) = encryption::fault(error) {
            return Self::Configuration(format!("the database refuses: {fault}"));
        }
        match class_of(error) {
            _ if is_locked_out(error) => Self::LockedOut(error.to_string()),
            _ if error.to_string().contains(UNSUPPORTED) => Self::Configuration(format!(
                "a pooler refuses what `options` sets ({error}); leave it out of DATABASE_URL and PGOPTIONS"
            )),
            SqlStateClass::Unfit => Self::Configuration(format!("the database refuses: {error}")),
            SqlStateClass::Away | SqlStateClass::Conflict | SqlStateClass::Row | SqlStateClass::Unhandled => {
                Self::Unreachable(error.to_string())
            }
        }
    }
}

/// Whether a failed statement lost a race that it should run again.
pub fn is_conflict(error: &sqlx::Error) -> bool {
    class_of(error) == SqlStateClass::Conflict
}

/// Whether a lock was not to be had: lock_not_available, deadlock_detected.
fn is_locked_out(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| matches!(&*code, "55P03" | "40P01"))
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match class_of(&error) {
            SqlStateClass::Away | SqlStateClass::Conflict => Self::Away(format!("the database is away: {text}")),
            SqlStateClass::Unfit => Self::Unfit(format!("the database is not fit for use: {text}")),
            SqlStateClass::Row => Self::Row(text),
            SqlStateClass::Unhandled => Self::Unhandled(text),
        }
    }
}

fn class_of(error: &sqlx::Error) -> SqlStateClass {
    // sqlx::Error is open-ended, so a `match` could not be exhaustive: these are the errors that speak of the
    // connection; whatever else is no database error says that program and schema do not fit.
    if let sqlx::Error::Database(database) = error {
        return database.code().map_or(SqlStateClass::Unfit, |code| classify(&code));
    }
    let away = matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
    );
    if away { SqlStateClass::Away } else { SqlStateClass::Unfit }
}
