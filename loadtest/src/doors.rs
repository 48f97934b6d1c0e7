//! The doors that Turnstile replaces: purchases over HTTP, decided in the request, as shops are commonly built.
//!
//! Baselines, and no part of the product: a server of its own (`server`), in a process of its own, that decides by one of
//! three well-known strategies on tables of its own (`schema`), and a `crowd` that comes to it at once, one connection each.
//! Each door is tuned as a competent user would, and nothing is done to make it fail: what is told of it is what happened.
//! Invariant: every buyer of the crowd ends in exactly one of sold, sold out and one [`FailureKind`], and what was really
//! sold is read from the database, after the server has ended.

pub mod kernel;
mod outcome;
mod scenario;

use std::path::Path;

use crate::failure::Failure;
pub use outcome::{DoorOutcome, FailureKind};
pub use scenario::{DoorScenario, DoorStrategy};

/// Opens a door on this database, lets the crowd at it, closes it, and tells what happened.
///
/// `program` is this program (`std::env::current_exe`), which is started as the server. The tables are made in the schema
/// `doors` where they are missing; every run sells an item of its own, and leaves its rows there.
///
/// # Errors
/// The database is away, the server does not start, or the system does not allow as many open files as there are buyers.
pub async fn run(_program: &Path, _database_url: &str, _scenario: &DoorScenario) -> Result<DoorOutcome, Failure> {
    Err(Failure::Broken(anyhow::anyhow!("the doors are still being built")))
}
