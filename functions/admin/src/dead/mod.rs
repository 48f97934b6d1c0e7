//! `dead`: the messages that could not be handled are listed, shown, sent again, or dropped.
//!
//! A message is looked at by taking it out without acknowledging it, so while a command runs, others do not see what it
//! has taken; all of it goes back when the command ends, however it ends. Copies of one message share their id, and
//! whatever is done to that id is done to all of them.

mod letters;
mod listing;

pub use listing::{LetterShown, LetterSummary, Letters};

use crate::{
    NAME,
    failure::Failure,
    options::BrokerOptions,
    report::{Column, Report, Shape, table},
};
use anyhow::anyhow;
use clap::{Args, Subcommand};
use letters::{Selection, select};
use serde::Serialize;
use shared::amqp::{DeadLetterQueue, DeadMessage, Nodes, Replayed};

/// What to do with messages in `dead`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the messages, longest there first.
    List(ListOptions),
    /// Show one message: all headers, properties, and the body.
    Show(ShowOptions),
    /// Send messages again to the queue that they came from, once what kept them from being handled is put right.
    ///
    /// The body, the request id, the correlation id and the reply address stay; what the message got on its way to `dead`
    /// is taken off. The copy is confirmed before the message leaves `dead`: after a crash in between, it is in both, and
    /// sent again once more at worst, which its request id makes harmless.
    Replay(ChangeOptions),
    /// Remove messages for good.
    Drop(ChangeOptions),
}

/// How many messages are looked through.
#[derive(Debug, Clone, Copy, Args)]
pub struct Reach {
    /// The most messages to look through, those that are there longest; meanwhile others do not see them.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub look_max: u16,
}

/// What `dead list` takes.
#[derive(Debug, Clone, Args)]
pub struct ListOptions {
    /// Only messages that are there for this reason, such as `malformed` or `delivery_limit`.
    #[arg(long)]
    pub reason: Option<String>,
    /// How much to show.
    #[command(flatten)]
    pub limit: crate::options::Limit,
    /// How far to look.
    #[command(flatten)]
    pub reach: Reach,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerOptions,
}

/// What `dead show` takes.
#[derive(Debug, Clone, Args)]
pub struct ShowOptions {
    /// The message's id, as `dead list` tells it.
    #[arg(value_name = "ID", value_parser = letters::id)]
    pub id: String,
    /// How far to look.
    #[command(flatten)]
    pub reach: Reach,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerOptions,
}

/// What `dead replay` and `dead drop` take.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "reason", "all"]))]
pub struct ChangeOptions {
    /// The messages' ids, as `dead list` tells them.
    #[arg(value_name = "ID", value_parser = letters::id)]
    pub ids: Vec<String>,
    /// Every message that is there for this reason.
    #[arg(long, requires = "yes")]
    pub reason: Option<String>,
    /// Every message.
    #[arg(long, requires = "yes")]
    pub all: bool,
    /// With --reason and --all: yes, as many as that are.
    #[arg(long)]
    pub yes: bool,
    /// How far to look.
    #[command(flatten)]
    pub reach: Reach,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerOptions,
}

/// The document of `dead replay --json` and `dead drop --json`.
#[derive(Debug, Serialize)]
pub struct Changed {
    /// What became of each message that was meant.
    pub messages: Vec<Outcome>,
    /// Ids of which there is no message.
    pub not_found: Vec<String>,
    /// Messages that were not looked at, behind the last one that was.
    pub not_looked_at: u32,
}

/// What became of a message.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The message's id.
    pub id: String,
    /// Why it was there.
    pub reason: String,
    /// What became of it.
    pub outcome: Became,
    /// The queue that it was sent to, or should have been.
    pub queue: Option<String>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// It is in its queue again.
    Replayed,
    /// The same; its sender hears nothing, because the reply address was none that outlives its channel, or there was none.
    ReplayedWithoutReply,
    /// It is gone.
    Dropped,
    /// It stays: its headers name no queue of ours.
    KeptWithoutOrigin,
    /// It stays: the broker has no such queue.
    KeptWithoutQueue,
}

