//! Where the programs of private servers are; they are installed first where that is safe (`install.sh`).

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Stdio;
use tokio::process::Command;

/// Runs as `sh -c INSTALL install NAME…`.
const INSTALL: &str = include_str!("install.sh");
/// How it ends where a person has to act.
const MISSING: i32 = 69;

/// What a stack needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Its programs: the server, `rabbitmqctl`, and Erlang's name server.
    RabbitMq,
    /// Its programs: the server and `initdb`.
    Postgres,
    /// Redis, or Valkey, which some distributions have in its place.
    Redis,
    /// A pooler of PostgreSQL's connections; tests have it in between.
    PgBouncer,
    /// No server, but found and installed as they are: tests look at pages with it.
    Chromium,
}

/// Programs are missing, and we may not install them or could not: what a person has to do. Exit with 69.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Missing(String);

/// Sees to it that the servers' programs are there; [`Missing`], where a person has to act.
pub async fn ensure(servers: &[Server]) -> Result<()> {
    find(servers).await.map(drop)
}

/// Chromium's program; [`Missing`] as above.
pub async fn chromium() -> Result<PathBuf> {
    let [chromium] = programs(Server::Chromium).await?;
    Ok(chromium)
}

/// A server's programs, in the order in which [`Server`] names them.
pub(super) async fn programs<const COUNT: usize>(server: Server) -> Result<[PathBuf; COUNT]> {
    let found = find(&[server]).await?;
    <[PathBuf; COUNT]>::try_from(found).ok().context("install.sh names as many programs as there are")
}

/// An installation goes on to its end if we are stopped meanwhile: it has a process group of its own.
async fn find(servers: &[Server]) -> Result<Vec<PathBuf>> {
    let names = servers.iter().map(|server| match server {
        Server::RabbitMq => "rabbitmq",
        Server::Postgres => "postgres",
        Server::Redis => "redis",
        Server::PgBouncer => "pgbouncer",
        Server::Chromium => "chromium",
    });
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", INSTALL, "install"]).args(names).current_dir("/");
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let output = shell.spawn().context("run install.sh")?.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    match output.status.code() {
        Some(0) => Ok(said.lines().map(PathBuf::from).collect()),
        Some(MISSING) => Err(Missing(said).into()),
        Some(_) | None => bail!("install.sh ended with {}: {said}", output.status),
    }
}

#[cfg(test)]
mod tests;
