//! Debian packages, installed so that no system service starts.
//!
//! Must never know: which packages and what for. Invariant: the machine's policy for services is as it was when the
//! installation has ended, however it ended.

use super::last_lines;
use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::Instant;

/// Two programs that install at once take turns at this file. Only root installs, and only root writes here.
const LOCK: &str = "/run/turnstile-install.lock";
/// How long a turn may take: downloads of some 60 MB.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(900);
const LOCK_POLL: Duration = Duration::from_millis(200);
/// How long apt itself waits for another package program, in seconds.
const APT_LOCK_WAIT: &str = "DPkg::Lock::Timeout=300";
/// What Debian asks before a package starts a service: 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// [`WITHOUT_SERVICES`] leaves with this when a policy of the machine's own lets services start.
const POLICY_ALLOWS: i32 = 100;

/// Runs as `sh -c WITHOUT_SERVICES install POLICY COMMAND…`: the command, with services forbidden meanwhile.
///
/// A policy that exists is left alone. Signals wait until the command has ended: half an installation is worse than a
/// late end. A file that an earlier run left behind (a power cut) is known by its second line.
const WITHOUT_SERVICES: &str = r#"
policy=$1
shift
mark='# Written by turnstile while it installs packages; remove it if no installation runs.'
if [ ! -e "$policy" ] || grep -qxF "$mark" "$policy"; then
    trap 'rm -f -- "$policy" "$policy.turnstile"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy.turnstile" || exit
    chmod 755 "$policy.turnstile" && mv -- "$policy.turnstile" "$policy" || exit
else
    "$policy" turnstile start >/dev/null 2>&1
    [ $? -eq 101 ] || exit 100
fi
"$@" </dev/null
"#;

/// Runs as `sh -c APT apt OPTION PACKAGE…`. The lists are fetched only if the packages cannot be had without, and the
/// services, which a package enables, do not start with the machine either.
const APT: &str = r#"
lock=$1
shift
export DEBIAN_FRONTEND=noninteractive
install() { apt-get -q -y -o "$lock" install --no-install-recommends "$@"; }
install "$@" || { apt-get -q -o "$lock" update && install "$@"; } || exit
if command -v systemctl >/dev/null; then
    for unit in "$@"; do systemctl disable "$unit"; done
fi
exit 0
"#;

/// Installs Debian packages, unless another run did while we waited for our turn.
///
/// The installation goes on to its end if we are stopped meanwhile: it has a process group and a log of its own.
pub(super) async fn install(packages: &[&str], done_meanwhile: impl Fn() -> bool) -> Result<()> {
    let lock = locked(Path::new(LOCK)).await?;
    if done_meanwhile() {
        return Ok(());
    }
    let log = std::env::temp_dir().join(format!("turnstile-install-{}.log", uuid::Uuid::now_v7().simple()));
    tracing::info!(packages = packages.join(" "), log = %log.display(), "installing with apt-get, once; this takes a minute");
    let mut apt = vec!["/bin/sh", "-c", APT, "apt", APT_LOCK_WAIT];
    apt.extend(packages);
    let status = without_services(Path::new(POLICY), &apt, lock, &log)?.status().await.context("run apt-get")?;
    match status.code() {
        Some(0) => Ok(fs::remove_file(&log)?),
        Some(POLICY_ALLOWS) => {
            bail!("not installed for you, because {POLICY} of this machine lets packages start their services at once")
        }
        _failed => bail!("apt-get failed ({status}); {} ends with\n{}", log.display(), last_lines(&log)),
    }
}

/// The lock goes along as standard input, so that it is held until the command has ended, even if we have before.
fn without_services(policy: &Path, command: &[&str], lock: File, log: &Path) -> Result<Command> {
    let output = OpenOptions::new().create_new(true).append(true).open(log).context("make a log")?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", WITHOUT_SERVICES, "install"]).arg(policy).args(command).current_dir("/").process_group(0);
    shell.stdin(Stdio::from(lock)).stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output));
    Ok(shell)
}

