//! From a row of the outbox to its events.
//!
//! Pure: no clock, no I/O. Invariants: the same row gives the same events, with the same ids, whenever it is read and by
//! whichever instance; and a row that cannot be told gives no event at all, and the reason.

use shared::messages::{Event, EventKind, EventOrder};
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// The longest routing key that AMQP has room for, in bytes.
const ROUTING_KEY_BYTES_MAX: usize = 255;

/// A row, as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its number: events of one item, and those of one order, have them in the order in which they happened.
    pub id: i64,
    /// What happened: an [`EventKind`]'s word, or one of a later version.
    pub kind: String,
    /// To what.
    pub what: What,
    /// When, by the database's clock.
    pub at: OffsetDateTime,
}

/// What something happened to.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// These orders, in this order.
    Orders(Vec<Option<Uuid>>),
    /// An item, and what it is now: a JSON object.
    Item {
        /// Its id.
        id: String,
        /// As it was after the change.
        detail: String,
    },
}

/// An order, and its item.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The item's id.
    pub item: String,
    /// The rest.
    pub order: EventOrder,
}

/// An event, ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its stable id.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// Where it is published.
    pub routing_key: String,
    /// When it happened.
    pub at: OffsetDateTime,
    /// The message's body.
    pub body: String,
}

/// Why a row cannot be told; trying again would change nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Poison {
    /// It was written by a later version, or by hand.
    #[error("this version knows no event {0}")]
    UnknownKind(String),
    /// The array has a hole.
    #[error("the order at place {0} has no id")]
    NoOrder(usize),
    /// There is no such row.
    #[error("the order {0} is gone")]
    OrderGone(Uuid),
    /// AMQP has no room for it.
    #[error("the routing key would have {0} bytes, and AMQP has room for {ROUTING_KEY_BYTES_MAX}")]
    KeyTooLong(usize),
    /// The item is not described.
    #[error("the detail is not a JSON object ({0})")]
    NotJson(String),
    /// A year that RFC 3339 cannot write, for example.
    #[error("the event cannot be written as JSON ({0})")]
    Unwritable(String),
}

/// The events of a row, in order. `orders` holds those that the row names, as far as they are there.
///
/// # Errors
/// [`Poison`].
pub fn tell(row: &Row, orders: &HashMap<Uuid, Order>) -> Result<Vec<Told>, Poison> {
    let kind = EventKind::read(&row.kind).ok_or_else(|| Poison::UnknownKind(row.kind.clone()))?;
    match &row.what {
        What::Orders(ids) => {
            let events = ids.iter().enumerate().map(|(place, id)| {
                let id = id.ok_or(Poison::NoOrder(place))?;
                let Order { item, order } = orders.get(&id).ok_or(Poison::OrderGone(id))?;
                told(Event { order: Some(order.clone()), ..event(row, place, kind, item) })
            });
            events.collect()
        }
        What::Item { id, detail } => {
            let detail: serde_json::Map<_, _> =
                serde_json::from_str(detail).map_err(|error| Poison::NotJson(error.to_string()))?;
            Ok(vec![told(Event { detail: Some(detail.into()), ..event(row, 0, kind, id) })?])
        }
    }
}

/// The event at a place of the row, without what it happened to.
fn event(row: &Row, place: usize, kind: EventKind, item: &str) -> Event {
    let event_id = format!("{}.{place}", row.id);
    Event { event_id, event: kind, item: item.to_owned(), at: row.at, order: None, detail: None }
}

fn told(event: Event) -> Result<Told, Poison> {
    let routing_key = event.event.routing_key(&event.item);
    if routing_key.len() > ROUTING_KEY_BYTES_MAX {
        return Err(Poison::KeyTooLong(routing_key.len()));
    }
    let body = serde_json::to_string(&event).map_err(|error| Poison::Unwritable(error.to_string()))?;
    Ok(Told { id: event.event_id, kind: event.event, routing_key, at: event.at, body })
}

#[cfg(test)]
mod tests;
