//! A child process that cannot outlive us.
//!
//! Each program runs under a tiny POSIX shell, its watchdog (`watchdog.sh`), in a process group of its own: Ctrl-C in our
//! terminal does not reach it. The watchdog's standard input is a socket whose other end only we hold. When that end closes,
//! for whatever reason (stop, drop, panic, `kill -9` of us), the watchdog sends the program its stop signal, and SIGKILL
//! once the limit has passed. When the program ends first, the watchdog ends with its status.

use anyhow::{Context, Result, bail};
use nix::{sys::signal, unistd::Pid};
use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as BlockingUnixStream,
    },
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
    process::{Child, Command},
};

/// Runs as `sh -c WATCHDOG watchdog SIGNAL POLLS SECONDS_PER_POLL PROGRAM ARGUMENT…`.
const WATCHDOG: &str = include_str!("watchdog.sh");
/// How long a program may take to end after its stop signal, unless told otherwise.
const STOP_WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// How often the watchdog looks whether a program that was told to stop is gone. Nothing polls before that.
const STOP_POLL: Duration = Duration::from_millis(50);
/// What a watchdog may take beyond the stop limit of its program: it has only SIGKILL and its own exit left to do.
const WATCHDOG_WAIT_MAX: Duration = Duration::from_secs(10);
/// The longest line that a watchdog reports: a process id.
const REPORT_BYTES_MAX: u64 = 32;

/// A signal that our own programs are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: stop in an orderly way.
    Terminate,
    /// SIGINT: what Ctrl-C sends; PostgreSQL's fast shutdown.
    Interrupt,
    /// SIGQUIT: PostgreSQL's immediate shutdown.
    Quit,
    /// SIGKILL: dies at once.
    Kill,
    /// SIGSTOP: is suspended until [`Signal::Continue`].
    Stop,
    /// SIGCONT: goes on.
    Continue,
}

impl Signal {
    fn number(self) -> signal::Signal {
        match self {
            Signal::Terminate => signal::Signal::SIGTERM,
            Signal::Interrupt => signal::Signal::SIGINT,
            Signal::Quit => signal::Signal::SIGQUIT,
            Signal::Kill => signal::Signal::SIGKILL,
            Signal::Stop => signal::Signal::SIGSTOP,
            Signal::Continue => signal::Signal::SIGCONT,
        }
    }
}

/// What to run and how to stop it. Standard input is `/dev/null`; standard output and error go the same way.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, Option<OsString>)>,
    folder: Option<PathBuf>,
    log: Option<PathBuf>,
    stop: (Signal, Duration),
    user: Option<(u32, u32)>,
}

impl Program {
    /// A program at `path`, in our environment and folder, with our standard error as its output, stopped by SIGTERM
    /// and killed if that took longer than ten seconds.
    pub fn new(path: impl Into<PathBuf>) -> Program {
        Program {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            log: None,
            stop: (Signal::Terminate, STOP_WAIT_DEFAULT),
            user: None,
        }
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Program {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Program {
        self.environment.push((name.into(), Some(value.into())));
        self
    }

    /// Takes away the variables of ours whose names begin with one of these: they would change what a server does.
    pub(super) fn without_env(mut self, prefixes: &[&str]) -> Program {
        let ours = std::env::vars_os().map(|(name, _)| name);
        let unwanted = ours.filter(|name| prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)));
        self.environment.extend(unwanted.map(|name| (name, None)));
        self
    }

