//! `install.sh` on a machine that is a folder: its programs, its policy for services, its release.

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

const DEBIAN: &str = "ID=debian\n";
const APT: &str = "apt-get -q -y -o DPkg::Lock::Timeout=300";
/// What the script uses of a system.
const TOOLS: [&str; 13] =
    ["sh", "sort", "sed", "tr", "head", "tail", "grep", "rm", "mv", "chmod", "mktemp", "touch", "cp"];

struct Machine(PathBuf);

impl Machine {
    /// With these programs, as root.
    fn new(os_release: &str, programs: &[&str]) -> Self {
        let machine = Self(std::env::temp_dir().join(format!("turnstile-machine-{}", uuid::Uuid::now_v7().simple())));
        fs::create_dir(&machine.0).unwrap();
        for tool in TOOLS {
            let folders = ["/usr/bin", "/bin"].map(|folder| PathBuf::from(folder).join(tool));
            let found = folders.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("there is no {tool}"));
            symlink(found, machine.0.join(tool)).unwrap();
        }
        fs::write(machine.0.join("os-release"), os_release).unwrap();
        for program in programs {
            machine.program(program, "");
        }
        machine.program("id", "echo 0");
        machine.program("flock", "");
        machine
    }

    /// Debian, on which `apt-get install` does this, and brings Redis.
    fn debian(programs: &[&str], before: &str) -> Self {
        let machine = Self::new(DEBIAN, programs);
        machine.program("apt-get", &format!("case \"$*\" in *install*) {before}\n{};; esac", machine.brings_redis()));
        machine
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// A program that says how it was called, in `said`, and does this.
    fn program(&self, name: &str, does: &str) {
        let silent = ["id", "flock"].contains(&name);
        let said = if silent { String::new() } else { format!("echo {name} $* >>{}\n", self.path("said")) };
        assert!(!self.0.join(name).is_symlink(), "it would be written where the link leads");
        fs::write(self.path(name), format!("#!/bin/sh\n{said}{does}\n")).unwrap();
        fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn brings_redis(&self) -> String {
        format!("cp {} {}", self.path("id"), self.path("redis-server"))
    }

    async fn asks_for(&self, names: &[&str]) -> (Option<i32>, String) {
        self.asks_for_those_of("", names).await
    }

    async fn asks_for_those_of(&self, folder: &str, names: &[&str]) -> (Option<i32>, String) {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", INSTALL, "install"]).args(names).env_clear().env("PATH", &self.0);
        for (variable, file) in [("OS_RELEASE", "os-release"), ("INSTALL_LOCK", "lock"), ("POLICY", "policy")] {
            shell.env(format!("TURNSTILE_{variable}"), self.path(file));
        }
        let output = shell.env("TMPDIR", &self.0).env("TURNSTILE_SERVERS", folder).output().await.unwrap();
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
async fn who_may_not_install_is_told_the_one_line_to_run_and_only_where_something_is_missing() {
    let or_set = "or set AMQP_URL, DATABASE_URL and REDIS_URL to servers that run already.\n";
    let redis = |line: &str| format!("Redis is not installed. Either run\n  {line}\n{or_set}");
    let chromium = "Chromium is not installed. Run\n  sudo apt-get install --no-install-recommends chromium\n";
    let apt_get = "sudo apt-get install --no-install-recommends redis-server";
    let by_hand = redis("your package manager for Redis, with their programs in PATH");
    for (os_release, program, user, asked, told) in [
        ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "apt-get", 1000, "redis", redis(apt_get)),
        ("ID=rocky\nID_LIKE=\"rhel centos fedora\"\n", "dnf", 1000, "redis", redis("sudo dnf install valkey")),
        ("ID=fedora\n", "dnf", 0, "redis", redis("sudo dnf install valkey")),
        ("", "brew", 1000, "redis", redis("brew install redis")),
        (DEBIAN, "nothing", 1000, "redis", by_hand.clone()),
        ("ID=arch\n", "pacman", 1000, "redis", by_hand),
        // No server that could run elsewhere.
        (DEBIAN, "apt-get", 1000, "chromium", chromium.to_owned()),
    ] {
        let machine = Machine::new(os_release, &[program]);
        machine.program("id", &format!("echo {user}"));
        assert_eq!(machine.asks_for(&[asked]).await, (Some(MISSING), told));
        let (_, both) = machine.asks_for(&["redis", "chromium"]).await;
        assert!(both.contains("Redis and Chromium are not installed."), "{both}");
        assert_eq!(machine.said(), "", "nothing is installed");
        machine.program(asked, "");
        machine.program("redis-server", "");
        assert_eq!(machine.asks_for(&[asked]).await.0, Some(0), "nothing missing is a start anywhere");
    }
}

#[tokio::test]
async fn only_root_on_debian_installs_and_only_what_is_missing() {
    let machine = Machine::debian(&["systemctl", "chromium"], "");
    let paths = format!("{}\n{}\n", machine.path("redis-server"), machine.path("chromium"));
    assert_eq!(machine.asks_for(&["redis", "chromium"]).await, (Some(0), paths));
    let said = format!("{APT} install --no-install-recommends redis-server\nsystemctl disable redis-server\n");
    assert_eq!(machine.said(), said);
}

#[tokio::test]
async fn servers_of_a_folder_that_is_named_are_taken_and_no_others() {
    let (machine, tree) = (Machine::debian(&["redis-server", "chromium"], ""), Machine::new("", &["redis-server"]));
    let (asked, folder) = (["redis", "chromium"], tree.0.display().to_string());
    let paths = format!("{}\n{}\n", tree.path("redis-server"), machine.path("chromium"));
    assert_eq!(machine.asks_for_those_of(&folder, &asked).await, (Some(0), paths));
    let told = "TURNSTILE_SERVERS=/nowhere is to be the absolute path of a folder with the programs redis-server\n";
    assert_eq!(machine.asks_for_those_of("/nowhere", &asked).await, (Some(MISSING), told.to_owned()));
    assert_eq!(machine.said(), "", "nothing is installed");
}

#[tokio::test]
async fn package_lists_are_fetched_only_if_packages_cannot_be_had_without() {
    let machine = Machine::debian(&[], "[ -e $0.again ] || { touch $0.again; exit 100; }");
    assert_eq!(machine.asks_for(&["redis"]).await.0, Some(0));
    let install = format!("{APT} install --no-install-recommends redis-server\n");
    assert_eq!(machine.said(), format!("{install}{APT} update\n{install}"));

    let machine = Machine::debian(&[], "echo no network; exit 100");
    let (code, told) = machine.asks_for(&["redis"]).await;
    assert_eq!(code, Some(MISSING), "it failed twice");
    assert!(told.starts_with("apt-get failed; ") && told.contains("no network\nRedis is not installed."), "{told}");
    assert_eq!(machine.policy(), None, "as it was");
}

#[tokio::test]
async fn services_are_forbidden_during_an_installation_and_no_longer() {
    let machine = Machine::debian(&[], "");
    let (policy, said) = (machine.path("policy"), machine.path("said"));
    let asks = format!("{policy} redis-server start; echo policy says $? >>{said}; cp {policy} {policy}.copy");
    machine.program("apt-get", &format!("{asks}; {}", machine.brings_redis()));
    assert_eq!(machine.asks_for(&["redis"]).await.0, Some(0));
    assert!(machine.said().ends_with("policy says 101\n"), "{}", machine.said());
    assert_eq!(machine.policy(), None);

    fs::rename(machine.path("policy.copy"), &policy).unwrap();
    fs::remove_file(machine.path("redis-server")).unwrap();
    assert_eq!(machine.asks_for(&["redis"]).await.0, Some(0));
    assert_eq!(machine.policy(), None, "what an earlier run left behind is removed");
}

#[tokio::test]
async fn a_policy_of_the_machine_stays_and_serves_if_it_forbids() {
    for (says, code) in [(101, Some(0)), (0, Some(MISSING))] {
        let machine = Machine::debian(&[], "");
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
    let says = format!("echo flock $* >>{}", machine.path("said"));
    machine.program("flock", &format!("{says}; {}", machine.brings_redis()));
    assert_eq!(machine.asks_for(&["redis"]).await.0, Some(0));
    assert_eq!(machine.said(), "flock -w 900 9\n");
}

#[tokio::test]
async fn the_shell_programs_pass_shellcheck() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/devstack");
    let programs = ["install.sh", "watchdog.sh", "keeper.sh", "../../../functions/deploy/servers.sh"];
    match Command::new("shellcheck").args(programs).current_dir(folder).output().await {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        // `.ci/run` installs it where it can.
        Err(_) => eprintln!("shellcheck is not installed; skipped"),
    }
}
