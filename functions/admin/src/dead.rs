//! `dead`: the messages that could not be handled, in the queues `dead` and `dead.invalid`, are listed, shown, sent again, or dropped.
//!
//! A message is looked at by taking it out without acknowledging it, so while a command runs, others do not see it. What
//! was taken goes back when the command ends, however it ends. Copies of one message share their id, and whatever is done
//! to that id is done to all of them.

use crate::failure::Failure;
use crate::report::{Drawn, Layout, Output, Report};
use crate::{Limit, NAME};
use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};
use shared::amqp::{DeadLetterQueue, DeadMessage, DeadOutcome, Nodes, Taken};
use shared::config::BrokerOptions;
use std::collections::BTreeMap;

/// The hex digits of a message's id.
const ID_DIGITS: usize = 12;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the messages: those that are nobody's fault, then those that their senders were told of; the last first.
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
    /// Send messages again to the function that they came from, once what kept them from being handled is put right; a purchase
    /// gets in the line of its item.
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
    /// The broker's users that the workers are, with commas between them: by their word, and that of the user whom AMQP_URL names, a
    /// message is sent again for its sender.
    #[arg(long, env = "WORKER_USERS", value_delimiter = ',', default_value = "worker", value_name = "USER,…")]
    worker_users: Vec<String>,
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
        Command::List { reason, limit, queue } => output.report(&list(reason, limit, &queue).await?),
        Command::Show { id, queue } => output.report(&show(&id, &queue).await?),
        Command::Replay(selection) => output.report(&change(selection, true).await?),
        Command::Drop(selection) => output.report(&change(selection, false).await?),
    })
}

fn id(text: &str) -> Result<String, String> {
    let id = text.to_ascii_lowercase();
    if id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(id);
    }
    Err(format!("a message's id has {ID_DIGITS} hex digits; `admin dead list` tells it"))
}

async fn take(queue: &QueueOptions) -> Result<(DeadLetterQueue, Taken), Failure> {
    let dead = DeadLetterQueue::open(&Nodes::of(&queue.broker)?, NAME, &queue.worker_users).await?;
    let taken = dead.take(queue.look_max).await?;
    Ok((dead, taken))
}

/// Takes messages, and gives them back.
async fn look(queue: &QueueOptions) -> Result<Taken, Failure> {
    let (dead, taken) = take(queue).await?;
    dead.close().await?;
    Ok(taken)
}

const NONE: &str = "No such messages.";

async fn list(reason: Option<String>, limit: Limit, queue: &QueueOptions) -> Result<Drawn, Failure> {
    let Taken { messages, behind } = look(queue).await?;
    let mut reasons = BTreeMap::<_, usize>::new();
    for message in &messages {
        *reasons.entry(&message.reason).or_default() += 1;
    }
    let is_wanted = |message: &&DeadMessage| reason.as_ref().is_none_or(|reason| message.reason == *reason);
    let wanted: Vec<_> = messages.iter().rev().filter(is_wanted).map(summary).collect();
    let shown = &wanted[..wanted.len().min(usize::try_from(limit.limit).unwrap_or(usize::MAX))];
    let not_shown = wanted.len() - shown.len();
    let document = json!({
        "messages": shown,
        "not_shown": not_shown,
        // How many were looked at for each, and how many are behind them.
        "reasons": reasons,
        "not_looked_at": behind,
    });
    let tables = &[("messages", NONE, "id reason queue correlation_id requests body_bytes message")];
    let mut drawn = Layout { lines: "reasons", tables }.of(document);
    drawn.notes.extend((not_shown > 0).then(|| format!("Not shown: {not_shown} older ones; --limit N shows more.")));
    drawn.notes.extend(behind_text(behind));
    Ok(drawn)
}

/// Says that there are more, where there are.
fn behind_text(behind: u32) -> Option<String> {
    (behind > 0).then(|| format!("Not looked at: {behind} that came later; --look-max N goes further."))
}

fn summary(message: &DeadMessage) -> Value {
    json!({
        "id": message.id,
        "reason": message.reason,
        // The same for people.
        "message": message.message,
        "queue": message.queue,
        "correlation_id": message.properties.get("correlation_id"),
        // More than one in an array.
        "requests": message.requests(),
        "body_bytes": message.body.len(),
    })
}

