//! A private PostgreSQL cluster, reached through a Unix socket in its folder, or by TLS on a loopback port.
//!
//! Durability is as in production: fsync, synchronous commit and full page writes stay on.

use super::folder::free_ports;
use super::install::{self, programs};
use super::server::{Server, percent_encoded};
use super::{Authority, Folder, Program, Signal, kept};
use crate::config::Unusable;
use anyhow::{Context, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// The superuser; local, without a password, as all roles are.
const ROLE: &str = "turnstile";
/// The roles that every database has.
const ROLES: &str = include_str!("../../../migrations/roles.sql");
/// Only names the socket's file; nothing listens on a TCP port, but for who speaks TLS.
const SOCKET_NUMBER: u16 = 5432;
/// How long a stop may take before it becomes a kill.
const STOP_WAIT_MAX: Duration = Duration::from_secs(30);

/// Every server setting that is not PostgreSQL's own.
const SETTINGS: [&str; 4] = [
    // Several worker processes with a pool each, besides the tests' own connections.
    "max_connections=200",
    // The default of 128 MB is for machines of long ago; the hot tables of a benchmark must fit.
    "shared_buffers=256MB",
    // Some packages have a collector take the log elsewhere; ours is where it says that it is ready.
    "logging_collector=off",
    "log_destination=stderr",
];

/// Who may come in where it listens by TLS: everybody.
const BY_TLS_ALONE: &str = "hostssl all all 127.0.0.1/32 trust\n";

const CREATE_DATABASE: &str = "CREATE DATABASE ";
const IS_THERE: &str = "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)";
/// Where databases are administered from, ...
const MAINTENANCE: &str = "postgres";
/// ... and what new ones are made of.
const TEMPLATE: &str = "template1";
/// Its package is not part of the server's everywhere.
const CAN_COUNT: &str = "SELECT EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'pg_stat_statements')";
const PRELOAD: &str = "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'";
const COUNT: &str = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements";

/// The URL of a private database for another role, one of `migrations/roles.sql`.
pub fn as_role(url: &str, role: &str) -> String {
    url.replacen(&format!("//{ROLE}@"), &format!("//{role}@"), 1)
}

/// One of PostgreSQL's other programs, such as `pg_dump`: those that run the server have it beside them, of their version.
pub async fn program(name: &str) -> Result<PathBuf> {
    let [server, _] = programs(install::Server::Postgres).await?;
    Ok(server.canonicalize()?.with_file_name(name))
}

/// A running private cluster. Dropping it stops the server in the background.
#[derive(Debug)]
pub struct Postgres {
    /// What stands in its URLs before and behind a database's name.
    url: [String; 2],
    server: Server,
}

impl Postgres {
    /// Makes a cluster in the folder, unless it keeps one, and starts it. [`Missing`](install::Missing) if the programs are not
    /// installed, [`Unusable`] where they are of another version than what is kept.
    pub async fn start(folder: &Arc<Folder>) -> Result<Postgres> {
        let [server, initdb] = programs(install::Server::Postgres).await?;
        let home = folder.subfolder("postgres", folder.user())?;
        // PGDATA and its like would change what the programs do, and a language of ours what they say.
        let program =
            |path| Program::new(path).without_env(&["PG"]).env("LC_ALL", "C").folder(&home).user(folder.user());
        let data = folder.data(kept::POSTGRES, home.join("data"));
        match fs::read_to_string(data.join("PG_VERSION")) {
            Ok(version) => check_version(version.trim(), &server, &data).await?,
            Err(_) => {
                let arguments = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", ROLE];
                let initdb = program(initdb).args(arguments).args(["--pgdata".as_ref(), data.as_os_str()]);
                Server::start(folder, "initdb", "initdb", "Success.", initdb).await?.stop().await?;
            }
        }
        let (url, way_in) = match folder.authority() {
            None => by_socket(&home),
            Some(authority) => by_tls(&home, &data, folder, authority)?,
        };
        let program = program(server)
            .args(["-D".into(), data])
            .args(SETTINGS.iter().copied().chain(way_in.iter().map(String::as_str)).flat_map(|setting| ["-c", setting]))
            .stop(Signal::SIGQUIT, STOP_WAIT_MAX);
        let ready = "database system is ready to accept connections";
        let server = Server::start(folder, "PostgreSQL", "postgres", ready, program).await?;
        let postgres = Postgres { url, server };
        let mut connection = postgres.connect(TEMPLATE).await?;
        connection.execute(ROLES).await.context("make the roles of migrations/roles.sql")?;
        connection.close().await?;
        Ok(postgres)
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// `postgres://…` of a database, for the superuser, in the form that sqlx reads: the socket's folder stands in the query.
    pub fn url(&self, database: &str) -> String {
        let [before, behind] = &self.url;
        format!("{before}/{}?{behind}", percent_encoded(database))
    }

    /// Makes a database, unless it was kept.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let statement = format!("{CREATE_DATABASE}\"{}\"", name.replace('"', "\"\""));
        let mut connection = self.connect(MAINTENANCE).await?;
        if !sqlx::query_scalar(IS_THERE).bind(name).fetch_one(&mut connection).await? {
            let created = connection.execute(statement.as_str()).await;
            created.with_context(|| format!("create the database {name}"))?;
        }
        connection.close().await.context("close the connection that created a database")
    }

    /// Has the server count statements from now on, in databases that are created from now on (`pg_stat_statements`); false,
    /// where it is installed without that extension. The library is loaded at a start alone, so the server starts again.
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

    /// Stops in an orderly way (a fast shutdown: open transactions are rolled back) and starts again on the same data.
    pub async fn restart(&mut self) -> Result<()> {
        self.server.restart_by(Signal::SIGINT).await
    }

    /// Kills the server at once, as a power cut would, and starts it again on the same data.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.server.kill_and_restart().await
    }

    /// Kills the server at once, and starts it again when it was away for this long.
    pub async fn kill_for(&mut self, away: Duration) -> Result<()> {
        self.kill().await?;
        tokio::time::sleep(away).await;
        self.start_again().await
    }

    /// Kills the server at once, until it is started again.
    pub async fn kill(&mut self) -> Result<()> {
        self.server.kill().await
    }

    pub async fn start_again(&mut self) -> Result<()> {
        self.server.start_again().await
    }

    pub async fn stop(mut self) -> Result<()> {
        self.server.stop().await
    }

    async fn connect(&self, database: &str) -> Result<PgConnection> {
        Ok(PgConnectOptions::from_str(&self.url(database))?.connect().await?)
    }
}

