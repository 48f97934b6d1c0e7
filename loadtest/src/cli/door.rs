//! What the processes of a door take: its HTTP server, and the crowd. Doors start them, people do not.

use std::path::PathBuf;

use clap::Args;
use shared::retry::RetryPolicy;

use crate::doors::DoorStrategy;

/// What `door-server` takes.
#[derive(Debug, Clone, Args)]
pub struct DoorServerOptions {
    /// How it decides.
    #[arg(long, value_enum)]
    pub strategy: DoorStrategy,
    /// How long the simulated payment takes.
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub payment_ms: u64,
    /// How attempts are spaced, and when it gives up.
    #[command(flatten)]
    pub retry: RetryPolicy,
    /// The file that its address is written to, once it listens.
    #[arg(long, value_name = "PATH")]
    pub address_file: PathBuf,
    /// The database.
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
}

/// What `door-crowd` takes.
#[derive(Debug, Clone, Args)]
pub struct DoorCrowdOptions {
    /// The socket over which it is told whom to send.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
}
