//! A child process that cannot outlive us.
//!
//! Each program runs under a tiny POSIX shell, its watchdog (`watchdog.sh`), in a process group of its own: Ctrl-C in our
//! terminal does not reach it. The watchdog's standard input is a socket whose other end only we hold. When that end closes,
//! for whatever reason (stop, drop, panic, `kill -9` of us), the watchdog sends the program its stop signal, and SIGKILL
//! once the limit has passed. When the program ends first, the watchdog ends with its status.

use anyhow::{Context, Result, bail};
pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// Runs as `sh -c WATCHDOG PROGRAM ARGUMENT…`.
const WATCHDOG: &str = include_str!("watchdog.sh");
/// How the watchdog is told to stop the program: the signal, and how often it then looks whether the program is gone.
const STOP_SIGNAL: &str = "WATCHDOG_STOP_SIGNAL";
const STOP_POLLS: &str = "WATCHDOG_STOP_POLLS";
/// Between two of those looks, as in `watchdog.sh`.
const STOP_POLL: Duration = Duration::from_millis(50);
/// How long a program may take to end after its stop signal, unless told otherwise.
const STOP_WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// What a watchdog may take beyond the stop limit of its program: it has only SIGKILL and its own exit left to do.
const WATCHDOG_WAIT_MAX: Duration = Duration::from_secs(10);

/// What to run and how to stop it. Standard input is `/dev/null`; standard output and error go the same way.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    /// The watchdog, with the program behind it.
    watchdog: Command,
    log: Option<PathBuf>,
    stop_wait_max: Duration,
}

impl Program {
    /// A program at `path`, in our environment and folder, with our standard error as its output, stopped by SIGTERM
    /// and killed if that took longer than ten seconds.
    pub fn new(path: impl Into<PathBuf>) -> Program {
        let path = path.into();
        let mut watchdog = Command::new("/bin/sh");
        watchdog.args(["-c", WATCHDOG]).arg(&path).process_group(0);
        let program = Program { path, watchdog, log: None, stop_wait_max: STOP_WAIT_DEFAULT };
        program.stop(Signal::SIGTERM, STOP_WAIT_DEFAULT)
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        self.watchdog.args(arguments);
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.watchdog.env(name, value);
        self
    }

    pub fn folder(mut self, folder: impl AsRef<Path>) -> Program {
        self.watchdog.current_dir(folder);
        self
    }

    /// The file to which its output is appended.
    pub fn log(mut self, file: impl Into<PathBuf>) -> Program {
        self.log = Some(file.into());
        self
    }

    /// The signal that stops it, and how long it may take before it is killed. A POSIX shell starts its background
    /// programs with SIGINT and SIGQUIT ignored: choose these only for a program that installs its own handlers.
    pub fn stop(mut self, signal: Signal, wait_max: Duration) -> Program {
        self.stop_wait_max = wait_max;
        let polls = wait_max.as_millis().div_ceil(STOP_POLL.as_millis());
        self.env(STOP_SIGNAL, signal.as_str().trim_start_matches("SIG")).env(STOP_POLLS, polls.to_string())
    }

    /// Takes away the variables of ours whose names begin with one of these: they would change what a server does.
    pub(super) fn without_env(mut self, prefixes: &[&str]) -> Program {
        remove_env(&mut self.watchdog, prefixes);
        self
    }

    /// Runs it as another user. Only root may.
    pub(super) fn user(mut self, user: Option<(u32, u32)>) -> Program {
        if let Some((user, group)) = user {
            self.watchdog.uid(user).gid(group);
        }
        self
    }

    fn output(&self) -> Result<Stdio> {
        let Some(path) = &self.log else {
            // Without a standard error of ours there is nobody to read the program's.
            return Ok(io::stderr().as_fd().try_clone_to_owned().map_or_else(|_closed| Stdio::null(), Stdio::from));
        };
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(file.with_context(|| format!("open the log {}", path.display()))?.into())
    }
}

/// Takes away the variables of ours whose names begin with one of these.
pub(super) fn remove_env(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in std::env::vars_os() {
        if prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// A running program. Dropping it tells the watchdog to stop the program and does not wait for it.
#[derive(Debug)]
pub struct Supervised {
    /// Our end of the socket: as long as it is open, the program may run.
    control: Option<BlockingUnixStream>,
    watchdog: Child,
    name: String,
    pid: u32,
    stop_wait_max: Duration,
}

impl Supervised {
    /// Starts the program; its end does not wait for anything but its own exit. What cannot be executed, although it is a
    /// file, ends with status 126 or 127 and a line in its log.
    pub async fn spawn(mut program: Program) -> Result<Supervised> {
        Supervised::spawn_holding(&mut program, Stdio::null()).await
    }

    /// As [`Supervised::spawn`]; `held` stays open in the watchdog until the program is gone, and nowhere else.
    pub(super) async fn spawn_holding(program: &mut Program, held: impl Into<Stdio>) -> Result<Supervised> {
        let name = program.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !program.path.is_file() {
            bail!("there is no program {}", program.path.display());
        }
        // Our end serves the runtime, the watchdog's stays blocking: a shell reads it.
        let (ours, theirs) = BlockingUnixStream::pair().context("open a socket to a watchdog")?;
        ours.set_nonblocking(true)?;
        let output = program.output()?;
        let spawned = program.watchdog.stdin(OwnedFd::from(theirs)).stdout(output).stderr(held).spawn();
        // Else the description would keep these open, and the watchdog's end of the socket with them.
        program.watchdog.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watchdog = spawned.with_context(|| format!("start /bin/sh to watch over {name}"))?;
        let mut control = BufReader::new(UnixStream::from_std(ours)?);
        let mut report = String::new();
        let read = control.read_line(&mut report).await;
        let Some(pid) = read.ok().and_then(|_bytes| report.trim_end().parse().ok()) else {
            drop(control);
            let status = watchdog.wait().await?;
            bail!("the watchdog of {name} ended before it started the program: {status}");
        };
        // From here on it is only held: out of the runtime, so that it also outlives that.
        let control = Some(control.into_inner().into_std()?);
        Ok(Supervised { control, watchdog, name, pid, stop_wait_max: program.stop_wait_max })
    }

    /// The process id of the program itself, not of its watchdog.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the program a signal. Nothing happens if it has ended.
    pub fn send(&mut self, signal: Signal) -> io::Result<()> {
        // While the watchdog runs, the id cannot have been given to another process, except in the instant between the
        // program's exit and the watchdog's.
        if self.watchdog.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Waits until the program has ended by itself. A program that a signal ended has the code 128 + signal number.
    /// May be dropped and called again.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.watchdog.wait().await
    }

    /// The status of a program that has ended already.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.watchdog.try_wait()
    }

    /// Stops the program as its description says and waits until it is gone; fails where it is still there when its limit
    /// has passed and SIGKILL had its time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        drop(self.control.take());
        match tokio::time::timeout(self.stop_wait_max + WATCHDOG_WAIT_MAX, self.watchdog.wait()).await {
            Ok(status) => status.with_context(|| format!("wait for {} (pid {})", self.name, self.pid)),
            Err(_elapsed) => bail!("{} (pid {}) did not end, not even by SIGKILL", self.name, self.pid),
        }
    }

    /// Kills the program at once and waits until it is gone.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.send(Signal::SIGKILL).with_context(|| format!("kill {} (pid {})", self.name, self.pid))?;
        self.stop().await
    }
}
