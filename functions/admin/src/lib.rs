//! The operator's command line: looks at a sale, audits it, and repairs what is off.
//!
//! It is no function: it consumes no requests and has no worker. Whatever changes an item goes as a message to the restock
//! function, as any other system's wish would. Invariant: what only looks takes no lock that a sale would feel ([`read`]),
//! and is counted as a worker by nobody.

pub mod audit;
pub mod conflicts;
pub mod dead;
pub mod failure;
pub mod item;
pub mod items;
pub mod options;
pub mod order;
pub mod orders;
pub mod queues;
pub mod read;
pub mod report;
pub mod stock;

use failure::Failure;
use options::{Command, CommandLine};
use report::{Report, Style};

/// What the broker's and the database's operators see.
pub const NAME: &str = "turnstile-admin";

/// Runs one command.
///
/// # Errors
/// Why there is nothing to show, with the exit code that says so.
pub async fn run(line: CommandLine, style: Style) -> Result<Report, Failure> {
    let shape = line.shape(style);
    match line.command {
        Command::Items(options) => items::run(options, shape).await,
        Command::Item(options) => item::run(options, shape).await,
        Command::Conflicts(options) => conflicts::run(options, shape).await,
        Command::Order(options) => order::run(options, shape).await,
        Command::Orders(options) => orders::run(options, shape).await,
        Command::Queues(options) => queues::run(options, shape).await,
        Command::Audit(options) => audit::run(options, shape).await,
        Command::Dead(command) => dead::run(command, shape).await,
        Command::Create(options) => stock::create(options, shape).await,
        Command::Add(options) => stock::add(options, shape).await,
        Command::Remove(options) => stock::remove(options, shape).await,
        Command::Open(options) => stock::open(options, shape).await,
        Command::Close(options) => stock::close(options, shape).await,
        Command::Rules(options) => stock::rules(options, shape).await,
    }
}
