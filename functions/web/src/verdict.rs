//! Verdicts as they came, and what HTTP says of each. Pure.

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::messages::{Code, Status, is_array};

/// A verdict: its bytes are what the client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Of the response.
    pub(crate) status: u16,
    pub(crate) bytes: Bytes,
}

/// What of a verdict is looked at. A code that is not known yet is none that we answer otherwise.
#[derive(Deserialize)]
struct Looked<'a> {
    request_id: Option<&'a str>,
    status: Status,
    code: &'a str,
}

/// The status of a verdict that says that the id is another request's.
const REUSED: u16 = 409;

impl Verdict {
    /// Whether it says nothing of the request that has the id.
    pub(crate) fn is_reuse(&self) -> bool {
        self.status == REUSED
    }

    /// The verdict on this request; `None`: it is none, or another's.
    pub(crate) fn read(text: &str, request_id: &str) -> Option<Self> {
        let Looked { request_id: id, status, code } = serde_json::from_str(text).ok()?;
        let is_reused = code == Code::RequestIdReused.as_str();
        let status = match status {
            Status::Invalid if is_reused => REUSED,
            Status::Invalid => 400,
            Status::Reserved | Status::SoldOut | Status::Refused | Status::Done => 200,
        };
        // Where the message as a whole could not be read, it has none.
        let is_of = id.is_none_or(|id| id == request_id);
        is_of.then(|| Self { status, bytes: Bytes::copy_from_slice(text.as_bytes()) })
    }
}

/// The verdicts on these requests, in their order, which went out in one message; `None`: it is no reply to it.
pub(crate) fn split(reply: &[u8], request_ids: &[&str]) -> Option<Vec<Verdict>> {
    let reply = std::str::from_utf8(reply).ok()?;
    if !is_array(reply.as_bytes()) {
        // One alone, or the message was refused as a whole.
        return request_ids.iter().map(|id| Verdict::read(reply, id)).collect();
    }
    let verdicts: Vec<&RawValue> = serde_json::from_str(reply).ok()?;
    let is_whole = verdicts.len() == request_ids.len();
    let mut read = verdicts.iter().zip(request_ids).map(|(verdict, id)| Verdict::read(verdict.get(), id));
    is_whole.then(|| read.by_ref().collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(id: &str, status: &str, code: &str) -> String {
        format!(r#"{{"request_id":"{id}", "status":"{status}","code":"{code}","message":"é","new":[1]}}"#)
    }

    #[test]
    fn a_reply_is_cut_into_verdicts_byte_for_byte_and_each_is_its_requests_own() {
        let texts = [("a", "reserved", "reserved"), ("b", "refused", "to_come"), ("c", "invalid", "request_id_reused")]
            .map(|(id, status, code)| verdict(id, status, code));
        let reply = format!("[{}]", texts.join(","));
        let verdicts = split(reply.as_bytes(), &["a", "b", "c"]).unwrap();
        let cut: Vec<_> = verdicts.iter().map(|verdict| (verdict.status, &*verdict.bytes)).collect();
        assert_eq!(cut, [(200, texts[0].as_bytes()), (200, texts[1].as_bytes()), (409, texts[2].as_bytes())]);
        assert_eq!(split(texts[0].as_bytes(), &["a"]).unwrap()[0].bytes, texts[0].as_bytes());
        for others in [&["a", "b"][..], &["b", "a", "c"], &["a", "b", "c", "d"]] {
            assert_eq!(split(reply.as_bytes(), others), None, "{others:?}");
        }
        assert_eq!(
            (split(texts[0].as_bytes(), &["z"]), split(b"[", &["a"]), split(b"\xff", &["a"])),
            (None, None, None)
        );
    }

    #[test]
    fn a_message_that_is_refused_as_a_whole_is_that_verdict_for_each() {
        let refused = r#"{"status":"invalid","code":"delivery_limit","message":""}"#;
        let verdicts = split(refused.as_bytes(), &["a", "b"]).unwrap();
        assert!(verdicts.len() == 2 && verdicts.iter().all(|verdict| verdict.status == 400));
    }
}
