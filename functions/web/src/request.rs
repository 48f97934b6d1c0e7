//! What a request says in its headers, its body and its query, within bounds.

use crate::problem::{IDEMPOTENCY_KEY, Problem};
use crate::verdict::Verdict;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, header};
use futures_util::StreamExt;
use serde_json::{Map, Value};
use shared::messages::{BODY_BYTES_MAX, Code, Rejection, Request};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uuid::Uuid;

/// How long a body may take to come.
pub(crate) const SEND_SECONDS_MAX: u64 = 10;
/// Room for bodies is taken in steps of this; the first is each connection's own.
const BODY_STEP_BYTES: usize = 4 * 1024;
/// What all bodies together may have beyond that, while they come.
pub(crate) const BODIES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How the ids of requests begin that webhooks become.
pub(crate) const WEBHOOK_PREFIX: &str = "webhook-";
/// The longest that anybody waits for a verdict, in one request.
pub(crate) const WAIT_SECONDS_MAX: u64 = 60;

/// A request that cannot be sent on: a verdict that nobody needs to decide, or a problem.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    Invalid(Verdict),
    Problem(Problem),
}

impl From<Problem> for Unfit {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Rejection> for Unfit {
    fn from(rejection: Rejection) -> Self {
        let text = serde_json::to_string(&rejection.verdict()).expect("a verdict is representable as JSON");
        let id = rejection.request_id.as_deref().unwrap_or_default();
        Self::Invalid(Verdict::read(&text, id).expect("it is the verdict on this request"))
    }
}

/// The JSON object that a request's body is.
pub(crate) async fn read_object(
    room: &Semaphore,
    headers: &HeaderMap,
    body: Body,
) -> Result<Map<String, Value>, Unfit> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Nothing else: what a page of somebody else's could send unasked has another type.
    if !content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::NotJson.into());
    }
    let malformed = |_| Rejection::new(Code::Malformed, "The body is not a JSON object.").into();
    serde_json::from_slice(&read_body(room, body).await?).map_err(malformed)
}

/// Within limits of size, of time, and of the room that all bodies share.
pub(crate) async fn read_body(room: &Semaphore, body: Body) -> Result<Bytes, Problem> {
    timeout(Duration::from_secs(SEND_SECONDS_MAX), read_within(room, body)).await.unwrap_or(Err(Problem::TooSlow))
}

async fn read_within(room: &Semaphore, body: Body) -> Result<Bytes, Problem> {
    // Held until it is read.
    let (mut read, mut has) = (Vec::with_capacity(BODY_STEP_BYTES), Vec::new());
    let (mut capacity, mut chunks) = (BODY_STEP_BYTES, body.into_data_stream());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::BodyTooLarge)?;
        let length = read.len() + chunk.len();
        if length > BODY_BYTES_MAX {
            return Err(Problem::BodyTooLarge);
        }
        if length > capacity {
            let steps = length.next_multiple_of(BODY_STEP_BYTES) - capacity;
            let more = u32::try_from(steps).ok().and_then(|steps| room.try_acquire_many(steps).ok());
            has.push(more.ok_or(Problem::TooManyBodies)?);
            capacity += steps;
            read.reserve_exact(capacity - read.len());
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read.into())
}

/// The request that these fields make, as its function reads it, under the id that the client gave it, or a new one. Fields that the
/// path or a header says are said by them alone.
pub(crate) fn read<R: Request>(
    headers: &HeaderMap,
    mut fields: Map<String, Value>,
    said: impl IntoIterator<Item = (&'static str, String)>,
) -> Result<R, Unfit> {
    if let Some(id) = idempotency_key(headers) {
        fields.insert("request_id".to_owned(), id.into());
    }
    fields.entry("request_id").or_insert_with(|| Uuid::now_v7().to_string().into());
    fields.extend(said.into_iter().map(|(name, value)| (name.to_owned(), value.into())));
    let body = serde_json::to_vec(&fields).expect("what was read as JSON is representable as JSON");
    let request = R::decode(&body, None)?;
    if request.request_id().starts_with(WEBHOOK_PREFIX) {
        let message = format!("No request_id of a client begins with {WEBHOOK_PREFIX}: those are the gateway's.");
        return Err(Rejection::new(Code::InvalidId, message).on(&request).into());
    }
    Ok(request)
}

/// As it stands there, or as a string of RFC 8941, which the draft of its standard wants.
fn idempotency_key(headers: &HeaderMap) -> Option<String> {
    let key = String::from_utf8_lossy(headers.get(IDEMPOTENCY_KEY)?.as_bytes()).into_owned();
    let inner = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).map(ToOwned::to_owned);
    Some(inner.unwrap_or(key))
}

