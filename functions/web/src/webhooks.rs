//! What the payment gateway says by itself, signed as Standard Webhooks has it (<https://www.standardwebhooks.com/>), becomes the message
//! that ends a payment which is under way. It says no more than that: what ended otherwise stays as it ended, however often, late or
//! out of order it is said.

use crate::collector::Line;
use crate::door::Door;
use crate::problem::Problem;
use crate::request::{self, Unfit};
use crate::tickets::Outcome;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::hmac::{HMAC_SHA256, Key};
use serde::Deserialize;
use serde_json::json;
use shared::config::Unusable;
use shared::messages::{Code, Identity, PAYMENT_QUEUE, PaymentMessage, Rejection, Request, reason_of};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// By how much the clocks may differ, and how long a webhook may be under way.
const TOLERANCE_SECONDS: u64 = 300;
/// The most signatures of a webhook that are looked at: one for each key of the gateway.
const SIGNATURES_MAX: usize = 8;
/// How long it is waited for whether payment takes such a message from us; that the broker has it is waited for longer.
const WAIT: Duration = Duration::from_secs(3);
const SECRET_PREFIX: &str = "whsec_";
/// What a secret has, in bytes, by the standard.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Reads a secret; an error has no part of it.
pub(crate) fn key(secret: &str) -> Result<Key, Unusable> {
    let bytes = secret.strip_prefix(SECRET_PREFIX).and_then(|text| BASE64_STANDARD.decode(text).ok());
    let bytes = bytes.filter(|bytes| SECRET_BYTES.contains(&bytes.len()));
    let form = "WEBHOOK_SECRET cannot be read; it is whsec_ and 24 to 64 bytes in base64";
    Ok(Key::new(HMAC_SHA256, &bytes.ok_or_else(|| Unusable(form.to_owned()))?))
}

/// `POST /webhooks/payments`
pub(crate) async fn post(State(door): State<Arc<Door>>, headers: HeaderMap, body: Body) -> Result<Response, Unfit> {
    let key = door.webhook_key.as_ref().ok_or(Problem::NotFound)?;
    let body = request::read_body(&door.bodies, body).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let id = signed(key, &headers, &body, now).ok_or(Problem::NotSigned)?;
    let Some(end) = read(id, &body)? else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let PaymentMessage::End(request) = &end else { return Err(Problem::NotFound.into()) };
    let line = Line { exchange: PAYMENT_QUEUE, routing_key: request.order_id.to_string() };
    let body = serde_json::to_string(&end).expect("a request is representable as JSON");
    let ticket = door.tickets.ask(line, end.request_id(), None, body)?;
    Ok(match door.tickets.outcome(&ticket, WAIT, &door.service).await {
        // That it is not taken from us is put right by an operator; until then the gateway says it again.
        Outcome::Decided(verdict) if verdict.status != StatusCode::OK => verdict.into_response(),
        Outcome::Decided(_) | Outcome::Waits | Outcome::Forgotten => StatusCode::NO_CONTENT.into_response(),
        Outcome::NotTaken(problem) => problem.into_response(),
    })
}

/// The id of a webhook that is signed with our key, by one of its signatures, and not for another time than now.
fn signed<'a>(key: &Key, headers: &'a HeaderMap, body: &[u8], now: u64) -> Option<&'a str> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let (id, at, signatures) = (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
    let is_now = at.parse::<u64>().is_ok_and(|at| at.abs_diff(now) <= TOLERANCE_SECONDS);
    let signed = [id.as_bytes(), b".", at.as_bytes(), b".", body].concat();
    let signatures = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
    // To compare one costs as much as to sign the body.
    let mut signatures = signatures.take(SIGNATURES_MAX);
    let is_ours = |signature: &str| {
        BASE64_STANDARD.decode(signature).is_ok_and(|tag| ring::hmac::verify(key, &signed, &tag).is_ok())
    };
    (is_now && signatures.any(is_ours)).then_some(id)
}

/// What of a webhook is looked at first: of other types, nobody knows what else is in them.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Webhook {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    order_id: String,
    charge_id: Option<String>,
    reason: Option<String>,
    payment_method: Option<String>,
}

