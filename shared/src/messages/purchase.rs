//! A request for units of an item.

use super::request::{
    About, Identity, Request, Sender, malformed, read_id, read_object, read_opaque_id, read_request_id, required, whole,
};
use super::verdict::{Code, Rejection};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// The exchange that purchase requests are published to; the routing key is the item's id.
pub const PURCHASE_EXCHANGE: &str = "purchase";
/// The most units that one request can ask for.
pub const QUANTITY_MAX: u32 = 1_000;

/// Names the space of fingerprints (UUIDv5); changing it would make every stored request id look reused.
const FINGERPRINT_SPACE: Uuid = Uuid::from_u128(0x2d1f_3b52_7c14_5a0e_9d3a_7475_726e_7374);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurchaseRequest {
    pub request_id: String,
    pub item: String,
    pub buyer: String,
    /// Units, 1 to [`QUANTITY_MAX`]; all or nothing.
    pub quantity: u32,
    /// After this moment the buyer no longer wants the units. No part of the content: it is new each time that they ask.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
    #[serde(skip)]
    pub sender: Option<Sender>,
}

impl Request for PurchaseRequest {
    const FUNCTION: &'static str = "purchase";
    const LINES_UP_BY_ITEM: bool = true;

    fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection> {
        let fields: Fields = read_object(body)?;
        let request_id = read_request_id(fields.request_id, message_id)?;
        let item = read_id("item", fields.item).map_err(|rejection| rejection.of(&request_id, None))?;
        let checked = (|| {
            let buyer = read_opaque_id("buyer", fields.buyer)?;
            Ok((buyer, read_quantity(fields.quantity)?, read_deadline(fields.deadline)?))
        })();
        let (buyer, quantity, deadline) =
            checked.map_err(|rejection: Rejection| rejection.of(&request_id, Some(&item)))?;
        Ok(Self { request_id, item, buyer, quantity, deadline, sender: None })
    }

    fn sent_by(&mut self, sender: Sender, _is_passed_on: bool) {
        self.sender = Some(sender);
    }
}

impl Identity for PurchaseRequest {
    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn sender(&self) -> Option<&Sender> {
        self.sender.as_ref()
    }

    fn fingerprint(&self) -> Uuid {
        self.fingerprint_with(None)
    }

    fn fingerprint_with_deadline(&self) -> Option<Uuid> {
        self.deadline.map(|deadline| self.fingerprint_with(Some(deadline.unix_timestamp_nanos())))
    }

    fn about(&self) -> About<'_> {
        About { item: Some(&self.item), buyer: Some(&self.buyer), quantity: Some(self.quantity) }
    }
}

impl PurchaseRequest {
    fn fingerprint_with(&self, deadline: Option<i128>) -> Uuid {
        // Ids hold no line feed, so the parts cannot run into each other.
        let content = format!("{}\n{}\n{}\n{deadline:?}", self.item, self.buyer, self.quantity);
        Uuid::new_v5(&FINGERPRINT_SPACE, content.as_bytes())
    }
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

fn read_quantity(value: Option<Value>) -> Result<u32, Rejection> {
    let quantity =
        required("quantity", value)?.as_number().and_then(whole).and_then(|number| u32::try_from(number).ok());
    quantity.filter(|quantity| (1..=QUANTITY_MAX).contains(quantity)).ok_or_else(|| {
        Rejection::new(Code::InvalidQuantity, format!("The quantity is not a whole number from 1 to {QUANTITY_MAX}."))
    })
}

fn read_deadline(value: Option<Value>) -> Result<Option<OffsetDateTime>, Rejection> {
    let Some(value) = value else { return Ok(None) };
    let deadline = value.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    deadline.map(Some).ok_or_else(|| malformed("The field deadline is not a time as RFC 3339 writes it."))
}
