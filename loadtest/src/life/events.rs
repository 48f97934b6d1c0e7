//! What was heard, read: each event once, in the order in which it first arrived. Pure.
//!
//! Invariant: nothing that was heard is lost on the way: it is a first, a repeat, or a fault.

use std::collections::HashMap;

use shared::messages::Event;
use time::OffsetDateTime;

use crate::life::listener::Heard;

/// An event, the first time that it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    /// By these, the events of an order, and those that move an item's stock, are in the order in which they happened.
    pub number: (u64, u64),
    /// What it said.
    pub event: Event,
    /// When it arrived.
    pub at: OffsetDateTime,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// Each once, in the order of their arrival.
    pub firsts: Vec<First>,
    /// Repeats that were published again: allowed (events come at least once), and counted. What the broker brought twice
    /// by itself is not among them.
    pub duplicates: u64,
    /// What cannot be read, or contradicts itself: for people.
    pub faults: Vec<String>,
}

impl Events {
    /// Reads what was heard.
    #[must_use]
    pub fn read(heard: &[Heard]) -> Self {
        let mut events = Self::default();
        let mut bodies: HashMap<String, &[u8]> = HashMap::new();
        for heard in heard {
            let Some(first) = read_one(heard) else {
                events.faults.push(format!("unreadable, or by another routing key: {}", heard.routing_key));
                continue;
            };
            match bodies.get(&first.event.event_id) {
                Some(body) if *body != heard.body => {
                    events.faults.push(format!("{} says two things", first.event.event_id));
                }
                Some(_) => events.duplicates += u64::from(!heard.is_redelivered),
                None => {
                    bodies.insert(first.event.event_id.clone(), &heard.body);
                    events.firsts.push(first);
                }
            }
        }
        events
    }
}

fn read_one(heard: &Heard) -> Option<First> {
    let event: Event = serde_json::from_slice(&heard.body).ok()?;
    let (number, place) = event.event_id.split_once('.')?;
    let number = (number.parse().ok()?, place.parse().ok()?);
    let is_routed = event.event.routing_key(&event.item) == heard.routing_key;
    is_routed.then_some(First { number, event, at: heard.at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(id: &str, item: &str, is_redelivered: bool) -> Heard {
        let body =
            format!(r#"{{"event_id":"{id}","event":"item.opened","item":"{item}","at":"2026-01-01T00:00:00Z"}}"#);
        let (routing_key, at) = ("item.opened.ticket".to_owned(), OffsetDateTime::UNIX_EPOCH);
        Heard { routing_key, body: body.into_bytes(), at, is_redelivered }
    }

    #[test]
    fn a_repeat_is_counted_once_it_is_the_publishers() {
        let repeats = [heard("7.0", "ticket", false), heard("7.0", "ticket", false), heard("7.0", "ticket", true)];
        let events = Events::read(&repeats);
        assert_eq!((events.firsts.len(), events.duplicates, events.faults), (1, 1, vec![]));
        assert_eq!(events.firsts[0].number, (7, 0));
    }

    #[test]
    fn what_cannot_be_read_or_is_routed_wrongly_or_changes_is_a_fault() {
        let mut changed = heard("7.0", "ticket", false);
        changed.body.push(b' ');
        for wrong in
            [heard("7", "ticket", false), heard("x.0", "ticket", false), heard("8.0", "elsewhere", false), changed]
        {
            let events = Events::read(&[heard("7.0", "ticket", false), wrong.clone()]);
            assert_eq!((events.firsts.len(), events.faults.len()), (1, 1), "{wrong:?}");
        }
    }
}