/// How long the client would wait (RFC 7240), as far as anybody may.
pub(crate) fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut words = preferences.flat_map(|value| value.split([',', ';']));
    let seconds: u64 = words.find_map(|word| word.trim().strip_prefix("wait=")?.trim_matches('"').parse().ok())?;
    Some(Duration::from_secs(seconds.min(WAIT_SECONDS_MAX)))
}

/// The buyer whom a proxy names, where one is to.
pub(crate) fn buyer_of(headers: &HeaderMap, name: Option<&HeaderName>) -> Result<Option<String>, Problem> {
    let Some(name) = name else { return Ok(None) };
    let mut values = headers.get_all(name).iter();
    let (value, another) = (values.next().and_then(|value| value.to_str().ok()), values.next());
    let buyer = value.filter(|buyer| another.is_none() && !buyer.is_empty()).ok_or(Problem::NoBuyer)?;
    Ok(Some(buyer.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::messages::{Identity, PurchaseRequest};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn purchase(headers: &HeaderMap, body: &str) -> Result<PurchaseRequest, Unfit> {
        read(headers, serde_json::from_str(body).unwrap(), [("item", "concert-42".to_owned())])
    }

    #[test]
    fn the_path_says_the_item_and_the_header_the_id_or_the_body_or_nobody() {
        let body = r#"{"item":"other","request_id":"r-1","buyer":7,"quantity":2.0,"deadline":"2026-11-28T20:00:00Z"}"#;
        for (key, id) in [("r-2", "r-2"), ("\"r-3\"", "r-3")] {
            let request = purchase(&headers(&[("idempotency-key", key)]), body).unwrap();
            assert_eq!((request.request_id(), request.item.as_str(), request.buyer.as_str()), (id, "concert-42", "7"));
            assert!(request.quantity == 2 && request.deadline.is_some());
        }
        assert_eq!(purchase(&HeaderMap::new(), body).unwrap().request_id, "r-1");
        let made = purchase(&HeaderMap::new(), r#"{"buyer":"b","quantity":1}"#).unwrap().request_id;
        assert!(Uuid::parse_str(&made).is_ok(), "{made}");
    }

    #[test]
    fn what_the_queue_would_refuse_is_refused_with_the_same_words() {
        let keyed = headers(&[("idempotency-key", "r-1")]);
        let Err(Unfit::Invalid(verdict)) = purchase(&keyed, r#"{"buyer":"b","quantity":0}"#) else { panic!() };
        let (body, said) = (br#"{"request_id":"r-1","item":"concert-42","buyer":"b","quantity":0}"#, verdict.bytes);
        let refused = PurchaseRequest::decode(body, None).unwrap_err().verdict();
        assert_eq!((verdict.status, said), (400, serde_json::to_vec(&refused).unwrap().into()));
        for id in ["r 1", "webhook-1"] {
            let refused = purchase(&headers(&[("idempotency-key", id)]), r#"{"buyer":"b","quantity":1}"#);
            assert!(matches!(refused, Err(Unfit::Invalid(_))), "{id}");
        }
    }

    #[test]
    fn how_long_to_wait_is_a_preference_among_others_and_has_a_limit() {
        for (prefer, expected) in [
            (&[("prefer", "wait=3")][..], Some(3)),
            (&[("prefer", "respond-async, wait=0")], Some(0)),
            (&[("prefer", "handling=lenient; wait=\"7\""), ("prefer", "wait=9")], Some(7)),
            (&[("prefer", "wait=99999")], Some(WAIT_SECONDS_MAX)),
            (&[("prefer", "wait=-1")], None),
            (&[("prefer", "wait")], None),
            (&[], None),
        ] {
            assert_eq!(wait_of(&headers(prefer)), expected.map(Duration::from_secs), "{prefer:?}");
        }
    }

    #[test]
    fn a_buyer_is_named_once_where_one_is_to_be_named() {
        let name = HeaderName::from_static("x-buyer");
        let of = |pairs: &[(&'static str, &str)]| buyer_of(&headers(pairs), Some(&name));
        assert_eq!(of(&[("x-buyer", "ann")]), Ok(Some("ann".to_owned())));
        for none in [&[][..], &[("x-buyer", "")], &[("x-buyer", "ann"), ("x-buyer", "eve")]] {
            assert_eq!(of(none), Err(Problem::NoBuyer));
        }
        assert_eq!(buyer_of(&headers(&[("x-buyer", "ann")]), None), Ok(None));
    }
}
