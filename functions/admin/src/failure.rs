//! Why a command has nothing to show, and the exit code that says so. An audit that finds something is no failure.

use shared::amqp;
use shared::db::OpenError;
use shared::error::Error;
use std::process::ExitCode;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was named is not there, or something broke on the way.
    #[error("{0:#}")]
    Broken(anyhow::Error),
    /// A server is missing or does not answer, nobody answered a request in time, or somebody else has a lock.
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
    /// The set-up is wrong; the text says what to change.
    #[error("{0:#}")]
    Configuration(anyhow::Error),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Broken(_) => 1,
            Self::Unreachable(_) => 69,
            Self::Configuration(_) => 78,
            Self::Interrupted => 130,
        })
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

impl From<amqp::Error> for Failure {
    fn from(error: amqp::Error) -> Self {
        match error.is_configuration() {
            true => Self::Configuration(error.into()),
            false => Self::Unreachable(error.into()),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            error @ (Error::Away(_) | Error::Row(_)) => Self::Unreachable(error.into()),
            error @ Error::Unfit(_) => Self::Configuration(error.into()),
            error @ Error::Unhandled(_) => Self::Broken(error.into()),
        }
    }
}
