//! A private RabbitMQ on free loopback ports, one node or a cluster, with Erlang's name server (epmd) of its own.
//!
//! It is configured by the files in `rabbitmq/`, as any broker for this project is, and by a few lines of its own on top:
//! ports, and definitions that create the users and the virtual hosts at boot.

mod settings;

use super::install::{self, programs};
use super::process::remove_env;
use super::server::{PortTaken, Server, percent_encoded};
use super::{Folder, Program, Signal, folder, kept};
use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use settings::{users_and_vhosts, write_settings};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// Who may do everything; the password is the same.
const GUEST: &str = "guest";
const LOOPBACK: &str = "127.0.0.1";
/// Sets of ports tried: another program may take one between our look and the node's start.
const PORT_SETS_MAX: u32 = 3;
/// How long SIGKILL may take: the kernel frees the memory first.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);
/// Erlang's arguments beside RabbitMQ's own. Busy waiting is off: on two cores that broker, database and workers share, a
/// scheduler that spins for work takes the time of those that have some. Distribution listens on loopback alone.
const ERLANG_ARGUMENTS: &str = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
/// The modules of what a node starts anyway, loaded at once. It would look for each in a hundred folders and take it in alone, for
/// half of the processor time of its start. It starts by an argument of Erlang's, and those in this variable come first; also in the
/// machine that RabbitMQ's script has look for epmd before, which needs none of it.
const LOAD_FIRST: (&str, &str) = (
    "ERL_AFLAGS",
    r#"-eval 'lists:prefix("epmd",atom_to_list(node())) orelse code:ensure_modules_loaded([list_to_atom(filename:basename(File,".beam"))||
    Name<-[kernel,stdlib,sasl,compiler,inets,mnesia,os_mon,public_key,ssl,syntax_tools,tools,xmerl,cuttlefish,jsx,
    observer_cli,osiris,ra,rabbit,rabbit_common,rabbitmq_prelaunch,ranch],
    Folder<-[code:lib_dir(Name)],is_list(Folder),File<-filelib:wildcard(Folder++"/ebin/*.beam")]).'"#,
);
/// Variables that would make the node another one than we mean.
const INHERITED: [&str; 3] = ["RABBITMQ_", "ERL_", "NOTIFY_SOCKET"];

/// The URLs of a private broker for another user, one of `rabbitmq/users.json`.
pub fn as_user(urls: &str, user: &str) -> String {
    urls.replace(&format!("//{GUEST}:{GUEST}@"), &format!("//{user}:{user}@"))
}

/// A running private broker. Dropping it stops its nodes and epmd in the background.
#[derive(Debug)]
pub struct RabbitMq {
    nodes: Vec<Node>,
    killed: Vec<Node>,
    /// Outlives the nodes through restarts, and is dropped after them.
    epmd: Server,
    control: PathBuf,
    home: PathBuf,
}

#[derive(Debug)]
struct Node {
    /// As Erlang knows it.
    name: String,
    server: Server,
    /// What stands in its URLs before and behind a virtual host.
    url: [String; 2],
    environment: Vec<(&'static str, OsString)>,
}

impl RabbitMq {
    /// Starts so many nodes in the folder, as one cluster, with these virtual hosts besides `/`, and the users of `rabbitmq/users.json` and
    /// guest on each. [`Missing`](install::Missing) if RabbitMQ is not installed.
    pub async fn start(folder: &Arc<Folder>, vhosts: &[&str], nodes: usize) -> Result<RabbitMq> {
        let programs = programs(install::Server::RabbitMq).await?;
        let home = folder.subfolder("rabbitmq", None)?;
        write_settings(&home, nodes, vhosts)
            .with_context(|| format!("write RabbitMQ's settings into {}", home.display()))?;
        folder.authority().map(|authority| authority.certify(&home, None)).transpose()?;
        let mut tries = 1;
        loop {
            match RabbitMq::start_on(&folder::free_ports(1 + 2 * nodes)?, folder, &home, &programs).await {
                Err(error) if tries < PORT_SETS_MAX && error.is::<PortTaken>() => {
                    tracing::debug!(%error, "trying other ports")
                }
                started => return started,
            }
            tries += 1;
        }
    }

