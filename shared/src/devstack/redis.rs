//! A private Redis, or Valkey, reached through a Unix socket in its folder.
//!
//! It writes nothing to disk by itself: killed and started again, it is empty, or has what it had when [`Redis::save`] was
//! last called.

use super::{
    Folder, Program,
    install::{self, programs},
    server::{Server, percent_encoded},
};
use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use std::{path::PathBuf, sync::Arc};

/// Every server setting that is not Redis's own. The socket is the way in: no port to collide on, and half the latency of
/// loopback TCP. Whether there is an old snapshot to start from is for whoever kills it to say.
const SETTINGS: [&str; 6] = ["--port", "0", "--save", "", "--appendonly", "no"];

/// A running private server. Dropping it stops it in the background.
#[derive(Debug)]
pub struct Redis {
    socket: PathBuf,
    server: Server,
}

impl Redis {
    /// Starts an empty server in the folder. [`Missing`](install::Missing) if no program is installed.
    pub async fn start(folder: &Arc<Folder>) -> Result<Redis> {
        let [program] = programs(install::Server::Redis).await?;
        let home = folder.subfolder("redis", None)?;
        let socket = home.join("redis.sock");
        let program = Program::new(program)
            .args(SETTINGS)
            .args(["--dir".as_ref(), home.as_os_str(), "--unixsocket".as_ref(), socket.as_os_str()])
            .folder(&home);
        // It says so with a small or a capital letter.
        let server = Server::start(folder, "Redis", "redis", "eady to accept connections", program).await?;
        Ok(Redis { socket, server })
    }

    /// `redis+unix://…`, with the socket as its path.
    pub fn url(&self) -> String {
        let path = self.socket.to_string_lossy().split('/').map(percent_encoded).collect::<Vec<_>>().join("/");
        format!("redis+unix://{path}")
    }

    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Writes what is in it to the snapshot that it starts from next time.
    pub async fn save(&self) -> Result<()> {
        let mut connection = connect(&self.url()).await?;
        redis::cmd("SAVE").exec_async(&mut connection).await.context("have Redis write a snapshot")
    }

    /// Kills the server at once, as a power cut would, and starts it again: empty, or from the last snapshot.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.server.kill_and_restart().await
    }

    pub async fn stop(mut self) -> Result<()> {
        self.server.stop().await
    }
}

/// The version of the server at this URL, `7.0.15`, or `Valkey 8.1.1`, as soon as it can be used.
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
