//! `dead replay` and `dead drop`: messages are sent again, or removed for good.

use super::{Selection, behind_text};
use crate::{
    NAME,
    failure::Failure,
    report::{Document, or_dash, table_or, visible},
};
use anyhow::anyhow;
use serde::Serialize;
use shared::{
    amqp::{DeadLetterQueue, DeadMessage, Error, Nodes, Replayed},
    table::Style,
};

/// The document of `dead replay --json` and `dead drop --json`.
#[derive(Serialize)]
pub(super) struct Changed {
    messages: Vec<Change>,
    /// Ids of which there is no message.
    not_found: Vec<String>,
    /// How many are behind the last one that was looked at.
    not_looked_at: u32,
}

#[derive(Serialize)]
struct Change {
    id: String,
    reason: String,
    outcome: Outcome,
    /// The queue that it was sent to, or should have been.
    queue: Option<String>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Replayed,
    /// Its sender hears nothing: there was no reply address, or none that outlives its channel.
    ReplayedWithoutReply,
    Dropped,
    /// Its headers name no queue of ours.
    KeptWithoutOrigin,
    /// The broker has no such queue.
    KeptWithoutQueue,
}

impl Outcome {
    fn text(self) -> &'static str {
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

/// Does something to each message that is meant.
pub(super) async fn run(
    selection: Selection,
    change: impl AsyncFn(&DeadLetterQueue, &DeadMessage) -> Result<(Outcome, Option<String>), Error>,
) -> Result<Changed, Failure> {
    let Selection { ids, reason, all, queue, yes: _ } = selection;
    let dead = DeadLetterQueue::open(&Nodes::read(&queue.broker.amqp_url)?, NAME).await?;
    let taken = dead.take(queue.look_max).await?;
    if let Some(reason) = &taken.unreadable {
        return Err(Failure::Broken(anyhow!(
            "nothing was changed: behind {count} messages is one that this program cannot read ({reason}), and it ended \
             the connection; --look-max {count} stays before it. To be rid of it, take it out with another client",
            count = taken.messages.len()
        )));
    }
    let is_meant = |message: &DeadMessage| all || reason.as_ref() == Some(&message.reason) || ids.contains(&message.id);
    let mut messages = Vec::new();
    for message in taken.messages.iter().filter(|message| is_meant(message)) {
        let (outcome, queue) = change(&dead, message).await?;
        messages.push(Change { id: message.id.clone(), reason: message.reason.clone(), outcome, queue });
    }
    dead.close().await?;
    let is_there = |id: &String| taken.messages.iter().any(|message| message.id == *id);
    let not_found = ids.into_iter().filter(|id| !is_there(id)).collect();
    Ok(Changed { messages, not_found, not_looked_at: taken.behind })
}

pub(super) async fn replay(dead: &DeadLetterQueue, message: &DeadMessage) -> Result<(Outcome, Option<String>), Error> {
    Ok(match dead.replay(message).await? {
        Replayed::Sent { queue, keeps_reply_to: true } => (Outcome::Replayed, Some(queue)),
        Replayed::Sent { queue, keeps_reply_to: false } => (Outcome::ReplayedWithoutReply, Some(queue)),
        Replayed::NoOrigin => (Outcome::KeptWithoutOrigin, None),
        Replayed::NoQueue(queue) => (Outcome::KeptWithoutQueue, Some(queue)),
    })
}

pub(super) async fn discard(dead: &DeadLetterQueue, message: &DeadMessage) -> Result<(Outcome, Option<String>), Error> {
    dead.discard(message).await?;
    Ok((Outcome::Dropped, message.queue.clone()))
}

impl Document for Changed {
    fn text(&self, style: Style) -> String {
        let row = |of: &Change| {
            vec![of.id.clone(), visible(&of.reason), or_dash(of.queue.clone()), of.outcome.text().to_owned()]
        };
        let headings = ["ID", "REASON", "QUEUE", "WHAT BECAME OF IT"];
        let mut text = table_or("No such messages.", &headings, self.messages.iter().map(row).collect(), style);
        for id in &self.not_found {
            text += &format!("There is no message {id}.\n");
        }
        text + &behind_text(self.not_looked_at)
    }

    fn is_well(&self) -> bool {
        self.not_found.is_empty() && self.messages.iter().all(|message| message.outcome.is_done())
    }
}
