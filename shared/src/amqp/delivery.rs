//! A message as it was delivered to us.

use super::Body;
use super::body::Spool;
use super::membership::PADDING_TYPE;
use super::properties::{as_sent, header, of_held, sent_by};
use crate::messages::{bodies, is_array};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};

#[derive(Debug, Clone)]
pub struct Delivery {
    /// Which of the consumer's queues it came from.
    pub partition: usize,
    /// Its number on that queue's channel.
    pub tag: u64,
    /// Whether nothing else of its partition is under way to us.
    pub is_alone: bool,
    /// Whether its queue delivers to one worker at a time, in order.
    pub has_line: bool,
    /// How often it had been delivered before, without having been settled.
    pub deliveries_before: u64,
    /// How many requests are in it: several in an array.
    pub requests: usize,
    pub body: Body,
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    /// Whether who published it has done so for its sender, and may.
    pub(super) is_passed_on: bool,
}

impl Delivery {
    pub fn reply_to(&self) -> Option<&str> {
        self.properties.reply_to().as_ref().map(ShortString::as_str)
    }

    pub fn correlation_id(&self) -> Option<&str> {
        self.properties.correlation_id().as_ref().map(ShortString::as_str)
    }

    pub fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(ShortString::as_str)
    }

    /// Who sent it, where the message says so: the broker takes none that names another than its connection's user. Of what
    /// somebody has published for another, and may, that is who.
    pub fn user_id(&self) -> Option<&str> {
        self.properties.user_id().as_ref().map(ShortString::as_str).filter(|user| !user.is_empty())
    }

    pub fn is_passed_on(&self) -> bool {
        self.is_passed_on
    }

    /// Whether who published it says that somebody else has sent it, and may not say so.
    pub fn is_for_another(&self) -> bool {
        sent_by(&self.properties).is_some()
    }

    /// The exchange and the routing key by which it came. No exchange: the default one, by which whoever may publish there reaches
    /// any queue.
    pub fn way(&self) -> (&str, &str) {
        (self.exchange.as_str(), self.routing_key.as_str())
    }

    pub fn priority(&self) -> Option<u8> {
        *self.properties.priority()
    }

    pub fn content_type(&self) -> Option<&str> {
        self.properties.content_type().as_ref().map(ShortString::as_str)
    }

    pub fn content_encoding(&self) -> Option<&str> {
        self.properties.content_encoding().as_ref().map(ShortString::as_str)
    }

    /// Whether it only fills a window, and asks for nothing.
    pub fn is_padding(&self) -> bool {
        self.body.is_empty() && self.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == PADDING_TYPE)
    }

    /// `replayers` may have published it for somebody else.
    pub(super) fn receive(
        delivery: lapin::message::Delivery,
        (partition, has_line): (usize, bool),
        is_alone: bool,
        spool: &mut Spool,
        replayers: &[String],
    ) -> Self {
        // On a first delivery, the header would be the sender's own. Other widths are not sent by any broker that we know.
        let count = header(&delivery.properties, "x-delivery-count").filter(|_| delivery.redelivered);
        let deliveries_before = count.and_then(AMQPValue::as_long_long_int).and_then(|count| u64::try_from(count).ok());
        let (properties, is_passed_on) = as_sent(delivery.properties, replayers);
        Self {
            partition,
            tag: delivery.delivery_tag,
            is_alone,
            has_line,
            deliveries_before: deliveries_before.unwrap_or(0),
            // Now, as it may be on disk later: a batch is as many requests as one is to have.
            requests: if is_array(&delivery.data) { bodies(&delivery.data).len() } else { 1 },
            body: spool.keep(delivery.data),
            exchange: delivery.exchange,
            routing_key: delivery.routing_key,
            properties: of_held(properties),
            is_passed_on,
        }
    }

    /// One that asks for nothing, for tests.
    #[cfg(test)]
    pub(crate) fn of(partition: usize, tag: u64, requests: usize) -> Self {
        Self {
            partition,
            tag,
            is_alone: false,
            has_line: true,
            deliveries_before: 0,
            requests,
            body: Vec::new().into(),
            exchange: <_>::default(),
            routing_key: <_>::default(),
            properties: <_>::default(),
            is_passed_on: false,
        }
    }
}