async fn locked(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("open {}", path.display()))?;
    let limit = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < limit => tokio::time::sleep(LOCK_POLL).await,
            Err(refused) => return Err(refused).with_context(|| format!("wait for another run at {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// A folder with a policy file in it, or without.
    struct Machine(PathBuf);

    impl Machine {
        fn new(policy: Option<&str>) -> Machine {
            let folder = std::env::temp_dir().join(format!("turnstile-policy-{}", uuid::Uuid::now_v7().simple()));
            fs::create_dir(&folder).unwrap();
            let machine = Machine(folder);
            policy.inspect(|text| machine.write("policy", text));
            machine
        }

        fn write(&self, program: &str, text: &str) {
            let path = self.0.join(program);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }

        /// Runs the command, gives its exit code and output.
        async fn run(&self, command: &[&str]) -> (Option<i32>, String) {
            let (policy, log) = (self.0.join("policy"), self.0.join("log"));
            let lock = locked(&self.0.join("lock")).await.unwrap();
            let status = without_services(&policy, command, lock, &log).unwrap().status().await.unwrap();
            (status.code(), fs::read_to_string(&log).unwrap())
        }

        fn policy(&self) -> Option<String> {
            fs::read_to_string(self.0.join("policy")).ok()
        }

        /// What Debian's invoke-rc.d does before it starts a service.
        fn asks_the_policy(&self) -> String {
            format!("{} rabbitmq-server start; echo policy says $?", self.0.join("policy").display())
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[tokio::test]
    async fn services_are_forbidden_during_an_installation_and_no_longer() {
        let machine = Machine::new(None);
        let said = machine.run(&["/bin/sh", "-c", &machine.asks_the_policy()]).await;
        assert_eq!(said, (Some(0), "policy says 101\n".to_owned()));
        assert_eq!(machine.policy(), None);
    }

    #[tokio::test]
    async fn a_failed_installation_restores_the_policy_and_shows_its_code() {
        let machine = Machine::new(None);
        assert_eq!(machine.run(&["/bin/sh", "-c", "exit 7"]).await, (Some(7), String::new()));
        assert_eq!(machine.policy(), None);
    }

    #[tokio::test]
    async fn a_policy_that_an_earlier_run_left_behind_is_removed() {
        let machine = Machine::new(None);
        let copy = format!("cp {0} {0}.copy", machine.0.join("policy").display());
        machine.run(&["/bin/sh", "-c", &copy]).await;
        let left_behind = fs::read_to_string(machine.0.join("policy.copy")).unwrap();
        let machine = Machine::new(Some(&left_behind));
        assert_eq!(machine.run(&["true"]).await.0, Some(0));
        assert_eq!(machine.policy(), None);
    }

    #[tokio::test]
    async fn a_policy_of_the_machine_stays_and_serves_if_it_forbids() {
        let forbids = "#!/bin/sh\nexit 101\n";
        let machine = Machine::new(Some(forbids));
        assert_eq!(machine.run(&["echo", "ran"]).await, (Some(0), "ran\n".to_owned()));
        assert_eq!(machine.policy().as_deref(), Some(forbids));
    }

    #[tokio::test]
    async fn nothing_is_installed_where_a_policy_lets_services_start() {
        let allows = "#!/bin/sh\nexit 0\n";
        let machine = Machine::new(Some(allows));
        assert_eq!(machine.run(&["echo", "ran"]).await, (Some(POLICY_ALLOWS), String::new()));
        assert_eq!(machine.policy().as_deref(), Some(allows));
    }

    #[tokio::test]
    async fn a_second_installation_waits_for_the_first() {
        let machine = Machine::new(None);
        let path = machine.0.join("lock");
        let first = locked(&path).await.unwrap();
        let mut second = std::pin::pin!(locked(&path));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        second.await.unwrap();
    }

    /// Runs [`APT`] with an apt-get and a systemctl that only say how they were called; apt-get also does `failing`.
    async fn said_by_apt(failing: &str) -> (Option<i32>, String) {
        let machine = Machine::new(None);
        for (name, text) in [("apt-get", failing), ("systemctl", "")] {
            machine.write(name, &format!("#!/bin/sh\necho {name} $*\n{text}\n"));
        }
        let path = format!("{}:{}", machine.0.display(), std::env::var("PATH").unwrap());
        let mut apt = Command::new("/bin/sh");
        apt.args(["-c", APT, "apt", APT_LOCK_WAIT, "postgresql"]).env("PATH", path);
        let output = apt.output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    const INSTALL: &str = "apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends postgresql\n";
    const UPDATE: &str = "apt-get -q -o DPkg::Lock::Timeout=300 update\n";
    const DISABLE: &str = "systemctl disable postgresql\n";

    #[tokio::test]
    async fn package_lists_are_fetched_only_if_packages_cannot_be_had_without() {
        assert_eq!(said_by_apt("exit 0").await, (Some(0), format!("{INSTALL}{DISABLE}")));
        let once = r#"case "$*" in *install*) [ -e "$0.again" ] || { touch "$0.again"; exit 100; };; esac"#;
        assert_eq!(said_by_apt(once).await, (Some(0), format!("{INSTALL}{UPDATE}{INSTALL}{DISABLE}")));
    }

    #[tokio::test]
    async fn a_package_program_that_fails_twice_fails_the_installation() {
        let never = r#"case "$*" in *install*) exit 100;; esac"#;
        assert_eq!(said_by_apt(never).await, (Some(100), format!("{INSTALL}{UPDATE}{INSTALL}")));
        assert_eq!(said_by_apt("exit 100").await, (Some(100), format!("{INSTALL}{UPDATE}")));
    }
}
