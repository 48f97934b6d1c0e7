//! A private RabbitMQ on free loopback ports, one node or a cluster, with Erlang's name server (epmd) of its own.
//!
//! It is configured by the files in `rabbitmq/`, as any broker for this project is, and by a few lines of its own on top:
//! ports, and definitions that create the user guest and the virtual hosts at boot. Must never know: our exchanges and
//! queues. Invariant: each node of a [`RabbitMq`] has answered an AMQP handshake on every virtual host since it last
//! started, and the nodes of a cluster had all joined before [`RabbitMq::start_cluster`] returned.

mod node;
mod settings;

use super::folder::Folder;
use super::program::Signal;
use super::supervise::Supervised;
use super::{install, installed};
use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use node::{Node, Ports};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// The virtual host that every broker has.
const DEFAULT_VHOST: &str = "/";
/// How long an orderly stop may take.
const STOP_WAIT_MAX: Duration = Duration::from_secs(60);
/// Sets of ports tried, each a new chance that no other program took one between our look and the node's start.
const PORT_SETS_MAX: u32 = 5;

/// A running private broker. Dropping it stops its nodes and epmd in the background.
#[derive(Debug)]
pub struct RabbitMq {
    folder: Arc<Folder>,
    nodes: Vec<Running>,
    /// Outlives the nodes through restarts, and is dropped after them.
    epmd: Supervised,
    version: String,
}

/// A node, and its process.
#[derive(Debug)]
struct Running {
    node: Node,
    server: Supervised,
    killed: bool,
}

impl RabbitMq {
    /// Starts one node in the folder, with these virtual hosts besides `/`. On each the user guest (password guest) may do
    /// everything.
    ///
    /// # Errors
    /// [`Missing`](install::Missing) if RabbitMQ is not installed; else what went wrong, with the end of the node's log.
    pub async fn start(folder: &Arc<Folder>, vhosts: &[&str]) -> Result<RabbitMq> {
        RabbitMq::start_cluster(folder, vhosts, 1).await
    }

    /// The same with so many nodes, as one cluster.
    ///
    /// # Errors
    /// As [`RabbitMq::start`].
    pub async fn start_cluster(folder: &Arc<Folder>, vhosts: &[&str], nodes: usize) -> Result<RabbitMq> {
        install::ensure(&[install::Server::RabbitMq]).await?;
        let programs = installed::rabbitmq().context("the programs were there a moment ago")?;
        let mut names = vec![DEFAULT_VHOST.to_owned()];
        names.extend(vhosts.iter().filter(|name| **name != DEFAULT_VHOST).map(|name| (*name).to_owned()));
        let home = settings::write(folder, nodes, &names)?;
        for _ in 0..PORT_SETS_MAX {
            let ports = Ports::free(nodes)?.into_iter().enumerate();
            let nodes: Vec<Node> =
                ports.map(|ports| Node::new(folder, home.clone(), programs.clone(), ports, names.clone())).collect();
            if let Some((epmd, servers)) = start_all(folder, &nodes).await? {
                let version = nodes[0].version()?;
                let running = |(node, server)| Running { node, server, killed: false };
                let nodes = nodes.into_iter().zip(servers).map(running).collect();
                let started = RabbitMq { folder: Arc::clone(folder), nodes, epmd, version };
                started.check_joined().await?;
                return Ok(started);
            }
            nodes.iter().for_each(Node::forget);
        }
        bail!("{PORT_SETS_MAX} times another program took a port of RabbitMQ's that was free a moment before")
    }

    /// `amqp://…` of a virtual host; of a cluster, those of all its nodes, with commas between them.
    pub fn url(&self, vhost: &str) -> String {
        self.nodes.iter().map(|running| running.node.url(vhost)).collect::<Vec<_>>().join(",")
    }

    /// The process id of the first node's Erlang machine.
    pub fn pid(&self) -> u32 {
        self.nodes[0].server.pid()
    }

