//! What to do about server programs that are missing.
//!
//! Installs them where that is safe: on Debian or Ubuntu, as root. Anywhere else it says the one line that a person runs.
//! The decision is pure. Must never know: how packages are installed, how a server is started.

use super::{apt, installed};
use anyhow::{Context, Result};
use nix::unistd::Uid;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use thiserror::Error;

/// One of the servers that a stack needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Chromium: no server, but found and installed as they are; tests look at pages with it.
    Chromium,
    /// RabbitMQ, and the Erlang that runs it.
    RabbitMq,
    /// PostgreSQL.
    Postgres,
    /// Redis, or Valkey, which is what became of it at some distributions: either will do.
    Redis,
}

/// Where packages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Debian,
    Fedora,
    Homebrew,
    Other,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Everything is there.
    Start,
    /// These Debian packages.
    Install(Vec<&'static str>),
    /// A person has to.
    Tell(Missing),
}

/// Servers are not installed, and we may not install them or could not. Exit with 69.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct Missing {
    servers: Vec<Server>,
    system: System,
}

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.servers == [Server::Chromium] {
            return write!(out, "Chromium is not installed. Run\n  {}", self.command());
        }
        let names: Vec<&str> = self.servers.iter().map(|server| server.name()).collect();
        let are = if names.len() == 1 { "is" } else { "are" };
        write!(out, "{} {are} not installed. Either run\n  {}\n", names.join(" and "), self.command())?;
        let urls = if self.servers.contains(&Server::Redis) {
            "AMQP_URL, DATABASE_URL and REDIS_URL"
        } else {
            "AMQP_URL and DATABASE_URL"
        };
        write!(out, "or set {urls} to servers that run already.")
    }
}

impl Missing {
    /// The one line to run.
    pub fn command(&self) -> String {
        let packages = |names: fn(Server) -> &'static str| {
            self.servers.iter().map(|server| names(*server)).collect::<Vec<_>>().join(" ")
        };
        match self.system {
            System::Debian => {
                format!("sudo apt-get install --no-install-recommends {}", packages(Server::debian_package))
            }
            System::Fedora => format!("sudo dnf install {}", packages(Server::fedora_package)),
            System::Homebrew => format!("brew install {}", packages(Server::homebrew_formula)),
            System::Other => {
                format!("your package manager for {}, with their programs in PATH", packages(Server::name))
            }
        }
    }
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Server::Chromium => "Chromium",
            Server::RabbitMq => "RabbitMQ",
            Server::Postgres => "PostgreSQL",
            Server::Redis => "Redis",
        }
    }

    fn debian_package(self) -> &'static str {
        match self {
            Server::Chromium => "chromium",
            Server::RabbitMq => "rabbitmq-server",
            Server::Postgres => "postgresql",
            Server::Redis => "redis-server",
        }
    }

    fn fedora_package(self) -> &'static str {
        match self {
            Server::Chromium => "chromium",
            Server::RabbitMq => "rabbitmq-server",
            Server::Postgres => "postgresql-server",
            Server::Redis => "valkey",
        }
    }

    fn homebrew_formula(self) -> &'static str {
        match self {
            Server::Chromium => "chromium",
            Server::RabbitMq => "rabbitmq",
            Server::Postgres => "postgresql@17",
            Server::Redis => "redis",
        }
    }

    fn is_installed(self) -> bool {
        match self {
            Server::Chromium => installed::chromium().is_some(),
            Server::RabbitMq => installed::rabbitmq().is_some(),
            Server::Postgres => installed::postgres().is_some(),
            Server::Redis => installed::redis().is_some(),
        }
    }
}

/// Sees to it that Chromium is there, and says where.
///
/// # Errors
/// As [`ensure`].
pub async fn chromium() -> Result<PathBuf> {
    ensure(&[Server::Chromium]).await?;
    installed::chromium().context("Chromium was there a moment ago")
}

/// Sees to it that the servers' programs are there.
///
/// # Errors
/// [`Missing`], where a person has to act; if we tried, its context says how that went.
pub async fn ensure(servers: &[Server]) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system(&release, installed::in_path);
    let missing = || servers.iter().copied().filter(|server| !server.is_installed()).collect::<Vec<_>>();
    let packages = match decide(missing(), system, Uid::effective().is_root()) {
        Step::Start => return Ok(()),
        Step::Tell(missing) => return Err(missing.into()),
        Step::Install(packages) => packages,
    };
    let tried = apt::install(&packages, || missing().is_empty()).await;
    let servers = missing();
    if servers.is_empty() {
        return Ok(());
    }
    let why = tried.err().map_or("apt-get put the programs where we do not look".to_owned(), |why| format!("{why:#}"));
    Err(anyhow::Error::new(Missing { servers, system }).context(why))
}

