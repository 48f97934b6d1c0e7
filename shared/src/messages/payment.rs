//! Requests to pay for an order, and to end a payment that its gateway does not end.

use super::request::{
    Identity, Request, Sender, invalid, read_id, read_object, read_opaque_id, read_order_id, read_request_id, read_text,
};
use super::verdict::Rejection;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The queue of payment requests, and the exchange that they are published to, with any routing key.
pub const PAYMENT_QUEUE: &str = "payment";
/// The longest reason of a decline, in characters.
pub const REASON_CHARS_MAX: usize = 200;

/// Names the space of fingerprints (UUIDv5): not that of other requests, so that an id used for two kinds is told apart.
const FINGERPRINT_SPACE: Uuid = Uuid::from_u128(0x2f7c_1e58_90d4_5b6a_9a3d_7061_796d_656e);

/// What the queue takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PaymentMessage {
    Pay(PaymentRequest),
    End(EndRequest),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRequest {
    pub request_id: String,
    /// As the verdict `reserved` has it.
    pub order_id: Uuid,
    /// The gateway's name for what to charge, such as a token of a card; never a card's number.
    pub payment_method: String,
    #[serde(skip)]
    pub sender: Option<Sender>,
}

/// From the gateway, or an operator: how a payment that is under way ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndRequest {
    pub request_id: String,
    pub order_id: Uuid,
    #[serde(flatten)]
    pub end: End,
    /// The broker's user who published it themselves, where the message says so. Nobody does it in another's name; and the id is
    /// everybody's who may.
    #[serde(skip)]
    pub user: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum End {
    /// With this outcome.
    Settle(Settlement),
    /// With no charge: the gateway is to see to it that there is none.
    Void,
}

/// What became of the money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Settlement {
    Captured {
        charge_id: String,
    },
    Declined {
        reason: String,
        /// Which one was declined; `None`: whichever is asked about.
        #[serde(skip_serializing_if = "Option::is_none")]
        payment_method: Option<String>,
    },
}

impl Request for PaymentMessage {
    const FUNCTION: &'static str = PAYMENT_QUEUE;

    fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection> {
        let mut fields: Fields = read_object(body)?;
        let request_id = read_request_id(fields.request_id.take(), message_id)?;
        let checked = (|| {
            let order_id = read_order_id(fields.order_id.take())?;
            if fields.op.is_some() {
                let end = read_end(fields)?;
                return Ok(Self::End(EndRequest { request_id: request_id.clone(), order_id, end, user: None }));
            }
            let payment_method = read_opaque_id("payment_method", fields.payment_method)?;
            Ok(Self::Pay(PaymentRequest { request_id: request_id.clone(), order_id, payment_method, sender: None }))
        })();
        checked.map_err(|rejection: Rejection| rejection.of(&request_id, None))
    }

    fn sent_by(&mut self, sender: Sender, is_passed_on: bool) {
        match self {
            Self::Pay(request) => request.sender = Some(sender),
            Self::End(request) => request.user = Some(sender.user).filter(|_| !is_passed_on),
        }
    }
}

impl Identity for PaymentMessage {
    fn request_id(&self) -> &str {
        self.request().request_id()
    }

    fn sender(&self) -> Option<&Sender> {
        self.request().sender()
    }

    fn fingerprint(&self) -> Uuid {
        self.request().fingerprint()
    }
}

impl PaymentMessage {
    fn request(&self) -> &dyn Identity {
        match self {
            Self::Pay(request) => request,
            Self::End(request) => request,
        }
    }
}

impl Identity for PaymentRequest {
    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn sender(&self) -> Option<&Sender> {
        self.sender.as_ref()
    }

    fn fingerprint(&self) -> Uuid {
        // Neither part holds a line feed, so they cannot run into each other.
        fingerprint(self.order_id, &self.payment_method)
    }
}

impl Identity for EndRequest {
    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn fingerprint(&self) -> Uuid {
        // No id is JSON, so this is no payment's.
        let end = serde_json::to_string(&self.end).expect("an end is representable as JSON");
        fingerprint(self.order_id, &end)
    }
}

fn fingerprint(order_id: Uuid, content: &str) -> Uuid {
    Uuid::new_v5(&FINGERPRINT_SPACE, format!("{order_id}\n{content}").as_bytes())
}

/// A request as it is on the wire, each field whatever the sender put there; unknown fields are ignored.
#[derive(Deserialize)]
struct Fields {
    request_id: Option<Value>,
    order_id: Option<Value>,
    payment_method: Option<Value>,
    op: Option<Value>,
    outcome: Option<Value>,
    charge_id: Option<Value>,
    reason: Option<Value>,
}

fn read_end(mut fields: Fields) -> Result<End, Rejection> {
    let end = match read_text("op", fields.op.take())?.as_str() {
        "void" => End::Void,
        "settle" => End::Settle(match read_text("outcome", fields.outcome.take())?.as_str() {
            "captured" => Settlement::Captured { charge_id: read_id("charge_id", fields.charge_id.take())? },
            "declined" => Settlement::Declined {
                reason: read_reason(fields.reason.take())?,
                payment_method: read_method(fields.payment_method.take())?,
            },
            _ => return Err(invalid("The field outcome is none of captured, declined.")),
        }),
        _ => return Err(invalid("The field op is none of settle, void; a payment has none.")),
    };
    // Who settles a payment as declined with a charge_id has mixed something up, and money is at stake.
    let left = [
        ("outcome", &fields.outcome),
        ("charge_id", &fields.charge_id),
        ("reason", &fields.reason),
        ("payment_method", &fields.payment_method),
    ];
    match left.into_iter().find(|(_, value)| value.is_some()) {
        Some((name, _)) => Err(invalid(format!("The field {name} does not belong to this operation."))),
        None => Ok(end),
    }
}

fn read_method(value: Option<Value>) -> Result<Option<String>, Rejection> {
    value.map(|value| read_opaque_id("payment_method", Some(value))).transpose()
}

/// What a gateway says of a decline, as a reason can go into a message: one line, not long, not empty.
pub fn reason_of(said: &str) -> String {
    let line: String = said.chars().filter(|character| !character.is_control()).take(REASON_CHARS_MAX).collect();
    let line = line.trim().trim_end_matches('.');
    if line.is_empty() { "the gateway gives no reason".to_owned() } else { line.to_owned() }
}

fn read_reason(value: Option<Value>) -> Result<String, Rejection> {
    let reason = read_text("reason", value)?;
    if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control) {
        let message = format!("The field reason is not one line of 1 to {REASON_CHARS_MAX} characters.");
        return Err(invalid(message));
    }
    Ok(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_payment_ends_is_told_by_nobody_in_anothers_name() {
        let order = Uuid::nil();
        let end = format!(r#"{{"request_id":"e-1","order_id":"{order}","op":"void"}}"#);
        for (is_passed_on, expected) in [(false, Some("bank")), (true, None)] {
            let mut message = PaymentMessage::decode(end.as_bytes(), None).expect("it is one");
            message.sent_by(Sender { user: "bank".to_owned(), is_trusted: true }, is_passed_on);
            let PaymentMessage::End(request) = &message else { panic!("{message:?}") };
            assert_eq!((request.user.as_deref(), message.sender(), &*message.own_key()), (expected, None, "e-1"));
        }
    }
}
