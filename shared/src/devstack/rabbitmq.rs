//! A private RabbitMQ on free loopback ports, one node or a cluster, with Erlang's name server (epmd) of its own.
//!
//! It is configured by the files in `rabbitmq/`, as any broker for this project is, and by a few lines of its own on top:
//! ports, and definitions that create the user guest and the virtual hosts at boot.

mod node;
mod settings;

use super::{
    Folder, Signal, Supervised,
    install::{self, programs},
};
use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use node::{Node, Ports};
use std::{collections::HashMap, sync::Arc};
use tokio::process::Command;

/// The virtual host that every broker has.
const DEFAULT_VHOST: &str = "/";
/// Sets of ports tried, each a new chance that no other program took one between our look and the node's start.
const PORT_SETS_MAX: u32 = 5;

/// A running private broker. Dropping it stops its nodes and epmd in the background.
#[derive(Debug)]
pub struct RabbitMq {
    nodes: Vec<Node>,
    /// Outlives the nodes through restarts, and is dropped after them.
    epmd: Supervised,
    version: String,
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
        let programs = programs(install::Server::RabbitMq).await?;
        let mut names = vec![DEFAULT_VHOST.to_owned()];
        names.extend(vhosts.iter().filter(|name| **name != DEFAULT_VHOST).map(|name| (*name).to_owned()));
        let home = settings::write(folder, nodes, &names)?;
        for _ in 0..PORT_SETS_MAX {
            let ports = Ports::free(nodes)?;
            if let Some((epmd, nodes)) = node::start_all(folder, &home, &programs, &ports, &names).await? {
                let version = nodes[0].version();
                let started = RabbitMq { nodes, epmd, version };
                started.check_joined().await?;
                return Ok(started);
            }
        }
        bail!("{PORT_SETS_MAX} times another program took a port of RabbitMQ's that was free a moment before")
    }

    /// `amqp://…` of a virtual host; of a cluster, those of all its nodes, with commas between them.
    pub fn url(&self, vhost: &str) -> String {
        self.nodes.iter().map(|node| node.url(vhost)).collect::<Vec<_>>().join(",")
    }

    /// The process id of the first node's Erlang machine.
    pub fn pid(&self) -> u32 {
        self.nodes[0].server.pid()
    }

    /// The process ids of all nodes' Erlang machines.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.server.pid()).collect()
    }

    /// The names of the nodes, as Erlang knows them.
    pub fn node_names(&self) -> Vec<&str> {
        self.nodes.iter().map(|node| node.name.as_str()).collect()
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
        self.nodes[0].server.end(Signal::Terminate).await?;
        self.nodes[0].start_again().await
    }

    /// Kills the first node at once, as a power cut would, and starts it again on the same ports and data.
    ///
    /// # Errors
    /// It does not start within its limit.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.nodes[0].server.kill().await?;
        self.nodes[0].start_again().await
    }

    /// Kills the node of this name at once, for good.
    ///
    /// # Errors
    /// There is none, or it does not die.
    pub async fn kill_node(&mut self, name: &str) -> Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        let node = node.with_context(|| format!("there is no node {name}"))?;
        node.killed = true;
        node.server.kill().await.map(|_status| ())
    }

    /// The node that leads each quorum queue of a virtual host, by the queue's name.
    ///
    /// # Errors
    /// The broker does not say.
    pub async fn leaders(&self, vhost: &str) -> Result<HashMap<String, String>> {
        let listed = self.ask(&["--vhost", vhost, "list_queues", "--no-table-headers", "name", "leader"]).await?;
        let pairs = listed.lines().filter_map(|line| line.split_once('\t'));
        Ok(pairs.map(|(queue, leader)| (queue.to_owned(), leader.trim_matches('\'').to_owned())).collect())
    }

    /// `rabbitmqctl`, set up for the first node that was not killed; add the arguments.
    pub fn rabbitmqctl(&self) -> Command {
        let alive = self.nodes.iter().find(|node| !node.killed);
        alive.unwrap_or(&self.nodes[0]).rabbitmqctl()
    }

    /// Stops the nodes and their epmd.
    ///
    /// # Errors
    /// One of them is still there when its limit has passed.
    pub async fn stop(mut self) -> Result<()> {
        try_join_all(self.nodes.iter_mut().map(|node| node.server.stop())).await?;
        self.epmd.stop().await.map(|_status| ())
    }

    /// A node that does not reach the others while it boots would be a broker by itself.
    async fn check_joined(&self) -> Result<()> {
        if self.nodes.len() == 1 {
            return Ok(());
        }
        let status = self.ask(&["cluster_status"]).await?;
        match self.node_names().into_iter().find(|name| !status.contains(name)) {
            Some(name) => bail!("{name} did not join the cluster; RabbitMQ says\n{status}"),
            None => Ok(()),
        }
    }

    async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let asked = self.rabbitmqctl().arg("--silent").args(arguments).output().await.context("run rabbitmqctl")?;
        if !asked.status.success() {
            bail!("rabbitmqctl {} fails: {}", arguments.join(" "), String::from_utf8_lossy(&asked.stderr));
        }
        Ok(String::from_utf8_lossy(&asked.stdout).into_owned())
    }
}
