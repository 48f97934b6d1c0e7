//! What `baseline` takes.

use super::compare::PAYMENT_MS_MAX;
use crate::servers::{RedisUrl, Urls};
use clap::{Args, ValueEnum};
use std::time::Duration;

/// How the server decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BaselineServer {
    /// A version column, with retry.
    Optimistic,
    /// `SELECT … FOR UPDATE`.
    Pessimistic,
    /// `UPDATE … WHERE quantity >= n`.
    Atomic,
    /// One Lua script in Redis, and no order.
    Redis,
    /// Not at all: it says yes, which is what HTTP itself takes.
    AtOnce,
}

#[derive(Debug, Clone, Args)]
pub struct BaselineOptions {
    /// How it decides.
    #[arg(value_enum)]
    pub server: BaselineServer,
    /// How long the simulated payment takes where the database decides, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=PAYMENT_MS_MAX))]
    pub payment_ms: u64,
    #[command(flatten)]
    pub urls: Urls,
    #[command(flatten)]
    pub redis: RedisUrl,
}

impl BaselineOptions {
    pub(crate) fn payment(&self) -> Duration {
        Duration::from_millis(self.payment_ms)
    }
}
