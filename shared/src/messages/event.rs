//! What happened, as the world outside is told: messages to the topic exchange `events`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

/// The topic exchange that events are published to, with the routing key [`EventKind::routing_key`].
pub const EVENTS_EXCHANGE: &str = "events";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventKind {
    /// Units are held for a buyer.
    #[serde(rename = "order.reserved")]
    OrderReserved,
    /// The buyer pays, and the gateway is asked.
    #[serde(rename = "order.paying")]
    OrderPaying,
    /// The gateway took no money; the order is reserved again.
    #[serde(rename = "order.declined")]
    OrderDeclined,
    /// The order is paid for.
    #[serde(rename = "order.paid")]
    OrderPaid,
    /// The hold ran out, its units are on sale again.
    #[serde(rename = "order.expired")]
    OrderExpired,
    /// The order is cancelled, its units are on sale again.
    #[serde(rename = "order.cancelled")]
    OrderCancelled,
    /// An item was created.
    #[serde(rename = "item.created")]
    ItemCreated,
    /// Units came on sale.
    #[serde(rename = "item.stock_added")]
    ItemStockAdded,
    /// Units are no longer on sale.
    #[serde(rename = "item.stock_removed")]
    ItemStockRemoved,
    /// The sale was opened, or will be.
    #[serde(rename = "item.opened")]
    ItemOpened,
    /// The sale was closed.
    #[serde(rename = "item.closed")]
    ItemClosed,
    /// The item's rules were changed.
    #[serde(rename = "item.rules_changed")]
    ItemRulesChanged,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::OrderReserved,
        Self::OrderPaying,
        Self::OrderDeclined,
        Self::OrderPaid,
        Self::OrderExpired,
        Self::OrderCancelled,
        Self::ItemCreated,
        Self::ItemStockAdded,
        Self::ItemStockRemoved,
        Self::ItemOpened,
        Self::ItemClosed,
        Self::ItemRulesChanged,
    ];

    /// The word used in messages and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrderReserved => "order.reserved",
            Self::OrderPaying => "order.paying",
            Self::OrderDeclined => "order.declined",
            Self::OrderPaid => "order.paid",
            Self::OrderExpired => "order.expired",
            Self::OrderCancelled => "order.cancelled",
            Self::ItemCreated => "item.created",
            Self::ItemStockAdded => "item.stock_added",
            Self::ItemStockRemoved => "item.stock_removed",
            Self::ItemOpened => "item.opened",
            Self::ItemClosed => "item.closed",
            Self::ItemRulesChanged => "item.rules_changed",
        }
    }

    /// The kind that goes by this word.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The key that an event of this kind is published with, such as `order.reserved.concert-42`. An item's id may have
    /// dots in it: bind to `order.reserved.#`, not to `order.reserved.*`.
    #[must_use]
    pub fn routing_key(self, item: &str) -> String {
        format!("{}.{item}", self.as_str())
    }
}

/// An event: the body of a message. It comes at least once, the same each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The same whenever this event comes again, and unique among all: `NUMBER.PLACE`. By number, then by place, the
    /// events of an order are in the order in which they happened. Also the message's `message_id`.
    pub event_id: String,
    /// What happened. Also the message's `type`.
    pub event: EventKind,
    /// To which item, or to an order of which item.
    pub item: String,
    /// When, by the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The order that it happened to; of `order.…` events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<EventOrder>,
    /// The item as it was after the change; of `item.…` events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

/// An order, as its events tell it: what never changes in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventOrder {
    /// The order's id.
    pub id: Uuid,
    /// The purchase request that it came from.
    pub request_id: String,
    /// Who ordered.
    pub buyer: String,
    /// Units.
    pub quantity: u32,
    /// The units are kept until then, unless the order is paid for before, or being paid for.
    #[serde(with = "time::serde::rfc3339")]
    pub hold_until: OffsetDateTime,
}
