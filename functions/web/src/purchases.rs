//! Purchases: asked for, waited for, looked up.

use crate::collector::Line;
use crate::door::{Door, Id};
use crate::lookup::Away;
use crate::problem::{IDEMPOTENCY_KEY, Problem};
use crate::request::{self, Unfit};
use crate::tickets::{Outcome, Ticket};
use crate::verdict::Verdict;
use axum::body::Body;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use shared::messages::{CONTENT_TYPE, PURCHASE_EXCHANGE, PurchaseRequest};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long a verdict is waited for where the client does not say.
const WAIT_SECONDS: u64 = 10;
/// How often it is looked for what another door has asked.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Behind so long a time the record is looked at for what this door has asked, too: the reply may be lost, or the request, and sent
/// again elsewhere.
const REPLY_LOST: Duration = Duration::from_secs(30);
/// What stands in a path as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `POST /items/{item}/purchases`
pub(crate) async fn post(
    State(door): State<Arc<Door>>,
    Id(item): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Unfit> {
    let buyer = request::buyer_of(&headers, door.buyer_header.as_ref())?;
    let fields = request::read_object(&door.bodies, &headers, body).await?;
    let is_another = |said: &&String| fields.get("buyer").is_some_and(|named| named.as_str() != Some(said));
    if buyer.as_ref().filter(is_another).is_some() {
        return Err(Problem::AnotherBuyer.into());
    }
    let said = [("item", Some(item)), ("buyer", buyer)];
    let said = said.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let purchase: PurchaseRequest = request::read(&headers, fields, said)?;
    let body = serde_json::to_string(&purchase).expect("a request is representable as JSON");
    let line = Line { exchange: PURCHASE_EXCHANGE, routing_key: purchase.item };
    Ok(answer(&door, &headers, door.tickets.ask(line, &purchase.request_id, Some(purchase.buyer), body)?).await)
}

/// What comes of a request in the time that the client has for it.
pub(crate) async fn answer(door: &Door, headers: &HeaderMap, ticket: Arc<Ticket>) -> Response {
    let wait = request::wait_of(headers).unwrap_or(Duration::from_secs(WAIT_SECONDS));
    match door.tickets.outcome(&ticket, wait, &door.service).await {
        Outcome::Decided(verdict) => told(verdict.into_response(), &ticket.request_id),
        Outcome::Waits | Outcome::Forgotten => accepted_here(&ticket),
        Outcome::NotTaken(problem) => problem.of(&ticket.request_id),
    }
}

/// What else is known of a request that is looked for, from where it was asked: what it is about.
#[derive(Deserialize)]
pub(crate) struct Known {
    item: Option<String>,
    order: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Known {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = Query::from_request_parts(parts, state).await;
        read.map(|Query(known)| known).map_err(|_| Problem::InvalidQuery)
    }
}

impl Known {
    pub(crate) fn is_any(&self) -> bool {
        self.item.is_some() || self.order.is_some()
    }
}

/// Whether this buyer, where one is named, may see what belongs to that one, where it belongs to anybody.
pub(crate) fn is_theirs(buyer: &Option<String>, of: &Option<String>) -> bool {
    buyer.is_none() || of.is_none() || buyer == of
}

/// `GET /purchases/{id}`
pub(crate) async fn get(
    State(door): State<Arc<Door>>,
    Id(id): Id,
    known: Known,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let buyer = request::buyer_of(&headers, door.buyer_header.as_ref())?;
    let until = Instant::now() + request::wait_of(&headers).unwrap_or_default();
    loop {
        if let Some(ticket) = door.tickets.get(&id) {
            if !is_theirs(&buyer, &ticket.buyer) {
                return Err(Problem::UnknownPurchase);
            }
            match ticket.decided(until.saturating_duration_since(Instant::now()), door.service.stopped()).await {
                Outcome::Decided(verdict) if !verdict.is_reuse() => return Ok(told(verdict.into_response(), &id)),
                Outcome::Waits => {
                    let lost = lost(&door, &ticket, &buyer).await;
                    return Ok(
                        lost.map_or_else(|| accepted_here(&ticket), |verdict| told(verdict.into_response(), &id))
                    );
                }
                // The verdict on that id is the first one's, wherever it was asked.
                Outcome::Decided(_) | Outcome::Forgotten | Outcome::NotTaken(_) => (),
            }
        }
        match recorded(&door, &id, &buyer).await? {
            Some(verdict) => return Ok(told(verdict.into_response(), &id)),
            None if !known.is_any() => return Err(Problem::UnknownPurchase),
            None if Instant::now() >= until || door.service.is_stopped() => {
                return Ok(accepted(&id, &known, &waiting(&id, None)));
            }
            None => (),
        }
        let again = until.min(Instant::now() + LOOK_AGAIN);
        tokio::select! { () = sleep_until(again) => (), () = door.service.stopped() => () }
    }
}

/// The verdict on record of what has waited here for long. Then nobody goes on waiting for a reply to it: that may be lost, or say
/// that the id was used before.
pub(crate) async fn lost(door: &Door, ticket: &Arc<Ticket>, buyer: &Option<String>) -> Option<Verdict> {
    if ticket.asked_at.elapsed() <= REPLY_LOST {
        return None;
    }
    let verdict = recorded(door, &ticket.request_id, buyer).await.ok()??;
    door.tickets.forget(ticket);
    Some(verdict)
}

/// The verdict on record, where it is for this buyer to see.
pub(crate) async fn recorded(door: &Door, id: &str, buyer: &Option<String>) -> Result<Option<Verdict>, Problem> {
    match door.verdicts.get(id.to_owned()).await {
        Ok(Some(recorded)) if !is_theirs(buyer, &recorded.buyer) => Err(Problem::UnknownPurchase),
        Ok(recorded) => Ok(recorded.and_then(|recorded| Verdict::read(&recorded.reply, id))),
        Err(Away) => Err(Problem::DatabaseAway),
    }
}

/// Where a request stands in line, as far as it is known here.
pub(crate) fn waiting(id: &str, ticket: Option<&Ticket>) -> String {
    // Workers tell of purchases alone, and the line of a payment is its order.
    let purchase = ticket.filter(|ticket| ticket.line.exchange == PURCHASE_EXCHANGE);
    let (ahead, wait_ms, known) = match purchase.map(Ticket::position) {
        Some((ahead, wait_ms, known)) => (Some(ahead), wait_ms, known),
        None => (None, None, false),
    };
    json!({"request_id": id, "ahead": ahead, "wait_ms": wait_ms, "known": known}).to_string()
}

fn accepted_here(ticket: &Ticket) -> Response {
    let Line { exchange, routing_key } = ticket.line.clone();
    let known = match exchange {
        PURCHASE_EXCHANGE => Known { item: Some(routing_key), order: None },
        _ => Known { item: None, order: Some(routing_key) },
    };
    accepted(&ticket.request_id, &known, &waiting(&ticket.request_id, Some(ticket)))
}

/// Not decided yet. Where to ask again says what it is about, for whichever door is asked then.
fn accepted(id: &str, known: &Known, body: &str) -> Response {
    let [path, item, order] = [Some(id), known.item.as_deref(), known.order.as_deref()]
        .map(|text| text.map(|text| utf8_percent_encode(text, ESCAPED).to_string()));
    let about = [("item", item), ("order", order)].into_iter().find_map(|(name, value)| Some((name, value?)));
    let (name, value) = about.unwrap_or_default();
    let location = format!("/purchases/{}?{name}={value}", path.unwrap_or_default());
    let head = [(header::CONTENT_TYPE, CONTENT_TYPE), (header::RETRY_AFTER, "1"), (header::LOCATION, &location)];
    told((StatusCode::ACCEPTED, head, body.to_owned()).into_response(), id)
}

/// By which id it goes.
fn told(mut response: Response, id: &str) -> Response {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(IDEMPOTENCY_KEY, id);
    }
    response
}
