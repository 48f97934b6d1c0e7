//! What comes back: the closed words that say how a request ended, and the reply that carries them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

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
    /// What was asked for is done; `code` says what that is.
    Done,
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
            Self::Done => "done",
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
    /// The buyer has as many units of the item as one buyer may have.
    BuyerLimit,
    /// The buyer bought the item too short a time ago.
    Cooldown,
    /// The item is for other buyers only.
    NotEligible,
    /// The order is cancelled, and its units are on sale again.
    Cancelled,
    /// The order is paid for, its units are the buyer's.
    Paid,
    /// The gateway took no money; what is left of the hold is the buyer's.
    Declined,
    /// No such order.
    UnknownOrder,
    /// The order was cancelled before.
    AlreadyCancelled,
    /// The order's hold ran out before.
    AlreadyExpired,
    /// The order is paid for.
    AlreadyPaid,
    /// The order is being paid for.
    PaymentUnderWay,
    /// The item is there now.
    Created,
    /// The units are on sale.
    Added,
    /// The units are no longer on sale.
    Removed,
    /// The sale is open, or will be.
    Opened,
    /// The sale is closed.
    Closed,
    /// The item's rules are these now.
    RulesSet,
    /// The item was created before.
    ItemExists,
    /// Fewer units are left than were to be removed; the others are held or sold.
    StockInUse,
    /// With these units, the item would have more than an item can have.
    StockLimit,
    /// The request id was used before, for a request with other content.
    RequestIdReused,
    /// Not JSON, not an object, or a field is missing or of the wrong type.
    Malformed,
    /// An id breaks the pattern `[A-Za-z0-9._:-]{1,128}`.
    InvalidId,
    /// The quantity is not a whole number from 1 to 1,000.
    InvalidQuantity,
    /// A field is out of bounds, contradicts another, or does not belong to the operation.
    InvalidField,
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
            Self::Cancelled
            | Self::Paid
            | Self::Created
            | Self::Added
            | Self::Removed
            | Self::Opened
            | Self::Closed
            | Self::RulesSet => Status::Done,
            Self::UnknownItem
            | Self::SaleNotOpen
            | Self::SaleClosed
            | Self::DeadlinePassed
            | Self::UnknownOrder
            | Self::AlreadyCancelled
            | Self::AlreadyExpired
            | Self::AlreadyPaid
            | Self::PaymentUnderWay
            | Self::BuyerLimit
            | Self::Cooldown
            | Self::NotEligible
            | Self::Declined
            | Self::ItemExists
            | Self::StockInUse
            | Self::StockLimit => Status::Refused,
            Self::RequestIdReused
            | Self::Malformed
            | Self::InvalidId
            | Self::InvalidQuantity
            | Self::InvalidField
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
            Self::BuyerLimit => "buyer_limit",
            Self::Cooldown => "cooldown",
            Self::NotEligible => "not_eligible",
            Self::Cancelled => "cancelled",
            Self::Paid => "paid",
            Self::Declined => "declined",
            Self::Created => "created",
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::RulesSet => "rules_set",
            Self::ItemExists => "item_exists",
            Self::StockInUse => "stock_in_use",
            Self::StockLimit => "stock_limit",
            Self::UnknownOrder => "unknown_order",
            Self::AlreadyCancelled => "already_cancelled",
            Self::AlreadyExpired => "already_expired",
            Self::AlreadyPaid => "already_paid",
            Self::PaymentUnderWay => "payment_under_way",
            Self::RequestIdReused => "request_id_reused",
            Self::Malformed => "malformed",
            Self::InvalidId => "invalid_id",
            Self::InvalidQuantity => "invalid_quantity",
            Self::InvalidField => "invalid_field",
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

impl Verdict {
    /// The verdict on a request that was decided at `now`; what else there is to say is added to it.
    #[must_use]
    pub fn decided(request_id: &str, code: Code, message: impl Into<String>, now: OffsetDateTime) -> Self {
        Self {
            request_id: Some(request_id.to_owned()),
            status: code.status(),
            code,
            message: message.into(),
            order: None,
            item_version: None,
            decided_at: Some(now),
        }
    }
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

    /// The rejection of a request whose id is on record for another one.
    #[must_use]
    pub fn reused(request_id: &str) -> Self {
        let message =
            "This request id was used before, for a request with other content; use a new id for a new request.";
        Self::new(Code::RequestIdReused, message).of(request_id)
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
