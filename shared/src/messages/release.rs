//! A request to cancel an order: its units are on sale again.

use super::request::{Identity, Request, Sender, read_object, read_order_id, read_request_id};
use super::verdict::Rejection;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The queue of release requests, and the exchange that they are published to, with any routing key.
pub const RELEASE_QUEUE: &str = "release";

/// Names the space of fingerprints (UUIDv5): not that of purchases, so that an id used for both is told apart.
const FINGERPRINT_SPACE: Uuid = Uuid::from_u128(0x6a0e_94c1_52b8_5d3f_8e21_7265_6c65_6173);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    pub request_id: String,
    /// As the verdict `reserved` has it.
    pub order_id: Uuid,
    #[serde(skip)]
    pub sender: Option<Sender>,
}

impl Request for ReleaseRequest {
    const FUNCTION: &'static str = RELEASE_QUEUE;

    fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection> {
        let fields: Fields = read_object(body)?;
        let request_id = read_request_id(fields.request_id, message_id)?;
        let order_id = read_order_id(fields.order_id).map_err(|rejection| rejection.of(&request_id, None))?;
        Ok(Self { request_id, order_id, sender: None })
    }

    fn sent_by(&mut self, sender: Sender, _is_passed_on: bool) {
        self.sender = Some(sender);
    }
}

impl Identity for ReleaseRequest {
    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn sender(&self) -> Option<&Sender> {
        self.sender.as_ref()
    }

    fn fingerprint(&self) -> Uuid {
        Uuid::new_v5(&FINGERPRINT_SPACE, self.order_id.as_bytes())
    }
}

/// A request as it is on the wire, each field whatever the sender put there; unknown fields are ignored.
#[derive(Deserialize)]
struct Fields {
    request_id: Option<Value>,
    order_id: Option<Value>,
}
