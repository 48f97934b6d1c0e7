//! A node as it is from one start to the next: its name, ports and environment, and how it is launched.
//!
//! Invariant: [`Node::environment`] leaves nothing to what is configured on the machine.

use super::super::folder::Folder;
use super::super::installed::{self, RabbitMqPrograms};
use super::super::program::{Program, Signal};
use super::super::supervise::Supervised;
use super::super::{last_lines, percent_encoded, ports};
use super::settings::{self, GUEST, LOOPBACK};
use anyhow::{Context, Result, bail};
use lapin::{Connection, ConnectionProperties};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

/// How long the node may take to boot, on a slow and busy machine and with data to recover.
const READY_WAIT_MAX: Duration = Duration::from_secs(120);
/// How often a booting node's port is tried.
const READY_POLL: Duration = Duration::from_millis(25);
/// How long SIGKILL may take: the kernel frees the memory first.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);
/// How a node says that one of its ports is taken.
const PORT_TAKEN: [&str; 2] = ["eaddrinuse", "dist_port_already_used"];

/// Erlang's arguments beside RabbitMQ's own. Busy waiting is off: on two cores that broker, database and workers share, a
/// scheduler that spins for work takes the time of those that have some. Distribution listens on loopback alone.
const ERLANG_ARGUMENTS: &str = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
/// Variables that would make the node another one than we mean.
const INHERITED: [&str; 3] = ["RABBITMQ_", "ERL_", "NOTIFY_SOCKET"];

/// What stays the same when the node starts again.
#[derive(Debug)]
pub(super) struct Node {
    programs: RabbitMqPrograms,
    name: String,
    /// Of the whole cluster, which has its settings and its cookie in it.
    home: PathBuf,
    log: PathBuf,
    vhosts: Vec<String>,
    ports: Ports,
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
        let mut free = ports::free(2 * nodes + 1).context("find free ports for RabbitMQ")?;
        let epmd = free.remove(0);
        Ok(free.chunks(2).map(|pair| Ports { amqp: pair[0], distribution: pair[1], epmd }).collect())
    }
}

impl Node {
    /// A node that has not started yet; `home` has the [`settings`].
    pub(super) fn new(
        folder: &Folder,
        home: PathBuf,
        programs: RabbitMqPrograms,
        (number, ports): (usize, Ports),
        vhosts: Vec<String>,
    ) -> Node {
        let name = settings::node_name(number);
        let log =
            folder.path().join(format!("{}.log", name.replace("turnstile", "rabbitmq").replace("@localhost", "")));
        Node { programs, name, home, log, vhosts, ports }
    }

