//! The purchase function's ways to keep stock, as its command line names them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A way to keep stock; `purchase --help` says what each does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Version-checked, batched
    #[default]
    Optimistic,
    /// Under a row lock
    Pessimistic,
    /// In one statement
    Atomic,
    /// Counted by Redis, confirmed in one statement
    Redis,
}

impl Strategy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Optimistic => "optimistic",
            Self::Pessimistic => "pessimistic",
            Self::Atomic => "atomic",
            Self::Redis => "redis",
        }
    }
}