fn decide(missing: Vec<Server>, system: System, root: bool) -> Step {
    if missing.is_empty() {
        Step::Start
    } else if system == System::Debian && root {
        Step::Install(missing.into_iter().map(Server::debian_package).collect())
    } else {
        Step::Tell(Missing { servers: missing, system })
    }
}

/// The system by its os-release file; where that does not tell, by its package program.
fn system(os_release: &str, in_path: impl Fn(&str) -> bool) -> System {
    let values = os_release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    let ids: Vec<&str> = values.flat_map(|value| value.trim_matches(['"', '\'']).split_whitespace()).collect();
    let is = |names: &[&str]| ids.iter().any(|id| names.contains(id));
    if is(&["debian", "ubuntu"]) && in_path("apt-get") {
        System::Debian
    } else if is(&["fedora", "rhel", "centos"]) && in_path("dnf") {
        System::Fedora
    } else if in_path("brew") {
        System::Homebrew
    } else {
        System::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Server; 2] = [Server::RabbitMq, Server::Postgres];

    #[test]
    fn nothing_missing_is_a_start_anywhere() {
        for system in [System::Debian, System::Fedora, System::Homebrew, System::Other] {
            assert_eq!(decide(vec![], system, true), Step::Start);
        }
    }

    #[test]
    fn only_root_on_debian_installs_and_only_what_is_missing() {
        let both = Step::Install(vec!["rabbitmq-server", "postgresql"]);
        assert_eq!(decide(BOTH.to_vec(), System::Debian, true), both);
        assert_eq!(decide(vec![Server::Postgres], System::Debian, true), Step::Install(vec!["postgresql"]));
        for (system, root) in [(System::Debian, false), (System::Fedora, true), (System::Homebrew, false)] {
            let told = Step::Tell(Missing { servers: BOTH.to_vec(), system });
            assert_eq!(decide(BOTH.to_vec(), system, root), told);
        }
    }

    #[test]
    fn a_person_is_told_the_one_line_to_run() {
        let line = |system, servers: &[Server]| Missing { servers: servers.to_vec(), system }.command();
        let debian = "sudo apt-get install --no-install-recommends rabbitmq-server postgresql";
        assert_eq!(line(System::Debian, &BOTH), debian);
        assert_eq!(line(System::Fedora, &BOTH), "sudo dnf install rabbitmq-server postgresql-server");
        assert_eq!(line(System::Homebrew, &[Server::Postgres]), "brew install postgresql@17");
        let text = Missing { servers: BOTH.to_vec(), system: System::Debian }.to_string();
        assert!(text.starts_with("RabbitMQ and PostgreSQL are not installed."), "{text}");
        assert!(text.contains(debian) && text.contains("AMQP_URL") && !text.contains("REDIS_URL"), "{text}");
        assert_eq!(line(System::Fedora, &[Server::Redis]), "sudo dnf install valkey");
        let text = Missing { servers: vec![Server::Redis], system: System::Homebrew }.to_string();
        assert!(text.starts_with("Redis is not installed.") && text.contains("REDIS_URL"), "{text}");
    }

    #[test]
    fn a_missing_browser_is_no_server_that_could_run_elsewhere() {
        let missing = Missing { servers: vec![Server::Chromium], system: System::Debian };
        let text = missing.to_string();
        assert!(text.contains("sudo apt-get install --no-install-recommends chromium"), "{text}");
        assert!(!text.contains("AMQP_URL"), "{text}");
    }

    #[test]
    fn a_system_is_known_by_its_release_and_its_package_program() {
        let has = |program: &'static str| move |name: &str| name == program;
        assert_eq!(system("ID=debian\n", has("apt-get")), System::Debian);
        assert_eq!(system("NAME=Mint\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", has("apt-get")), System::Debian);
        assert_eq!(system("ID=rocky\nID_LIKE=\"rhel centos fedora\"\n", has("dnf")), System::Fedora);
        assert_eq!(system("", has("brew")), System::Homebrew);
        assert_eq!(system("ID=debian\n", has("nothing")), System::Other);
        assert_eq!(system("ID=arch\n", has("pacman")), System::Other);
    }
}
