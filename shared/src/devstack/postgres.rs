//! A private PostgreSQL cluster, reached through a Unix socket in its folder.
//!
//! Durability is as in production: fsync, synchronous commit and full page writes stay on.

use super::{
    Folder, Program, Signal,
    install::{self, programs},
    server::{Server, last_lines, percent_encoded},
};
use anyhow::{Context, Result, bail};
use futures_util::future::BoxFuture;
use sqlx::{
    ConnectOptions, Connection,
    postgres::{PgConnectOptions, PgConnection},
};
use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

/// The database role that owns everything; local, without a password.
const ROLE: &str = "turnstile";
/// Only names the socket's file; nothing listens on a TCP port.
const SOCKET_NUMBER: u16 = 5432;
/// How long initdb may take, on a slow and busy disk.
const INITDB_WAIT_MAX: Duration = Duration::from_secs(120);
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
    home: PathBuf,
    server: Server,
    version: String,
}

impl Postgres {
    /// Makes a cluster in the folder and starts it.
    ///
    /// # Errors
    /// [`Missing`](install::Missing) if the programs are not installed; else what went wrong, with the end of the server's log.
    pub async fn start(folder: &Arc<Folder>) -> Result<Postgres> {
        let [server, initdb] = programs(install::Server::Postgres).await?;
        let home = folder.subfolder("postgres", folder.user())?;
        // PGDATA and its like would change what the programs do.
        let program = |path| Program::new(path).without_env(&["PG"]).folder(&home).user(folder.user());
        make_cluster(folder, &home, program(initdb)).await?;
        let program = program(server)
            .args(["-D".into(), home.join("data"), "-k".into(), home.clone()])
            .args(["-p".to_owned(), SOCKET_NUMBER.to_string()])
            .args(SETTINGS.iter().flat_map(|setting| ["-c", setting]))
            .stop(Signal::Quit, STOP_WAIT_MAX);
        let mut server = Server::start(folder, "PostgreSQL", folder.log("postgres"), program).await?;
        let version = server.ready(|| ask_version(url(&home, MAINTENANCE))).await?;
        Ok(Postgres { home, server, version })
    }

    /// `postgres://…` of a database, in the form that sqlx reads: the socket's folder stands in the query.
    pub fn url(&self, database: &str) -> String {
        url(&self.home, database)
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
        self.server.end(Signal::Interrupt).await?;
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

    /// Stops the server.
    ///
    /// # Errors
    /// It is still there when its limit has passed.
    pub async fn stop(mut self) -> Result<()> {
        self.server.stop().await
    }

    async fn connect(&self, database: &str) -> Result<PgConnection> {
        Ok(PgConnectOptions::from_str(&self.url(database))?.connect().await?)
    }

    async fn start_again(&mut self) -> Result<()> {
        let mut starts = 0;
        loop {
            starts += 1;
            self.server.start_again().await?;
            match self.server.ready(|| ask_version(url(&self.home, MAINTENANCE))).await {
                Ok(_version) => return Ok(()),
                Err(refusal) if starts < STARTS_MAX && refusal.to_string().contains(STILL_IN_USE) => {
                    tokio::time::sleep(START_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn make_cluster(folder: &Folder, home: &Path, initdb: Program) -> Result<()> {
    let log = folder.log("initdb");
    let arguments = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", ROLE, "--pgdata"];
    let mut initdb = folder.spawn(&initdb.args(arguments).args([home.join("data")]).log(&log)).await?;
    let status = tokio::time::timeout(INITDB_WAIT_MAX, initdb.wait()).await.context("initdb takes too long")??;
    if !status.success() {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        bail!("initdb cannot make a PostgreSQL cluster ({status}); its output ends with\n{}", last_lines(&said));
    }
    Ok(())
}

fn ask_version(url: String) -> BoxFuture<'static, Result<String>> {
    Box::pin(async move {
        let mut connection = PgConnectOptions::from_str(&url)?.connect().await?;
        let version = sqlx::query_scalar(SERVER_VERSION).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(version)
    })
}

fn url(home: &Path, database: &str) -> String {
    let socket = home.to_string_lossy().split('/').map(percent_encoded).collect::<Vec<_>>().join("/");
    format!("postgres://{ROLE}@localhost:{SOCKET_NUMBER}/{}?host={socket}", percent_encoded(database))
}
