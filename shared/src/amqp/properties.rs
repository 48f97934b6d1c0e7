//! What a copy of a message keeps of its properties and headers, and what not. Pure.

use crate::messages::Rejection;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use std::collections::BTreeMap;

/// Delivery mode 2: written to disk where the queue is durable.
pub(super) const PERSISTENT: u8 = 2;
/// Where the broker wrote down that it moved a message to `dead`, as it did for versions up to 0.2. A copy never has it: by that,
/// the two are told apart.
pub(super) const DEATH_HEADER: &str = "x-death";
/// Headers that are carried from a request to its reply (<https://www.w3.org/TR/trace-context/>).
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];
/// The longest trace header that is carried on, in bytes; the standard asks for 512 at least.
const TRACE_BYTES_MAX: usize = 1_024;
/// The most of a message's own headers that its copy in `dead` keeps, in bytes of JSON, of which a byte of text takes four: half
/// of the broker's frame.
const DEAD_HEADERS_BYTES_MAX: usize = 64 * 1024;
/// The same of `dead.invalid`: RabbitMQ counts no headers towards the bytes that a queue may have.
const INVALID_HEADERS_BYTES_MAX: usize = 4 * 1024;
/// Headers by which a message chooses queues of its own (sender-selected distribution): never copied.
const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];
/// Headers by which a quorum queue says how often it has delivered a message.
pub(super) const COUNT_HEADERS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];
/// Beginnings of the headers that say how a message came to `dead`.
const HEADERS_OF_THE_WAY: [&str; 4] = ["x-dead-", "x-death", "x-first-death-", "x-last-death-"];
/// What a client writes to be answered on its own channel. The broker puts the channel's address in its place; the bare
/// word could only be published by a channel that waits for the reply.
pub(super) const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The most of its headers that a message which is under way to us keeps, in bytes; each value counts for some.
const HELD_HEADERS_BYTES_MAX: usize = 4 * 1024;
const VALUE_BYTES: usize = 32;

/// Less its headers, but for those of its trace, where they would take much memory: thousands of messages are under way.
pub(super) fn of_held(properties: BasicProperties) -> BasicProperties {
    if properties.headers().as_ref().is_none_or(|headers| bytes_of(headers) <= HELD_HEADERS_BYTES_MAX) {
        return properties;
    }
    let mut headers = trace_headers(&properties).unwrap_or_default();
    say_left_out(&mut headers);
    properties.with_headers(headers)
}

fn bytes_of(headers: &FieldTable) -> usize {
    headers.inner().iter().map(|(name, value)| name.as_str().len() + bytes_of_value(value)).sum()
}

