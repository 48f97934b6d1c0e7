//! The messages: what a buyer sends, what a buyer gets back, and the words both use.
//!
//! This is the one module that publishers, functions and the load generator share. It knows serde and nothing of
//! ours: no broker, no database, no clock. Invariant: [`PurchaseRequest::decode`] never panics, whatever the bytes,
//! and what it accepts holds every limit written here.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

/// The exchange that purchase requests are published to; the routing key is the item's id.
pub const PURCHASE_EXCHANGE: &str = "purchase";
/// The largest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// The longest id (request, item, buyer), in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// The most units that one request can ask for.
pub const QUANTITY_MAX: u32 = 1_000;
/// The content type of requests and replies.
pub const CONTENT_TYPE: &str = "application/json";

/// Names the space of fingerprints (UUIDv5); changing it would make every stored request id look reused.
const FINGERPRINT_SPACE: Uuid = Uuid::from_u128(0x2d1f_3b52_7c14_5a0e_9d3a_7475_726e_7374);

/// A buyer's wish for units of one item, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurchaseRequest {
    /// Chosen by the sender; the same id always gets the same verdict.
    pub request_id: String,
    /// The item's id.
    pub item: String,
    /// The buyer's id.
    pub buyer: String,
    /// Units, 1 to [`QUANTITY_MAX`]; all or nothing.
    pub quantity: u32,
    /// After this moment the buyer no longer wants the units.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
}

impl PurchaseRequest {
    /// Reads a message's body; `message_id` stands in for a `request_id` that the body lacks.
    ///
    /// # Errors
    /// A [`Rejection`] that names the first thing wrong, with the request id where one could be read.
    pub fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection> {
        if body.len() > BODY_BYTES_MAX {
            let message = format!("The body has {} bytes, the most is {BODY_BYTES_MAX}.", body.len());
            return Err(Rejection::new(Code::TooLarge, message));
        }
        let fields = read_fields(body)?;
        let sent_id = fields.request_id.or_else(|| message_id.map(Value::from));
        let request_id = read_id("request_id", sent_id)?;
        let checked = (|| {
            let item = read_id("item", fields.item)?;
            let buyer = read_id("buyer", fields.buyer)?;
            Ok((item, buyer, read_quantity(fields.quantity)?, read_deadline(fields.deadline)?))
        })();
        let (item, buyer, quantity, deadline) = checked.map_err(|rejection: Rejection| rejection.of(&request_id))?;
        Ok(Self { request_id, item, buyer, quantity, deadline })
    }

    /// Identifies the content (everything but the request id): equal content, equal fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Uuid {
        // Ids hold no line feed, so the parts cannot run into each other.
        let deadline = self.deadline.map(OffsetDateTime::unix_timestamp_nanos);
        let content = format!("{}\n{}\n{}\n{deadline:?}", self.item, self.buyer, self.quantity);
        Uuid::new_v5(&FINGERPRINT_SPACE, content.as_bytes())
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The units are held for the buyer until `hold_until`.
    Reserved,
    /// Fewer units were left than were asked for.
    SoldOut,
    /// A rule of the sale says no; `code` says which.
    Refused,
    /// The message itself is at fault; `code` says how. It is kept in the queue `dead`.
    Invalid,
}

impl Status {
    /// The word used in messages and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::SoldOut => "sold_out",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
        }
    }
}

/// Why a request ended as it did: a stable word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The units are held.
    Reserved,
    /// Not enough units are left.
    SoldOut,
    /// No such item.
    UnknownItem,
    /// The sale of the item has not begun.
    SaleNotOpen,
    /// The sale of the item is over.
    SaleClosed,
    /// The request's own deadline had passed when it was decided.
    DeadlinePassed,
    /// The request id was used before, for a request with other content.
    RequestIdReused,
    /// Not JSON, not an object, or a field is missing or of the wrong type.
    Malformed,
    /// An id breaks the pattern `[A-Za-z0-9._:-]{1,128}`.
    InvalidId,
    /// The quantity is not a whole number from 1 to 1,000.
    InvalidQuantity,
    /// The body is larger than 64 KiB.
    TooLarge,
    /// The content type is neither absent nor `application/json`.
    UnsupportedContentType,
    /// The correlation id is empty or has control characters.
    InvalidCorrelationId,
    /// `reply_to` does not name a reply queue.
    InvalidReplyTo,
    /// The handler failed on this very message, alone, each time it was tried.
    NotHandled,
}

