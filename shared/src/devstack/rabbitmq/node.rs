//! The node as it is from one start to the next: its files, ports and environment, and how it is launched.
//!
//! Invariant: [`Node::environment`] leaves nothing to what is configured on the machine.

use super::super::folder::Folder;
use super::super::installed::{self, RabbitMqPrograms};
use super::super::program::{Program, Signal};
use super::super::supervise::Supervised;
use super::super::{last_lines, percent_encoded, ports};
use anyhow::{Context, Result, bail};
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

const RABBITMQ_CONF: &str = include_str!("../../../../rabbitmq/rabbitmq.conf");
const ENABLED_PLUGINS: &str = include_str!("../../../../rabbitmq/enabled_plugins");

/// What the private node has on top of `rabbitmq/rabbitmq.conf`, besides its definitions: a small disk is no reason to
/// hold the publishers of a demo back.
const PRIVATE_CONF: &str = "disk_free_limit.absolute = 50MB\n";
/// Where the node listens.
const LOOPBACK: &str = "127.0.0.1";
/// The user that clients connect as; the password is the same.
const GUEST: &str = "guest";
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
    home: PathBuf,
    log: PathBuf,
    vhosts: Vec<String>,
    ports: Ports,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    amqp: u16,
    distribution: u16,
    epmd: u16,
}

impl Ports {
    fn free() -> Result<Ports> {
        let [amqp, distribution, epmd] = ports::free().context("find free ports for RabbitMQ")?;
        Ok(Ports { amqp, distribution, epmd })
    }
}

impl Node {
    /// Writes the files of a node that has not started yet.
    pub(super) fn create(folder: &Folder, programs: RabbitMqPrograms, vhosts: Vec<String>) -> Result<Node> {
        let home = folder.subfolder("rabbitmq", None)?;
        let log = folder.path().join("rabbitmq.log");
        let node = Node { programs, home, log, vhosts, ports: Ports::free()? };
        node.write_settings()?;
        Ok(node)
    }

    pub(super) fn take_other_ports(&mut self) -> Result<()> {
        self.ports = Ports::free()?;
        Ok(())
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

    /// The files that the node reads when it boots.
    fn write_settings(&self) -> Result<()> {
        let home = &self.home;
        let definitions = home.join("definitions.json");
        let private = format!("{PRIVATE_CONF}load_definitions = {}\n", definitions.display());
        fs::write(home.join("enabled_plugins"), ENABLED_PLUGINS)
            .and_then(|()| fs::write(home.join("rabbitmq.conf"), RABBITMQ_CONF))
            .and_then(|()| fs::create_dir(home.join("conf.d")))
            .and_then(|()| fs::write(home.join("conf.d/private.conf"), private))
            .and_then(|()| {
                fs::write(&definitions, users_and_vhosts(&[GUEST, &self.own_user()], &self.vhosts).to_string())
            })
            .with_context(|| format!("write RabbitMQ's settings into {}", home.display()))
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let home = |name: &str| self.home.join(name).into_os_string();
        vec![
            // Erlang's cookie is made in the home folder.
            ("HOME", self.home.clone().into_os_string()),
            ("RABBITMQ_NODENAME", "turnstile@localhost".into()),
            ("RABBITMQ_NODE_IP_ADDRESS", LOOPBACK.into()),
            ("RABBITMQ_NODE_PORT", self.ports.amqp.to_string().into()),
            ("RABBITMQ_DIST_PORT", self.ports.distribution.to_string().into()),
            ("ERL_EPMD_PORT", self.ports.epmd.to_string().into()),
            ("ERL_EPMD_ADDRESS", LOOPBACK.into()),
            ("ERL_CRASH_DUMP_SECONDS", "0".into()),
            ("RABBITMQ_MNESIA_BASE", home("data")),
            ("RABBITMQ_LOG_BASE", home("log")),
            // To standard output, which is our log file.
            ("RABBITMQ_LOGS", "-".into()),
            ("RABBITMQ_PID_FILE", home("pid")),
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

    /// `None` if one of the ports was taken.
    pub(super) async fn start_epmd_and_server(&self, folder: &Folder) -> Result<Option<(Supervised, Supervised)>> {
        let Some(mut epmd) = self.start_epmd(folder).await? else { return Ok(None) };
        let mut server = self.launch(folder).await?;
        let outcome = tokio::select! {
            outcome = self.await_ready(&mut server) => Some(outcome),
            // It found its port taken. What answered there was another one, which may never say a sensible word.
            _ended = epmd.wait() => None,
        };
        match outcome {
            Some(Ok(())) => Ok(Some((epmd, server))),
            Some(Err(error)) if !self.found_a_port_taken() => Err(error),
            Some(Err(_)) | None => {
                server.kill().await?;
                // Not to be taken for the next try's words and data.
                fs::remove_file(&self.log).context("remove the log of a node whose port was taken")?;
                fs::remove_dir_all(self.home.join("data")).ok();
                Ok(None)
            }
        }
    }

    fn found_a_port_taken(&self) -> bool {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        PORT_TAKEN.iter().any(|words| log.contains(words))
    }

    /// Erlang would start an epmd that outlives the node; it leaves that be where one answers already.
    async fn start_epmd(&self, folder: &Folder) -> Result<Option<Supervised>> {
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
            let url = self.url_as(&self.own_user(), vhost);
            let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
            connection.close(200, "ready".into()).await?;
        }
        Ok(())
    }

    /// Named after the private folder, which is unique.
    fn own_user(&self) -> String {
        let folder = self.home.parent().and_then(|folder| folder.file_name()).unwrap_or_default();
        format!("owner-{}", folder.to_string_lossy())
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

/// A node that imports definitions creates neither `/` nor guest by itself. Each user's name is its password.
fn users_and_vhosts(users: &[&str], vhosts: &[String]) -> Value {
    let user = |name: &&str| json!({"name": name, "password": name, "tags": ["administrator"]});
    let all =
        |user: &str, vhost: &str| json!({"user": user, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"});
    let permissions = users.iter().flat_map(|user| vhosts.iter().map(|vhost| all(user, vhost)));
    json!({
        "users": users.iter().map(user).collect::<Value>(),
        "vhosts": vhosts.iter().map(|name| json!({"name": name})).collect::<Value>(),
        "permissions": permissions.collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Takes one of the ports for itself, as another program might between our look and the node's start.
    async fn starts_while_taken(port: fn(&Ports) -> u16) -> bool {
        let folder = Folder::create().unwrap();
        let node = Node::create(&folder, installed::rabbitmq().unwrap(), vec!["/".to_owned()]).unwrap();
        let _taken = TcpListener::bind((LOOPBACK, port(&node.ports))).unwrap();
        node.start_epmd_and_server(&folder).await.unwrap().is_some()
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
