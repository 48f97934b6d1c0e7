//! What is checked of a message before its body is read: the transport's properties. Pure.

use super::reply_address::reply_node;
use crate::amqp::topology::Topology;
use crate::amqp::{DIRECT_REPLY_TO, Delivery};
use crate::config::WorkerOptions;
use crate::messages::{CONTENT_TYPE, Code, Rejection};

/// Whether a reply may go where the message asks for it.
pub(super) fn may_reply(delivery: &Delivery, options: &WorkerOptions) -> bool {
    delivery.reply_to().is_some_and(|name| wrong_reply_to(name, delivery.user_id(), options).is_none())
}

/// Why no reply may go there. A request must not be able to write into our own queues and exchanges (what was not UTF-8 has
/// control characters by now, and is another name than was sent), nor to end our connection; nor, where it matters, to write into
/// another sender's. Client libraries name their queues as they like, so that is asked of none who is trusted.
fn wrong_reply_to(name: &str, user: Option<&str>, options: &WorkerOptions) -> Option<&'static str> {
    let is_text = !name.is_empty() && !name.chars().any(char::is_control);
    if !is_text || Topology::read().has(name) || reply_node(name) == Some(Err(())) {
        return Some(
            "reply_to names nothing, has characters that are not UTF-8 or control characters, or names a queue or exchange of \
             the engine's own, or an address for direct replies that RabbitMQ has not made; name a queue of yours, or \
             amq.rabbitmq.reply-to.",
        );
    }
    let is_users = |user: &str| {
        let own = name.strip_prefix("reply.").and_then(|name| name.strip_prefix(user)?.strip_prefix('.'));
        // With a dot in it, it could be of a user whose name has one.
        own.is_some_and(|own| !own.is_empty() && !own.contains('.'))
    };
    let may = options.trusted_users.is_none()
        || name.starts_with(DIRECT_REPLY_TO)
        || user.is_some_and(|user| options.trusts(user) || is_users(user));
    let text = "reply_to is a queue that this sender may not name; use direct reply-to, or reply.USER.NAME, where user_id is \
                USER and NAME has no dot.";
    (!may).then_some(text)
}

pub(super) fn validate(delivery: &Delivery, options: &WorkerOptions) -> Result<(), Rejection> {
    if options.refuse_default_exchange && delivery.way().0.is_empty() {
        let message =
            "The message came by the default exchange; publish it to the exchange that has its function's name.";
        return Err(Rejection::new(Code::NotAllowed, message));
    }
    if delivery.has_line && delivery.priority().is_some_and(|priority| priority > PRIORITY_MAX) {
        let message = format!("The priority is above {PRIORITY_MAX}; leave it out: first come, first served.");
        return Err(Rejection::new(Code::PriorityNotAllowed, message));
    }
    if delivery.is_for_another() {
        let message =
            "The header x-sent-by is for the users that REPLAY_USERS names, with their user_id; leave it out.";
        return Err(Rejection::new(Code::NotAllowed, message));
    }
    if let Some(message) = delivery.reply_to().and_then(|name| wrong_reply_to(name, delivery.user_id(), options)) {
        return Err(Rejection::new(Code::InvalidReplyTo, message));
    }
    check(delivery.correlation_id(), delivery.content_type(), delivery.content_encoding())
}

/// The highest priority that jumps nothing where a queue has an order: from 5 on, RabbitMQ 4 delivers a message before those that have none, which count
/// as 4. (4.3 delivers those below 4 after them; 3.10 knows none.)
const PRIORITY_MAX: u8 = 4;

/// That it stands in the line of its item, where all others are: a purchase that came by another way was not behind them.
pub(super) fn check_line(delivery: &Delivery, item: Option<&str>) -> Result<(), Rejection> {
    let (exchange, routing_key) = delivery.way();
    if exchange.is_empty() || item.is_some_and(|item| item != routing_key) {
        let message = "The routing key is not the item, or the message went straight to a queue; publish it to the exchange \
                       purchase, with the item as routing key.";
        return Err(Rejection::new(Code::WrongRoutingKey, message));
    }
    Ok(())
}

