//! What an operator sees and does that is done message by message: dead letters, the sale of an item, a crowd for show.

use crate::collector::Line;
use crate::problem::Problem;
use crate::tickets::Tickets;
use serde::Serialize;
use serde_json::{Value, json};
use shared::amqp::{self, DeadLetterQueue, DeadMessage, Error, Nodes, OutgoingRequest, RequestOutcome, Taken};
use shared::messages::{Operation, PURCHASE_EXCHANGE, PurchaseRequest, RESTOCK_QUEUE, RestockRequest, is_id};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

/// How many dead letters are looked through, those that are there longest.
const LOOK_MAX: u16 = 1_000;
/// How many of them are shown, the last, and how much of each.
const SHOWN_MAX: usize = 50;
const BODY_CHARS_MAX: usize = 2_000;
/// Between two looks: meanwhile nobody else sees them.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// How long a verdict is waited for.
const WAIT: Duration = Duration::from_secs(10);
/// As many as the page says.
const BUYERS: usize = 1_000;

pub(super) struct Operator {
    pub(super) nodes: Nodes,
    pub(super) name: String,
    /// By whose word it is known who sent a message.
    pub(super) worker_users: Vec<String>,
    /// Who has it has dead letters in hand.
    pub(super) in_hand: Arc<Mutex<()>>,
}

/// A message that was several times there is shown once.
#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    reason: String,
    message: Option<String>,
    queue: Option<String>,
    copies: usize,
    body: String,
}

impl Operator {
    /// For ever: shows the dead letters, whenever there are others than before.
    pub(super) async fn watch_dead(&self, mut count: watch::Receiver<u32>, shown: watch::Sender<Arc<str>>) {
        loop {
            count.borrow_and_update();
            match self.look().await {
                Ok(document) => drop(shown.send_replace(document.to_string().into())),
                Err(error) => {
                    tracing::warn!(%error, "dead letters cannot be looked at");
                    let none = json!({ "reasons": {}, "messages": [], "behind": 0, "fault": format!("{error}.") });
                    shown.send_replace(none.to_string().into());
                }
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            if count.changed().await.is_err() {
                return;
            }
        }
    }

    async fn look(&self) -> Result<Value, Error> {
        let _in_hand = self.in_hand.lock().await;
        let (dead, Taken { messages, behind }) = self.take().await?;
        dead.close().await?;
        let mut reasons = BTreeMap::<&str, usize>::new();
        let mut shown: Vec<Shown> = Vec::new();
        for message in messages.iter().rev() {
            *reasons.entry(&message.reason).or_default() += 1;
            let is_full = shown.len() >= SHOWN_MAX;
            match shown.iter_mut().find(|shown| shown.id == message.id) {
                Some(known) => known.copies += 1,
                None if is_full => (),
                None => shown.push(shown_as(message)),
            }
        }
        Ok(json!({ "reasons": reasons, "messages": shown, "behind": behind }))
    }

    async fn take(&self) -> Result<(DeadLetterQueue, Taken), Error> {
        let dead = DeadLetterQueue::open(&self.nodes, &self.name, &self.worker_users).await?;
        let taken = dead.take(LOOK_MAX).await?;
        Ok((dead, taken))
    }

    /// Sends the message with this id again, with all of its copies, or drops them; `None`: there is none.
    pub(super) async fn change_dead(&self, id: &str, is_replayed: bool) -> Result<Option<Value>, Error> {
        let _in_hand = self.in_hand.lock().await;
        let (dead, Taken { messages, .. }) = self.take().await?;
        let mut outcomes = Vec::new();
        for message in messages.iter().filter(|message| message.id == id) {
            outcomes.push(if is_replayed { dead.replay(message).await? } else { dead.discard(message).await? });
        }
        dead.close().await?;
        // Where one of several was kept, that is what there is to say.
        let outcome = outcomes.iter().find(|outcome| !outcome.is_done()).or(outcomes.first());
        Ok(outcome.map(|outcome| json!({ "done": outcome.is_done(), "message": format!("{id}: {}", outcome.text()) })))
    }

    /// Opens or closes the sale of an item, as any other system would; what is said is the verdict.
    pub(super) async fn change_sale(&self, item: String, operation: Operation) -> Result<RequestOutcome, Error> {
        let request_id = format!("board-{}", Uuid::now_v7());
        let request = RestockRequest { request_id: request_id.clone(), item, operation };
        let body = serde_json::to_string(&request).expect("a request is representable as JSON");
        let (exchange, routing_key) = (RESTOCK_QUEUE, RESTOCK_QUEUE);
        let request = OutgoingRequest { exchange, routing_key, correlation_id: &request_id, body: &body };
        amqp::request_reply(&self.nodes, &self.name, request, WAIT).await
    }
}

fn shown_as(message: &DeadMessage) -> Shown {
    let body = String::from_utf8_lossy(&message.body).chars().take(BODY_CHARS_MAX).collect();
    let DeadMessage { id, reason, message, queue, .. } = message.clone();
    Shown { id, reason, message, queue, copies: 1, body }
}

/// Sends so many buyers of a unit each, as a crowd at the door would come.
pub(super) fn send_buyers(tickets: &Tickets, item: &str) -> Result<usize, Problem> {
    if !is_id(item) {
        return Err(Problem::NotFound);
    }
    for number in 1..=BUYERS {
        let (request_id, buyer) = (Uuid::now_v7().to_string(), format!("demo-{number}"));
        let purchase = PurchaseRequest {
            request_id: request_id.clone(),
            item: item.to_owned(),
            buyer: buyer.clone(),
            quantity: 1,
            deadline: None,
            sender: None,
        };
        let body = serde_json::to_string(&purchase).expect("a request is representable as JSON");
        let line = Line { exchange: PURCHASE_EXCHANGE, routing_key: item.to_owned() };
        tickets.ask(line, &request_id, Some(buyer), body)?;
    }
    Ok(BUYERS)
}
