//! What becomes of a purchase, told as it happens: its place in line, its verdict, and the order until it ends.

use crate::door::{Door, Id};
use crate::lookup::Away;
use crate::problem::Problem;
use crate::purchases::{Known, is_theirs, lost, recorded, waiting};
use crate::request;
use crate::streams::{END, Sender, stream};
use crate::tickets::{Outcome, Ticket};
use crate::verdict::Verdict;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use uuid::Uuid;

/// How often a place in line is told, where it changes, and a verdict looked for that another door waits for.
const POSITION: Duration = Duration::from_secs(1);
/// How often an order is looked at.
const ORDER: Duration = Duration::from_secs(1);

/// `GET /purchases/{id}/events`
pub(crate) async fn events(
    State(door): State<Arc<Door>>,
    Id(id): Id,
    known: Known,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if headers.get("last-event-id").is_some_and(|id| id == END) {
        // By this a browser knows that it need not come again.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let buyer = request::buyer_of(&headers, door.buyer_header.as_ref())?;
    let ticket = door.tickets.get(&id);
    let mut told = None;
    match &ticket {
        Some(ticket) if !is_theirs(&buyer, &ticket.buyer) => return Err(Problem::UnknownPurchase),
        Some(_) => (),
        None => match recorded(&door, &id, &buyer).await {
            Ok(Some(verdict)) => told = Some(verdict),
            Ok(None) | Err(Problem::DatabaseAway) if known.is_any() => (),
            Ok(None) => return Err(Problem::UnknownPurchase),
            Err(problem) => return Err(problem),
        },
    }
    stream(door, async move |door: Arc<Door>, sender| follow(&door, id, buyer, (ticket, told), sender).await)
}

async fn follow(
    door: &Door,
    id: String,
    buyer: Option<String>,
    (ticket, mut told): (Option<Arc<Ticket>>, Option<Verdict>),
    sender: Sender,
) {
    if let Some(ticket) = ticket {
        told = line_up(door, &ticket, &buyer, &sender).await;
    }
    let mut position = None;
    let verdict = loop {
        if let Some(verdict) = told {
            break verdict;
        }
        if position.is_none() {
            sender.say("position", position.insert(waiting(&id, None))).await;
        }
        sleep(POSITION).await;
        told = match recorded(door, &id, &buyer).await {
            Ok(verdict) => verdict,
            Err(Problem::UnknownPurchase) => return sender.end_silently().await,
            Err(_) => None,
        };
    };
    let text = String::from_utf8_lossy(&verdict.bytes);
    let order = serde_json::from_str(&text)
        .ok()
        .and_then(|verdict: Value| Uuid::parse_str(verdict["order"]["id"].as_str()?).ok());
    match order {
        None => sender.end("verdict", &text).await,
        Some(order) => {
            sender.say("verdict", &text).await;
            watch_order(door, order, &sender).await;
        }
    }
}

/// Says how far a request has come that is under way here; its verdict, unless it is not waited for here any more.
async fn line_up(door: &Door, ticket: &Arc<Ticket>, buyer: &Option<String>, sender: &Sender) -> Option<Verdict> {
    let mut said = String::new();
    loop {
        let position = waiting(&ticket.request_id, Some(ticket));
        if position != said {
            sender.say("position", &position).await;
            said = position;
        }
        match ticket.decided(POSITION, pending()).await {
            Outcome::Waits => {
                if let Some(verdict) = lost(door, ticket, buyer).await {
                    return Some(verdict);
                }
            }
            Outcome::Decided(verdict) if !verdict.is_reuse() => return Some(verdict),
            Outcome::Decided(_) | Outcome::Forgotten | Outcome::NotTaken(_) => return None,
        }
    }
}

/// Says each state that the order comes to, until it ends; while the database is away, nothing.
async fn watch_order(door: &Door, id: Uuid, sender: &Sender) {
    let mut known = "reserved".to_owned();
    loop {
        match door.orders.get(id).await {
            Ok(Some(order)) if order.state != known => {
                let said = serde_json::to_string(&order).expect("an order is representable as JSON");
                match order.state.as_str() {
                    end @ ("paid" | "expired" | "cancelled") => return sender.end(end, &said).await,
                    state => sender.say(state, &said).await,
                }
                known = order.state;
            }
            // Its time is past.
            Ok(None) => return sender.end_silently().await,
            Ok(Some(_)) | Err(Away) => (),
        }
        sleep(ORDER).await;
    }
}
