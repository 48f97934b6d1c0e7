//! The command line. Never does anything.

use crate::{
    audit, conflicts, dead, item, items, order, orders, queues,
    report::{Shape, Style},
    stock,
};
use clap::{Args, Parser, Subcommand};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "admin",
    version,
    about = "The operator's command line of a Turnstile shop: looks at a sale, audits it, and repairs what is off.",
    after_help = "What only looks (items, item, conflicts, order, orders, queues, audit, dead list, dead show) changes \
                  nothing, and no sale waits for it. create, add, remove, open, close and rules send a message to the \
                  restock function and wait for its verdict.\n\n\
                  Exit codes: 0 done, 1 something is off (audit), refused or not there, 2 usage, 69 a server is \
                  unreachable or nobody answers, 78 configuration, 130 interrupted.",
    arg_required_else_help = true
)]
pub struct CommandLine {
    /// Print one JSON document instead of tables. Its names are stable; ids and times (RFC 3339) are strings.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the items: stock, held, sold, version, conflicts; hot ones first.
    Items(items::Options),
    /// Show one item, its rules and its latest orders.
    Item(item::Options),
    /// Show which items are contended: how often a decision had to be made again.
    Conflicts(conflicts::Options),
    /// Show one order and its whole history.
    Order(order::Options),
    /// List the latest orders, of an item or in a state.
    Orders(orders::Options),
    /// Show every queue's depth and consumers, and the active worker of each partition.
    Queues(queues::Options),
    /// Check stock, orders, verdicts, payments and outbox against each other; exit with 1 if anything is off.
    Audit(audit::Options),
    /// List, show, send again or drop the messages that could not be handled.
    #[command(subcommand)]
    Dead(dead::Command),
    /// Put a new item on sale.
    Create(stock::CreateOptions),
    /// Put more units of an item on sale.
    Add(stock::QuantityOptions),
    /// Take units of an item off sale that are neither held nor sold.
    Remove(stock::QuantityOptions),
    /// Open the sale of an item, now or at a time.
    Open(stock::OpenOptions),
    /// Close the sale of an item, now. What is held may still be paid for.
    Close(stock::CloseOptions),
    /// Replace all rules of an item's sale; those that are not named are gone. `item NAME` shows them.
    Rules(stock::RulesOptions),
}

impl CommandLine {
    /// For whom the report is to be.
    #[must_use]
    pub fn shape(&self, style: Style) -> Shape {
        if self.json { Shape::Json } else { Shape::Text(style) }
    }
}

/// What commands take that speak to the broker.
#[derive(Debug, Clone, Args)]
pub struct BrokerOptions {
    /// Where RabbitMQ is: amqp://USER:PASSWORD@HOST:PORT/VHOST, the virtual host `/` written as %2f. Of a cluster, one for
    /// each node, with commas between them.
    #[arg(long, env = "AMQP_URL", default_value = "amqp://guest:guest@127.0.0.1:5672/%2f", hide_env_values = true)]
    pub amqp_url: String,
}

/// How much a list shows.
#[derive(Debug, Clone, Copy, Args)]
pub struct Limit {
    /// The most lines.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
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