impl Became {
    fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "sent again",
            Self::ReplayedWithoutReply => "sent again; nobody waits for the reply",
            Self::Dropped => "dropped",
            Self::KeptWithoutOrigin => "kept: it does not say which queue it came from",
            Self::KeptWithoutQueue => "kept: there is no such queue",
        }
    }

    fn is_done(self) -> bool {
        match self {
            Self::Replayed | Self::ReplayedWithoutReply | Self::Dropped => true,
            Self::KeptWithoutOrigin | Self::KeptWithoutQueue => false,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The broker's; there is no such message.
pub async fn run(command: Command, shape: Shape) -> Result<Report, Failure> {
    match command {
        Command::List(options) => listing::list(options, shape).await,
        Command::Show(options) => listing::show(options, shape).await,
        Command::Replay(options) => change(options, shape, replay).await,
        Command::Drop(options) => change(options, shape, discard).await,
    }
}

/// Does something to each message that is meant.
async fn change(
    options: ChangeOptions,
    shape: Shape,
    one: impl AsyncFn(&DeadLetterQueue, &DeadMessage) -> Result<(Became, Option<String>), Failure>,
) -> Result<Report, Failure> {
    let dead = DeadLetterQueue::open(&Nodes::read(&options.broker.amqp_url)?, NAME).await?;
    let selection = match (&options.reason, options.all) {
        (Some(reason), _) => Selection::Reason(reason),
        (None, true) => Selection::All,
        (None, false) => Selection::Ids(&options.ids),
    };
    let taken = dead.take(options.reach.look_max).await?;
    if let Some(reason) = &taken.unreadable {
        return Err(Failure::Broken(anyhow!(
            "nothing was changed: behind {count} messages is one that this program cannot read ({reason}), and it ended \
             the connection; --look-max {count} stays before it. To be rid of it, take it out with another client",
            count = taken.letters.len()
        )));
    }
    let mut messages = Vec::new();
    for letter in select(&taken.letters, selection) {
        let (outcome, queue) = one(&dead, letter).await?;
        messages.push(Outcome { id: letter.id.clone(), reason: letter.reason.clone(), outcome, queue });
    }
    dead.close().await?;
    let is_there = |id: &&String| taken.letters.iter().any(|letter| letter.id == **id);
    let not_found = options.ids.iter().filter(|id| !is_there(id)).cloned().collect();
    let document = Changed { messages, not_found, not_looked_at: taken.behind };
    let is_well = document.not_found.is_empty() && document.messages.iter().all(|message| message.outcome.is_done());
    Ok(Report::judged(shape, is_well, &document, |_| text(&document)))
}

async fn replay(dead: &DeadLetterQueue, letter: &DeadMessage) -> Result<(Became, Option<String>), Failure> {
    Ok(match dead.replay(letter).await? {
        Replayed::Sent { queue, keeps_reply_to: true } => (Became::Replayed, Some(queue)),
        Replayed::Sent { queue, keeps_reply_to: false } => (Became::ReplayedWithoutReply, Some(queue)),
        Replayed::NoOrigin => (Became::KeptWithoutOrigin, None),
        Replayed::NoQueue(queue) => (Became::KeptWithoutQueue, Some(queue)),
    })
}

async fn discard(dead: &DeadLetterQueue, letter: &DeadMessage) -> Result<(Became, Option<String>), Failure> {
    dead.discard(letter).await?;
    Ok((Became::Dropped, letter.queue.clone()))
}

fn text(document: &Changed) -> String {
    let columns =
        [Column::Words("ID"), Column::Words("REASON"), Column::Words("QUEUE"), Column::Words("WHAT BECAME OF IT")];
    let row = |of: &Outcome| {
        let queue = of.queue.clone().unwrap_or_else(|| "–".to_owned());
        vec![of.id.clone(), crate::report::visible(&of.reason), queue, of.outcome.as_str().to_owned()]
    };
    let mut text = table(&columns, document.messages.iter().map(row).collect(), "No such messages.");
    for id in &document.not_found {
        text += &format!("There is no message {id}.\n");
    }
    text + &letters::behind_text(document.not_looked_at)
}
