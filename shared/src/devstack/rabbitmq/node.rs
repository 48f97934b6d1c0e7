//! A node as it is from one start to the next: its name, its ports, its environment, which leaves nothing to what is
//! configured on the machine.

use super::settings::{self, GUEST, LOOPBACK};
use crate::devstack::{
    Folder, Program, Signal, Supervised, folder,
    server::{Server, percent_encoded},
};
use anyhow::{Context, Result, bail};
use futures_util::future::{BoxFuture, try_join_all};
use lapin::{Connection, ConnectionProperties};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, process::Command};

/// How long epmd may take to listen.
const EPMD_WAIT_MAX: Duration = Duration::from_secs(120);
const EPMD_POLL: Duration = Duration::from_millis(10);
/// How long SIGKILL may take: the kernel frees the memory first.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);
/// How a node says that one of its ports is taken.
const PORT_TAKEN: [&str; 2] = ["eaddrinuse", "dist_port_already_used"];
/// Erlang's arguments beside RabbitMQ's own. Busy waiting is off: on two cores that broker, database and workers share, a
/// scheduler that spins for work takes the time of those that have some. Distribution listens on loopback alone.
const ERLANG_ARGUMENTS: &str = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
/// Variables that would make the node another one than we mean.
const INHERITED: [&str; 3] = ["RABBITMQ_", "ERL_", "NOTIFY_SOCKET"];

/// A node, running or killed.
#[derive(Debug)]
pub(super) struct Node {
    /// As Erlang knows it.
    pub(super) name: String,
    pub(super) server: Server,
    pub(super) killed: bool,
    amqp_port: u16,
    vhosts: Vec<String>,
    /// The user that only this stack knows.
    own_user: String,
    control: Program,
}

/// Where a node is to listen, and where it finds the name server of its cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    amqp: u16,
    distribution: u16,
    epmd: u16,
}

impl Ports {
    /// Of nodes that share a name server.
    pub(super) fn free(nodes: usize) -> Result<Vec<Ports>> {
        let mut free = folder::free_ports(2 * nodes + 1).context("find free ports for RabbitMQ")?;
        let epmd = free.remove(0);
        Ok(free.chunks(2).map(|pair| Ports { amqp: pair[0], distribution: pair[1], epmd }).collect())
    }
}

/// Starts epmd, the first node, then the others at once, which join it; `None` if a port of one of them was taken.
pub(super) async fn start_all(
    folder: &Arc<Folder>,
    home: &Path,
    [server, control, epmd]: &[PathBuf; 3],
    ports: &[Ports],
    vhosts: &[String],
) -> Result<Option<(Supervised, Vec<Node>)>> {
    let Some(mut epmd) = start_epmd(folder, home, epmd, ports[0].epmd).await? else { return Ok(None) };
    let start = |number: usize| Node::start(folder, home, [server, control], (number, ports[number]), vhosts);
    let nodes = async {
        let Some(first) = start(0).await? else { return Ok(None) };
        let others = try_join_all((1..ports.len()).map(start)).await?;
        Ok(std::iter::once(Some(first)).chain(others).collect::<Option<Vec<Node>>>())
    };
    let nodes = tokio::select! {
        nodes = nodes => nodes,
        // It found its port taken. What answered there was another one, which may never say a sensible word.
        _ended = epmd.wait() => Ok(None),
    };
    nodes.map(|nodes: Option<Vec<Node>>| nodes.map(|nodes| (epmd, nodes)))
}

/// Erlang would start an epmd that outlives the node; it leaves that be where one answers already. `None` if its port was
/// taken.
async fn start_epmd(folder: &Arc<Folder>, home: &Path, epmd: &Path, port: u16) -> Result<Option<Supervised>> {
    let program = Program::new(epmd)
        .args(["-address", LOOPBACK, "-port"])
        .args([port.to_string()])
        .folder(home)
        .log(folder.log("epmd"))
        .stop(Signal::Kill, KILL_WAIT_MAX);
    let mut epmd = folder.spawn(&program).await?;
    let limit = Instant::now() + EPMD_WAIT_MAX;
    while TcpStream::connect((LOOPBACK, port)).await.is_err() {
        if epmd.try_wait()?.is_some() {
            return Ok(None);
        }
        if Instant::now() > limit {
            bail!("epmd does not listen on port {port} after {EPMD_WAIT_MAX:?}");
        }
        tokio::time::sleep(EPMD_POLL).await;
    }
    Ok(Some(epmd))
}

