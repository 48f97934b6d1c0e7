//! The payment gateway: one small trait, and what whoever implements it promises.
//!
//! The contract, which the guarantees of this function stand on. A charge has a key, the order's id, the same for ever:
//! - At most one charge is captured under a key, however often it is asked for, and by however many at once.
//! - Asked again after a capture, whatever the payment method, the gateway answers with that same charge.
//! - A decline is remembered for key and payment method: the same again is declined again; another method is a new try.
//! - Once it has said that a key is voided, nothing is captured under it, whoever asks, and whatever was pending.
//! - A refund goes by the key, too. Of a charge that was refunded before, or was never captured, there is nothing to give
//!   back, and that is a success.
//!
//! Invariant: what is not an outcome, said by the gateway and read to its end, is [`Unknown`], never a decline.

mod http;
mod simulated;

use futures_util::future::BoxFuture;
pub use http::{Http, HttpOptions};
use serde::Serialize;
pub use simulated::{Simulated, SimulatedOptions};
use uuid::Uuid;

pub trait Gateway: Send + Sync + 'static {
    /// Asks once for this charge, under the key that is its order's id.
    ///
    /// # Errors
    /// [`Unknown`]: the charge may be captured, or not. To know, ask again with the same key.
    fn charge<'a>(&'a self, charge: &'a Charge) -> BoxFuture<'a, Result<Outcome, Unknown>>;

    /// Asks once to see to it that nothing is ever captured under the key of this order, unless it is already.
    ///
    /// # Errors
    /// [`Unknown`]: that may be so, or not. To know, ask again.
    fn void(&self, order_id: Uuid) -> BoxFuture<'_, Result<Outcome, Unknown>>;

    /// Asks once to give back what was captured under the key of this order.
    ///
    /// # Errors
    /// [`Unknown`]: it may be given back, or not. To know, ask again.
    fn refund(&self, order_id: Uuid) -> BoxFuture<'_, Result<(), Unknown>>;
}

/// What is to be paid for. How much that is, is between shop and gateway: an engine that sells units knows no prices.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, sqlx_macros::FromRow)]
pub struct Charge {
    pub order_id: Uuid,
    pub item: String,
    pub quantity: i64,
    /// The gateway's name for what to charge.
    pub payment_method: String,
}

/// What a gateway has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The money is taken.
    Captured {
        /// The gateway's name for the charge, an id as everywhere.
        charge_id: String,
    },
    /// No money is taken, and none will be with this payment method.
    Declined {
        /// For people, short.
        reason: String,
    },
    /// No money is taken under this key, and none will be.
    Voided,
}

/// Why nobody can say what became of a charge, or a refund.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No answer, half an answer, or one that says that the gateway is in trouble or busy.
    #[error("the gateway gave no outcome: {0}")]
    Away(String),
    /// The gateway will not have the request as it is: a wrong token or address, or it speaks otherwise than we do. It is
    /// no decline: an earlier try under the same key may have been captured, and an operator can put it right.
    #[error("the gateway refuses the request, check GATEWAY_URL and GATEWAY_TOKEN: {0}")]
    Refused(String),
    /// It has it in hand, and has not decided: its customer has to do something, say.
    #[error("the gateway has not decided: {0}")]
    Pending(String),
    /// It takes no such charge, whenever it is asked. Where it never was asked before, that is a decline; else an earlier try
    /// under the same key may have been captured.
    #[error("the gateway takes no such charge: {0}")]
    Unacceptable(String),
}