async fn show(id: &str, queue: &QueueOptions) -> Result<Drawn, Failure> {
    let Taken { messages, behind } = look(queue).await?;
    let copies: Vec<DeadMessage> = messages.into_iter().filter(|message| message.id == id).collect();
    let Some(message) = copies.first() else {
        let behind = behind_text(behind).map(|text| format!("\n{text}")).unwrap_or_default();
        return Err(Failure::Broken(anyhow!("there is no message {id}; `admin dead list` tells the ids{behind}")));
    };
    let mut document = summary(message);
    document["copies"] = json!(copies.len());
    document["properties"] = json!(message.properties);
    document["headers"] = json!(message.headers);
    let body = std::str::from_utf8(&message.body).ok();
    let in_hex = || message.body.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    document["body"] = json!(body);
    document["body_hex"] = json!(body.is_none().then(in_hex));
    let lines = "id reason message queue copies correlation_id requests body_bytes body body_hex properties headers";
    Ok(Layout { lines, tables: &[] }.of(document))
}

/// A message that was meant.
#[derive(Serialize)]
struct Change {
    id: String,
    reason: String,
    outcome: DeadOutcome,
    /// The queue that it was sent to, or should have been.
    queue: Option<String>,
}

/// Sends each message that is meant again, or drops it.
async fn change(selection: Selection, is_replayed: bool) -> Result<Drawn, Failure> {
    let Selection { ids, reason, all, queue, yes: _ } = selection;
    let (dead, Taken { messages, behind }) = take(&queue).await?;
    let is_meant = |message: &DeadMessage| all || reason.as_ref() == Some(&message.reason) || ids.contains(&message.id);
    let mut changes = Vec::new();
    for message in messages.iter().filter(|message| is_meant(message)) {
        let outcome = if is_replayed { dead.replay(message).await? } else { dead.discard(message).await? };
        let (id, reason, queue) = (message.id.clone(), message.reason.clone(), message.queue.clone());
        changes.push(Change { id, reason, outcome, queue });
    }
    dead.close().await?;
    let not_found: Vec<_> = ids.iter().filter(|id| messages.iter().all(|message| message.id != **id)).collect();
    Ok(changed(&changes, &not_found, behind, !ids.is_empty()))
}

fn changed(changes: &[Change], not_found: &[&String], behind: u32, is_by_id: bool) -> Drawn {
    let document = json!({ "messages": changes, "not_found": not_found, "not_looked_at": behind });
    let tables = &[("messages", NONE, "id reason queue what_became_of_it")];
    let mut drawn = Layout { lines: "", tables }.of(document);
    for (row, change) in drawn.shown["messages"].as_array_mut().into_iter().flatten().zip(changes) {
        row["what_became_of_it"] = json!(change.outcome.text());
    }
    drawn.notes.extend(not_found.iter().map(|id| format!("There is no message {id}.")));
    drawn.notes.extend(behind_text(behind));
    // Of a reason, or of all, some may be among those that were not looked at.
    let is_whole = is_by_id || behind == 0;
    drawn.is_well = is_whole && not_found.is_empty() && changes.iter().all(|change| change.outcome.is_done());
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Document;
    use shared::table::Style;

    #[test]
    fn what_became_of_each_message_is_said_in_words() {
        let change = |outcome, queue: Option<&str>| Change {
            id: "ba4a8797bcf9".into(),
            reason: "malformed".into(),
            outcome,
            queue: queue.map(Into::into),
        };
        let changes = [
            change(DeadOutcome::Replayed, Some("purchase.7")),
            change(DeadOutcome::ReplayedWithoutReply, Some("purchase.7")),
            change(DeadOutcome::KeptWithoutOrigin, None),
        ];
        let kept = changed(&changes, &[&"000000000000".into()], 3, true);
        let expected = "ID            REASON     QUEUE       WHAT BECAME OF IT\n\
                        ba4a8797bcf9  malformed  purchase.7  sent again\n\
                        ba4a8797bcf9  malformed  purchase.7  sent again; nobody waits for the reply\n\
                        ba4a8797bcf9  malformed  –           kept: it does not say which queue it came from\n\n\
                        There is no message 000000000000.\n\
                        Not looked at: 3 that came later; --look-max N goes further.\n";
        assert_eq!((kept.text(Style::Plain).as_str(), kept.is_well), (expected, false));
        assert_eq!(kept.document["messages"][2]["outcome"], "kept_without_origin");
        assert_eq!(
            (&kept.document["not_found"], &kept.document["not_looked_at"]),
            (&json!(["000000000000"]), &json!(3))
        );

        let done = changed(&changes[..2], &[], 0, true);
        assert!(done.is_well && !done.text(Style::Plain).contains("ooked at"), "nothing is missing");
        assert_eq!(changed(&[], &[], 0, false).text(Style::Plain), "No such messages.\n");
    }

    #[test]
    fn who_means_all_is_told_by_the_exit_code_that_some_were_left() {
        for (is_by_id, behind, is_well) in [(false, 0, true), (false, 1, false), (true, 0, true), (true, 1, true)] {
            assert_eq!(changed(&[], &[], behind, is_by_id).is_well, is_well, "by id: {is_by_id}, {behind} behind");
        }
    }
}