impl Node {
    /// Launches the node and waits until it answers; `None` if one of its ports was taken.
    async fn start(
        folder: &Arc<Folder>,
        home: &Path,
        [server, control]: [&PathBuf; 2],
        (number, ports): (usize, Ports),
        vhosts: &[String],
    ) -> Result<Option<Node>> {
        let name = settings::node_name(number);
        let program = |path: &PathBuf| {
            let program = Program::new(path).folder(home).without_env(&INHERITED).stop(Signal::Kill, KILL_WAIT_MAX);
            environment(home, &name, ports).into_iter().fold(program, |program, (name, value)| program.env(name, value))
        };
        let log = folder.log(&name.replace("turnstile", "rabbitmq").replace("@localhost", ""));
        // What an earlier try on other ports wrote says nothing of this one.
        std::fs::remove_file(&log).ok();
        let server = Server::start(folder, "RabbitMQ", log, program(server)).await?;
        let mut node = Node {
            control: program(control),
            server,
            killed: false,
            amqp_port: ports.amqp,
            vhosts: vhosts.to_vec(),
            own_user: settings::own_user(home),
            name,
        };
        match node.ready().await {
            Ok(()) => Ok(Some(node)),
            Err(_) if PORT_TAKEN.iter().any(|words| node.server.log_text().contains(words)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn start_again(&mut self) -> Result<()> {
        self.server.start_again().await?;
        self.ready().await
    }

    /// The node opens its port when its definitions are imported. It is ours that answers, and not another stack's on a
    /// port that both found free, if it knows the user that only ours has.
    async fn ready(&mut self) -> Result<()> {
        let url = |vhost: &String| url(&self.own_user, self.amqp_port, vhost);
        let urls: Vec<String> = self.vhosts.iter().map(url).collect();
        let port = self.amqp_port;
        self.server.ready(|| answers(port, urls.clone())).await
    }

    pub(super) fn url(&self, vhost: &str) -> String {
        url(GUEST, self.amqp_port, vhost)
    }

    pub(super) fn rabbitmqctl(&self) -> Command {
        self.control.command()
    }

    /// The node names its version only in its log and to AMQP clients of another library.
    pub(super) fn version(&self) -> String {
        let log = self.server.log_text();
        let said = log.split("Starting RabbitMQ ").nth(1).and_then(|rest| rest.split_whitespace().next());
        said.unwrap_or("unknown").to_owned()
    }
}

fn answers(port: u16, urls: Vec<String>) -> BoxFuture<'static, Result<()>> {
    Box::pin(async move {
        drop(TcpStream::connect((LOOPBACK, port)).await?);
        for url in &urls {
            Connection::connect(url, ConnectionProperties::default()).await?.close(200, "ready".into()).await?;
        }
        Ok(())
    })
}

fn url(user: &str, port: u16, vhost: &str) -> String {
    format!("amqp://{user}:{user}@{LOOPBACK}:{port}/{}", percent_encoded(vhost))
}

fn environment(home: &Path, name: &str, ports: Ports) -> Vec<(&'static str, OsString)> {
    let at = |name: &str| home.join(name).into_os_string();
    vec![
        // Where Erlang's cookie is.
        ("HOME", home.as_os_str().to_owned()),
        ("RABBITMQ_NODENAME", name.into()),
        ("RABBITMQ_NODE_IP_ADDRESS", LOOPBACK.into()),
        ("RABBITMQ_NODE_PORT", ports.amqp.to_string().into()),
        ("RABBITMQ_DIST_PORT", ports.distribution.to_string().into()),
        ("ERL_EPMD_PORT", ports.epmd.to_string().into()),
        ("ERL_EPMD_ADDRESS", LOOPBACK.into()),
        ("ERL_CRASH_DUMP_SECONDS", "0".into()),
        // A try on other ports has other data: nodes of the one before may take a moment to die.
        ("RABBITMQ_MNESIA_BASE", at(&format!("data-{}", ports.epmd))),
        ("RABBITMQ_LOG_BASE", at("log")),
        // To standard output, which is our log file.
        ("RABBITMQ_LOGS", "-".into()),
        ("RABBITMQ_PID_FILE", at(&format!("{name}.pid"))),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
        ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
        ("RABBITMQ_CONFIG_FILES", at("conf.d/*.conf")),
        // What may lie in /etc/rabbitmq is another broker's: these name files that are not there.
        ("RABBITMQ_CONF_ENV_FILE", at("no-environment.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", at("no-advanced.config")),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG_ARGUMENTS.into()),
        // The start script then becomes the Erlang machine instead of watching over it: that is done here.
        ("RUNNING_UNDER_SYSTEMD", "true".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devstack::install::{Server::RabbitMq, programs};
    use std::net::TcpListener;

    /// Takes one of the ports for itself, as another program might between our look and the node's start.
    async fn starts_while_taken(port: fn(&Ports) -> u16) -> bool {
        let folder = Arc::new(Folder::create().unwrap());
        let vhosts = vec!["/".to_owned()];
        let home = settings::write(&folder, 1, &vhosts).unwrap();
        let ports = Ports::free(1).unwrap();
        let _taken = TcpListener::bind((LOOPBACK, port(&ports[0]))).unwrap();
        let programs = programs(RabbitMq).await.unwrap();
        start_all(&folder, &home, &programs, &ports, &vhosts).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn a_port_that_was_taken_meanwhile_is_recognised() {
        let started = tokio::join!(
            starts_while_taken(|ports| ports.amqp),
            starts_while_taken(|ports| ports.distribution),
            starts_while_taken(|ports| ports.epmd),
        );
        assert_eq!(started, (false, false, false));
    }
}
