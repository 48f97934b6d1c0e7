//! What a copy of a message keeps of its properties and headers, and what not. Pure.

use crate::messages::Rejection;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
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
/// The most of a message's own headers that its copy in `dead` keeps, in bytes of JSON, of which a byte of text takes two to four:
/// with all that comes on top, they fit the frame of 8 KiB that `rabbitmq/rabbitmq.conf` allows.
const DEAD_HEADERS_BYTES_MAX: usize = 8 * 1024;
/// The same of `dead.invalid`: RabbitMQ counts no headers towards the bytes that a queue may have.
const INVALID_HEADERS_BYTES_MAX: usize = 4 * 1024;
/// Headers by which a message chooses queues of its own (sender-selected distribution): never copied.
const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];
/// Of a message that somebody publishes for its sender: who that is. RabbitMQ takes no `user_id` but the publisher's own.
const SENDER_HEADER: &str = "x-sent-by";
/// Of a message in `dead` that names a sender in the header above: who published it, and may not do so for others.
const CLAIMED_BY_HEADER: &str = "x-dead-user";
/// Headers by which a quorum queue says how often it has delivered a message.
pub(super) const COUNT_HEADERS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];
/// Beginnings of the headers that say how a message came to `dead`.
const HEADERS_OF_THE_WAY: [&str; 4] = ["x-dead-", "x-death", "x-first-death-", "x-last-death-"];
/// What a client writes to be answered on its own channel. The broker puts the channel's address in its place, which begins
/// so; the bare word could only be published by a channel that waits for the reply.
pub(crate) const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

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

/// The sender that a message names besides its `user_id`.
pub(super) fn sent_by(properties: &BasicProperties) -> Option<ShortString> {
    let sender = header(properties, SENDER_HEADER)?.as_long_string()?;
    ShortString::try_new(sender.to_string()).ok()
}

/// A message's properties, as if its sender had published it, where one of the `replayers` has done so for them. The flag: whether
/// that is so.
pub(super) fn as_sent(properties: BasicProperties, replayers: &[String]) -> (BasicProperties, bool) {
    let may = |user: &ShortString| replayers.iter().any(|replayer| replayer == user.as_str());
    if !properties.user_id().as_ref().is_some_and(may) {
        return (properties, false);
    }
    let Some(sender) = sent_by(&properties) else { return (properties, false) };
    let headers = headers_without(&properties, |name| name == SENDER_HEADER);
    (properties.with_user_id(sender).with_headers(headers), true)
}

/// Published by us for its sender, where it has one that is not us.
fn for_sender(properties: BasicProperties, sender: &Option<ShortString>, us: &str) -> BasicProperties {
    match sender {
        Some(sender) if sender.as_str() != us => in_name_of(properties, sender, us),
        Some(_) => properties.with_user_id(us.into()),
        None => properties,
    }
}

fn in_name_of(properties: BasicProperties, sender: &ShortString, us: &str) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(SENDER_HEADER.into(), AMQPValue::LongString(sender.as_str().into()));
    properties.with_user_id(us.into()).with_headers(headers)
}

