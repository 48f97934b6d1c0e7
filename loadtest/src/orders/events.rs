//! What was published, read: each event once, in the order in which it first arrived. Pure.
//!
//! Nothing that was received is lost on the way: it is a first, a repeat, or a fault.

use shared::messages::Event;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use time::OffsetDateTime;

/// An event's message as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub routing_key: String,
    pub body: Vec<u8>,
    /// By our clock.
    pub at: OffsetDateTime,
    /// Whether the broker says that it may have delivered it before: then a repeat is its own, and nobody else's.
    pub is_redelivered: bool,
}

/// An event, the first time that it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedEvent {
    /// By these, the events of an order, and those that move an item's stock, are in the order in which they happened.
    pub number: (u64, u64),
    pub event: Event,
    pub at: OffsetDateTime,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// Each once, in the order of their arrival.
    pub published: Vec<PublishedEvent>,
    /// Repeats that were published again: allowed (events come at least once), and counted. What the broker redelivered
    /// is not among them.
    pub duplicates: u64,
    /// What cannot be read, or contradicts itself: for people.
    pub faults: Vec<String>,
}

impl Events {
    pub fn read(received: &[Received]) -> Self {
        let mut events = Self::default();
        let mut bodies: HashMap<String, &[u8]> = HashMap::new();
        for one in received {
            let Some(published) = read_one(one) else {
                events.faults.push(format!("unreadable, or by another routing key: {}", one.routing_key));
                continue;
            };
            match bodies.entry(published.event.event_id.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(&one.body);
                    events.published.push(published);
                }
                Entry::Occupied(entry) if *entry.get() != one.body => {
                    events.faults.push(format!("{} says two things", entry.key()));
                }
                Entry::Occupied(_) => events.duplicates += u64::from(!one.is_redelivered),
            }
        }
        events
    }
}

fn read_one(received: &Received) -> Option<PublishedEvent> {
    let event: Event = serde_json::from_slice(&received.body).ok()?;
    let mut parts = event.event_id.splitn(3, '.').map(|part| part.parse::<u64>().ok());
    let number = (parts.next()??, parts.next()??);
    parts.next()??;
    let is_routed = event.event.routing_key(&event.item) == received.routing_key;
    is_routed.then_some(PublishedEvent { number, event, at: received.at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(id: &str, item: &str, is_redelivered: bool) -> Received {
        let body =
            format!(r#"{{"event_id":"{id}","event":"item.opened","item":"{item}","at":"2026-01-01T00:00:00Z"}}"#);
        let (routing_key, at) = ("item.opened.ticket".to_owned(), OffsetDateTime::UNIX_EPOCH);
        Received { routing_key, body: body.into_bytes(), at, is_redelivered }
    }

    #[test]
    fn a_repeat_is_counted_once_it_is_the_publishers() {
        let repeats =
            [received("7.0.1", "ticket", false), received("7.0.1", "ticket", false), received("7.0.1", "ticket", true)];
        let events = Events::read(&repeats);
        assert_eq!((events.published.len(), events.duplicates, events.faults), (1, 1, vec![]));
        assert_eq!(events.published[0].number, (7, 0));
    }

    #[test]
    fn what_cannot_be_read_or_is_routed_wrongly_or_changes_is_a_fault() {
        let mut changed = received("7.0.1", "ticket", false);
        changed.body.push(b' ');
        let (number, place) = (received("7", "ticket", false), received("x.0.1", "ticket", false));
        for wrong in [number, place, received("8.0.1", "elsewhere", false), changed] {
            let events = Events::read(&[received("7.0.1", "ticket", false), wrong.clone()]);
            assert_eq!((events.published.len(), events.faults.len()), (1, 1), "{wrong:?}");
        }
    }
}
