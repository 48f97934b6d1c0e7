//! One message in `dead`: what it is called, why it is there, where it came from, and all of it for people to read. Pure.
//!
//! Invariant: the same message has the same id each time that it is looked at, and in every program.

use super::properties::{DEATH_HEADER, header};
use super::topology::exchange_into;
use crate::messages::{PURCHASE_EXCHANGE, PurchaseRequest, Request, bodies, is_array};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Names the space of message ids (UUIDv5).
const ID_SPACE: Uuid = Uuid::from_u128(0x3f7a_11d6_0c25_58b4_9a6e_6465_6164_0001);
/// As many hex digits of it as people can copy: 48 bits, so that a million messages have no two of one id.
const ID_DIGITS: usize = 12;

#[derive(Debug, Clone)]
pub struct DeadMessage {
    /// Twelve hex digits, made of its content and its origin. Copies of one message share it.
    pub id: String,
    /// Why it is here: the code of its rejection, or the broker's word, such as `delivery_limit`.
    pub reason: String,
    /// The same for people, where a function put it here.
    pub message: Option<String>,
    /// The queue that it came from, where that is one of ours.
    pub queue: Option<String>,
    /// By which it came there, where a function put it here; not up to 0.2.
    routing_key: Option<String>,
    pub body: Vec<u8>,
    pub headers: Map<String, Value>,
    /// Its other properties, by their names in AMQP.
    pub properties: Map<String, Value>,
    pub(super) tag: u64,
    pub(super) raw: BasicProperties,
}

impl DeadMessage {
    /// Reads a message that was taken out of `dead`; `origins` are the queues that it can have come from.
    pub(super) fn read(delivery: lapin::message::Delivery, origins: &[String]) -> Self {
        let (properties, body) = (delivery.properties, delivery.data);
        // The broker's own record of the last time that it moved the message, where it did. Then whatever else the headers
        // say is its sender's; else a function has put it here, and wrote them.
        let deaths = header(&properties, DEATH_HEADER).and_then(AMQPValue::as_array);
        let death = deaths.and_then(|deaths| deaths.as_slice().first());
        let of_death = |name: &str| text(death?.as_field_table()?.inner().get(name)?);
        let of_function = |name: &str| if death.is_none() { text(header(&properties, name)?) } else { None };
        let queue = of_death("queue").or_else(|| of_function("x-dead-queue")).filter(|queue| origins.contains(queue));
        let reason = of_death("reason").or_else(|| of_function("x-dead-reason"));
        Self {
            id: id_of(&body, queue.as_deref(), &properties),
            reason: reason.unwrap_or_else(|| "unknown".to_owned()),
            message: of_function("x-dead-message"),
            routing_key: of_function("x-dead-routing-key"),
            queue,
            headers: properties.headers().as_ref().map(plain_table).unwrap_or_default(),
            properties: plain_properties(&properties),
            body,
            tag: delivery.delivery_tag,
            raw: properties,
        }
    }

    /// How many requests are in it; `None`: an array that is not whole, or not JSON.
    pub fn requests(&self) -> Option<usize> {
        if !is_array(&self.body) {
            return Some(1);
        }
        serde_json::from_slice::<Vec<IgnoredAny>>(&self.body).ok().map(|requests| requests.len())
    }

    /// By which exchange and routing key it gets to the function of this queue; a purchase, into the line of its item.
    pub(super) fn way_back<'a>(&'a self, queue: &'a str) -> (&'a str, Cow<'a, str>) {
        let exchange = exchange_into(queue);
        // The others go by no routing key; and of what is no purchase, nothing can come but that.
        if exchange != PURCHASE_EXCHANGE {
            return (exchange, queue.into());
        }
        let mut items = BTreeMap::<_, usize>::new();
        let purchases =
            bodies(&self.body).into_iter().filter_map(|body| PurchaseRequest::decode(body, Some("any")).ok());
        purchases.for_each(|purchase| *items.entry(purchase.item).or_default() += 1);
        // Of an array, whoever was for another item than it came for was refused, however many they are. Where nobody is for that
        // item, or it is not known, the most are right; where nobody can be read, as the end was cut off, it goes where it was.
        let came_for = |item: &String| self.routing_key.as_ref() == Some(item);
        let item = items.into_iter().max_by_key(|(item, requests)| (came_for(item), *requests));
        let line = self.routing_key.as_deref().filter(|_| is_array(&self.body)).unwrap_or(queue);
        (exchange, item.map_or(line.into(), |(item, _)| item.into()))
    }
}

fn id_of(body: &[u8], queue: Option<&str>, properties: &BasicProperties) -> String {
    let bytes = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned()).unwrap_or_default();
    let parts = [queue.unwrap_or_default(), &bytes(properties.message_id()), &bytes(properties.correlation_id())];
    // Each part after its length: where one ends and the next begins is part of the name.
    let mut name = Vec::new();
    for part in parts.map(str::as_bytes).into_iter().chain([body]) {
        name.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        name.extend_from_slice(part);
    }
    let mut id = Uuid::new_v5(&ID_SPACE, &name).simple().to_string();
    id.truncate(ID_DIGITS);
    id
}

fn text(value: &AMQPValue) -> Option<String> {
    let short = value.as_short_string().map(ToString::to_string);
    short.or_else(|| value.as_long_string().map(ToString::to_string))
}