impl Code {
    /// The status that goes with the code.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Reserved => Status::Reserved,
            Self::SoldOut => Status::SoldOut,
            Self::UnknownItem | Self::SaleNotOpen | Self::SaleClosed | Self::DeadlinePassed => Status::Refused,
            Self::RequestIdReused
            | Self::Malformed
            | Self::InvalidId
            | Self::InvalidQuantity
            | Self::TooLarge
            | Self::UnsupportedContentType
            | Self::InvalidCorrelationId
            | Self::InvalidReplyTo
            | Self::NotHandled => Status::Invalid,
        }
    }

    /// The word used in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::SoldOut => "sold_out",
            Self::UnknownItem => "unknown_item",
            Self::SaleNotOpen => "sale_not_open",
            Self::SaleClosed => "sale_closed",
            Self::DeadlinePassed => "deadline_passed",
            Self::RequestIdReused => "request_id_reused",
            Self::Malformed => "malformed",
            Self::InvalidId => "invalid_id",
            Self::InvalidQuantity => "invalid_quantity",
            Self::TooLarge => "too_large",
            Self::UnsupportedContentType => "unsupported_content_type",
            Self::InvalidCorrelationId => "invalid_correlation_id",
            Self::InvalidReplyTo => "invalid_reply_to",
            Self::NotHandled => "not_handled",
        }
    }
}

/// The answer to a request: the body of the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The request's id; absent only where none could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How it ended.
    pub status: Status,
    /// Why, for programs.
    pub code: Code,
    /// Why, for people.
    pub message: String,
    /// The order; present exactly when `status` is `reserved`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// The item's version that the decision was made on; absent where no item was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_version: Option<i64>,
    /// When it was decided, by the database's clock; absent for `invalid`, which is not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub decided_at: Option<OffsetDateTime>,
}

/// What a buyer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The order's id (UUIDv7).
    pub id: Uuid,
    /// The item's id.
    pub item: String,
    /// Units held.
    pub quantity: u32,
    /// The units are kept until then, by the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub hold_until: OffsetDateTime,
}

/// Why a message cannot be decided; it is answered where it can be, and kept in `dead`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The request's id, where one could be read.
    pub request_id: Option<String>,
    /// One of the codes whose status is [`Status::Invalid`].
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Rejection {
    /// A rejection of a message whose request id is not known.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        debug_assert_eq!(code.status(), Status::Invalid);
        Self { request_id: None, code, message: message.into() }
    }

    /// The same, of this request.
    #[must_use]
    pub fn of(self, request_id: &str) -> Self {
        Self { request_id: Some(request_id.to_owned()), ..self }
    }

    /// The reply's body. It has no time in it, so the same bad message gets the same bytes.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict {
            request_id: self.request_id.clone(),
            status: self.code.status(),
            code: self.code,
            message: self.message.clone(),
            order: None,
            item_version: None,
            decided_at: None,
        }
    }
}

/// Whether `text` matches `[A-Za-z0-9._:-]{1,128}`.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

/// A request as it is on the wire, each field whatever the sender put there; unknown fields are ignored.
#[derive(Deserialize)]
struct Fields {
    request_id: Option<Value>,
    item: Option<Value>,
    buyer: Option<Value>,
    quantity: Option<Value>,
    deadline: Option<Value>,
}

/// The message says where, and never what: the text would be the sender's, of any length.
fn read_fields(body: &[u8]) -> Result<Fields, Rejection> {
    // An array of five would pass for the five fields.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte != b'{') {
        return Err(Rejection::new(Code::Malformed, "The body is not a JSON object."));
    }
    serde_json::from_slice(body).map_err(|error| {
        let what = if error.is_data() { "has a field twice" } else { "is not JSON" };
        let message = format!("The body {what} (line {}, column {}).", error.line(), error.column());
        Rejection::new(Code::Malformed, message)
    })
}

fn read_id(field: &str, value: Option<Value>) -> Result<String, Rejection> {
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

fn read_quantity(value: Option<Value>) -> Result<u32, Rejection> {
    let Some(value) = value else {
        return Err(Rejection::new(Code::Malformed, "The field quantity is missing."));
    };
    let quantity = value.as_u64().and_then(|number| u32::try_from(number).ok());
    quantity.filter(|quantity| (1..=QUANTITY_MAX).contains(quantity)).ok_or_else(|| {
        Rejection::new(Code::InvalidQuantity, format!("The quantity is not a whole number from 1 to {QUANTITY_MAX}."))
    })
}

fn read_deadline(value: Option<Value>) -> Result<Option<OffsetDateTime>, Rejection> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let format = &time::format_description::well_known::Rfc3339;
    value
        .as_str()
        .and_then(|text| OffsetDateTime::parse(text, format).ok())
        .map(Some)
        .ok_or_else(|| Rejection::new(Code::Malformed, "The field deadline is not a time as RFC 3339 writes it."))
}
