//! A private PostgreSQL cluster, reached through a Unix socket in its folder.
//!
//! Durability is as in production: fsync, synchronous commit and full page writes stay on. Must never know: our schema.
//! Invariant: a value of [`Postgres`] has answered a query since it was last started.

use super::folder::Folder;
use super::installed::{self, PostgresPrograms};
use super::program::{Program, Signal};
use super::supervise::Supervised;
use super::{install, last_lines, percent_encoded};
use anyhow::{Context, Result, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The database role that owns everything; local, without a password.
const ROLE: &str = "turnstile";
/// Only names the socket's file; nothing listens on a TCP port.
const SOCKET_NUMBER: u16 = 5432;
/// How long initdb may take, on a slow and busy disk.
const INITDB_WAIT_MAX: Duration = Duration::from_secs(120);
/// How long the server may take until it answers, recovery after a kill included.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often a starting server is asked.
const READY_POLL: Duration = Duration::from_millis(20);
/// How long a stop may take before it becomes a kill.
const STOP_WAIT_MAX: Duration = Duration::from_secs(30);
/// Starts tried while the kernel still counts a killed server's children as users of its shared memory.
const STARTS_MAX: u32 = 50;
const START_PAUSE: Duration = Duration::from_millis(100);
/// What such a start says in its log.
const STILL_IN_USE: &str = "is still in use";

/// Every server setting that is not PostgreSQL's own.
const SETTINGS: [&str; 3] = [
    // The socket is the way in: no port to collide on, and half the latency of loopback TCP.
    "listen_addresses=",
    // Several worker processes with a pool each, besides the tests' own connections.
    "max_connections=200",
    // The default of 128 MB is for machines of long ago; the hot tables of a benchmark must fit.
    "shared_buffers=256MB",
];

const CREATE_DATABASE: &str = "CREATE DATABASE ";
const SERVER_VERSION: &str = "SHOW server_version";

/// Where databases are administered from, ...
const MAINTENANCE: &str = "postgres";
/// ... and what new ones are made of.
const TEMPLATE: &str = "template1";
/// Its package is not part of the server's everywhere.
const CAN_COUNT: &str = "SELECT EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'pg_stat_statements')";
const PRELOAD: &str = "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'";
const COUNT: &str = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements";

/// A running private cluster. Dropping it stops the server in the background.
#[derive(Debug)]
pub struct Postgres {
    folder: Arc<Folder>,
    home: PathBuf,
    programs: PostgresPrograms,
    server: Supervised,
    version: String,
}

impl Postgres {
    /// Makes a cluster in the folder and starts it.
    ///
    /// # Errors
    /// [`Missing`](install::Missing) if the programs are not installed; else what went wrong, with the end of the server's log.
    pub async fn start(folder: &Arc<Folder>) -> Result<Postgres> {
        install::ensure(&[install::Server::Postgres]).await?;
        let programs = installed::postgres().context("the programs were there a moment ago")?;
        let home = folder.subfolder("postgres", folder.user())?;
        initdb(folder, &home, &programs).await?;
        let server = launch(folder, &home, &programs).await?;
        let mut postgres = Postgres { folder: Arc::clone(folder), home, programs, server, version: String::new() };
        postgres.version = postgres.await_ready().await?;
        Ok(postgres)
    }

    /// `postgres://…` of a database, in the form that sqlx reads: the socket's folder stands in the query.
    pub fn url(&self, database: &str) -> String {
        let socket = self.home.to_string_lossy().split('/').map(percent_encoded).collect::<Vec<_>>().join("/");
        format!("postgres://{ROLE}@localhost:{SOCKET_NUMBER}/{}?host={socket}", percent_encoded(database))
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// There is one of that name, or the server is away.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let statement = format!("{CREATE_DATABASE}\"{}\"", name.replace('"', "\"\""));
        let mut connection = self.connect(MAINTENANCE).await?;
        let created = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await;
        created.with_context(|| format!("create the database {name}"))?;
        connection.close().await.context("close the connection that created a database")
    }

    /// Has the server count statements from now on, in databases that are created from now on (`pg_stat_statements`); false,
    /// where it is installed without that extension. The library is loaded at a start alone, so the server starts again.
    ///
    /// # Errors
    /// As [`Postgres::restart`]'s; or the server refuses.
    pub async fn count_statements(&mut self) -> Result<bool> {
        let mut connection = self.connect(MAINTENANCE).await?;
        let can_count: bool = sqlx::query_scalar(CAN_COUNT).fetch_one(&mut connection).await?;
        if can_count {
            sqlx::query(PRELOAD).execute(&mut connection).await.context("have PostgreSQL load pg_stat_statements")?;
        }
        connection.close().await?;
        if can_count {
            self.restart().await?;
            let mut connection = self.connect(TEMPLATE).await?;
            sqlx::query(COUNT).execute(&mut connection).await.context("create the extension pg_stat_statements")?;
            connection.close().await?;
        }
        Ok(can_count)
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// As the server says it, `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Stops in an orderly way (a fast shutdown: open transactions are rolled back) and starts again on the same data.
    ///
    /// # Errors
    /// It does not stop or does not start within its limit.
    pub async fn restart(&mut self) -> Result<()> {
        self.server.send(Signal::Interrupt).context("send PostgreSQL a fast shutdown")?;
        let stopped = tokio::time::timeout(STOP_WAIT_MAX, self.server.wait()).await;
        stopped.context("PostgreSQL did not stop in time")??;
        self.start_again().await
    }

    /// Kills the server at once, as a power cut would, and starts again on the same data.
    ///
    /// # Errors
    /// It does not start within its limit.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.server.kill().await?;
        self.start_again().await
    }

    /// Stops the server. The data has no future, so nothing is written out.
    ///
    /// # Errors
    /// It is still there when its limit has passed.
    pub async fn stop(mut self) -> Result<()> {
        self.server.stop().await.map(|_status| ())
    }

    async fn start_again(&mut self) -> Result<()> {
        let mut starts = 0;
        loop {
            starts += 1;
            self.server = launch(&self.folder, &self.home, &self.programs).await?;
            match self.await_ready().await {
                Ok(_version) => return Ok(()),
                Err(refusal) if starts < STARTS_MAX && refusal.to_string().contains(STILL_IN_USE) => {
                    tokio::time::sleep(START_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The server's version, as soon as it answers.
    async fn await_ready(&mut self) -> Result<String> {
        let limit = Instant::now() + READY_WAIT_MAX;
        loop {
            if let Some(status) = self.server.try_wait()? {
                bail!("PostgreSQL ended while starting ({status}); its log ends with\n{}", last_lines(&self.log()));
            }
            match self.ask_version().await {
                Ok(version) => return Ok(version),
                Err(_not_yet) if Instant::now() < limit => tokio::time::sleep(READY_POLL).await,
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!(
                            "PostgreSQL does not answer after {READY_WAIT_MAX:?}; its log ends with\n{}",
                            last_lines(&self.log())
                        )
                    });
                }
            }
        }
    }

    async fn ask_version(&self) -> Result<String> {
        let mut connection = self.connect(MAINTENANCE).await?;
        let version = sqlx::query_scalar(SERVER_VERSION).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(version)
    }

    async fn connect(&self, database: &str) -> Result<PgConnection> {
        let options = PgConnectOptions::from_str(&self.url(database))?;
        Ok(options.connect().await?)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }
}

async fn initdb(folder: &Arc<Folder>, home: &std::path::Path, programs: &PostgresPrograms) -> Result<()> {
    let log = folder.path().join("initdb.log");
    let arguments = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", ROLE, "--pgdata"];
    let initdb = without_inherited(Program::new(&programs.initdb))
        .args(arguments)
        .args([home.join("data")])
        .folder(home)
        .log(&log)
        .user(folder.user());
    let mut initdb = Supervised::spawn_holding(initdb, folder.hold()?).await?;
    let status = tokio::time::timeout(INITDB_WAIT_MAX, initdb.wait()).await.context("initdb takes too long")??;
    if !status.success() {
        bail!("initdb cannot make a PostgreSQL cluster ({status}); its output ends with\n{}", last_lines(&log));
    }
    Ok(())
}

async fn launch(folder: &Arc<Folder>, home: &std::path::Path, programs: &PostgresPrograms) -> Result<Supervised> {
    let server = without_inherited(Program::new(&programs.server))
        .args(["-D".into(), home.join("data"), "-k".into(), home.to_path_buf()])
        .args(["-p".to_owned(), SOCKET_NUMBER.to_string()])
        .args(SETTINGS.iter().flat_map(|setting| ["-c", setting]))
        .folder(home)
        .log(folder.path().join("postgres.log"))
        .user(folder.user())
        .stop(Signal::Quit, STOP_WAIT_MAX);
    Supervised::spawn_holding(server, folder.hold()?).await.context("start PostgreSQL")
}

/// PGDATA and its like would change what the programs do.
fn without_inherited(program: Program) -> Program {
    installed::inherited_settings(&["PG"]).into_iter().fold(program, Program::env_remove)
}
