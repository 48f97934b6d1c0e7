//! `dead list` and `dead show`: what is there, and why.

use super::{
    ListOptions, ShowOptions,
    letters::{Selection, behind_text, select},
};
use crate::{
    NAME,
    failure::Failure,
    report::{Column, Report, Shape, Style, table, visible},
};
use anyhow::anyhow;
use serde::Serialize;
use serde_json::{Map, Value};
use shared::amqp::{DeadLetterQueue, DeadMessage, Nodes, Taken};
use std::collections::BTreeMap;

/// The document of `dead list --json`.
#[derive(Debug, Serialize)]
pub struct Letters {
    /// Longest there first.
    pub messages: Vec<LetterSummary>,
    /// How many were looked at for each reason.
    pub reasons: BTreeMap<String, usize>,
    /// Messages that were not looked at, behind the last one that was.
    pub not_looked_at: u32,
    /// Why the message behind them could not be read, where that is so.
    pub unreadable: Option<String>,
}

/// A message.
#[derive(Debug, Serialize)]
pub struct LetterSummary {
    /// By which the other commands name it.
    pub id: String,
    /// Why it is there.
    pub reason: String,
    /// The same for people.
    pub message: Option<String>,
    /// The queue that it came from.
    pub queue: Option<String>,
    /// Its correlation id.
    pub correlation_id: Option<String>,
    /// The length of its body.
    pub body_bytes: usize,
}

/// The document of `dead show ID --json`.
#[derive(Debug, Serialize)]
pub struct LetterShown {
    /// What the list says of it.
    #[serde(flatten)]
    pub summary: LetterSummary,
    /// How many messages have this id: copies of one.
    pub copies: usize,
    /// Its properties, by their names in AMQP.
    pub properties: Map<String, Value>,
    /// Its headers.
    pub headers: Map<String, Value>,
    /// Its body, where that is UTF-8.
    pub body: Option<String>,
    /// Its body in hex digits, where it is not.
    pub body_hex: Option<String>,
}

pub(super) async fn list(options: ListOptions, shape: Shape) -> Result<Report, Failure> {
    let Some(taken) = look(&options.broker.amqp_url, options.reach.look_max).await? else {
        return Err(unreadable_first());
    };
    let selection = options.reason.as_deref().map_or(Selection::All, Selection::Reason);
    let mut reasons = BTreeMap::new();
    for letter in &taken.letters {
        *reasons.entry(letter.reason.clone()).or_default() += 1;
    }
    let limit = usize::try_from(options.limit.limit).unwrap_or(usize::MAX);
    let messages = select(&taken.letters, selection).into_iter().take(limit).map(summary).collect();
    let document = Letters { messages, reasons, not_looked_at: taken.behind, unreadable: taken.unreadable };
    Ok(Report::of(shape, &document, |_| list_text(&document)))
}

pub(super) async fn show(options: ShowOptions, shape: Shape) -> Result<Report, Failure> {
    let Some(taken) = look(&options.broker.amqp_url, options.reach.look_max).await? else {
        return Err(unreadable_first());
    };
    let ids = [options.id];
    let copies = select(&taken.letters, Selection::Ids(&ids));
    let Some(letter) = copies.first() else {
        let behind = behind_text(taken.behind);
        return Err(Failure::Broken(anyhow!(
            "there is no message {}; `admin dead list` tells the ids\n{behind}",
            ids[0]
        )));
    };
    let body = std::str::from_utf8(&letter.body).ok().map(ToOwned::to_owned);
    let hex = || letter.body.iter().map(|byte| format!("{byte:02x}")).collect();
    let document = LetterShown {
        summary: summary(letter),
        copies: copies.len(),
        properties: letter.properties.clone(),
        headers: letter.headers.clone(),
        body_hex: body.is_none().then(hex),
        body,
    };
    Ok(Report::of(shape, &document, |style| show_text(&document, style)))
}

/// Takes messages, and gives them back; `None`: the first cannot be read.
async fn look(amqp_url: &str, max: u16) -> Result<Option<Taken>, Failure> {
    let dead = DeadLetterQueue::open(&Nodes::read(amqp_url)?, NAME).await?;
    let taken = match dead.take(max).await {
        Ok(taken) => taken,
        Err(shared::amqp::Error::Unreadable(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // With a message that cannot be read the connection has ended, and all went back.
    if taken.unreadable.is_none() {
        dead.close().await?;
    }
    Ok(Some(taken))
}

fn unreadable_first() -> Failure {
    Failure::Broken(anyhow!(
        "the first message in `dead` has properties that are not UTF-8, which this program cannot read; take it out with \
         another client, such as `rabbitmqadmin get queue=dead ackmode=ack_requeue_false`"
    ))
}

fn summary(letter: &DeadMessage) -> LetterSummary {
    LetterSummary {
        id: letter.id.clone(),
        reason: letter.reason.clone(),
        message: letter.message.clone(),
        queue: letter.queue.clone(),
        correlation_id: letter.properties.get("correlation_id").and_then(Value::as_str).map(ToOwned::to_owned),
        body_bytes: letter.body.len(),
    }
}

fn list_text(document: &Letters) -> String {
    let columns = [
        Column::Words("ID"),
        Column::Words("REASON"),
        Column::Words("QUEUE"),
        Column::Words("CORRELATION ID"),
        Column::Number("BYTES"),
        Column::Words("MESSAGE"),
    ];
    let seen =
        |text: &Option<String>| text.as_deref().map_or_else(|| "–".to_owned(), |text| visible(text).replace('\n', " "));
    let row = |of: &LetterSummary| {
        vec![
            of.id.clone(),
            visible(&of.reason),
            seen(&of.queue),
            seen(&of.correlation_id),
            of.body_bytes.to_string(),
            seen(&of.message),
        ]
    };
    let mut text = table(&columns, document.messages.iter().map(row).collect(), "No such messages.");
    let counted: Vec<String> =
        document.reasons.iter().map(|(reason, count)| format!("{count} {}", visible(reason))).collect();
    if !counted.is_empty() {
        text += &format!("\nLooked at: {}.\n", counted.join(", "));
    }
    text += &behind_text(document.not_looked_at);
    if let Some(reason) = &document.unreadable {
        text += &format!("The message behind these cannot be read by this program: {}\n", visible(reason));
    }
    text
}

fn show_text(document: &LetterShown, style: Style) -> String {
    let LetterSummary { id, reason, message, queue, body_bytes, .. } = &document.summary;
    let mut text = format!("{}\n  reason   {}\n", style.title(id), visible(reason));
    if let Some(message) = message {
        text += &format!("  message  {}\n", visible(message));
    }
    text += &format!("  from     {}\n", queue.as_deref().unwrap_or("no queue of ours"));
    if document.copies > 1 {
        text += &format!("  copies   {}\n", document.copies);
    }
    for (title, entries) in [("Properties", &document.properties), ("Headers", &document.headers)] {
        text += &format!("\n{}\n", style.title(title));
        for (name, value) in entries {
            let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            text += &format!("  {:<18} {}\n", visible(name), visible(&value));
        }
    }
    let body = match (&document.body, &document.body_hex) {
        (Some(body), _) => visible(body),
        (None, hex) => hex.clone().unwrap_or_default(),
    };
    let coding = if document.body.is_some() { "" } else { ", in hex digits" };
    text + &format!("\n{}\n{body}\n", style.title(&format!("Body ({body_bytes} bytes{coding})")))
}
