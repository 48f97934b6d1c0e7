//! `dead list`: what is there, and why.

use super::{QueueOptions, behind_text};
use crate::{
    Limit, NAME,
    failure::Failure,
    report::{Document, or_dash, table_or, visible},
};
use anyhow::anyhow;
use serde::Serialize;
use serde_json::Value;
use shared::{
    amqp::{DeadLetterQueue, DeadMessage, Error, Nodes, Taken},
    table::Style,
};
use std::collections::BTreeMap;

/// The document of `dead list --json`, longest there first.
#[derive(Serialize)]
pub(super) struct List {
    messages: Vec<Summary>,
    /// How many were looked at for each reason.
    reasons: BTreeMap<String, usize>,
    /// How many are behind the last one that was looked at.
    not_looked_at: u32,
    /// Why the message behind them could not be read, where that is so.
    unreadable: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Summary {
    pub(super) id: String,
    pub(super) reason: String,
    /// The reason for people.
    pub(super) message: Option<String>,
    /// The queue that it came from.
    pub(super) queue: Option<String>,
    correlation_id: Option<String>,
    pub(super) body_bytes: usize,
}

pub(super) async fn run(reason: Option<&str>, Limit { limit }: Limit, queue: &QueueOptions) -> Result<List, Failure> {
    let taken = look(queue).await?;
    let mut reasons = BTreeMap::new();
    for message in &taken.messages {
        *reasons.entry(message.reason.clone()).or_default() += 1;
    }
    let wanted = taken.messages.iter().filter(|message| reason.is_none_or(|reason| message.reason == reason));
    let messages = wanted.take(usize::try_from(limit).unwrap_or(usize::MAX)).map(Summary::of).collect();
    Ok(List { messages, reasons, not_looked_at: taken.behind, unreadable: taken.unreadable })
}

/// Takes messages, and gives them back.
pub(super) async fn look(queue: &QueueOptions) -> Result<Taken, Failure> {
    let dead = DeadLetterQueue::open(&Nodes::read(&queue.broker.amqp_url)?, NAME).await?;
    let taken = match dead.take(queue.look_max).await {
        Err(Error::Unreadable(_)) => {
            return Err(Failure::Broken(anyhow!(
                "the first message in `dead` has properties that are not UTF-8, which this program cannot read; take it \
                 out with another client, such as `rabbitmqadmin get queue=dead ackmode=ack_requeue_false`"
            )));
        }
        taken => taken?,
    };
    // With a message that cannot be read the connection has ended, and all went back.
    if taken.unreadable.is_none() {
        dead.close().await?;
    }
    Ok(taken)
}

impl Summary {
    pub(super) fn of(message: &DeadMessage) -> Self {
        let correlation_id = message.properties.get("correlation_id").and_then(Value::as_str);
        Self {
            id: message.id.clone(),
            reason: message.reason.clone(),
            message: message.message.clone(),
            queue: message.queue.clone(),
            correlation_id: correlation_id.map(ToOwned::to_owned),
            body_bytes: message.body.len(),
        }
    }
}

impl Document for List {
    fn text(&self, style: Style) -> String {
        let line = |text: &Option<String>| or_dash(text.as_deref().map(|text| visible(text).replace('\n', " ")));
        let row = |of: &Summary| {
            let bytes = of.body_bytes.to_string();
            let (queue, correlation_id) = (line(&of.queue), line(&of.correlation_id));
            vec![of.id.clone(), visible(&of.reason), queue, correlation_id, bytes, line(&of.message)]
        };
        let headings = ["ID", "REASON", "QUEUE", "CORRELATION ID", ">BYTES", "MESSAGE"];
        let mut text = table_or("No such messages.", &headings, self.messages.iter().map(row).collect(), style);
        if !self.reasons.is_empty() {
            let counts = self.reasons.iter().map(|(reason, count)| format!("{count} {}", visible(reason)));
            text += &format!("\nLooked at: {}.\n", counts.collect::<Vec<_>>().join(", "));
        }
        text += &behind_text(self.not_looked_at);
        if let Some(reason) = &self.unreadable {
            text += &format!("The message behind these cannot be read by this program: {}\n", visible(reason));
        }
        text
    }
}
