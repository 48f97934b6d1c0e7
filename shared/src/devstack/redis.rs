//! A private Redis, or Valkey, reached through a Unix socket in its folder.
//!
//! It writes nothing to disk by itself: killed and started again, it is empty, or has what it had when [`Redis::save`] was last
//! called. Must never know: what is kept in it. Invariant: a value of [`Redis`] has answered since it was last started.

use super::folder::Folder;
use super::installed;
use super::program::Program;
use super::supervise::Supervised;
use super::{install, last_lines, percent_encoded};
use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the server may take until it answers.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often a starting server is asked.
const READY_POLL: Duration = Duration::from_millis(20);

/// The socket's file, in the server's own folder.
const SOCKET: &str = "redis.sock";

/// Every server setting that is not Redis's own.
const SETTINGS: [&str; 6] = [
    // The socket is the way in: no port to collide on, and half the latency of loopback TCP.
    "--port",
    "0",
    // Whether there is an old snapshot to start from is for whoever kills it to say.
    "--save",
    "",
    "--appendonly",
    "no",
];

/// A running private server. Dropping it stops it in the background.
#[derive(Debug)]
pub struct Redis {
    folder: Arc<Folder>,
    home: PathBuf,
    program: PathBuf,
    server: Supervised,
    version: String,
}

impl Redis {
    /// Starts an empty server in the folder.
    ///
    /// # Errors
    /// [`Missing`](install::Missing) if no program is installed; else what went wrong, with the end of the server's log.
    pub async fn start(folder: &Arc<Folder>) -> Result<Redis> {
        install::ensure(&[install::Server::Redis]).await?;
        let program = installed::redis().context("the program was there a moment ago")?;
        let home = folder.subfolder("redis", None)?;
        let server = launch(folder, &home, &program).await?;
        let mut redis = Redis { folder: Arc::clone(folder), home, program, server, version: String::new() };
        redis.version = redis.await_ready().await?;
        Ok(redis)
    }

    /// `redis+unix://…`, with the socket as its path.
    pub fn url(&self) -> String {
        let socket = self.home.join(SOCKET);
        let path = socket.to_string_lossy().split('/').map(percent_encoded).collect::<Vec<_>>().join("/");
        format!("redis+unix://{path}")
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// As the server says it, `7.0.15`; of a Valkey, `Valkey 8.1.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Writes what is in it to the snapshot that it starts from next time.
    ///
    /// # Errors
    /// The server is away, or cannot write.
    pub async fn save(&self) -> Result<()> {
        let mut connection = connect(&self.url()).await?;
        redis::cmd("SAVE").exec_async(&mut connection).await.context("have Redis write a snapshot")
    }

    /// Kills the server at once, as a power cut would, and starts it again: empty, or from the last snapshot.
    ///
    /// # Errors
    /// It does not start within its limit.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.server.kill().await?;
        self.server = launch(&self.folder, &self.home, &self.program).await?;
        self.await_ready().await.map(|_version| ())
    }

    /// Stops the server. The data has no future, so nothing is written out.
    ///
    /// # Errors
    /// It is still there when its limit has passed.
    pub async fn stop(mut self) -> Result<()> {
        self.server.stop().await.map(|_status| ())
    }

    /// The server's version, as soon as it answers and has read its snapshot.
    async fn await_ready(&mut self) -> Result<String> {
        let limit = Instant::now() + READY_WAIT_MAX;
        loop {
            if let Some(status) = self.server.try_wait()? {
                bail!("Redis ended while starting ({status}); its log ends with\n{}", last_lines(&log(&self.folder)));
            }
            match version(&self.url()).await {
                Ok(version) => return Ok(version),
                Err(_not_yet) if Instant::now() < limit => tokio::time::sleep(READY_POLL).await,
                Err(error) => {
                    let lines = last_lines(&log(&self.folder));
                    return Err(error).with_context(|| {
                        format!("Redis does not answer after {READY_WAIT_MAX:?}; its log ends with\n{lines}")
                    });
                }
            }
        }
    }
}

/// The version of the server at this URL, in the same words as [`Redis::version`], as soon as it can be used.
///
/// # Errors
/// The URL cannot be read, or the server cannot be used.
pub async fn version(url: &str) -> Result<String> {
    let mut connection = connect(url).await?;
    // Refused while a snapshot is being read; INFO is not.
    redis::cmd("PING").exec_async(&mut connection).await?;
    let info: redis::InfoDict = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let valkey = info.get::<String>("valkey_version").map(|version| format!("Valkey {version}"));
    valkey.or_else(|| info.get("redis_version")).context("Redis does not say its version")
}

async fn connect(url: &str) -> Result<MultiplexedConnection> {
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection().await?)
}

async fn launch(folder: &Folder, home: &Path, program: &Path) -> Result<Supervised> {
    let server = Program::new(program)
        .args(SETTINGS)
        .args(["--dir".as_ref(), home.as_os_str(), "--unixsocket".as_ref(), home.join(SOCKET).as_os_str()])
        .folder(home)
        .log(log(folder));
    Supervised::spawn_holding(server, folder.hold()?).await.context("start Redis")
}

fn log(folder: &Folder) -> PathBuf {
    folder.path().join("redis.log")
}