    /// As Erlang knows it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn url(&self, vhost: &str) -> String {
        self.url_as(GUEST, vhost)
    }

    fn url_as(&self, user: &str, vhost: &str) -> String {
        format!("amqp://{user}:{user}@{LOOPBACK}:{}/{}", self.ports.amqp, percent_encoded(vhost))
    }

    pub(super) fn rabbitmqctl(&self) -> Command {
        let mut command = Command::new(&self.programs.control);
        for name in installed::inherited_settings(&INHERITED) {
            command.env_remove(name);
        }
        command.envs(self.environment()).current_dir(&self.home);
        command
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let home = |name: &str| self.home.join(name).into_os_string();
        vec![
            // Where Erlang's cookie is.
            ("HOME", self.home.clone().into_os_string()),
            ("RABBITMQ_NODENAME", self.name.clone().into()),
            ("RABBITMQ_NODE_IP_ADDRESS", LOOPBACK.into()),
            ("RABBITMQ_NODE_PORT", self.ports.amqp.to_string().into()),
            ("RABBITMQ_DIST_PORT", self.ports.distribution.to_string().into()),
            ("ERL_EPMD_PORT", self.ports.epmd.to_string().into()),
            ("ERL_EPMD_ADDRESS", LOOPBACK.into()),
            ("ERL_CRASH_DUMP_SECONDS", "0".into()),
            // A try on other ports has other data: nodes of the one before may take a moment to die.
            ("RABBITMQ_MNESIA_BASE", home(&format!("data-{}", self.ports.epmd))),
            ("RABBITMQ_LOG_BASE", home("log")),
            // To standard output, which is our log file.
            ("RABBITMQ_LOGS", "-".into()),
            ("RABBITMQ_PID_FILE", home(&format!("{}.pid", self.name))),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", home("enabled_plugins")),
            ("RABBITMQ_CONFIG_FILE", home("rabbitmq.conf")),
            ("RABBITMQ_CONFIG_FILES", home("conf.d/*.conf")),
            // What may lie in /etc/rabbitmq is another broker's: these name files that are not there.
            ("RABBITMQ_CONF_ENV_FILE", home("no-environment.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", home("no-advanced.config")),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG_ARGUMENTS.into()),
            // The start script then becomes the Erlang machine instead of watching over it: that is done here.
            ("RUNNING_UNDER_SYSTEMD", "true".into()),
        ]
    }

    /// Launches the node and waits until it answers; `None` if one of its ports was taken.
    pub(super) async fn start(&self, folder: &Folder) -> Result<Option<Supervised>> {
        let mut server = self.launch(folder).await?;
        match self.await_ready(&mut server).await {
            Ok(()) => Ok(Some(server)),
            Err(error) if !self.found_a_port_taken() => Err(error),
            Err(_) => {
                server.kill().await?;
                Ok(None)
            }
        }
    }

    /// Forgets a try, whose words are not to be taken for the next one's.
    pub(super) fn forget(&self) {
        // Where it is not there, nothing was said.
        fs::remove_file(&self.log).ok();
    }

    fn found_a_port_taken(&self) -> bool {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        PORT_TAKEN.iter().any(|words| log.contains(words))
    }

    /// Erlang would start an epmd that outlives the node; it leaves that be where one answers already.
    /// `None` if its port was taken.
    pub(super) async fn start_epmd(&self, folder: &Folder) -> Result<Option<Supervised>> {
        let program = Program::new(&self.programs.epmd)
            .args(["-address", LOOPBACK, "-port"])
            .args([self.ports.epmd.to_string()])
            .folder(&self.home)
            .log(folder.path().join("epmd.log"))
            .stop(Signal::Kill, KILL_WAIT_MAX);
        let mut epmd = Supervised::spawn_holding(program, folder.hold()?).await?;
        let limit = Instant::now() + READY_WAIT_MAX;
        while TcpStream::connect((LOOPBACK, self.ports.epmd)).await.is_err() {
            if epmd.try_wait()?.is_some() {
                return Ok(None);
            }
            if Instant::now() > limit {
                bail!("epmd does not listen on port {} after {READY_WAIT_MAX:?}", self.ports.epmd);
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Ok(Some(epmd))
    }

    pub(super) async fn launch(&self, folder: &Folder) -> Result<Supervised> {
        let mut program =
            Program::new(&self.programs.server).folder(&self.home).log(&self.log).stop(Signal::Kill, KILL_WAIT_MAX);
        program = installed::inherited_settings(&INHERITED).into_iter().fold(program, Program::env_remove);
        program = self.environment().into_iter().fold(program, |program, (name, value)| program.env(name, value));
        Supervised::spawn_holding(program, folder.hold()?).await.context("start RabbitMQ")
    }

    /// Waits until the node answers, on every virtual host, or has ended.
    pub(super) async fn await_ready(&self, server: &mut Supervised) -> Result<()> {
        tokio::select! {
            status = server.wait() => {
                bail!("RabbitMQ ended while starting ({}); {}", status?, self.log_end());
            }
            answered = tokio::time::timeout(READY_WAIT_MAX, self.await_answers()) => match answered {
                Ok(Ok(())) => Ok(()),
                Ok(Err(refusal)) => Err(refusal.context(format!("RabbitMQ refuses a connection; {}", self.log_end()))),
                Err(_elapsed) => bail!("RabbitMQ does not answer after {READY_WAIT_MAX:?}; {}", self.log_end()),
            },
        }
    }

    /// The node opens its port when its definitions are imported. It is ours that answers, and not another stack's on a
    /// port that both found free, if it knows the user that only ours has.
    async fn await_answers(&self) -> Result<()> {
        while TcpStream::connect((LOOPBACK, self.ports.amqp)).await.is_err() {
            tokio::time::sleep(READY_POLL).await;
        }
        for vhost in &self.vhosts {
            let url = self.url_as(&settings::own_user(&self.home), vhost);
            let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
            connection.close(200, "ready".into()).await?;
        }
        Ok(())
    }

    /// The node names its version only in its log and to AMQP clients of another library.
    pub(super) fn version(&self) -> Result<String> {
        let log = fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        let said = log.split("Starting RabbitMQ ").nth(1).and_then(|rest| rest.split_whitespace().next());
        Ok(said.unwrap_or("unknown").to_owned())
    }

    fn log_end(&self) -> String {
        format!("its log ends with\n{}", last_lines(&self.log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devstack::rabbitmq::start_all;
    use std::net::TcpListener;

    /// Takes one of the ports for itself, as another program might between our look and the node's start.
    async fn starts_while_taken(port: fn(&Ports) -> u16) -> bool {
        let folder = Folder::create().unwrap();
        let vhosts = vec!["/".to_owned()];
        let home = settings::write(&folder, 1, &vhosts).unwrap();
        let ports = Ports::free(1).unwrap()[0];
        let node = Node::new(&folder, home, installed::rabbitmq().unwrap(), (0, ports), vhosts);
        let _taken = TcpListener::bind((LOOPBACK, port(&node.ports))).unwrap();
        start_all(&folder, &[node]).await.unwrap().is_some()
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
