//! What every kind of request has in common: its identity, and how its fields are read.
//!
//! A message of a rejection says which field and where, and never what: the text would be the sender's, of any length.

use super::verdict::{Code, Rejection};
use serde::de::DeserializeOwned;
use serde_json::{Number, Value};
use std::borrow::Cow;
use uuid::Uuid;

/// The largest body of a message with one request, in bytes; and the largest request in an array.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// The longest id (request, item, buyer), in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// What some editors and .NET's writers put before UTF-8. RFC 8259 lets a reader pass over it.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The largest whole number that every floating-point number below it can be told from its neighbours by.
const WHOLE_FLOAT_MAX: f64 = 9_007_199_254_740_992.0;

/// A kind of request: who takes it, and how it is read.
pub trait Request: Identity + Sized {
    /// The function that takes it. Its queue has this name, or its partitions `NAME.0`, `NAME.1`, …
    const FUNCTION: &'static str;
    /// Whether requests for an item stand in one line, by the item as routing key: who is there by another way jumps it. Then a
    /// message may have an array of them, all for that item.
    const LINES_UP_BY_ITEM: bool = false;

    /// Reads a message's body; `message_id`, the transport's, stands in for a `request_id` that the body lacks. Never
    /// panics; a [`Rejection`] names the first thing wrong, with the request id where one could be read.
    fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection>;

    /// Told by the broker: who sent it, where the message says so; or by who has published it for them, and may.
    fn sent_by(&mut self, sender: Sender, _is_passed_on: bool) {
        drop(sender);
    }
}

/// Who sent a request, by the broker's word; no part of its content. A message that does not say so has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// A user of the broker. Nobody is called "": it stands for whoever sent what versions up to 0.2 have recorded.
    pub user: String,
    /// Whether they may cancel and pay for what anybody has ordered.
    pub is_trusted: bool,
}

/// What tells one request from another.
pub trait Identity: Send + Sync {
    /// Chosen by the sender; the same id of the same sender always gets the same verdict.
    fn request_id(&self) -> &str;

    fn sender(&self) -> Option<&Sender> {
        None
    }

    /// The broker's user who sent it.
    fn user(&self) -> Option<&str> {
        self.sender().map(|sender| sender.user.as_str())
    }

    /// Whether it is of the same sender as what is on record as this user's.
    fn is_by(&self, recorded: Option<&str>) -> bool {
        recorded == Some("") || recorded == self.user()
    }

    /// Its id as nobody else can have it.
    fn own_key(&self) -> Cow<'_, str> {
        match self.user().filter(|user| !user.is_empty()) {
            Some(user) => Cow::Owned(key_of(self.request_id(), user)),
            None => Cow::Borrowed(self.request_id()),
        }
    }

    /// Identifies the content (what is asked for: neither the request id nor a deadline): equal content, equal fingerprint.
    /// Stored with the verdict, so what it is made of never changes.
    fn fingerprint(&self) -> Uuid;

    /// The one that versions up to 0.2 give it, where that is another: they have a purchase's deadline in it.
    fn fingerprint_with_deadline(&self) -> Option<Uuid> {
        None
    }

    /// What of the content stands in plain words, too, where a verdict is recorded.
    fn about(&self) -> About<'_> {
        About::default()
    }
}

impl Rejection {
    /// Of a request whose id is another one's; `differing` are the fields that are known to be what makes it another.
    pub fn reused(request: &impl Identity, differing: &[&str]) -> Self {
        let another = || format!("another {}", differing.join(" and "));
        let what = if differing.is_empty() { "other content".to_owned() } else { another() };
        // Not "use a new id": who only wants to ask again would buy twice.
        let message = format!(
            "This request id has a verdict, or will have one, for a request with {what}. Send that request again \
             to have its verdict; only what is to be bought or done besides takes a new id."
        );
        Self::new(Code::RequestIdReused, message).on(request)
    }

    /// The same, of this request.
    pub fn on(self, request: &impl Identity) -> Self {
        self.of(request.request_id(), request.about().item)
    }
}

/// What a request is about; `None`: its kind has no such field, or nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct About<'a> {
    pub item: Option<&'a str>,
    pub buyer: Option<&'a str>,
    pub quantity: Option<u32>,
}