/// The message that it becomes, under an id of its own; `None`: it says nothing that ends a payment.
fn read(id: &str, body: &[u8]) -> Result<Option<PaymentMessage>, Unfit> {
    let malformed =
        |_| Unfit::from(Rejection::new(Code::Malformed, "The body is no webhook: an object with type and data."));
    let kind: Kind = serde_json::from_slice(body).map_err(malformed)?;
    let outcome = match kind.kind.as_str() {
        "payment.captured" => "captured",
        "payment.declined" => "declined",
        _ => return Ok(None),
    };
    let Webhook { data } = serde_json::from_slice(body).map_err(malformed)?;
    let mut end = json!({"request_id": format!("{}{id}", request::WEBHOOK_PREFIX), "order_id": data.order_id, "op": "settle", "outcome": outcome});
    if outcome == "captured" {
        end["charge_id"] = data.charge_id.into();
    } else {
        // It may come when another one is under way: without its method it would end that.
        let missing = "The field data.payment_method is missing: a decline names the method that was declined.";
        let method = data.payment_method.ok_or_else(|| Rejection::new(Code::InvalidField, missing))?;
        end["payment_method"] = method.into();
        end["reason"] = reason_of(&data.reason.unwrap_or_default()).into();
    }
    Ok(Some(PaymentMessage::decode(end.to_string().as_bytes(), None)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the standard's own libraries are tested.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const AT: u64 = 1_614_265_330;

    fn headers(at: &str, signatures: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", at),
            ("webhook-signature", signatures),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_webhook_is_believed_by_any_of_its_signatures_for_five_minutes_and_byte_for_byte() {
        let key = key(SECRET).unwrap();
        let at = AT.to_string();
        let is_signed =
            |at: &str, signatures: &str, body: &[u8], now| signed(&key, &headers(at, signatures), body, now).is_some();
        let several = format!("v1,AAAA v1a,{0} {1}", &SIGNATURE[3..], SIGNATURE);
        for signatures in [SIGNATURE, &several] {
            for now in [AT, AT + TOLERANCE_SECONDS, AT - TOLERANCE_SECONDS] {
                assert!(is_signed(&at, signatures, BODY, now));
            }
            for now in [AT + TOLERANCE_SECONDS + 1, AT - TOLERANCE_SECONDS - 1] {
                assert!(!is_signed(&at, signatures, BODY, now));
            }
        }
        let of_many = |wrong| format!("{}{SIGNATURE}", "v1,AAAA ".repeat(wrong));
        assert!(is_signed(&at, &of_many(SIGNATURES_MAX - 1), BODY, AT));
        assert!(!is_signed(&at, &of_many(SIGNATURES_MAX), BODY, AT), "so many are not looked at");
        let others = ["v1,", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", &SIGNATURE[3..], "v1,AAAA", ""];
        assert!(others.into_iter().all(|signatures| !is_signed(&at, signatures, BODY, AT)));
        assert!(
            !is_signed(&at, SIGNATURE, b"{\"test\":2432232314}", AT),
            "as it was sent, and not as it means the same"
        );
        assert!(!is_signed(&(AT + 1).to_string(), SIGNATURE, BODY, AT) && !is_signed("now", SIGNATURE, BODY, AT));
        assert!(signed(&key, &HeaderMap::new(), BODY, AT).is_none());
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_being_repeated() {
        for wrong in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_short", "whsec_!", "whsec_AAAA"] {
            let said = key(wrong).unwrap_err().to_string();
            assert!(wrong.is_empty() || !said.contains(wrong.trim_start_matches("whsec_")), "{said}");
        }
    }

    #[test]
    fn what_ends_a_payment_becomes_its_message_and_what_does_not_is_none() {
        let order = "019a0000-0000-7000-8000-000000000000";
        let of = |kind: &str, data: &str| {
            let body = format!(r#"{{"type":"{kind}","timestamp":"2026-11-28T20:00:00Z","data":{{{data}}}}}"#);
            read("msg_1", body.as_bytes()).map(|end| end.map(|end| serde_json::to_value(end).unwrap()))
        };
        let about = |more: &str| format!(r#""order_id":"{order}",{more}"#);
        let end = |name: &str, value: &str, outcome: &str| {
            Ok(Some(
                json!({"request_id": "webhook-msg_1", "order_id": order, "op": "settle", "outcome": outcome, name: value}),
            ))
        };
        let declined = |reason: &str| {
            let mut declined = end("reason", reason, "declined");
            declined.as_mut().unwrap().as_mut().unwrap()["payment_method"] = json!("card");
            declined
        };
        assert_eq!(of("payment.captured", &about(r#""charge_id":"ch_1""#)), end("charge_id", "ch_1", "captured"));
        assert_eq!(
            of("payment.declined", &about(r#""payment_method":"card","reason":"no money","charge_id":"ch_1""#)),
            declined("no money")
        );
        let long = "no".repeat(200);
        for (said, reason) in [("", "the gateway gives no reason"), (r#","reason":"no\nmoney.""#, "nomoney")] {
            assert_eq!(of("payment.declined", &about(&format!(r#""payment_method":"card"{said}"#))), declined(reason));
        }
        let told = of("payment.declined", &about(&format!(r#""payment_method":"card","reason":"{long}""#)));
        assert_eq!(told, declined(&long[..200]), "a decline is not lost for its words");
        assert!(
            matches!(of("payment.declined", &about(r#""reason":"no money""#)), Err(Unfit::Invalid(_))),
            "of which one?"
        );
        assert_eq!((of("payment.refunded", ""), of("customer.created", r#""order_id":7"#)), (Ok(None), Ok(None)));
        for wrong in ["", r#""order_id":"nonsense","charge_id":"ch_1""#, &about(r#""reason":"no charge""#)] {
            assert!(matches!(of("payment.captured", wrong), Err(Unfit::Invalid(_))), "{wrong}");
        }
        assert!(matches!(read("m", b"{}"), Err(Unfit::Invalid(_))));
        assert!(matches!(
            read(&"m".repeat(130), br#"{"type":"payment.captured","data":{"order_id":"x"}}"#),
            Err(Unfit::Invalid(_))
        ));
    }
}