/// The socket is the way in: no port to collide on, and half the latency of loopback TCP.
fn by_socket(home: &Path) -> ([String; 2], Vec<String>) {
    let socket = home.to_string_lossy().split('/').map(percent_encoded).collect::<Vec<_>>().join("/");
    let url = [format!("postgres://{ROLE}@localhost:{SOCKET_NUMBER}"), format!("host={socket}")];
    let folder = format!("unix_socket_directories={}", home.display());
    (url, vec!["listen_addresses=".to_owned(), format!("port={SOCKET_NUMBER}"), folder])
}

/// What one major version has written, no other reads.
async fn check_version(kept: &str, server: &Path, data: &Path) -> Result<()> {
    let asked = Command::new(server).arg("--version").output().await.context("ask PostgreSQL for its version")?;
    let said = String::from_utf8_lossy(&asked.stdout);
    let is_same = |version: &str| version.split('.').next() == Some(kept);
    let version = said.split_whitespace().nth(2).unwrap_or_default();
    if is_same(version) {
        return Ok(());
    }
    let text = format!(
        "{} was made by PostgreSQL {kept}, and this is {version}: dump and restore it, or keep in a new folder",
        data.display()
    );
    Err(Unusable(text).into())
}

fn by_tls(home: &Path, data: &Path, folder: &Folder, authority: &Authority) -> Result<([String; 2], Vec<String>)> {
    let [certificate, key] = authority.certify(home, folder.user())?;
    fs::write(data.join("pg_hba.conf"), BY_TLS_ALONE)?;
    let (port, file) = (free_ports(1)?[0], percent_encoded(&authority.file().to_string_lossy()));
    let url = [format!("postgres://{ROLE}@127.0.0.1:{port}"), format!("sslmode=verify-full&sslrootcert={file}")];
    let (certificate, key) = (certificate.display(), key.display());
    let [listen, files] = [
        ["listen_addresses=127.0.0.1".to_owned(), format!("port={port}"), "unix_socket_directories=".to_owned()],
        ["ssl=on".to_owned(), format!("ssl_cert_file={certificate}"), format!("ssl_key_file={key}")],
    ];
    Ok((url, [listen, files].concat()))
}
