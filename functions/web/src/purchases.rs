//! Purchases: asked for, waited for, looked up.

use crate::{
    collector::Line,
    door::{Door, Id},
    lookup::Away,
    problem::{IDEMPOTENCY_KEY, Problem},
    request::{self, Unfit},
    tickets::{Outcome, Ticket},
    verdict::Verdict,
};
use axum::{
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use shared::messages::{CONTENT_TYPE, PURCHASE_EXCHANGE, PurchaseRequest};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// How long a verdict is waited for where the client does not say.
const WAIT_SECONDS: u64 = 10;
/// How often it is looked for what another door has asked.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
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
    let fields = request::read_object(&headers, body).await?;
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
    let id = &ticket.request_id;
    match door.tickets.outcome(&ticket, wait, &door.service).await {
        Outcome::Decided(verdict) => told(verdict.into_response(), id),
        Outcome::Waits | Outcome::Forgotten => accepted(id, &ticket.line.routing_key),
        Outcome::NotTaken(problem) => problem.of(id),
    }
}

/// What else is known of a request that is looked for, from where it was asked.
#[derive(Deserialize)]
pub(crate) struct Known {
    item: Option<String>,
}

/// `GET /purchases/{id}`
pub(crate) async fn get(
    State(door): State<Arc<Door>>,
    Id(id): Id,
    known: Query<Known>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let buyer = request::buyer_of(&headers, door.buyer_header.as_ref())?;
    let until = Instant::now() + request::wait_of(&headers).unwrap_or_default();
    let is_theirs = |of: &Option<String>| buyer.is_none() || of.is_none() || *of == buyer;
    loop {
        if let Some(ticket) = door.tickets.get(&id) {
            if !is_theirs(&ticket.buyer) {
                return Err(Problem::UnknownPurchase);
            }
            match ticket.decided(until.saturating_duration_since(Instant::now()), door.service.stopped()).await {
                Outcome::Decided(verdict) => return Ok(told(verdict.into_response(), &id)),
                Outcome::Waits => return Ok(accepted(&id, &ticket.line.routing_key)),
                Outcome::Forgotten | Outcome::NotTaken(_) => (),
            }
        }
        match door.verdicts.get(id.clone()).await {
            Ok(Some(recorded)) if is_theirs(&recorded.buyer) => {
                let verdict = Verdict::read(&recorded.reply, &id).ok_or(Problem::UnknownPurchase)?;
                return Ok(told(verdict.into_response(), &id));
            }
            Ok(Some(_)) => return Err(Problem::UnknownPurchase),
            Ok(None) => match &known.item {
                None => return Err(Problem::UnknownPurchase),
                Some(item) if Instant::now() >= until || door.service.is_stopped() => return Ok(accepted(&id, item)),
                Some(_) => (),
            },
            Err(Away) => return Err(Problem::DatabaseAway),
        }
        tokio::select! { () = sleep_until(until.min(Instant::now() + LOOK_AGAIN)) => (), () = door.service.stopped() => () }
    }
}

/// Not decided yet. Where to ask again says what it is about, for whichever door is asked then.
fn accepted(id: &str, item: &str) -> Response {
    let [path, query] = [id, item].map(|text| utf8_percent_encode(text, ESCAPED));
    let location = format!("/purchases/{path}?item={query}");
    let body = json!({"request_id": id, "ahead": null, "wait_ms": null, "known": false}).to_string();
    let head = [(header::CONTENT_TYPE, CONTENT_TYPE), (header::RETRY_AFTER, "1"), (header::LOCATION, &location)];
    told((StatusCode::ACCEPTED, head, body).into_response(), id)
}

/// By which id it goes.
fn told(mut response: Response, id: &str) -> Response {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(IDEMPOTENCY_KEY, id);
    }
    response
}
