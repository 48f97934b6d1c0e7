//! `install.sh` on a machine that is a folder: its programs, its policy for services, its release.

use super::*;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

const DEBIAN: &str = "ID=debian\n";
const APT: &str = "apt-get -q -y -o DPkg::Lock::Timeout=300";
/// What the script uses of a system.
const TOOLS: [&str; 13] =
    ["sh", "sort", "sed", "tr", "head", "tail", "grep", "rm", "mv", "chmod", "mktemp", "touch", "cp"];

struct Machine(PathBuf);

impl Machine {
    /// With these package programs; root, unless said otherwise.
    fn new(os_release: &str, programs: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("turnstile-machine-{}", uuid::Uuid::now_v7().simple()));
        fs::create_dir(&folder).unwrap();
        let machine = Self(folder);
        for tool in TOOLS {
            let folders = ["/usr/bin", "/bin"].map(|folder| PathBuf::from(folder).join(tool));
            let found = folders.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("there is no {tool}"));
            symlink(found, machine.path(tool)).unwrap();
        }
        fs::write(machine.path("os-release"), os_release).unwrap();
        for program in programs {
            machine.program(program, "");
        }
        machine.program("id", "echo 0");
        machine.program("flock", "");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A program that says how it was called, in `said`, and does this.
    fn program(&self, name: &str, does: &str) {
        let said = if ["id", "flock"].contains(&name) {
            String::new()
        } else {
            format!("echo {name} $* >>{}\n", self.path("said").display())
        };
        assert!(!self.path(name).is_symlink(), "it would be written where the link leads");
        fs::write(self.path(name), format!("#!/bin/sh\n{said}{does}\n")).unwrap();
        fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// `apt-get install` puts the program there.
    fn apt_get_brings(&self, program: &str, before: &str) {
        let does = format!(
            "case \"$*\" in *install*) {before}\ncp {} {};; esac",
            self.path("id").display(),
            self.path(program).display()
        );
        self.program("apt-get", &does);
    }

    async fn asks_for(&self, names: &[&str]) -> (Option<i32>, String) {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", INSTALL, "install"]).args(names).env_clear().env("PATH", &self.0);
        for (variable, file) in [("OS_RELEASE", "os-release"), ("INSTALL_LOCK", "lock"), ("POLICY", "policy")] {
            shell.env(format!("TURNSTILE_{variable}"), self.path(file));
        }
        let output = shell.env("TMPDIR", &self.0).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    fn policy(&self) -> Option<String> {
        fs::read_to_string(self.path("policy")).ok()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[tokio::test]
async fn nothing_missing_is_a_start_anywhere() {
    let machine = Machine::new("ID=arch\n", &["chromium"]);
    let path = format!("{}\n", machine.path("chromium").display());
    assert_eq!(machine.asks_for(&["chromium"]).await, (Some(0), path));
}

#[tokio::test]
async fn a_person_is_told_the_one_line_to_run() {
    let servers = "or set AMQP_URL, DATABASE_URL and REDIS_URL to servers that run already.\n";
    for (os_release, program, line) in [
        (
            "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
            "apt-get",
            "sudo apt-get install --no-install-recommends redis-server",
        ),
        ("ID=rocky\nID_LIKE=\"rhel centos fedora\"\n", "dnf", "sudo dnf install valkey"),
        ("", "brew", "brew install redis"),
        ("ID=debian\n", "nothing", "your package manager for Redis, with their programs in PATH"),
        ("ID=arch\n", "pacman", "your package manager for Redis, with their programs in PATH"),
    ] {
        let machine = Machine::new(os_release, &[program]);
        machine.program("id", "echo 1000");
        let told = format!("Redis is not installed. Either run\n  {line}\n{servers}");
        assert_eq!(machine.asks_for(&["redis"]).await, (Some(MISSING), told));
        assert_eq!(machine.said(), "", "nothing is installed");
    }
}

#[tokio::test]
async fn a_missing_browser_is_no_server_that_could_run_elsewhere() {
    let machine = Machine::new(DEBIAN, &["apt-get"]);
    machine.program("id", "echo 1000");
    let told = "Chromium is not installed. Run\n  sudo apt-get install --no-install-recommends chromium\n";
    assert_eq!(machine.asks_for(&["chromium"]).await, (Some(MISSING), told.to_owned()));
    let (_, both) = machine.asks_for(&["redis", "chromium"]).await;
    assert!(both.starts_with("Redis and Chromium are not installed."), "{both}");
}

#[tokio::test]
async fn only_root_on_debian_installs_and_only_what_is_missing() {
    let machine = Machine::new(DEBIAN, &["systemctl", "chromium"]);
    machine.apt_get_brings("redis-server", "");
    let (code, _) = machine.asks_for(&["redis", "chromium"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(
        machine.said(),
        format!("{APT} install --no-install-recommends redis-server\nsystemctl disable redis-server\n")
    );
    let fedora = Machine::new("ID=fedora\n", &["dnf"]);
    assert_eq!((fedora.asks_for(&["redis"]).await.0, fedora.said()), (Some(MISSING), String::new()));
}

#[tokio::test]
async fn package_lists_are_fetched_only_if_packages_cannot_be_had_without() {
    let machine = Machine::new(DEBIAN, &[]);
    machine.apt_get_brings("redis-server", "[ -e $0.again ] || { touch $0.again; exit 100; }");
    assert_eq!(machine.asks_for(&["redis"]).await.0, Some(0));
    let install = format!("{APT} install --no-install-recommends redis-server\n");
    assert_eq!(machine.said(), format!("{install}{APT} update\n{install}"));
}

#[tokio::test]
async fn a_package_program_that_fails_twice_fails_the_installation() {
    let machine = Machine::new(DEBIAN, &[]);
    machine.program("apt-get", "echo no network; case \"$*\" in *install*) exit 100;; esac");
    let (code, told) = machine.asks_for(&["redis"]).await;
    assert_eq!(code, Some(MISSING));
    assert!(told.starts_with("apt-get failed; ") && told.contains("no network\nRedis is not installed."), "{told}");
    assert_eq!(machine.policy(), None, "as it was");
}

#[tokio::test]
async fn services_are_forbidden_during_an_installation_and_no_longer() {
    let machine = Machine::new(DEBIAN, &[]);
    let policy = machine.path("policy").display().to_string();
    let ask = format!(
        "{policy} redis-server start; echo policy says $? >>{}; cp {policy} {policy}.copy",
        machine.path("said").display()
    );
    machine.apt_get_brings("redis-server", &ask);
    assert_eq!(machine.asks_for(&["redis"]).await.0, Some(0));
    assert!(machine.said().ends_with("policy says 101\n"), "{}", machine.said());
    assert_eq!(machine.policy(), None);

    let left_behind = fs::read_to_string(machine.path("policy.copy")).unwrap();
    let machine = Machine::new(DEBIAN, &[]);
    machine.apt_get_brings("redis-server", "");
    fs::write(machine.path("policy"), left_behind).unwrap();
    assert_eq!(machine.asks_for(&["redis"]).await.0, Some(0));
    assert_eq!(machine.policy(), None, "what an earlier run left behind is removed");
}

#[tokio::test]
async fn a_policy_of_the_machine_stays_and_serves_if_it_forbids() {
    for (says, code) in [(101, Some(0)), (0, Some(MISSING))] {
        let machine = Machine::new(DEBIAN, &[]);
        machine.apt_get_brings("redis-server", "");
        machine.program("policy", &format!("exit {says}"));
        let own = machine.policy();
        let (ended, told) = machine.asks_for(&["redis"]).await;
        assert_eq!((ended, machine.policy()), (code, own));
        assert_eq!(told.starts_with("Not installed for you, because"), says == 0, "{told}");
        assert_eq!(machine.said().contains("apt-get"), says != 0, "nothing is installed where services start");
    }
}

#[tokio::test]
async fn a_second_installation_waits_for_the_first() {
    let machine = Machine::new(DEBIAN, &["apt-get"]);
    // The first one ends, and has brought it, while the second waits.
    let (id, redis, said) = (machine.path("id"), machine.path("redis-server"), machine.path("said"));
    machine.program("flock", &format!("echo flock $* >>{}; cp {} {}", said.display(), id.display(), redis.display()));
    assert_eq!(machine.asks_for(&["redis"]).await.0, Some(0));
    assert_eq!(machine.said(), "flock -w 900 9\n");
}

#[tokio::test]
async fn the_shell_programs_pass_shellcheck() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/devstack");
    match Command::new("shellcheck").args(["install.sh", "watchdog.sh"]).current_dir(folder).output().await {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => eprintln!("shellcheck is not installed; skipped"),
    }
}
