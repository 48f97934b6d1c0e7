//! Why the load generator could not do its work, and the exit code that says so. A sale that breaks an invariant is not a
//! failure but a result. For a wrong command line, clap exits with 2 by itself.

use shared::amqp;
use shared::db::OpenError;
use std::process::{ExitCode, ExitStatus};

/// `EX_UNAVAILABLE`.
const EXIT_UNREACHABLE: u8 = 69;
/// `EX_CONFIG`.
const EXIT_CONFIGURATION: u8 = 78;
/// As shells count it: 128 + SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The set-up is wrong (half a pair of URLs, no worker program, a differing queue); the text says what to change.
    #[error("{0:#}")]
    Configuration(anyhow::Error),
    /// A server is missing or does not answer.
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
    /// Whatever has no code of its own.
    #[error("{0:#}")]
    Broken(#[from] anyhow::Error),
    #[error("interrupted: everything that was started is stopped")]
    Interrupted,
}

impl From<amqp::Error> for Failure {
    fn from(error: amqp::Error) -> Self {
        match error.is_configuration() {
            true => Self::Configuration(error.into()),
            false => Self::Unreachable(error.into()),
        }
    }
}

impl From<lapin::Error> for Failure {
    fn from(error: lapin::Error) -> Self {
        Self::Unreachable(anyhow::Error::new(error).context("RabbitMQ went away, or a queue is missing"))
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error.is_configuration() {
            true => Self::Configuration(error.into()),
            false => Self::Unreachable(error.into()),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Unreachable(anyhow::Error::new(error).context("PostgreSQL went away, or refuses"))
    }
}

impl Failure {
    /// A worker ended when it should not have: its reason, as its exit status says, is ours.
    pub(crate) fn of_worker(status: ExitStatus, text: anyhow::Error) -> Self {
        match status.code().map(u8::try_from) {
            Some(Ok(EXIT_CONFIGURATION)) => Self::Configuration(text),
            Some(Ok(EXIT_UNREACHABLE)) => Self::Unreachable(text),
            Some(_) | None => Self::Broken(text),
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Configuration(_) => EXIT_CONFIGURATION.into(),
            Self::Unreachable(_) => EXIT_UNREACHABLE.into(),
            Self::Broken(_) => ExitCode::FAILURE,
            Self::Interrupted => EXIT_INTERRUPTED.into(),
        }
    }
}
