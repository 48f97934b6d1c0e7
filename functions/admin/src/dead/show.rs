//! `dead show ID`: one message with all that it carries.

use super::{
    QueueOptions, behind_text,
    list::{Summary, look},
};
use crate::{
    failure::Failure,
    report::{Document, visible},
};
use anyhow::anyhow;
use serde::Serialize;
use serde_json::{Map, Value};
use shared::table::Style;

/// The document of `dead show ID --json`.
#[derive(Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    summary: Summary,
    /// How many messages have this id.
    copies: usize,
    /// By their names in AMQP.
    properties: Map<String, Value>,
    headers: Map<String, Value>,
    /// Where it is UTF-8.
    body: Option<String>,
    /// In hex digits, where it is not.
    body_hex: Option<String>,
}

pub(super) async fn run(id: &str, queue: &QueueOptions) -> Result<Shown, Failure> {
    let taken = look(queue).await?;
    let behind = behind_text(taken.behind);
    let mut copies = taken.messages.into_iter().filter(|message| message.id == id);
    let Some(message) = copies.next() else {
        return Err(Failure::Broken(anyhow!("there is no message {id}; `admin dead list` tells the ids\n{behind}")));
    };
    let summary = Summary::of(&message);
    let (body, body_hex) = match String::from_utf8(message.body) {
        Ok(body) => (Some(body), None),
        Err(error) => (None, Some(error.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect())),
    };
    let copies = 1 + copies.count();
    Ok(Shown { summary, copies, properties: message.properties, headers: message.headers, body, body_hex })
}

impl Document for Shown {
    fn text(&self, style: Style) -> String {
        let Summary { id, reason, message, queue, body_bytes, .. } = &self.summary;
        let mut text = format!("{}\n  reason   {}\n", style.title(id), visible(reason));
        if let Some(message) = message {
            text += &format!("  message  {}\n", visible(message));
        }
        text += &format!("  from     {}\n", queue.as_deref().unwrap_or("no queue of ours"));
        if self.copies > 1 {
            text += &format!("  copies   {}\n", self.copies);
        }
        for (title, entries) in [("Properties", &self.properties), ("Headers", &self.headers)] {
            text += &format!("\n{}\n", style.title(title));
            for (name, value) in entries {
                let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                text += &format!("  {:<18} {}\n", visible(name), visible(&value));
            }
        }
        let (body, coding) = match &self.body {
            Some(body) => (visible(body), ""),
            None => (self.body_hex.clone().unwrap_or_default(), ", in hex digits"),
        };
        text + &format!("\n{}\n{body}\n", style.title(&format!("Body ({body_bytes} bytes{coding})")))
    }
}