fn check(
    correlation_id: Option<&str>,
    content_type: Option<&str>,
    content_encoding: Option<&str>,
) -> Result<(), Rejection> {
    if correlation_id.is_some_and(|id| id.is_empty() || id.chars().any(char::is_control)) {
        let message = "The correlation id is empty or has control characters.";
        return Err(Rejection::new(Code::InvalidCorrelationId, message));
    }
    let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
    if essence.is_some_and(|essence| !essence.is_empty() && !essence.eq_ignore_ascii_case(CONTENT_TYPE)) {
        let message = format!("The content type is not {CONTENT_TYPE}.");
        return Err(Rejection::new(Code::UnsupportedContentType, message));
    }
    // What several libraries write of text that is not compressed; JSON is UTF-8 whatever they say.
    const PLAIN: [&str; 6] = ["", "identity", "utf-8", "utf8", "us-ascii", "binary"];
    let is_plain = |encoding: &str| PLAIN.iter().any(|plain| encoding.eq_ignore_ascii_case(plain));
    if content_encoding.is_some_and(|encoding| !is_plain(encoding)) {
        return Err(Rejection::new(Code::UnsupportedContentType, "The body has a content encoding; send it plain."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CommandLine;
    use clap::{Args, Parser};

    #[derive(Args)]
    struct NoOptions {}

    fn options(trusted_users: Option<&str>) -> WorkerOptions {
        let trusted_users = trusted_users.map(|users| users.split(',').map(ToOwned::to_owned).collect());
        WorkerOptions { trusted_users, ..CommandLine::<NoOptions>::parse_from(["purchase"]).worker }
    }

    #[test]
    fn where_users_are_trusted_others_are_answered_on_their_own_queues_alone() {
        let (direct, named) = (
            "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAyNDk3MDU4OQAAAAkAAAAAawx4sA==.AAECAw==",
            "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
        );
        for (trusted, user, name, may) in [
            (None, None, named, true),
            (Some(""), None, direct, true),
            (Some(""), None, named, false),
            (Some(""), None, "reply..1", false),
            (Some("shop,web"), Some("web"), named, true),
            (Some("shop"), Some("web"), named, false),
            (Some("shop"), Some("ann"), "reply.ann.1", true),
            (Some("shop"), Some("ann"), "reply.ann.", false),
            (Some("shop"), Some("ann"), "reply.ann", false),
            (Some("shop"), Some("ann"), "reply.anna.1", false),
            (Some("shop"), Some("ann"), "reply.shop.1", false),
            (Some("shop"), Some("ann"), "reply.ann.b.1", false),
            (Some("shop"), Some("ann.b"), "reply.ann.b.1", true),
            (Some("shop"), Some("shop"), "dead", false),
        ] {
            let found = wrong_reply_to(name, user, &options(trusted)).is_none();
            assert_eq!(found, may, "{name}, trusted {trusted:?}, by {user:?}");
        }
    }

    #[test]
    fn a_request_cannot_write_into_our_own_queues_and_odd_properties_are_told_apart() {
        let open = options(None);
        for name in [
            "purchase.0",
            "purchase.7",
            "dead",
            "payment",
            "release",
            "restock",
            "events",
            "purchase.workers",
            "",
            "a\u{1a}",
            "amq.rabbitmq.reply-to.AAAA.BBBB",
        ] {
            assert!(wrong_reply_to(name, None, &open).is_some(), "{name}");
        }
        for name in [
            "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAyNDk3MDU4OQAAAAkAAAAAawx4sA==.AAECAw==",
            "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
            "reply.shop-7",
            "amq_3f0c7a1e",
            "c0bbd84a-5a3b-4b1c-9a8d-0f6f3f3f3f3f",
            "spring.gen-xyz",
            "purchase.8",
        ] {
            assert_eq!(wrong_reply_to(name, None, &open), None, "{name}");
        }
        let long = "x".repeat(255);
        for (correlation_id, content_type, encoding, expected) in [
            (Some("order 7 / ü"), None, None, None),
            (Some(long.as_str()), Some("application/json; charset=utf-8"), Some("utf-8"), None),
            (None, Some("Application/JSON"), Some("identity"), None),
            (None, None, Some("utf8"), None),
            (None, None, Some("UTF8"), None),
            (Some(""), None, None, Some(Code::InvalidCorrelationId)),
            (Some("a\nb"), None, None, Some(Code::InvalidCorrelationId)),
            (Some("a\0b"), None, None, Some(Code::InvalidCorrelationId)),
            (None, Some("text/plain"), None, Some(Code::UnsupportedContentType)),
            (None, Some("application/json"), Some("gzip"), Some(Code::UnsupportedContentType)),
        ] {
            let found = check(correlation_id, content_type, encoding).err().map(|rejection| rejection.code);
            assert_eq!(found, expected, "{correlation_id:?} {content_type:?} {encoding:?}");
        }
    }
}