fn plain_table(table: &FieldTable) -> Map<String, Value> {
    table.inner().iter().map(|(name, value)| (name.to_string(), plain(value))).collect()
}

/// A header as JSON, for people: not to be read back.
fn plain(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => Value::from(*value),
        AMQPValue::ShortShortInt(value) => Value::from(*value),
        AMQPValue::ShortShortUInt(value) => Value::from(*value),
        AMQPValue::ShortInt(value) => Value::from(*value),
        AMQPValue::ShortUInt(value) => Value::from(*value),
        AMQPValue::LongInt(value) => Value::from(*value),
        AMQPValue::LongUInt(value) => Value::from(*value),
        // Beyond 2^53 many readers of JSON would get another number.
        AMQPValue::LongLongInt(value) if value.unsigned_abs() > 1 << 53 => Value::from(value.to_string()),
        AMQPValue::LongLongInt(value) => Value::from(*value),
        AMQPValue::Timestamp(value) => Value::from(*value),
        AMQPValue::Float(value) => Value::from(*value),
        AMQPValue::Double(value) => Value::from(*value),
        AMQPValue::DecimalValue(value) => Value::from(format!("{value:?}")),
        AMQPValue::ShortString(value) => Value::from(value.to_string()),
        AMQPValue::LongString(value) => Value::from(String::from_utf8_lossy(value.as_bytes())),
        AMQPValue::ByteArray(value) => Value::from(format!("{} bytes", value.len())),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(plain).collect(),
        AMQPValue::FieldTable(table) => Value::Object(plain_table(table)),
        AMQPValue::Void => Value::Null,
    }
}

fn plain_properties(properties: &BasicProperties) -> Map<String, Value> {
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| Value::from(text.as_str()));
    let properties = [
        ("content_type", text(properties.content_type())),
        ("content_encoding", text(properties.content_encoding())),
        ("correlation_id", text(properties.correlation_id())),
        ("reply_to", text(properties.reply_to())),
        ("expiration", text(properties.expiration())),
        ("message_id", text(properties.message_id())),
        ("type", text(properties.kind())),
        ("user_id", text(properties.user_id())),
        ("app_id", text(properties.app_id())),
        ("delivery_mode", properties.delivery_mode().map(Value::from)),
        ("priority", properties.priority().map(Value::from)),
        ("timestamp", properties.timestamp().map(Value::from)),
    ];
    properties.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::message::Delivery;

    #[test]
    fn a_message_has_one_id_and_another_message_another() {
        let properties = |correlation: &str| BasicProperties::default().with_correlation_id(correlation.into());
        let id = id_of(b"body", Some("purchase.0"), &properties("c"));
        assert_eq!(id, "ddb7ddeb96eb", "the same in every program");
        let others = [
            id_of(b"body ", Some("purchase.0"), &properties("c")),
            id_of(b"body", Some("purchase.1"), &properties("c")),
            id_of(b"body", None, &properties("c")),
            id_of(b"ody", Some("purchase.0"), &properties("cb")),
        ];
        assert!(others.iter().all(|other| other.len() == ID_DIGITS && *other != id), "{others:?}");
        let of_delivery = BasicProperties::default().with_correlation_id("c".into()).with_priority(3);
        assert_eq!(id_of(b"body", Some("purchase.0"), &of_delivery), id, "whatever else it has");
    }

    #[test]
    fn a_purchase_goes_back_into_the_line_of_its_item_and_an_array_into_the_one_that_it_came_for() {
        let origins = ["purchase.0".to_owned(), "release".to_owned()];
        let back = |queue: &str, routing_key: Option<&str>, items: &[&str]| {
            let request = |item: &&str| format!(r#"{{"request_id":"r","item":"{item}","buyer":"b","quantity":1}}"#);
            let requests: Vec<String> = items.iter().map(request).collect();
            let data = if let [one] = &requests[..] { one.clone() } else { format!("[{}]", requests.join(",")) };
            let mut headers = FieldTable::default();
            for (name, value) in [("x-dead-queue", Some(queue)), ("x-dead-routing-key", routing_key)] {
                value.map(|value| headers.insert(name.into(), AMQPValue::LongString(value.into())));
            }
            let properties = BasicProperties::default().with_headers(headers);
            let mut delivery = Delivery::mock(1, "dead".into(), "".into(), false, data.into_bytes());
            delivery.properties = properties;
            let message = DeadMessage::read(delivery, &origins);
            let (exchange, key) = message.way_back(queue);
            (exchange.to_owned(), key.into_owned())
        };
        for (routing_key, items, key) in [
            (Some("b"), &["a"][..], "a"),
            (Some("b"), &["a", "b", "a"], "b"),
            (Some("c"), &["a", "b", "a"], "a"),
            (None, &["a", "b", "b"], "b"),
            (Some("c"), &[], "c"),
            (None, &[], "purchase.0"),
        ] {
            assert_eq!(back("purchase.0", routing_key, items), ("purchase".to_owned(), key.to_owned()), "{items:?}");
        }
        assert_eq!(back("release", Some("a"), &["a"]), ("release".to_owned(), "release".to_owned()));
    }

    #[test]
    fn a_number_that_not_all_readers_can_hold_is_shown_as_text() {
        assert_eq!(plain(&AMQPValue::LongLongInt(i64::MAX)), i64::MAX.to_string());
        assert_eq!(plain(&AMQPValue::LongLongInt(7)), 7);
    }
}
