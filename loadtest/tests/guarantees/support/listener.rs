//! A consumer of events, as any other system would be.

use super::queue;
use super::shop::Shop;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::{BasicProperties, Channel, Consumer};
use shared::messages::{CONTENT_TYPE, EVENTS_EXCHANGE, Event};
use std::collections::BTreeMap;
use std::time::Duration;

/// An event as it comes.
pub(crate) struct Heard {
    pub(crate) routing_key: String,
    pub(crate) event: Event,
    pub(crate) relay: String,
}

pub(crate) struct Listener {
    events: Consumer,
    /// By their ids.
    pub(crate) known: BTreeMap<String, Event>,
}

impl Listener {
    /// Listens from now on.
    pub(crate) async fn to(shop: &Shop, pattern: &str) -> Self {
        let queue = queue::exclusive(&shop.channel).await;
        queue::bind(&shop.channel, queue.as_str(), EVENTS_EXCHANGE, pattern).await;
        Self::of(&shop.channel, queue.as_str()).await
    }

    /// Listens to what is in a queue, and what comes.
    pub(crate) async fn of(channel: &Channel, queue: &str) -> Self {
        Self { events: queue::consume(channel, queue).await, known: BTreeMap::new() }
    }

    /// The next event. Its properties say what its body says.
    pub(crate) async fn next(&mut self) -> Heard {
        let Delivery { routing_key, properties, data, .. } = self.delivery().await;
        let event: Event = serde_json::from_slice(&data).unwrap();
        let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        assert_eq!(text(properties.message_id()).as_ref(), Some(&event.event_id));
        assert_eq!(text(properties.kind()).as_deref(), Some(event.event.as_str()));
        assert_eq!(text(properties.content_type()).as_deref(), Some(CONTENT_TYPE));
        assert_eq!(*properties.timestamp(), Some(event.at.unix_timestamp().unsigned_abs()));
        assert_eq!(*properties.delivery_mode(), Some(2));
        Heard { routing_key: routing_key.to_string(), event, relay: text(properties.app_id()).unwrap() }
    }

    async fn delivery(&mut self) -> Delivery {
        let delivery = tokio::time::timeout(Duration::from_secs(60), self.events.next()).await;
        delivery.expect("an event comes").unwrap().unwrap()
    }

    /// The next event that is not known already; what is known is the same each time.
    pub(crate) async fn next_new(&mut self) -> Event {
        loop {
            let event = self.next().await.event;
            match self.known.get(&event.event_id) {
                Some(earlier) => assert_eq!(earlier, &event, "a repeat is the same"),
                None => {
                    self.known.insert(event.event_id.clone(), event.clone());
                    return event;
                }
            }
        }
    }

    /// With every relay stopped: what was published before is here, so a message of ours would come behind it.
    pub(crate) async fn hears_nothing_more(&mut self, shop: &Shop) {
        shop.send_to(EVENTS_EXCHANGE, "order.reserved.end", b"end", BasicProperties::default()).await;
        assert_eq!(self.delivery().await.data, b"end");
    }
}

/// Whether ids go up, by number, then by place.
pub(crate) fn are_in_order(ids: &[String]) -> bool {
    let read = |id: &String| {
        let (number, rest) = id.split_once('.').unwrap();
        let (place, _) = rest.split_once('.').unwrap();
        (number.parse::<i64>().unwrap(), place.parse::<usize>().unwrap())
    };
    ids.windows(2).all(|two| read(&two[0]) < read(&two[1]))
}
