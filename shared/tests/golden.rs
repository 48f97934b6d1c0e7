//! What senders, the database and readers of replies remember, compared with golden files.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

// All that a move of modules would change.
use messages::{Code, EventKind, PaymentMessage, PurchaseRequest, Rejection, ReleaseRequest, Request, RestockRequest};
use shared::devstack::fixture;
use shared::{db, messages};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

#[path = "golden/compare.rs"]
mod compare;

/// Stand for bytes that a line of text cannot hold.
const LARGE: &str = "<70 kB>";
const NOT_UTF8: &str = "<FF>";
const LINE_FEED: &str = "<LF>";
const BYTE_ORDER_MARK: &str = "<BOM>";

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Each request of the file (`KIND BODY`, or `KIND@MESSAGE_ID BODY`), with what becomes of it on the line below: its id
/// and fingerprint (and the one with the deadline, where it has one), or the reply that rejects it. To add one, write its
/// line, and update the file.
fn assert_requests(name: &str) -> Vec<(String, Result<(), Rejection>)> {
    let text = read(name);
    let mut lines = Vec::new();
    let mut decoded = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        lines.push(line.to_owned());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (kind, body) = line.split_once(' ').unwrap();
        let (kind, message_id) = kind.split_once('@').map_or((kind, None), |(kind, id)| (kind, Some(id)));
        let result = decode(kind, &bytes(body), message_id);
        lines.push(match &result {
            Ok((id, fingerprint)) => format!("  {id} {fingerprint}"),
            Err(rejection) => format!("  {}", serde_json::to_string(&rejection.verdict()).unwrap()),
        });
        decoded.push((kind.to_owned(), result.map(drop)));
    }
    compare::assert_golden(&file(name), &(lines.join("\n") + "\n"));
    decoded
}

fn decode(kind: &str, body: &[u8], message_id: Option<&str>) -> Result<(String, String), Rejection> {
    fn read<R: Request>(body: &[u8], message_id: Option<&str>) -> Result<(String, String), Rejection> {
        let read = R::decode(body, message_id)?;
        let with_deadline = read.fingerprint_with_deadline().map(|fingerprint| format!(" {fingerprint}"));
        Ok((read.request_id().to_owned(), format!("{}{}", read.fingerprint(), with_deadline.unwrap_or_default())))
    }
    match kind {
        "purchase" => read::<PurchaseRequest>(body, message_id),
        "payment" => read::<PaymentMessage>(body, message_id),
        "release" => read::<ReleaseRequest>(body, message_id),
        "restock" => read::<RestockRequest>(body, message_id),
        other => panic!("there is no request of the kind {other}"),
    }
}

fn bytes(body: &str) -> Vec<u8> {
    let text = body.replace(LARGE, &"x".repeat(70_000)).replace(LINE_FEED, "\n").replace(BYTE_ORDER_MARK, "\u{feff}");
    let mut parts = text.split(NOT_UTF8);
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(0xff);
        bytes.extend(part.as_bytes());
    }
    bytes
}

#[test]
fn a_request_that_is_accepted_has_the_fingerprint_that_is_on_record() {
    let decoded = assert_requests("fingerprints.txt");
    let rejected: Vec<_> = decoded.iter().filter(|(_, result)| result.is_err()).collect();
    assert!(rejected.is_empty(), "{rejected:?}");
    assert!(decoded.len() >= 50, "{} requests", decoded.len());
}

#[test]
fn a_request_that_is_rejected_is_told_the_same_byte_for_byte() {
    let decoded = assert_requests("rejections.txt");
    let accepted: Vec<_> = decoded.iter().enumerate().filter(|(_, (_, result))| result.is_ok()).collect();
    assert!(accepted.is_empty(), "{accepted:?}");
    let of = |kind: &str| decoded.iter().filter(|(of, _)| of == kind).count();
    assert!(of("restock") >= 80, "{} of restock", of("restock"));
    let codes: BTreeSet<_> =
        decoded.iter().filter_map(|(_, result)| result.as_ref().err()?.code.as_str().into()).collect();
    assert_eq!(Vec::from_iter(codes), ["invalid_field", "invalid_id", "invalid_quantity", "malformed", "too_large"]);
}

#[test]
fn every_word_is_read_and_written_as_it_was() {
    let text = read("words.txt");
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut parts = line.split(' ');
        let (kind, word) = (parts.next().unwrap(), parts.next().unwrap());
        let json = serde_json::Value::from(word);
        lines.push(match kind {
            "code" => {
                let code: Code = serde_json::from_value(json).unwrap();
                format!("code {} {}", code.as_str(), code.status().as_str())
            }
            "event" => {
                let event: EventKind = serde_json::from_value(json).unwrap();
                format!("event {} {}", event.as_str(), event.routing_key("item.1"))
            }
            other => panic!("there are no words of the kind {other}"),
        });
    }
    assert_eq!(lines.len(), Code::ALL.len() + EventKind::ALL.len());
    compare::assert_golden(&file("words.txt"), &(lines.join("\n") + "\n"));
}

#[tokio::test]
async fn the_schema_after_all_migrations_is_what_it_was() {
    let pool = db::pool(&fixture::database().await, "golden", 1).unwrap();
    db::migrate(&pool).await.unwrap();
    let query = read("schema.sql");
    let lines: Vec<String> = sqlx::query_scalar(&query).fetch_all(&pool).await.unwrap();
    compare::assert_golden(&file("schema.txt"), &(lines.join("\n") + "\n"));
}
