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

/// Why a request ended as it did. What each means stands in the contract's table, which a test holds against [`Code::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    Reserved,
    SoldOut,
    UnknownItem,
    SaleNotOpen,
    SaleClosed,
    DeadlinePassed,
    BuyerLimit,
    Cooldown,
    NotEligible,
    UnknownOrder,
    AlreadyCancelled,
    AlreadyExpired,
    AlreadyPaid,
    PaymentUnderWay,
    Declined,
    NoPayment,
    ItemExists,
    StockInUse,
    StockLimit,
    Cancelled,
    Paid,
    Settled,
    Voiding,
    Created,
    Added,
    Removed,
    Opened,
    Closed,
    RulesSet,
    RequestIdReused,
    Malformed,
    InvalidId,
    InvalidQuantity,
    InvalidField,
    TooLarge,
    UnsupportedContentType,
    InvalidCorrelationId,
    InvalidReplyTo,
    NotAllowed,
    NotHandled,
    DeliveryLimit,
    WrongRoutingKey,
    PriorityNotAllowed,
    InvalidArray,
}

impl Status {
    /// The word used in messages and in the database.
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

impl Code {
    /// Every code, in the order of the enum, with its status and its word.
    pub const ALL: [(Self, Status, &str); 44] = [
        (Self::Reserved, Status::Reserved, "reserved"),
        (Self::SoldOut, Status::SoldOut, "sold_out"),
        (Self::UnknownItem, Status::Refused, "unknown_item"),
        (Self::SaleNotOpen, Status::Refused, "sale_not_open"),
        (Self::SaleClosed, Status::Refused, "sale_closed"),
        (Self::DeadlinePassed, Status::Refused, "deadline_passed"),
        (Self::BuyerLimit, Status::Refused, "buyer_limit"),
        (Self::Cooldown, Status::Refused, "cooldown"),
        (Self::NotEligible, Status::Refused, "not_eligible"),
        (Self::UnknownOrder, Status::Refused, "unknown_order"),
        (Self::AlreadyCancelled, Status::Refused, "already_cancelled"),
        (Self::AlreadyExpired, Status::Refused, "already_expired"),
        (Self::AlreadyPaid, Status::Refused, "already_paid"),
        (Self::PaymentUnderWay, Status::Refused, "payment_under_way"),
        (Self::Declined, Status::Refused, "declined"),
        (Self::NoPayment, Status::Refused, "no_payment"),
        (Self::ItemExists, Status::Refused, "item_exists"),
        (Self::StockInUse, Status::Refused, "stock_in_use"),
        (Self::StockLimit, Status::Refused, "stock_limit"),
        (Self::Cancelled, Status::Done, "cancelled"),
        (Self::Paid, Status::Done, "paid"),
        (Self::Settled, Status::Done, "settled"),
        (Self::Voiding, Status::Done, "voiding"),
        (Self::Created, Status::Done, "created"),
        (Self::Added, Status::Done, "added"),
        (Self::Removed, Status::Done, "removed"),
        (Self::Opened, Status::Done, "opened"),
        (Self::Closed, Status::Done, "closed"),
        (Self::RulesSet, Status::Done, "rules_set"),
        (Self::RequestIdReused, Status::Invalid, "request_id_reused"),
        (Self::Malformed, Status::Invalid, "malformed"),
        (Self::InvalidId, Status::Invalid, "invalid_id"),
        (Self::InvalidQuantity, Status::Invalid, "invalid_quantity"),
        (Self::InvalidField, Status::Invalid, "invalid_field"),
        (Self::TooLarge, Status::Invalid, "too_large"),
        (Self::UnsupportedContentType, Status::Invalid, "unsupported_content_type"),
        (Self::InvalidCorrelationId, Status::Invalid, "invalid_correlation_id"),
        (Self::InvalidReplyTo, Status::Invalid, "invalid_reply_to"),
        (Self::NotAllowed, Status::Invalid, "not_allowed"),
        (Self::NotHandled, Status::Invalid, "not_handled"),
        (Self::DeliveryLimit, Status::Invalid, "delivery_limit"),
        (Self::WrongRoutingKey, Status::Invalid, "wrong_routing_key"),
        (Self::PriorityNotAllowed, Status::Invalid, "priority_not_allowed"),
        (Self::InvalidArray, Status::Invalid, "invalid_array"),
    ];