    /// Starts epmd, the first node, then the others at once, which join it.
    async fn start_on(
        ports: &[u16],
        folder: &Arc<Folder>,
        home: &Path,
        [server, control, epmd]: &[PathBuf; 3],
    ) -> Result<RabbitMq> {
        // Erlang would start an epmd that outlives the node; it leaves that be where one answers already.
        let program = Program::new(epmd)
            .args(["-d", "-d", "-address", LOOPBACK, "-port", &ports[0].to_string()])
            .folder(home)
            .stop(Signal::SIGKILL, KILL_WAIT_MAX);
        let epmd = Server::start(folder, "epmd", "epmd", "entering the main select() loop", program).await?;
        let pairs: Vec<&[u16]> = ports[1..].chunks(2).collect();
        let start =
            |number: usize| Node::start(number, [ports[0], pairs[number][0], pairs[number][1]], folder, home, server);
        let mut nodes = vec![start(0).await?];
        nodes.extend(try_join_all((1..pairs.len()).map(start)).await?);
        let started = RabbitMq { nodes, killed: Vec::new(), epmd, control: control.clone(), home: home.to_owned() };
        // A node that does not reach the others while it boots would be a broker by itself.
        if started.nodes.len() > 1 {
            let status = started.ask(&["cluster_status"]).await?;
            if let Some(name) = started.node_names().into_iter().find(|name| !status.contains(name)) {
                bail!("{name} did not join the cluster; RabbitMQ says\n{status}");
            }
        }
        Ok(started)
    }

    /// `amqp://…` of a virtual host; of a cluster, those of all its nodes, with commas between them.
    pub fn url(&self, vhost: &str) -> String {
        let vhost = percent_encoded(vhost);
        let url = |Node { url: [before, behind], .. }: &Node| format!("{before}/{vhost}{behind}");
        self.nodes.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// The process id of the first node's Erlang machine.
    pub fn pid(&self) -> u32 {
        self.nodes[0].server.pid()
    }

    /// Those of all nodes.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.server.pid()).collect()
    }

    pub fn node_names(&self) -> Vec<&str> {
        self.nodes.iter().map(|node| node.name.as_str()).collect()
    }

    /// Stops the first node in an orderly way (connections are closed with a reason) and starts it again on the same ports
    /// and data.
    pub async fn restart(&mut self) -> Result<()> {
        self.nodes[0].server.restart_by(Signal::SIGTERM).await
    }

    /// Kills the first node at once, as a power cut would, and starts it again on the same ports and data.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.nodes[0].server.kill_and_restart().await
    }

    /// Kills the node of this name at once, until [`RabbitMq::start_killed`].
    pub async fn kill_node(&mut self, name: &str) -> Result<()> {
        let place = self.nodes.iter().position(|node| node.name == name);
        let place = place.with_context(|| format!("there is no node {name}"))?;
        let mut node = self.nodes.remove(place);
        node.server.kill().await?;
        self.killed.push(node);
        Ok(())
    }

    /// Starts the nodes again that were killed, on the same ports and data.
    pub async fn start_killed(&mut self) -> Result<()> {
        while let Some(mut node) = self.killed.pop() {
            node.server.start_again().await?;
            self.nodes.push(node);
        }
        Ok(())
    }

    /// Makes virtual hosts on which the users may do what they may on the others.
    pub async fn add_vhosts(&self, names: &[String]) -> Result<()> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // By a file: Erlang/OTP 29 does not read definitions from a pipe.
        let file = self.home.join(format!("{}.json", uuid::Uuid::now_v7()));
        fs::write(&file, users_and_vhosts(&names).to_string())?;
        self.ask(&["import_definitions", &file.to_string_lossy()]).await?;
        Ok(())
    }

    /// Removes virtual hosts, of names without quotation marks, and all that is in them.
    pub async fn delete_vhosts(&self, names: &[String]) -> Result<()> {
        let names: Vec<String> = names.iter().map(|name| format!("<<\"{name}\">>")).collect();
        let delete = format!("[catch rabbit_vhost:delete(Name, <<\"turnstile\">>) || Name <- [{}]].", names.join(", "));
        self.ask(&["eval", &delete]).await.map(drop)
    }

    /// The node that leads each quorum queue of a virtual host, by the queue's name.
    pub async fn leaders(&self, vhost: &str) -> Result<HashMap<String, String>> {
        let listed = self.ask(&["--vhost", vhost, "list_queues", "--no-table-headers", "name", "leader"]).await?;
        let pairs = listed.lines().filter_map(|line| line.split_once('\t'));
        Ok(pairs.map(|(queue, leader)| (queue.to_owned(), leader.trim_matches('\'').to_owned())).collect())
    }

    /// `rabbitmqctl`, set up for the first node that was not killed; add the arguments.
    pub fn rabbitmqctl(&self) -> Command {
        let mut control = Command::new(&self.control);
        remove_env(&mut control, &INHERITED);
        control.envs(self.nodes[0].environment.iter().map(|(name, value)| (name, value))).current_dir("/");
        control
    }

    /// The first node believes for so long that it is short of memory, and takes nothing in. Ended by the node itself.
    pub async fn memory_alarm(&self, lasting: Duration) -> Result<()> {
        let set = |share: &str| format!("vm_memory_monitor:set_vm_memory_high_watermark({share})");
        let (on, off, ms) = (set("0.0"), set("0.4"), lasting.as_millis());
        self.ask(&["eval", &format!("{on}, timer:sleep({ms}), {off}.")]).await.map(drop)
    }

    pub async fn stop(mut self) -> Result<()> {
        try_join_all(self.nodes.iter_mut().map(|node| node.server.stop())).await?;
        self.epmd.stop().await
    }

    async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let asked = self.rabbitmqctl().arg("--silent").args(arguments).output().await.context("run rabbitmqctl")?;
        if !asked.status.success() {
            bail!("rabbitmqctl {} fails: {}", arguments.join(" "), String::from_utf8_lossy(&asked.stderr));
        }
        Ok(String::from_utf8_lossy(&asked.stdout).into_owned())
    }
}