    /// The process ids of all nodes' Erlang machines.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|running| running.server.pid()).collect()
    }

    /// The names of the nodes, as Erlang knows them.
    pub fn node_names(&self) -> Vec<&str> {
        self.nodes.iter().map(|running| running.node.name()).collect()
    }

    /// As the node says it, `3.10.8`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Stops the first node in an orderly way (connections are closed with a reason) and starts it again on the same ports
    /// and data.
    ///
    /// # Errors
    /// It does not stop or does not start within its limit.
    pub async fn restart(&mut self) -> Result<()> {
        let first = &mut self.nodes[0];
        first.server.send(Signal::Terminate).context("ask RabbitMQ to stop")?;
        let stopped = tokio::time::timeout(STOP_WAIT_MAX, first.server.wait()).await;
        stopped.context("RabbitMQ did not stop in time")??;
        self.start_again().await
    }

    /// Kills the first node at once, as a power cut would, and starts it again on the same ports and data.
    ///
    /// # Errors
    /// It does not start within its limit.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.nodes[0].server.kill().await?;
        self.start_again().await
    }

    /// Kills the node of this name at once, for good.
    ///
    /// # Errors
    /// There is none, or it does not die.
    pub async fn kill_node(&mut self, name: &str) -> Result<()> {
        let named = self.nodes.iter_mut().find(|running| running.node.name() == name);
        let running = named.with_context(|| format!("there is no node {name}"))?;
        running.killed = true;
        running.server.kill().await?;
        Ok(())
    }

    /// The node that leads each quorum queue of a virtual host, by the queue's name.
    ///
    /// # Errors
    /// The broker does not say.
    pub async fn leaders(&self, vhost: &str) -> Result<HashMap<String, String>> {
        let arguments = ["--silent", "--vhost", vhost, "list_queues", "--no-table-headers", "name", "leader"];
        let listed = self.rabbitmqctl().args(arguments).output().await.context("ask RabbitMQ who leads the queues")?;
        if !listed.status.success() {
            bail!("RabbitMQ does not say who leads the queues: {}", String::from_utf8_lossy(&listed.stderr));
        }
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        Ok(pairs.map(|(queue, leader)| (queue.to_owned(), leader.trim_matches('\'').to_owned())).collect())
    }

    /// A node that does not reach the others while it boots would be a broker by itself.
    async fn check_joined(&self) -> Result<()> {
        if self.nodes.len() == 1 {
            return Ok(());
        }
        let asked = self.rabbitmqctl().args(["--silent", "cluster_status"]).output().await.context("ask RabbitMQ")?;
        let status = String::from_utf8_lossy(&asked.stdout).into_owned();
        match self.node_names().into_iter().find(|name| !status.contains(name)) {
            Some(name) => bail!("{name} did not join the cluster; RabbitMQ says\n{status}"),
            None => Ok(()),
        }
    }

    /// `rabbitmqctl`, set up for the first node that was not killed; add the arguments.
    pub fn rabbitmqctl(&self) -> Command {
        let alive = self.nodes.iter().find(|running| !running.killed);
        alive.unwrap_or(&self.nodes[0]).node.rabbitmqctl()
    }

    /// Stops the nodes and their epmd. The data has no future, so nothing is written out.
    ///
    /// # Errors
    /// One of them is still there when its limit has passed.
    pub async fn stop(mut self) -> Result<()> {
        try_join_all(self.nodes.iter_mut().map(|running| running.server.stop())).await?;
        self.epmd.stop().await?;
        Ok(())
    }

    async fn start_again(&mut self) -> Result<()> {
        let first = &mut self.nodes[0];
        first.server = first.node.launch(&self.folder).await?;
        first.node.await_ready(&mut first.server).await
    }
}

/// Starts epmd and the nodes; `None` if a port of one of them was taken.
async fn start_all(folder: &Folder, nodes: &[Node]) -> Result<Option<(Supervised, Vec<Supervised>)>> {
    let Some(mut epmd) = nodes[0].start_epmd(folder).await? else { return Ok(None) };
    let servers = tokio::select! {
        servers = start_nodes(folder, nodes) => servers?,
        // It found its port taken. What answered there was another one, which may never say a sensible word.
        _ended = epmd.wait() => None,
    };
    Ok(servers.map(|servers| (epmd, servers)))
}

/// The first node, then the others at once, which join it.
async fn start_nodes(folder: &Folder, nodes: &[Node]) -> Result<Option<Vec<Supervised>>> {
    let Some(first) = nodes[0].start(folder).await? else { return Ok(None) };
    let others = try_join_all(nodes[1..].iter().map(|node| node.start(folder))).await?;
    Ok(std::iter::once(Some(first)).chain(others).collect())
}
