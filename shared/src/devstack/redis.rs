//! A private Redis, or Valkey, reached through a Unix socket in its folder, or by TLS on a loopback port.
//!
//! It writes nothing to disk by itself: killed and started again, it is empty, or has what it had when [`Redis::save`] was
//! last called.

use super::folder::free_ports;
use super::install::{self, programs};
use super::server::{Server, percent_encoded};
use super::{Authority, Folder, Program};
use crate::tls;
use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Every server setting that is not Redis's own. The socket is the way in: no port to collide on, and half the latency of
/// loopback TCP; or a port where TLS is spoken. Whether there is an old snapshot to start from is for whoever kills it to say.
const SETTINGS: [&str; 6] = ["--port", "0", "--save", "", "--appendonly", "no"];

/// A running private server. Dropping it stops it in the background.
#[derive(Debug)]
pub struct Redis {
    url: String,
    server: Server,
}

impl Redis {
    /// Starts an empty server in the folder. [`Missing`](install::Missing) if no program is installed.
    pub async fn start(folder: &Arc<Folder>) -> Result<Redis> {
        let [program] = programs(install::Server::Redis).await?;
        let home = folder.subfolder("redis", None)?;
        let (url, way_in) = match folder.authority() {
            None => by_socket(&home),
            Some(authority) => by_tls(&home, authority)?,
        };
        let program =
            Program::new(program).args(SETTINGS).args(["--dir".as_ref(), home.as_os_str()]).args(way_in).folder(&home);
        // It says so with a small or a capital letter.
        let server = Server::start(folder, "Redis", "redis", "eady to accept connections", program).await?;
        Ok(Redis { url, server })
    }

    /// `redis+unix://…`, with the socket as its path; or `rediss://…`.
    pub fn url(&self) -> String {
        self.url.clone()
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
    let root_cert = tls::authority_of(url, None).map(fs::read).transpose()?;
    let client = match root_cert {
        None => redis::Client::open(url)?,
        root_cert => redis::Client::build_with_tls(url, redis::TlsCertificates { client_tls: None, root_cert })?,
    };
    Ok(client.get_multiplexed_async_connection().await?)
}

fn by_socket(home: &Path) -> (String, Vec<String>) {
    let socket = home.join("redis.sock").to_string_lossy().into_owned();
    let path = socket.split('/').map(percent_encoded).collect::<Vec<_>>().join("/");
    (format!("redis+unix://{path}"), vec!["--unixsocket".to_owned(), socket])
}

fn by_tls(home: &Path, authority: &Authority) -> Result<(String, Vec<String>)> {
    let (files, port) = (authority.certify(home, None)?, free_ports(1)?[0].to_string());
    let [file, certificate, key] =
        [authority.file(), &files[0], &files[1]].map(|path| path.to_string_lossy().into_owned());
    let url = format!("rediss://127.0.0.1:{port}/?cacertfile={}", percent_encoded(&file));
    let settings = [("port", port), ("cert-file", certificate), ("key-file", key), ("ca-cert-file", file)];
    let settings = settings.into_iter().chain([("auth-clients", "no".to_owned())]);
    Ok((url, settings.flat_map(|(name, value)| [format!("--tls-{name}"), value]).collect()))
}
