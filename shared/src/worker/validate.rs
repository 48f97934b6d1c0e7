//! What is checked of a message before its body is read: the transport's properties. Pure.

use crate::{
    amqp::Delivery,
    messages::{CONTENT_TYPE, Code, Rejection},
};

/// The broker's own names of reply queues (direct reply-to, and queues whose name the broker chose), and ours for
/// durable ones. Anything else might be one of our request queues, which a request must not be able to write into.
const REPLY_QUEUES: [&str; 3] = ["amq.rabbitmq.reply-to", "amq.gen-", "reply."];

/// Whether `reply_to` names a queue that may be replied to.
pub(super) fn is_reply_queue(name: &str) -> bool {
    REPLY_QUEUES.iter().any(|start| name.starts_with(start))
}

/// Checks the properties of a message.
pub(super) fn validate(delivery: &Delivery) -> Result<(), Rejection> {
    check(delivery.reply_to(), delivery.correlation_id(), delivery.content_type(), delivery.content_encoding())
}

fn check(
    reply_to: Option<&str>,
    correlation_id: Option<&str>,
    content_type: Option<&str>,
    content_encoding: Option<&str>,
) -> Result<(), Rejection> {
    if reply_to.is_some_and(|name| !is_reply_queue(name)) {
        let message = "reply_to names no reply queue; use direct reply-to, a queue named by the broker, or reply.*.";
        return Err(Rejection::new(Code::InvalidReplyTo, message));
    }
    if correlation_id.is_some_and(|id| id.is_empty() || id.chars().any(char::is_control)) {
        let message = "The correlation id is empty or has control characters.";
        return Err(Rejection::new(Code::InvalidCorrelationId, message));
    }
    let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
    if essence.is_some_and(|essence| !essence.is_empty() && !essence.eq_ignore_ascii_case(CONTENT_TYPE)) {
        let message = format!("The content type is not {CONTENT_TYPE}.");
        return Err(Rejection::new(Code::UnsupportedContentType, message));
    }
    let is_plain = |encoding: &str| ["", "identity", "utf-8"].iter().any(|plain| encoding.eq_ignore_ascii_case(plain));
    if content_encoding.is_some_and(|encoding| !is_plain(encoding)) {
        return Err(Rejection::new(Code::UnsupportedContentType, "The body has a content encoding; send it plain."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_cannot_write_into_our_own_queues() {
        for name in ["purchase.0", "dead", "payment", "amq.topic", "", "replyx", "my-queue"] {
            assert!(!is_reply_queue(name), "{name}");
            assert_eq!(check(Some(name), None, None, None).map_err(|r| r.code), Err(Code::InvalidReplyTo));
        }
        for name in ["amq.rabbitmq.reply-to.g1h2AAx.B==", "amq.gen-JzTY20BRgKO-HjmUJj0wLg", "reply.shop-7"] {
            assert!(is_reply_queue(name), "{name}");
        }
    }

    #[test]
    fn odd_properties_are_told_apart() {
        let long = "x".repeat(255);
        let cases = [
            (Some("order 7 / ü"), None, None, Ok(())),
            (Some(long.as_str()), Some("application/json; charset=utf-8"), Some("utf-8"), Ok(())),
            (None, Some("Application/JSON"), Some("identity"), Ok(())),
            (Some(""), None, None, Err(Code::InvalidCorrelationId)),
            (Some("a\nb"), None, None, Err(Code::InvalidCorrelationId)),
            (Some("a\0b"), None, None, Err(Code::InvalidCorrelationId)),
            (None, Some("text/plain"), None, Err(Code::UnsupportedContentType)),
            (None, Some("application/json"), Some("gzip"), Err(Code::UnsupportedContentType)),
        ];
        for (correlation_id, content_type, encoding, expected) in cases {
            let found = check(None, correlation_id, content_type, encoding).map_err(|rejection| rejection.code);
            assert_eq!(found, expected, "{correlation_id:?} {content_type:?} {encoding:?}");
        }
    }
}
