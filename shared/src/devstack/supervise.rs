//! A child process that cannot outlive us.
//!
//! Each program runs under a tiny POSIX shell, its watchdog, in a process group of its own (Ctrl-C in our terminal does
//! not reach it). The watchdog's standard input is a socket whose other end only we hold. When that end closes, for
//! whatever reason (stop, drop, panic, `kill -9` of us, a terminal that went away), the watchdog sends the program its
//! stop signal, and SIGKILL once the limit has passed. When the program ends first, the watchdog ends with its status.
//!
//! Invariant: once the watchdog has ended, so has the program. Must never know: which program it is.

use super::program::{Program, Signal};
use anyhow::{Context, Result, bail};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// How often the watchdog looks whether a program that was told to stop is gone. Nothing polls before that.
const STOP_POLL: Duration = Duration::from_millis(50);
/// What a watchdog may take beyond the stop limit of its program: it has only SIGKILL and its own exit left to do.
const WATCHDOG_WAIT_MAX: Duration = Duration::from_secs(10);
/// The longest line that a watchdog reports: a process id.
const REPORT_BYTES_MAX: u64 = 32;

/// Runs as `sh -c WATCHDOG watchdog SIGNAL POLLS SECONDS_PER_POLL PROGRAM ARGUMENT…`.
///
/// Descriptors: 0 is the socket to the owner, 1 the program's output, 2 whatever is to stay open until all is over. The
/// socket moves to 3 because a shell gives its background children /dev/null as standard input. The program and `sleep`
/// inherit neither, so nothing but the watchdog can keep them open. The report is written by a subshell, for it is
/// SIGPIPE that tells of an owner who is gone already. In the end the shell has nothing to say: how the program ended is
/// for the owner to tell. SIGCONT lets a suspended program act on the signal.
const WATCHDOG: &str = r#"
signal=$1 polls=$2 pause=$3
shift 3
exec 3<&0 4>&2 </dev/null 2>&1
"$@" 3<&- 4>&- &
program=$!
(echo "$program" >&3)
{
    read -r _ <&3
    kill -s "$signal" "$program"
    kill -s CONT "$program"
    while [ "$polls" -gt 0 ] && kill -s 0 "$program"; do
        sleep "$pause" 3<&- 4>&-
        polls=$((polls - 1))
    done
    kill -s KILL "$program"
} >/dev/null 2>&1 &
listener=$!
exec 3<&- 2>/dev/null
wait "$program"
status=$?
kill -s KILL "$listener"
exit "$status"
"#;

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
        Supervised::spawn_holding(program, Stdio::null()).await
    }

    /// As [`Supervised::spawn`]; `held` stays open in the watchdog until the program is gone, and nowhere else.
    pub(super) async fn spawn_holding(program: Program, held: impl Into<Stdio>) -> Result<Supervised> {
        let name = program.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !program.path.is_file() {
            bail!("there is no program {}", program.path.display());
        }
        let (ours, theirs) = socket_pair().context("open a socket to a watchdog")?;
        let mut watchdog = watchdog(&program, theirs, held.into())?
            .spawn()
            .with_context(|| format!("start /bin/sh to watch over {name}"))?;
        let mut control = BufReader::new(ours);
        let Some(pid) = reported_pid(&mut control).await else {
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
        match kill(Pid::from_raw(pid), signal.number()) {
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

/// Our end serves the runtime, the watchdog's stays blocking: a shell reads it.
fn socket_pair() -> io::Result<(UnixStream, BlockingUnixStream)> {
    let (ours, theirs) = BlockingUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

fn watchdog(program: &Program, control: BlockingUnixStream, held: Stdio) -> Result<Command> {
    let (signal, wait_max) = program.stop;
    let polls = wait_max.as_millis().div_ceil(STOP_POLL.as_millis());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", WATCHDOG, "watchdog", signal.name()]);
    command.arg(polls.to_string()).arg(STOP_POLL.as_secs_f64().to_string());
    command.arg(&program.path).args(&program.arguments);
    for (name, value) in &program.environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = &program.folder {
        command.current_dir(folder);
    }
    if let Some((user, group)) = program.user {
        command.uid(user).gid(group);
    }
    let output = match &program.log {
        Some(path) => append_to(path)?,
        None => our_standard_error(),
    };
    command.stdin(OwnedFd::from(control)).stdout(output).stderr(held).process_group(0);
    Ok(command)
}

fn append_to(path: &Path) -> Result<Stdio> {
    let file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open the log {}", path.display()))?;
    Ok(file.into())
}

/// Without a standard error of ours there is nobody to read the program's.
fn our_standard_error() -> Stdio {
    use std::os::fd::AsFd;
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(duplicate) => duplicate.into(),
        Err(_closed) => Stdio::null(),
    }
}

async fn reported_pid(control: &mut BufReader<UnixStream>) -> Option<u32> {
    let mut line = String::new();
    control.take(REPORT_BYTES_MAX).read_line(&mut line).await.ok()?;
    line.trim_end().parse().ok()
}