/// The message's own properties, less what would make the broker refuse, drop or reroute the copy, and less what would have
/// it taken for one that the broker moved. `us` is our user, by whose word its sender is believed: anybody may write to `dead`. Of one request of an array, it is not whole:
/// the message's id would pass for the request's.
pub(super) fn of_dead_letter(
    original: &BasicProperties,
    is_whole: bool,
    (queue, routing_key): (&str, &str),
    reason: &Rejection,
    us: &str,
) -> BasicProperties {
    let ours = [DEATH_HEADER, SENDER_HEADER, CLAIMED_BY_HEADER];
    let is_left_out = |name: &str| ROUTING_HEADERS.contains(&name) || ours.contains(&name);
    let mut headers = headers_without(original, is_left_out);
    // Headers travel in one frame, whose size the broker limits: with ours on top, the copy could not be published.
    let bytes_max = if reason.code.is_of_sender() { INVALID_HEADERS_BYTES_MAX } else { DEAD_HEADERS_BYTES_MAX };
    if serde_json::to_vec(&headers).map_or(true, |bytes| bytes.len() > bytes_max) {
        headers = FieldTable::default();
        say_left_out(&mut headers);
    }
    let ours = [
        ("x-dead-reason", reason.code.as_str()),
        ("x-dead-message", &reason.message),
        ("x-dead-queue", queue),
        ("x-dead-routing-key", routing_key),
    ];
    for (name, value) in ours {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let copy = with(carried(original, is_whole), original.reply_to(), BasicProperties::with_reply_to);
    // Who claimed to send for another, and might not, may be an operator whose right is missing: neither name is lost.
    let Some(claimed) = sent_by(original) else {
        return for_sender(copy.with_headers(headers), original.user_id(), us);
    };
    let user = original.user_id().as_ref().map(ShortString::as_str).unwrap_or_default();
    headers.insert(CLAIMED_BY_HEADER.into(), AMQPValue::LongString(user.into()));
    in_name_of(copy.with_headers(headers), &claimed, us)
}

/// The message's own properties and headers, less those that would send copies elsewhere, and less the broker's own count
/// of deliveries, which begins anew. `us` is our user.
pub(super) fn of_requeue(original: &BasicProperties, us: &str) -> BasicProperties {
    let is_left_out = |name: &str| ROUTING_HEADERS.contains(&name) || COUNT_HEADERS.contains(&name);
    let headers = original.headers().as_ref().map(|_| headers_without(original, is_left_out));
    let properties = with(carried(original, true), original.reply_to(), BasicProperties::with_reply_to);
    let properties = with(properties, original.expiration(), BasicProperties::with_expiration);
    for_sender(with(marked(properties, original), &headers, BasicProperties::with_headers), original.user_id(), us)
}

/// The message's own properties, less what the transport wrote into them. The flag: whether the reply address is among
/// them. Its sender is who published it, but where that was one of the `workers`, or `us`, for somebody else. `None`: somebody else
/// put it into `dead`, or had it put there, with a sender that they made up.
pub(super) fn of_replay(original: &BasicProperties, us: &str, workers: &[String]) -> Option<(BasicProperties, bool)> {
    let is_left_out = |name: &str| {
        let is_of_the_way = HEADERS_OF_THE_WAY.iter().any(|prefix| name.starts_with(prefix));
        is_of_the_way || COUNT_HEADERS.contains(&name) || ROUTING_HEADERS.contains(&name) || name == SENDER_HEADER
    };
    let is_ours = |user: &str| user == us || workers.iter().any(|worker| worker == user);
    let sender = match sent_by(original) {
        None => original.user_id().clone(),
        Some(sender) => {
            let user = original.user_id().as_ref().map(ShortString::as_str).unwrap_or_default();
            let claimed_by =
                header(original, CLAIMED_BY_HEADER).map(|user| user.as_long_string().map(ToString::to_string));
            let may = is_ours(user) && claimed_by.is_none_or(|user| user.is_some_and(|user| is_ours(&user)));
            Some(Some(sender).filter(|_| may)?)
        }
    };
    let headers = Some(headers_without(original, is_left_out)).filter(|headers| !headers.inner().is_empty());
    let reply_to = original.reply_to().clone().filter(|queue| queue.as_str() != DIRECT_REPLY_TO);
    let properties = with(marked(carried(original, true), original), &headers, BasicProperties::with_headers);
    let properties = with(properties, &reply_to, BasicProperties::with_reply_to);
    Some((for_sender(properties, &sender, us), reply_to.is_some()))
}

/// What says whose message it is, and what is in it. `expiration` would let the copy vanish; for `user_id` see
/// [`for_sender`].
fn carried(original: &BasicProperties, is_whole: bool) -> BasicProperties {
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let properties = with(properties, original.content_type(), BasicProperties::with_content_type);
    let properties = with(properties, original.content_encoding(), BasicProperties::with_content_encoding);
    let properties = with(properties, original.correlation_id(), BasicProperties::with_correlation_id);
    let message_id = original.message_id().clone().filter(|_| is_whole);
    let properties = with(properties, &message_id, BasicProperties::with_message_id);
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
mod tests;
