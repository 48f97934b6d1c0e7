//! The messages: what is sent to a function, what comes back, what happened. Serde and codes only, no I/O.
//!
//! Invariant: no `decode` of a request ever panics, whatever the bytes, and what it accepts holds every limit written here.

mod array;
mod event;
mod payment;
mod purchase;
mod release;
mod request;
mod restock;
pub mod time;
mod verdict;

pub use array::{ARRAY_BYTES_MAX, REQUESTS_MAX, bodies, is_array, read_array};
pub use event::{EVENTS_EXCHANGE, Event, EventKind, EventOrder};
pub use payment::{
    End, EndRequest, PAYMENT_QUEUE, PaymentMessage, PaymentRequest, REASON_CHARS_MAX, Settlement, reason_of,
};
pub use purchase::{PURCHASE_EXCHANGE, PurchaseRequest, QUANTITY_MAX};
pub use release::{RELEASE_QUEUE, ReleaseRequest};
pub use request::{About, BODY_BYTES_MAX, ID_BYTES_MAX, Identity, Request, Sender, is_id, is_opaque_id, key_of};
pub use restock::{
    HOLD_MS_DEFAULT, Operation, RESTOCK_QUEUE, RULE_NAMES, RestockRequest, Rules, STOCK_MAX, TIERS_MAX, TIME_MS_MAX,
};
pub use verdict::{Code, Order, Rejection, Status, Verdict};

/// The content type of requests and replies.
pub const CONTENT_TYPE: &str = "application/json";
