//! What happened, as the world outside hears it: messages to the topic exchange `events`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

/// Events have the routing key [`EventKind::routing_key`] there.
pub const EVENTS_EXCHANGE: &str = "events";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum EventKind {
    OrderReserved,
    /// The gateway is about to be asked.
    OrderPaying,
    /// The gateway took no money; the order is reserved again.
    OrderDeclined,
    OrderPaid,
    /// The hold ran out, or its payment was voided; the units are on sale again.
    OrderExpired,
    OrderCancelled,
    ItemCreated,
    ItemStockAdded,
    ItemStockRemoved,
    /// The sale has a window that is open, or will be.
    ItemOpened,
    ItemClosed,
    ItemRulesChanged,
}

impl EventKind {
    /// Every kind, in the order of the enum, with its word in messages and in the database.
    pub const ALL: [(Self, &str); 12] = [
        (Self::OrderReserved, "order.reserved"),
        (Self::OrderPaying, "order.paying"),
        (Self::OrderDeclined, "order.declined"),
        (Self::OrderPaid, "order.paid"),
        (Self::OrderExpired, "order.expired"),
        (Self::OrderCancelled, "order.cancelled"),
        (Self::ItemCreated, "item.created"),
        (Self::ItemStockAdded, "item.stock_added"),
        (Self::ItemStockRemoved, "item.stock_removed"),
        (Self::ItemOpened, "item.opened"),
        (Self::ItemClosed, "item.closed"),
        (Self::ItemRulesChanged, "item.rules_changed"),
    ];

    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The kind that goes by this word.
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, of_kind)| *of_kind == word).map(|(kind, _)| kind)
    }

    /// The key that an event of this kind is published with, such as `order.reserved.concert-42`. An item's id may have
    /// dots in it: bind to `order.reserved.#`, not to `order.reserved.*`.
    pub fn routing_key(self, item: &str) -> String {
        format!("{}.{item}", self.as_str())
    }
}

impl From<EventKind> for &'static str {
    fn from(kind: EventKind) -> Self {
        kind.as_str()
    }
}

impl TryFrom<String> for EventKind {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        Self::read(&word).ok_or_else(|| format!("there is no event {word}"))
    }
}

/// The body of an event's message. It comes at least once, the same each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The same whenever this event comes again, and unique among all, also after a backup is restored:
    /// `NUMBER.PLACE.MICROSECONDS`. Until one is, the events of an order are in order by number, then by place. Also the
    /// message's `message_id`.
    pub event_id: String,
    /// Also the message's `type`.
    pub event: EventKind,
    pub item: String,
    /// By the database's clock.
    #[serde(with = "super::time")]
    pub at: OffsetDateTime,
    /// The order that it happened to; of `order.…` events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<EventOrder>,
    /// The item as it was after the change; of `item.…` events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

/// An order, as its events have it: what never changes in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventOrder {
    pub id: Uuid,
    /// The purchase request that it came from.
    pub request_id: String,
    pub buyer: String,
    pub quantity: u32,
    /// The units are kept until then, unless the order is paid for before, or being paid for.
    #[serde(with = "super::time")]
    pub hold_until: OffsetDateTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_in_its_place() {
        assert!(EventKind::ALL.into_iter().enumerate().all(|(place, (kind, _))| kind as usize == place));
    }
}
