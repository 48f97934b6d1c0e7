//! A request to pay for an order.

use super::request::{Request, read_object, read_opaque_id, read_order_id, read_request_id};
use super::verdict::Rejection;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The queue that payment requests are published to, by the default exchange.
pub const PAYMENT_QUEUE: &str = "payment";

/// Names the space of fingerprints (UUIDv5): not that of other requests, so that an id used for two kinds is told apart.
const FINGERPRINT_SPACE: Uuid = Uuid::from_u128(0x2f7c_1e58_90d4_5b6a_9a3d_7061_796d_656e);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRequest {
    pub request_id: String,
    /// As the verdict `reserved` has it.
    pub order_id: Uuid,
    /// The gateway's name for what to charge, such as a token of a card; never a card's number.
    pub payment_method: String,
}

impl Request for PaymentRequest {
    const FUNCTION: &'static str = PAYMENT_QUEUE;

    fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection> {
        let fields: Fields = read_object(body)?;
        let request_id = read_request_id(fields.request_id, message_id)?;
        let checked = (|| {
            let order_id = read_order_id(fields.order_id)?;
            Ok((order_id, read_opaque_id("payment_method", fields.payment_method)?))
        })();
        let (order_id, payment_method) = checked.map_err(|rejection: Rejection| rejection.of(&request_id))?;
        Ok(Self { request_id, order_id, payment_method })
    }

    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn fingerprint(&self) -> Uuid {
        // Neither part holds a line feed, so they cannot run into each other.
        let content = format!("{}\n{}", self.order_id, self.payment_method);
        Uuid::new_v5(&FINGERPRINT_SPACE, content.as_bytes())
    }
}

/// A request as it is on the wire, each field whatever the sender put there; unknown fields are ignored.
#[derive(Deserialize)]
struct Fields {
    request_id: Option<Value>,
    order_id: Option<Value>,
    payment_method: Option<Value>,
}
