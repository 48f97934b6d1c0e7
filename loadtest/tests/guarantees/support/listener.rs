//! A consumer of events, as any other system would be.

use super::{queue, shop::Shop};
use futures_util::StreamExt;
use lapin::{BasicProperties, Channel, Consumer, message::Delivery};
use shared::messages::{CONTENT_TYPE, EVENTS_EXCHANGE, Event};
use std::{collections::BTreeMap, time::Duration};

/// An event as it comes.
pub(crate) struct Heard {
    pub(crate) routing_key: String,
    pub(crate) event: Event,
    pub(crate) properties: BasicProperties,
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
        let delivery = tokio::time::timeout(Duration::from_secs(60), self.events.next()).await;
        heard(delivery.expect("an event comes").unwrap().unwrap())
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
        let body = r#"{"event_id":"end","event":"order.reserved","item":"end","at":"2026-11-27T10:00:00Z"}"#;
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(2)
            .with_message_id("end".into())
            .with_type("order.reserved".into())
            .with_timestamp(1_795_773_600);
        shop.send_to(EVENTS_EXCHANGE, "order.reserved.end", body.as_bytes(), properties).await;
        assert_eq!(self.next().await.event.event_id, "end");
    }
}

fn heard(delivery: Delivery) -> Heard {
    let event: Event = serde_json::from_slice(&delivery.data).unwrap();
    let properties = delivery.properties;
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string).unwrap_or_default();
    assert_eq!(text(properties.message_id()), event.event_id);
    assert_eq!(text(properties.kind()), event.event.as_str());
    assert_eq!(text(properties.content_type()), CONTENT_TYPE);
    assert_eq!(*properties.timestamp(), Some(event.at.unix_timestamp().unsigned_abs()));
    assert_eq!(*properties.delivery_mode(), Some(2));
    Heard { routing_key: delivery.routing_key.to_string(), event, properties }
}

/// Whether ids go up, by number, then by place.
pub(crate) fn are_in_order(ids: &[String]) -> bool {
    let read = |id: &String| {
        let (number, place) = id.split_once('.').unwrap();
        (number.parse::<i64>().unwrap(), place.parse::<usize>().unwrap())
    };
    ids.windows(2).all(|two| read(&two[0]) < read(&two[1]))
}
