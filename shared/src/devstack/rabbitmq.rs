//! A private RabbitMQ node on free loopback ports, with Erlang's name server (epmd) of its own.
//!
//! It is configured by the files in `rabbitmq/`, as any broker for this project is, and by a few lines of its own on top:
//! ports, and definitions that create the user guest and the virtual hosts at boot. Must never know: our exchanges and
//! queues. Invariant: a value of [`RabbitMq`] has answered an AMQP handshake on every virtual host since it last started.

mod node;

use super::folder::Folder;
use super::program::Signal;
use super::supervise::Supervised;
use super::{install, installed};
use anyhow::{Context, Result, bail};
use node::Node;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// The virtual host that every broker has.
const DEFAULT_VHOST: &str = "/";
/// How long an orderly stop may take.
const STOP_WAIT_MAX: Duration = Duration::from_secs(60);
/// Sets of ports tried, each a new chance that no other program took one between our look and the node's start.
const PORT_SETS_MAX: u32 = 5;

/// A running private node. Dropping it stops node and epmd in the background.
#[derive(Debug)]
pub struct RabbitMq {
    folder: Arc<Folder>,
    node: Node,
    server: Supervised,
    /// Outlives the server through restarts, and is dropped after it.
    epmd: Supervised,
    version: String,
}

impl RabbitMq {
    /// Starts a node in the folder, with these virtual hosts besides `/`. On each the user guest (password guest) may do
    /// everything.
    ///
    /// # Errors
    /// [`Missing`](install::Missing) if RabbitMQ is not installed; else what went wrong, with the end of the node's log.
    pub async fn start(folder: &Arc<Folder>, vhosts: &[&str]) -> Result<RabbitMq> {
        install::ensure(&[install::Server::RabbitMq]).await?;
        let programs = installed::rabbitmq().context("the programs were there a moment ago")?;
        let mut names = vec![DEFAULT_VHOST.to_owned()];
        names.extend(vhosts.iter().filter(|name| **name != DEFAULT_VHOST).map(|name| (*name).to_owned()));
        let mut node = Node::create(folder, programs, names)?;
        for _ in 0..PORT_SETS_MAX {
            if let Some((epmd, server)) = node.start_epmd_and_server(folder).await? {
                let version = node.version()?;
                return Ok(RabbitMq { folder: Arc::clone(folder), node, server, epmd, version });
            }
            node.take_other_ports()?;
        }
        bail!("{PORT_SETS_MAX} times another program took a port of RabbitMQ's that was free a moment before")
    }

    /// `amqp://…` of a virtual host.
    pub fn url(&self, vhost: &str) -> String {
        self.node.url(vhost)
    }

    /// The process id of the Erlang machine.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// As the node says it, `3.10.8`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Stops in an orderly way (connections are closed with a reason) and starts again on the same ports and data.
    ///
    /// # Errors
    /// It does not stop or does not start within its limit.
    pub async fn restart(&mut self) -> Result<()> {
        self.server.send(Signal::Terminate).context("ask RabbitMQ to stop")?;
        let stopped = tokio::time::timeout(STOP_WAIT_MAX, self.server.wait()).await;
        stopped.context("RabbitMQ did not stop in time")??;
        self.start_again().await
    }

    /// Kills the node at once, as a power cut would, and starts again on the same ports and data.
    ///
    /// # Errors
    /// It does not start within its limit.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.server.kill().await?;
        self.start_again().await
    }

    /// `rabbitmqctl`, set up for this node; add the arguments.
    pub fn rabbitmqctl(&self) -> Command {
        self.node.rabbitmqctl()
    }

    /// Stops the node and its epmd. The data has no future, so nothing is written out.
    ///
    /// # Errors
    /// One of them is still there when its limit has passed.
    pub async fn stop(mut self) -> Result<()> {
        self.server.stop().await?;
        self.epmd.stop().await?;
        Ok(())
    }

    async fn start_again(&mut self) -> Result<()> {
        self.server = self.node.launch(&self.folder).await?;
        self.node.await_ready(&mut self.server).await
    }
}
