//! Reading a body's fields: what every kind of request has in common.

use super::verdict::{Code, Rejection};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

/// The largest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// The longest id (request, item, buyer), in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Whether `text` matches `[A-Za-z0-9._:-]{1,128}`.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

/// Reads a body that is one JSON object, and not too large, into its fields.
///
/// The message says where, and never what: the text would be the sender's, of any length.
pub(super) fn read_object<Fields: DeserializeOwned>(body: &[u8]) -> Result<Fields, Rejection> {
    if body.len() > BODY_BYTES_MAX {
        let message = format!("The body has {} bytes, the most is {BODY_BYTES_MAX}.", body.len());
        return Err(Rejection::new(Code::TooLarge, message));
    }
    // An array of five would pass for five fields.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte != b'{') {
        return Err(Rejection::new(Code::Malformed, "The body is not a JSON object."));
    }
    serde_json::from_slice(body).map_err(|error| {
        let what = if error.is_data() { "has a field twice" } else { "is not JSON" };
        let message = format!("The body {what} (line {}, column {}).", error.line(), error.column());
        Rejection::new(Code::Malformed, message)
    })
}

/// The request's id; `message_id` stands in for one that the body lacks.
pub(super) fn read_request_id(sent: Option<Value>, message_id: Option<&str>) -> Result<String, Rejection> {
    read_id("request_id", sent.or_else(|| message_id.map(Value::from)))
}

pub(super) fn read_id(field: &str, value: Option<Value>) -> Result<String, Rejection> {
    let text = match value {
        Some(Value::String(text)) => text,
        None | Some(Value::Null) => {
            return Err(Rejection::new(Code::Malformed, format!("The field {field} is missing.")));
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(Rejection::new(Code::Malformed, format!("The field {field} is not a string.")));
        }
    };
    if is_id(&text) {
        return Ok(text);
    }
    let message = format!("The field {field} does not match [A-Za-z0-9._:-]{{1,{ID_BYTES_MAX}}}.");
    Err(Rejection::new(Code::InvalidId, message))
}

/// The order that a request is about.
pub(super) fn read_order_id(value: Option<Value>) -> Result<Uuid, Rejection> {
    let text = read_id("order_id", value)?;
    Uuid::try_parse(&text).map_err(|_| Rejection::new(Code::InvalidId, "The field order_id is not a UUID."))
}