    pub fn status(self) -> Status {
        Self::ALL[self as usize].1
    }

    /// Whether a message that is invalid is so through its sender's own fault, which they were told.
    pub fn is_of_sender(self) -> bool {
        !matches!(self, Self::NotHandled | Self::DeliveryLimit)
    }

    /// The word used in messages.
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].2
    }
}

/// The answer to a request: the body of the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Absent only where none could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What it is about; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    pub status: Status,
    /// Why, for programs.
    pub code: Code,
    /// Why, for people.
    pub message: String,
    /// Present exactly when `status` is `reserved`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// The item's version that the decision was made on; absent where no item was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_version: Option<i64>,
    /// By the database's clock; absent for `invalid`, which is not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "super::time::option")]
    pub decided_at: Option<OffsetDateTime>,
}

impl Verdict {
    /// The verdict on a request that was decided at `now`; what else there is to say is added to it.
    pub fn decided(request_id: &str, code: Code, message: impl Into<String>, now: OffsetDateTime) -> Self {
        Self { decided_at: Some(now), ..Self::undated(Some(request_id.to_owned()), code, message.into()) }
    }

    fn undated(request_id: Option<String>, code: Code, message: String) -> Self {
        let (item, order, item_version, decided_at) = (None, None, None, None);
        Self { request_id, item, status: code.status(), code, message, order, item_version, decided_at }
    }
}

/// What a buyer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// A UUIDv7.
    pub id: Uuid,
    pub item: String,
    pub quantity: u32,
    /// The units are kept until then, by the database's clock.
    #[serde(with = "super::time")]
    pub hold_until: OffsetDateTime,
}

/// Why a message cannot be decided; it is answered where it can be, and kept in `dead`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The request's id, where one could be read, and its item.
    pub request_id: Option<String>,
    pub item: Option<String>,
    /// One of the codes whose status is [`Status::Invalid`].
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Rejection {
    /// Of a message whose request id is not known.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        debug_assert_eq!(code.status(), Status::Invalid);
        Self { request_id: None, item: None, code, message: message.into() }
    }

    /// The same, of the request with this id, as far as it can be read.
    pub fn of(self, request_id: &str, item: Option<&str>) -> Self {
        Self { request_id: Some(request_id.to_owned()), item: item.map(ToOwned::to_owned), ..self }
    }

    /// The reply's body. It has no time in it, so the same bad message gets the same bytes.
    pub fn verdict(&self) -> Verdict {
        let item = self.item.clone();
        Verdict { item, ..Verdict::undated(self.request_id.clone(), self.code, self.message.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A code that is new has to choose: what is of a sender may be dropped (`dead.invalid`), what is not is kept (`dead`).
    #[test]
    fn every_code_says_whose_fault_it_is() {
        let invalid = Code::ALL.into_iter().map(|(code, ..)| code).filter(|code| code.status() == Status::Invalid);
        let (of_senders, of_nobody): (Vec<_>, Vec<_>) = invalid.partition(|code| code.is_of_sender());
        assert_eq!(of_nobody, [Code::NotHandled, Code::DeliveryLimit]);
        let expected = [
            Code::RequestIdReused,
            Code::Malformed,
            Code::InvalidId,
            Code::InvalidQuantity,
            Code::InvalidField,
            Code::TooLarge,
            Code::UnsupportedContentType,
            Code::InvalidCorrelationId,
            Code::InvalidReplyTo,
            Code::NotAllowed,
            Code::WrongRoutingKey,
            Code::PriorityNotAllowed,
            Code::InvalidArray,
        ];
        assert_eq!(of_senders, expected);
    }

    #[test]
    fn every_code_stands_in_its_place_and_is_written_as_its_word() {
        for (place, (code, _, word)) in Code::ALL.into_iter().enumerate() {
            assert_eq!((code as usize, serde_json::to_value(code).unwrap()), (place, word.into()));
        }
    }
}
