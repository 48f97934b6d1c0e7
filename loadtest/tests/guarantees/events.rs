//! What happened is published once it is committed: each event with its id, and in the order of its item.

mod faults;
mod poison;

use crate::support::listener::{self, Listener};
use crate::support::shop::{Shop, until};
use shared::devstack::{Folder, Signal};
use shared::messages::EventKind;
use shared::outbox::{ItemChange, record_items};
use std::collections::BTreeMap;

const OUTBOX: &str = "SELECT count(*) FROM outbox";

#[tokio::test]
async fn every_reservation_is_told_once_with_its_key_and_in_the_order_of_its_item() {
    let mut shop = Shop::open(&[("opera", 500), ("concert.42", 500)]).await;
    let mut listener = Listener::to(&shop, "order.reserved.#").await;
    let folder = Folder::create().unwrap();
    let mut relays = Vec::new();
    for id in ["r1", "r2"] {
        let ready = folder.path().join(id);
        let relay = shop.worker_of("relay", id, &[("READY_FILE", ready.to_str().unwrap())]).await;
        relays.push((relay, ready));
    }
    let are_ready = async || relays.iter().all(|(_, file)| file.exists());
    until("both are ready, the one that stands by, too", are_ready).await;
    let _purchases = [shop.worker("w1", &[("BATCH_MAX", "20")]).await, shop.worker("w2", &[]).await];
    for number in 0..300 {
        for item in ["opera", "concert.42"] {
            shop.buy_unconfirmed(&format!("{item}-{number:03}"), item).await;
        }
    }
    let replies = shop.replies(600).await;
    let mut found: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for _ in 0..600 {
        let heard = listener.next().await;
        assert_eq!(heard.routing_key, format!("order.reserved.{}", heard.event.item));
        let order = heard.event.order.clone().unwrap();
        assert_eq!(replies[&order.request_id].order(), order.id.to_string());
        assert_eq!((order.buyer, order.quantity), (format!("b-{}", order.request_id), 1));
        let (ids, requests) = found.entry(heard.event.item).or_default();
        ids.push(heard.event.event_id);
        requests.push(order.request_id);
    }
    for (item, (ids, requests)) in &found {
        let sent: Vec<_> = (0..300).map(|number| format!("{item}-{number:03}")).collect();
        assert_eq!(requests, &sent, "in the order in which they were decided");
        assert!(listener::are_in_order(ids), "and none comes twice");
    }
    shop.outbox_is_empty().await;
    for (relay, file) in &mut relays {
        relay.send(Signal::SIGTERM).unwrap();
        assert_eq!(relay.wait().await.unwrap().code(), Some(0));
        assert!(!file.exists(), "who has left is not ready");
    }
    listener.hears_nothing_more(&shop).await;
    folder.remove().await.unwrap();
}

#[tokio::test]
async fn what_is_not_committed_is_not_told_and_what_is_committed_late_is() {
    let shop = Shop::open(&[]).await;
    let mut listener = Listener::to(&shop, "item.#").await;
    let _relay = shop.worker_of("relay", "r", &[]).await;
    let mut late = shop.pool.begin().await.unwrap();
    let mut never = shop.pool.begin().await.unwrap();
    record_items(&mut late, &[change(EventKind::ItemOpened, "late")]).await.unwrap();
    record_items(&mut never, &[change(EventKind::ItemOpened, "never")]).await.unwrap();
    record(&shop, EventKind::ItemOpened, "first").await;
    assert_eq!(listener.next().await.event.item, "first", "what has higher numbers does not wait");
    late.commit().await.unwrap();
    let heard = listener.next().await.event;
    assert_eq!(heard.item, "late");
    assert!(heard.event_id.starts_with("1.0."), "a lower number is not passed over: {}", heard.event_id);
    never.rollback().await.unwrap();
    record(&shop, EventKind::ItemClosed, "last").await;
    assert_eq!(listener.next().await.event.item, "last");
}

/// Commits an event of an item, as whoever changes one does, but for the notifier.
async fn record(shop: &Shop, kind: EventKind, item: &str) {
    record_items(&mut shop.pool.acquire().await.unwrap(), &[change(kind, item)]).await.unwrap();
}

fn change(kind: EventKind, item: &str) -> ItemChange {
    ItemChange { kind, item: item.to_owned(), detail: "{}".to_owned() }
}
