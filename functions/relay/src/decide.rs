//! From a row of the outbox to its events, and from what the broker refused to the rows that are given up. Pure.
//!
//! The same row gives the same events, with the same ids, whenever it is read and by whichever instance. A row that cannot
//! be published gives no event at all, and the reason.

use shared::messages::{Event, EventKind, EventOrder};
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// The longest routing key that AMQP has room for, in bytes.
const ROUTING_KEY_BYTES_MAX: usize = 255;

/// A row as it is read: something happened to these orders, or to this item.
#[derive(Debug, Clone, sqlx_macros::FromRow)]
pub(crate) struct Row {
    /// Events of one item, and those of one order, have their rows numbered in the order in which they happened.
    pub(crate) id: i64,
    /// An [`EventKind`]'s word, or one of a later version.
    pub(crate) kind: String,
    pub(crate) order_ids: Option<Vec<Option<Uuid>>>,
    pub(crate) item: Option<String>,
    /// The item as it was after the change: a JSON object.
    pub(crate) detail: Option<String>,
    pub(crate) at: OffsetDateTime,
    /// Whether it brings its round to the most events of one.
    pub(crate) fills: bool,
}

/// An order with its item.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) item: String,
    pub(crate) order: EventOrder,
}

/// An event, ready to be published.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) event_id: String,
    pub(crate) kind: EventKind,
    pub(crate) routing_key: String,
    pub(crate) at: OffsetDateTime,
    pub(crate) body: String,
}

/// What the broker said of a row that was published alone.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    /// This very message can never be taken.
    Unfit(String),
    /// Which may be the fault of the broker, or of who is bound to the exchange.
    NotTaken(String),
}

/// The events of a row, in order. `orders` holds those that the row names, as far as they are there.
///
/// # Errors
/// Why the row cannot be published, for people; trying again would change nothing.
pub(crate) fn messages(row: &Row, orders: &HashMap<Uuid, Order>) -> Result<Vec<Message>, String> {
    // Of a later version, or written by hand.
    let kind = EventKind::read(&row.kind).ok_or_else(|| format!("this version knows no event {}", row.kind))?;
    let event = |place: usize, item: &str| {
        // Numbers come again after a backup is restored; with the time of the change, an id does not.
        let microseconds = row.at.unix_timestamp_nanos() / 1_000;
        let event_id = format!("{}.{place}.{microseconds}", row.id);
        Event { event_id, event: kind, item: item.to_owned(), at: row.at, order: None, detail: None }
    };
    if let Some(ids) = &row.order_ids {
        let messages = ids.iter().enumerate().map(|(place, id)| {
            let id = id.ok_or_else(|| format!("the order at place {place} has no id"))?;
            let Order { item, order } = orders.get(&id).ok_or_else(|| format!("the order {id} is gone"))?;
            message(Event { order: Some(order.clone()), ..event(place, item) })
        });
        return messages.collect();
    }
    let item = row.item.as_ref().ok_or("it happened to no order and to no item")?;
    let detail = serde_json::from_str(row.detail.as_deref().unwrap_or_default());
    let detail: serde_json::Map<_, _> = detail.map_err(|error| format!("the detail is not a JSON object ({error})"))?;
    Ok(vec![message(Event { detail: Some(detail.into()), ..event(0, item) })?])
}

fn message(event: Event) -> Result<Message, String> {
    let routing_key = event.event.routing_key(&event.item);
    let bytes = routing_key.len();
    if bytes > ROUTING_KEY_BYTES_MAX {
        return Err(format!("the routing key would have {bytes} bytes, and AMQP has room for {ROUTING_KEY_BYTES_MAX}"));
    }
    // A year that RFC 3339 cannot write, for example.
    let body =
        serde_json::to_string(&event).map_err(|error| format!("the event cannot be written as JSON ({error})"))?;
    Ok(Message { event_id: event.event_id, kind: event.event, routing_key, at: event.at, body })
}

/// Whose fault it is, of rows that were published one by one: that of a row which is refused while the broker
/// `takes_others`, else the broker's. Returns what became of each row, from the first on: published, or given up for a
/// reason.
///
/// # Errors
/// None is taken: the broker's reason.
pub(crate) fn given_up(rows: Vec<Result<(), Refusal>>, takes_others: bool) -> Result<Vec<Result<(), String>>, String> {
    let mut outcomes = Vec::with_capacity(rows.len());
    for row in rows {
        outcomes.push(match row {
            Ok(()) => Ok(()),
            Err(Refusal::Unfit(reason)) => Err(reason),
            Err(Refusal::NotTaken(reason)) if takes_others => Err(reason),
            // None behind it was taken, so it may wait, and its item's order stays.
            Err(Refusal::NotTaken(reason)) if outcomes.is_empty() => return Err(reason),
            Err(Refusal::NotTaken(_)) => break,
        });
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests;