impl About<'_> {
    /// The names of the fields that are known to differ.
    pub fn differing(&self, other: &About<'_>) -> Vec<&'static str> {
        fn differ<T: PartialEq>((one, other): (Option<T>, Option<T>)) -> bool {
            one.zip(other).is_some_and(|(one, other)| one != other)
        }
        let fields = [
            ("item", differ((self.item, other.item))),
            ("buyer", differ((self.buyer, other.buyer))),
            ("quantity", differ((self.quantity, other.quantity))),
        ];
        fields.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

/// Whether `text` matches `[A-Za-z0-9._:-]{1,128}`: an id that we write where it could mean something, such as in routing keys.
pub fn is_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

/// The key of a user's own verdict, where another has the request's id itself: no id has a space in it.
pub fn key_of(request_id: &str, user: &str) -> String {
    [request_id, user].join(" ")
}

/// Whether `text` is an id as others choose them, which we keep and compare: printable ASCII without space, `"` and `\`.
pub fn is_opaque_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

/// Reads a body that is one JSON object, and not too large, into its fields.
pub(super) fn read_object<Fields: DeserializeOwned>(body: &[u8]) -> Result<Fields, Rejection> {
    if body.len() > BODY_BYTES_MAX {
        let message = format!("The body has {} bytes, the most is {BODY_BYTES_MAX}.", body.len());
        return Err(Rejection::new(Code::TooLarge, message));
    }
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    // An array of five would pass for five fields.
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') | None => (),
        Some(b'[') => {
            return Err(malformed("The body is an array; only purchases share a message. Send a JSON object."));
        }
        Some(_) => return Err(malformed("The body is not a JSON object.")),
    }
    serde_json::from_slice(body).map_err(|error| malformed(not_json(&error)))
}

/// What is wrong with a body that is not JSON, or not that JSON.
pub(super) fn not_json(error: &serde_json::Error) -> String {
    let what = if error.is_data() { "has a field twice" } else { "is not JSON" };
    format!("The body {what} (line {}, column {}).", error.line(), error.column())
}

/// The request's id; `message_id` stands in for one that the body lacks.
pub(super) fn read_request_id(sent: Option<Value>, message_id: Option<&str>) -> Result<String, Rejection> {
    read_opaque_id("request_id", sent.or_else(|| message_id.map(Value::from)))
}

pub(super) fn read_id(field: &str, value: Option<Value>) -> Result<String, Rejection> {
    let text = read_id_text(field, value)?;
    if is_id(&text) {
        return Ok(text);
    }
    let message = format!(
        "The field {field} does not match [A-Za-z0-9._:-]{{1,{ID_BYTES_MAX}}}; write other characters in base64url, for \
         example."
    );
    Err(Rejection::new(Code::InvalidId, message))
}

pub(super) fn read_opaque_id(field: &str, value: Option<Value>) -> Result<String, Rejection> {
    let text = read_id_text(field, value)?;
    if is_opaque_id(&text) {
        return Ok(text);
    }
    let message = format!(
        "The field {field} is not 1 to {ID_BYTES_MAX} characters of printable ASCII without space, quotation mark and \
         backslash; write other characters in base64url, for example."
    );
    Err(Rejection::new(Code::InvalidId, message))
}

/// A whole number is taken for its digits: many have ids that are numbers.
fn read_id_text(field: &str, value: Option<Value>) -> Result<String, Rejection> {
    match value.filter(|value| !value.is_null()) {
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        value => read_text(field, value),
    }
}

/// A whole number however it is written: JSON, and JSON Schema, do not tell `1.0` from `1`.
pub(super) fn whole(number: &Number) -> Option<i64> {
    let is_whole = |float: &f64| float.fract() == 0.0 && float.abs() <= WHOLE_FLOAT_MAX;
    number.as_i64().or_else(|| number.as_f64().filter(is_whole).map(|float| float as i64))
}

/// The order that a request is about.
pub(super) fn read_order_id(value: Option<Value>) -> Result<Uuid, Rejection> {
    let text = read_text("order_id", value.filter(|value| !value.is_null()))?;
    if !is_id(&text) {
        let message = format!("The field order_id does not match [A-Za-z0-9._:-]{{1,{ID_BYTES_MAX}}}.");
        return Err(Rejection::new(Code::InvalidId, message));
    }
    Uuid::try_parse(&text).map_err(|_| Rejection::new(Code::InvalidId, "The field order_id is not a UUID."))
}

pub(super) fn read_text(field: &str, value: Option<Value>) -> Result<String, Rejection> {
    let Value::String(text) = required(field, value)? else {
        return Err(malformed(format!("The field {field} is not a string.")));
    };
    Ok(text)
}

pub(super) fn required<Field>(field: &str, value: Option<Field>) -> Result<Field, Rejection> {
    value.ok_or_else(|| malformed(format!("The field {field} is missing.")))
}

pub(super) fn malformed(message: impl Into<String>) -> Rejection {
    Rejection::new(Code::Malformed, message)
}

pub(super) fn invalid(message: impl Into<String>) -> Rejection {
    Rejection::new(Code::InvalidField, message)
}