    /// Where it runs.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Program {
        self.folder = Some(folder.into());
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
        self.stop = (signal, wait_max);
        self
    }

    /// Runs it as another user. Only root may.
    pub(super) fn user(mut self, user: Option<(u32, u32)>) -> Program {
        self.user = user;
        self
    }

    /// The same program, environment and folder, run once by a call and not supervised.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        self.prepare(&mut command);
        command.args(&self.arguments);
        command
    }

    fn prepare(&self, command: &mut Command) {
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
    }

    fn watchdog(&self, control: BlockingUnixStream, held: Stdio) -> Result<Command> {
        let (signal, wait_max) = self.stop;
        let polls = wait_max.as_millis().div_ceil(STOP_POLL.as_millis());
        let output = match &self.log {
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                file.with_context(|| format!("open the log {}", path.display()))?.into()
            }
            // Without a standard error of ours there is nobody to read the program's.
            None => io::stderr().as_fd().try_clone_to_owned().map_or_else(|_closed| Stdio::null(), Stdio::from),
        };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCHDOG, "watchdog", signal.number().as_str().trim_start_matches("SIG")]);
        command.arg(polls.to_string()).arg(STOP_POLL.as_secs_f64().to_string());
        command.arg(&self.path).args(&self.arguments);
        self.prepare(&mut command);
        command.stdin(OwnedFd::from(control)).stdout(output).stderr(held).process_group(0);
        Ok(command)
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
    /// Starts the program; its end does not wait for anything but its own exit.
    ///
    /// # Errors
    /// The program is not an existing file, the log cannot be written, or no process can be started. What cannot be
    /// executed for another reason ends with status 126 or 127 and a line in its log.
    pub async fn spawn(program: Program) -> Result<Supervised> {
        Supervised::spawn_holding(&program, Stdio::null()).await
    }

    /// As [`Supervised::spawn`]; `held` stays open in the watchdog until the program is gone, and nowhere else.
    pub(super) async fn spawn_holding(program: &Program, held: impl Into<Stdio>) -> Result<Supervised> {
        let name = program.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !program.path.is_file() {
            bail!("there is no program {}", program.path.display());
        }
        // Our end serves the runtime, the watchdog's stays blocking: a shell reads it.
        let (ours, theirs) = BlockingUnixStream::pair().context("open a socket to a watchdog")?;
        ours.set_nonblocking(true)?;
        let watchdog = program.watchdog(theirs, held.into())?.spawn();
        let mut watchdog = watchdog.with_context(|| format!("start /bin/sh to watch over {name}"))?;
        let mut control = BufReader::new(UnixStream::from_std(ours)?);
        let mut report = String::new();
        let read = (&mut control).take(REPORT_BYTES_MAX).read_line(&mut report).await;
        let Some(pid) = read.ok().and_then(|_bytes| report.trim_end().parse().ok()) else {
            drop(control);
            let status = watchdog.wait().await?;
            bail!("the watchdog of {name} ended before it started the program: {status}");
        };
        // From here on it is only held: out of the runtime, so that it also outlives that.
        let control = Some(control.into_inner().into_std()?);
        Ok(Supervised { control, watchdog, name, pid, stop_wait_max: program.stop.1 })
    }

    /// The process id of the program itself, not of its watchdog.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the program a signal. Nothing happens if it has ended.
    ///
    /// # Errors
    /// The system refuses.
    pub fn send(&mut self, signal: Signal) -> io::Result<()> {
        // While the watchdog runs, the id cannot have been given to another process, except in the instant between the
        // program's exit and the watchdog's.
        if self.watchdog.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
        match signal::kill(Pid::from_raw(pid), signal.number()) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Waits until the program has ended by itself. A program that a signal ended has the code 128 + signal number.
    /// May be dropped and called again.
    ///
    /// # Errors
    /// The system cannot wait for it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.watchdog.wait().await
    }

    /// The status of a program that has ended already.
    ///
    /// # Errors
    /// The system cannot look.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.watchdog.try_wait()
    }

    /// Stops the program as its description says and waits until it is gone.
    ///
    /// # Errors
    /// It is still there when its limit has passed and SIGKILL had its time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        drop(self.control.take());
        match tokio::time::timeout(self.stop_wait_max + WATCHDOG_WAIT_MAX, self.watchdog.wait()).await {
            Ok(status) => status.with_context(|| format!("wait for {} (pid {})", self.name, self.pid)),
            Err(_elapsed) => bail!("{} (pid {}) did not end, not even by SIGKILL", self.name, self.pid),
        }
    }

    /// Kills the program at once and waits until it is gone.
    ///
    /// # Errors
    /// As [`Supervised::send`] and [`Supervised::stop`].
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.send(Signal::Kill).with_context(|| format!("kill {} (pid {})", self.name, self.pid))?;
        self.stop().await
    }
}
