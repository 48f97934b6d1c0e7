//! The operator's command line: looks at a sale, audits it, and repairs what is off.
//!
//! What only looks takes no lock that a sale would feel ([`look`]), and is counted as a worker by nobody. What changes an
//! item or ends a payment goes as a request to the function whose business it is, as any other system's would.

pub mod audit;
pub mod buyer;
pub mod dead;
pub mod failure;
pub mod forget;
pub mod items;
mod known;
pub mod look;
pub mod migrate;
pub mod orders;
pub mod outbox;
pub mod payment;
pub mod queues;
pub mod report;
mod request;
pub mod restock;
pub mod restored;

use clap::{Args, Parser, Subcommand};
use failure::Failure;
use report::{Output, Report};
use shared::config::StoreOptions;
use shared::table::Style;

/// What the broker's and the database's operators see.
const NAME: &str = "turnstile-admin";

#[derive(Debug, Parser)]
#[command(
    name = "admin",
    version,
    about = "The operator's command line of a Turnstile shop: looks at a sale, audits it, and repairs what is off.",
    after_help = "What only looks (items, item, conflicts, order, orders, payment, queues, audit, dead list, dead show, \
                  outbox list) changes nothing, and no sale waits for it. create, add, remove, open, close and rules \
                  send a message to the restock function and wait for its verdict; pay, settle and void, to the \
                  payment function; buy and cancel, to purchase and release.\n\n\
                  Exit codes: 0 done, 1 something is off (audit), refused or not there, 2 usage, 69 a server is \
                  unreachable or nobody answers, 78 configuration, 130 interrupted.",
    arg_required_else_help = true
)]
pub struct CommandLine {
    /// Print one JSON document instead of tables. Its names are stable; ids and times (RFC 3339) are strings.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the items: stock, held, sold, version, conflicts; hot ones first.
    Items(ListOptions),
    /// Show one item, its rules and its latest orders.
    Item(items::ItemOptions),
    /// Show which items are contended: how often a decision had to be made again.
    Conflicts(ListOptions),
    /// Show one order and its whole history.
    Order(orders::OrderOptions),
    /// List the latest orders, of an item or in a state.
    Orders(orders::ListOptions),
    /// Show every queue's depth and consumers, and the active worker of each partition.
    Queues(queues::Options),
    /// Check stock, orders, verdicts, payments and outbox against each other; exit with 1 if anything is off.
    Audit(audit::Options),
    /// List, show, send again or drop the messages that could not be handled.
    #[command(subcommand)]
    Dead(dead::Command),
    /// List, publish again or drop the events that could not be published.
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Say that a database that was set back, by a backup for example, is to be used as it is: the functions, which hold
    /// their messages until then, go on. See what `audit --known` names before.
    Restored(restored::Options),
    /// Take a buyer's id out of the database, as a role that may change everything; what they bought stays. Refused while an order
    /// of theirs is open.
    Forget(forget::Options),
    /// Bring the database's schema up to date, as a role that may change it, and give the functions' role its rights. Twice is
    /// once.
    Migrate(migrate::Options),
    #[command(flatten)]
    Buyer(buyer::Command),
    #[command(flatten)]
    Payment(payment::Command),
    #[command(flatten)]
    Restock(restock::Command),
}

/// Runs one command.
pub async fn run(line: CommandLine, style: Style) -> Result<Report, Failure> {
    let output = if line.json { Output::Json } else { Output::Text(style) };
    Ok(match line.command {
        Command::Items(options) => output.report(&items::list(options).await?),
        Command::Item(options) => output.report(&items::one(options).await?),
        Command::Conflicts(options) => output.report(&items::conflicts(options).await?),
        Command::Order(options) => output.report(&orders::one(options).await?),
        Command::Orders(options) => output.report(&orders::list(options).await?),
        Command::Queues(options) => output.report(&queues::run(options).await?),
        Command::Audit(options) => output.report(&audit::run(options).await?),
        Command::Dead(command) => dead::run(command, output).await?,
        Command::Outbox(command) => outbox::run(command, output).await?,
        Command::Restored(options) => output.report(&restored::run(options).await?),
        Command::Forget(options) => output.report(&forget::run(options).await?),
        Command::Migrate(options) => output.report(&migrate::run(options).await?),
        Command::Buyer(command) => output.report(&buyer::run(command).await?),
        Command::Payment(command) => payment::run(command, output).await?,
        Command::Restock(command) => output.report(&restock::run(command).await?),
    })
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Limit {
    /// The most lines.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

impl Limit {
    /// Says that there may be more, where a list of so many is full.
    fn note(self, shown: usize) -> Option<String> {
        let is_full = u32::try_from(shown).is_ok_and(|shown| shown >= self.limit);
        is_full.then(|| format!("These are the first {}; --limit N shows more.", self.limit))
    }

    /// As the database counts.
    fn rows(self) -> i64 {
        i64::from(self.limit)
    }
}

#[derive(Debug, Args)]
pub struct ListOptions {
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    store: StoreOptions,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        CommandLine::command().debug_assert();
    }
}
