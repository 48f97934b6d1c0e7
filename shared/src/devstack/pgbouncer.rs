//! A private PgBouncer in front of a private PostgreSQL, for tests; reached through a Unix socket in its folder.

use super::install::{self, programs};
use super::server::{Server, percent_encoded};
use super::{FUNCTIONS, Folder, Program, Signal};
use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use std::fs;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// How long it may wait for its clients.
const STOP_WAIT_MAX: Duration = Duration::from_secs(1);
/// More connections for a user than the functions of a test keep.
const CONNECTIONS: u16 = 50;

/// To whom a connection of PostgreSQL's belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// To one client, until it disconnects.
    Session,
    /// To whoever begins a transaction next.
    Transaction,
}

/// A running PgBouncer; but for its mode, and that it takes connections in turn, with its own defaults. Dropping it stops it in the background.
#[derive(Debug)]
pub struct PgBouncer(Server);

impl PgBouncer {
    /// Starts one in front of the server of this database, and the database's URL by the way that leads through it.
    /// [`Missing`](install::Missing) if it is not installed.
    pub async fn before(database_url: &str, mode: PoolMode) -> Result<(PgBouncer, String)> {
        let [program] = programs(install::Server::PgBouncer).await?;
        let options = PgConnectOptions::from_str(database_url)?;
        let server = options.get_socket().context("a private PostgreSQL has a socket")?.display();
        let folder = Arc::new(Folder::create()?);
        let home = folder.subfolder("pgbouncer", folder.user())?;
        let (users, settings) = (home.join("users"), home.join("ini"));
        let known = [options.get_username(), FUNCTIONS].map(|user| format!("\"{user}\" \"\"\n"));
        fs::write(&users, known.concat()).context("name PgBouncer's users")?;
        let mode = match mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
        };
        let (port, users, socket) = (options.get_port(), users.display(), home.display());
        let text = format!(
            "[databases]\n* = host={server} port={port}\n[pgbouncer]\npool_mode = {mode}\ndefault_pool_size = {CONNECTIONS}\n\
             auth_type = trust\nauth_file = {users}\nunix_socket_dir = {socket}\nlisten_port = {port}\n\
             server_round_robin = 1\n"
        );
        fs::write(&settings, text).context("write PgBouncer's settings")?;
        let program = Program::new(program).args([settings]).folder(&home).user(folder.user());
        let program = program.stop(Signal::SIGTERM, STOP_WAIT_MAX);
        let socket = percent_encoded(&home.to_string_lossy());
        let server = Server::start(&folder, "PgBouncer", "pgbouncer", "process up", program).await?;
        let (before, _) = database_url.split_once('?').context("a private database's URL names its socket")?;
        Ok((PgBouncer(server), format!("{before}?host={socket}")))
    }

    pub async fn stop(mut self) -> Result<()> {
        self.0.stop().await
    }
}
