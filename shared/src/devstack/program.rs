//! The description of a program to supervise, and the signals that it can be sent.
//!
//! Runs nothing.

use nix::sys::signal;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How long a program may take to end after its stop signal, unless told otherwise.
const STOP_WAIT_DEFAULT: Duration = Duration::from_secs(10);

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
    /// The name as `kill -s` takes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Signal::Terminate => "TERM",
            Signal::Interrupt => "INT",
            Signal::Quit => "QUIT",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        }
    }

    pub(super) fn number(self) -> signal::Signal {
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
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(OsString, Option<OsString>)>,
    pub(super) folder: Option<PathBuf>,
    pub(super) log: Option<PathBuf>,
    pub(super) stop: (Signal, Duration),
    pub(super) user: Option<(u32, u32)>,
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

    /// Takes an environment variable away.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Program {
        self.environment.push((name.into(), None));
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
}