fn bytes_of_value(value: &AMQPValue) -> usize {
    let more = match value {
        AMQPValue::LongString(text) => text.len(),
        AMQPValue::ShortString(text) => text.as_str().len(),
        AMQPValue::ByteArray(bytes) => bytes.len(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(bytes_of_value).sum(),
        AMQPValue::FieldTable(table) => bytes_of(table),
        AMQPValue::Boolean(_)
        | AMQPValue::ShortShortInt(_)
        | AMQPValue::ShortShortUInt(_)
        | AMQPValue::ShortInt(_)
        | AMQPValue::ShortUInt(_)
        | AMQPValue::LongInt(_)
        | AMQPValue::LongUInt(_)
        | AMQPValue::LongLongInt(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::Void => 0,
    };
    VALUE_BYTES + more
}

fn say_left_out(headers: &mut FieldTable) {
    headers.insert("x-dead-headers".into(), AMQPValue::LongString("too large to keep".into()));
}

pub(super) fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

/// What is carried from the request to its reply, where it is of a size that a trace context has.
pub(super) fn trace_headers(request: &BasicProperties) -> Option<FieldTable> {
    let mut headers = FieldTable::default();
    for name in TRACE_HEADERS {
        if let Some(value) = header(request, name).and_then(AMQPValue::as_long_string)
            && value.len() <= TRACE_BYTES_MAX
        {
            headers.insert(name.into(), AMQPValue::LongString(value.clone()));
        }
    }
    Some(headers).filter(|headers| !headers.inner().is_empty())
}

/// The message's own properties, less what would make the broker refuse, drop or reroute the copy, and less what would have
/// it taken for one that the broker moved.
pub(super) fn of_dead_letter(original: &BasicProperties, queue: &str, reason: &Rejection) -> BasicProperties {
    let mut headers = headers_without(original, |name| ROUTING_HEADERS.contains(&name) || name == DEATH_HEADER);
    // Headers travel in one frame, whose size the broker limits: with ours on top, the copy could not be published.
    let bytes_max = if reason.code.is_of_sender() { INVALID_HEADERS_BYTES_MAX } else { DEAD_HEADERS_BYTES_MAX };
    if serde_json::to_vec(&headers).map_or(true, |bytes| bytes.len() > bytes_max) {
        headers = FieldTable::default();
        say_left_out(&mut headers);
    }
    let reasons =
        [("x-dead-reason", reason.code.as_str()), ("x-dead-message", &reason.message), ("x-dead-queue", queue)];
    for (name, value) in reasons {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    with(carried(original), original.reply_to(), BasicProperties::with_reply_to).with_headers(headers)
}

/// The message's own properties and headers, less those that would send copies elsewhere, and less the broker's own count
/// of deliveries, which begins anew.
pub(super) fn of_requeue(original: &BasicProperties) -> BasicProperties {
    let is_left_out = |name: &str| ROUTING_HEADERS.contains(&name) || COUNT_HEADERS.contains(&name);
    let headers = original.headers().as_ref().map(|_| headers_without(original, is_left_out));
    let properties = with(carried(original), original.reply_to(), BasicProperties::with_reply_to);
    let properties = with(properties, original.expiration(), BasicProperties::with_expiration);
    with(marked(properties, original), &headers, BasicProperties::with_headers)
}

/// The message's own properties, less what the transport wrote into them. The flag: whether the reply address is among
/// them.
pub(super) fn of_replay(original: &BasicProperties) -> (BasicProperties, bool) {
    let is_left_out = |name: &str| {
        let is_of_the_way = HEADERS_OF_THE_WAY.iter().any(|prefix| name.starts_with(prefix));
        is_of_the_way || COUNT_HEADERS.contains(&name) || ROUTING_HEADERS.contains(&name)
    };
    let headers = Some(headers_without(original, is_left_out)).filter(|headers| !headers.inner().is_empty());
    let reply_to = original.reply_to().clone().filter(|queue| queue.as_str() != DIRECT_REPLY_TO);
    let properties = with(marked(carried(original), original), &headers, BasicProperties::with_headers);
    (with(properties, &reply_to, BasicProperties::with_reply_to), reply_to.is_some())
}

/// What says whose message it is, and what is in it. `expiration` would let the copy vanish, and `user_id` must be the
/// publisher's own.
fn carried(original: &BasicProperties) -> BasicProperties {
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let properties = with(properties, original.content_type(), BasicProperties::with_content_type);
    let properties = with(properties, original.content_encoding(), BasicProperties::with_content_encoding);
    let properties = with(properties, original.correlation_id(), BasicProperties::with_correlation_id);
    let properties = with(properties, original.message_id(), BasicProperties::with_message_id);
    with(properties, original.app_id(), BasicProperties::with_app_id)
}

fn marked(properties: BasicProperties, original: &BasicProperties) -> BasicProperties {
    let properties = with(properties, original.kind(), BasicProperties::with_type);
    with(properties, original.timestamp(), BasicProperties::with_timestamp)
}

/// Sets a property where there is a value.
pub(super) fn with<T: Clone>(
    properties: BasicProperties,
    value: &Option<T>,
    set: fn(BasicProperties, T) -> BasicProperties,
) -> BasicProperties {
    match value {
        Some(value) => set(properties, value.clone()),
        None => properties,
    }
}

fn headers_without(original: &BasicProperties, is_left_out: impl Fn(&str) -> bool) -> FieldTable {
    let headers = original.headers().iter().flat_map(FieldTable::inner);
    let kept = headers.filter(|(name, _)| !is_left_out(name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect::<BTreeMap<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Code;

    #[test]
    fn what_is_sent_again_has_all_of_its_own_and_nothing_of_the_way() {
        let mut headers = FieldTable::default();
        for name in ["x-dead-reason", "x-death", "x-first-death-queue", "x-last-death-queue", "x-delivery-count", "BCC"]
        {
            headers.insert(name.into(), AMQPValue::Boolean(true));
        }
        headers.insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
        let of_its_own = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_correlation_id("c".into())
            .with_message_id("m".into())
            .with_reply_to("amq.rabbitmq.reply-to.g1hkAB".into())
            .with_timestamp(7)
            .with_type("t".into());
        let dead = of_its_own.clone().with_headers(headers).with_expiration("1".into()).with_user_id("u".into());
        let mut kept = FieldTable::default();
        kept.insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
        let expected = of_its_own.with_headers(kept).with_delivery_mode(PERSISTENT);
        assert_eq!(of_replay(&dead), (expected, true));
    }

    #[test]
    fn a_senders_fault_keeps_headers_of_1_kib_of_text_and_what_is_nobodys_of_16() {
        for (code, bytes, is_kept) in [
            (Code::Malformed, 1_000, true),
            (Code::Malformed, 1_100, false),
            (Code::DeliveryLimit, 16_000, true),
            (Code::DeliveryLimit, 17_000, false),
        ] {
            let mut headers = FieldTable::default();
            headers.insert("pad".into(), AMQPValue::LongString("x".repeat(bytes).into()));
            let original = BasicProperties::default().with_headers(headers);
            let copy = of_dead_letter(&original, "purchase.0", &Rejection::new(code, "why"));
            assert_eq!(header(&copy, "pad").is_some(), is_kept, "{code:?}, {bytes}");
            assert_eq!(header(&copy, "x-dead-headers").is_some(), !is_kept);
        }
    }

    #[test]
    fn of_headers_that_would_take_much_memory_those_of_the_trace_are_held() {
        let of = |name: &str, value: AMQPValue| {
            let mut headers = FieldTable::default();
            headers.insert(name.into(), value).insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
            BasicProperties::default().with_headers(headers).with_reply_to("r".into())
        };
        let text = |bytes| AMQPValue::LongString("x".repeat(bytes).into());
        for large in [text(HELD_HEADERS_BYTES_MAX), AMQPValue::FieldArray(vec![AMQPValue::Void; 200].into())] {
            let held = of_held(of("x", large));
            assert!(header(&held, "x").is_none() && header(&held, "traceparent").is_some());
            assert!(header(&held, "x-dead-headers").is_some() && held.reply_to().is_some());
        }
        let small = of("x", text(3_000));
        assert_eq!(of_held(small.clone()), small);
    }

    #[test]
    fn an_address_that_only_its_own_channel_could_use_is_taken_off() {
        let bare = BasicProperties::default().with_reply_to(DIRECT_REPLY_TO.into());
        let (properties, keeps_reply_to) = of_replay(&bare);
        assert_eq!((properties.reply_to(), keeps_reply_to), (&None, false));
        assert!(!of_replay(&BasicProperties::default()).1, "there was none");
    }
}
