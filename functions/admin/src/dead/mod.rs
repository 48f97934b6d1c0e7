//! `dead`: the messages that could not be handled are listed, shown, sent again, or dropped.
//!
//! A message is looked at by taking it out without acknowledging it, so while a command runs, others do not see it. What
//! was taken goes back when the command ends, however it ends. Copies of one message share their id, and whatever is done
//! to that id is done to all of them.

mod change;
mod list;
mod show;

use crate::{
    BrokerOptions, Limit,
    failure::Failure,
    report::{Output, Report},
};
use clap::{Args, Subcommand};

/// The hex digits of a message's id.
const ID_DIGITS: usize = 12;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the messages, longest there first.
    List {
        /// Only messages that are there for this reason, such as `malformed` or `delivery_limit`.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        limit: Limit,
        #[command(flatten)]
        queue: QueueOptions,
    },
    /// Show one message: all headers, properties, and the body.
    Show {
        /// The message's id, as `dead list` tells it.
        #[arg(value_name = "ID", value_parser = id)]
        id: String,
        #[command(flatten)]
        queue: QueueOptions,
    },
    /// Send messages again to the queue that they came from, once what kept them from being handled is put right.
    ///
    /// The body, the request id, the correlation id and the reply address stay; what the message got on its way to `dead`
    /// is taken off. The copy is confirmed before the message leaves `dead`: after a crash in between, it is in both, and
    /// sent again once more at worst, which its request id makes harmless.
    Replay(Selection),
    /// Remove messages for good.
    Drop(Selection),
}

#[derive(Debug, Args)]
pub struct QueueOptions {
    /// The most messages to look through, those that are there longest; meanwhile others do not see them.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    look_max: u16,
    #[command(flatten)]
    broker: BrokerOptions,
}

/// Which messages are meant.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "reason", "all"]))]
pub struct Selection {
    /// The messages' ids, as `dead list` tells them.
    #[arg(value_name = "ID", value_parser = id)]
    ids: Vec<String>,
    /// Every message that is there for this reason.
    #[arg(long, requires = "yes")]
    reason: Option<String>,
    /// Every message.
    #[arg(long, requires = "yes")]
    all: bool,
    /// With --reason and --all: yes, as many as that are.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    queue: QueueOptions,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<Report, Failure> {
    Ok(match command {
        Command::List { reason, limit, queue } => output.report(&list::run(reason.as_deref(), limit, &queue).await?),
        Command::Show { id, queue } => output.report(&show::run(&id, &queue).await?),
        Command::Replay(selection) => output.report(&change::run(selection, change::replay).await?),
        Command::Drop(selection) => output.report(&change::run(selection, change::discard).await?),
    })
}

/// Says that there are more, where there are.
fn behind_text(behind: u32) -> String {
    if behind == 0 {
        return String::new();
    }
    format!("\nNot looked at: {behind} behind these; --look-max N goes further.\n")
}

fn id(text: &str) -> Result<String, String> {
    let id = text.to_ascii_lowercase();
    if id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(id);
    }
    Err(format!("a message's id has {ID_DIGITS} hex digits; `admin dead list` tells it"))
}