impl Node {
    async fn start(
        number: usize,
        [epmd_port, amqp_port, distribution_port]: [u16; 3],
        folder: &Arc<Folder>,
        home: &Path,
        program: &Path,
    ) -> Result<Node> {
        let name = node_name(number);
        // A try on other ports has other data, unless they are kept: nodes of the one before may take a moment to die.
        let data = folder.data(kept::RABBITMQ, home.join(format!("data-{epmd_port}")));
        let environment = environment(home, &data, &name, [epmd_port, amqp_port, distribution_port]);
        let address = format!("://{GUEST}:{GUEST}@{LOOPBACK}:{amqp_port}");
        let mut url = [format!("amqp{address}"), String::new()];
        if let Some(authority) = folder.authority() {
            let file = percent_encoded(&authority.file().to_string_lossy());
            url = [format!("amqps{address}"), format!("?cacertfile={file}")];
            fs::write(home.join(format!("conf.d/{name}.conf")), authority.rabbitmq_settings(home, amqp_port))?;
        }
        let program = Program::new(program).folder(home).without_env(&INHERITED).stop(Signal::SIGKILL, KILL_WAIT_MAX);
        let program = environment.iter().fold(program, |program, (name, value)| program.env(name, value));
        let program = program.env(LOAD_FIRST.0, LOAD_FIRST.1);
        let log = name.replace("turnstile", "rabbitmq").replace("@localhost", "");
        let server = Server::start(folder, "RabbitMQ", &log, "Server startup complete", program).await?;
        Ok(Node { name, server, url, environment })
    }
}

fn node_name(number: usize) -> String {
    if number == 0 { "turnstile@localhost".to_owned() } else { format!("turnstile-{}@localhost", number + 1) }
}

/// It leaves nothing to what is configured on the machine.
fn environment(
    home: &Path,
    data: &Path,
    name: &str,
    [epmd, amqp, distribution]: [u16; 3],
) -> Vec<(&'static str, OsString)> {
    let at = |name: &str| home.join(name).into_os_string();
    vec![
        // Where Erlang's cookie is.
        ("HOME", home.as_os_str().to_owned()),
        ("RABBITMQ_NODENAME", name.into()),
        ("RABBITMQ_NODE_IP_ADDRESS", LOOPBACK.into()),
        ("RABBITMQ_NODE_PORT", amqp.to_string().into()),
        ("RABBITMQ_DIST_PORT", distribution.to_string().into()),
        ("ERL_EPMD_PORT", epmd.to_string().into()),
        ("ERL_EPMD_ADDRESS", LOOPBACK.into()),
        ("ERL_CRASH_DUMP_SECONDS", "0".into()),
        ("RABBITMQ_MNESIA_BASE", data.as_os_str().to_owned()),
        ("RABBITMQ_LOG_BASE", at("log")),
        // To standard output, which is our log file.
        ("RABBITMQ_LOGS", "-".into()),
        ("RABBITMQ_PID_FILE", at(&format!("{name}.pid"))),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
        ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
        ("RABBITMQ_CONFIG_FILES", at(&format!("conf.d/{{private,{name}}}.conf"))),
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
    use std::net::TcpListener;

    /// Takes one of the ports for itself, as another program might between our look and the node's start.
    async fn is_recognised(place: usize) -> bool {
        let folder = Arc::new(Folder::create().unwrap());
        let home = folder.subfolder("rabbitmq", None).unwrap();
        write_settings(&home, 1, &[]).unwrap();
        let ports = folder::free_ports(3).unwrap();
        let _taken = TcpListener::bind((LOOPBACK, ports[place])).unwrap();
        let programs = programs(install::Server::RabbitMq).await.unwrap();
        RabbitMq::start_on(&ports, &folder, &home, &programs).await.unwrap_err().is::<PortTaken>()
    }

    #[tokio::test]
    async fn a_port_that_was_taken_meanwhile_is_recognised() {
        let recognised = tokio::join!(is_recognised(0), is_recognised(1), is_recognised(2));
        assert_eq!(recognised, (true, true, true));
    }
}
