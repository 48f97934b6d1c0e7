//! Doors, brokers and databases that die, stop, or are away: who waits, waits on, and no purchase that was confirmed is lost.

use super::JSON;
use super::client::{Door, buy_at, head};
use crate::support::sale::rabbitmqctl;
use crate::support::shop::{Shop, until};
use futures_util::future::join_all;
use lapin::options::QueuePurgeOptions;
use lapin::types::FieldTable;
use shared::devstack::Servers;
use shared::topology::Topology;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A door that has noticed that its broker is gone, and nine tickets.
async fn without_the_broker() -> (Servers, Shop, Door) {
    let (mut servers, shop) = Shop::private(&[("ticket", 9)]).await;
    let door = Door::open(&shop, "door", &[]).await;
    let node = servers.rabbitmq.node_names()[0].to_owned();
    servers.rabbitmq.kill_node(&node).await.unwrap();
    until("the door has noticed", async || door.get("/readyz").await.status == 503).await;
    (servers, shop, door)
}

/// Once the broker is back, the next buyer is the first.
async fn assert_nobody_has_bought(mut servers: Servers, shop: Shop, door: Door) {
    servers.rabbitmq.start_killed().await.unwrap();
    let worker = shop.worker("w", &[]).await;
    assert_eq!(door.buy("r-2", "wait=60").await.code(), "reserved");
    assert_eq!(shop.stock("ticket").await, (8, 1));
    drop((door, worker));
    servers.stop().await.unwrap();
}

/// How many messages wait in all partitions together.
async fn depth(shop: &Shop) -> u32 {
    let mut depth = 0;
    for queue in Topology::read().queues_of("purchase") {
        depth += shop.depth(&queue).await;
    }
    depth
}

#[tokio::test]
async fn a_door_that_is_killed_loses_no_purchase_and_any_other_door_tells_its_verdict() {
    let shop = Shop::open(&[("ticket", 100)]).await;
    let (mut doomed, other) = (Door::open(&shop, "doomed", &[]).await, Door::open(&shop, "other", &[]).await);
    let ids: Vec<String> = (0..40).map(|number| format!("r-{number}")).collect();
    let accepted = join_all(ids.iter().map(|id| doomed.buy(id, "wait=0"))).await;
    assert!(accepted.iter().all(|response| response.status == 202), "the broker has confirmed each of them");
    doomed.process.kill().await.unwrap();
    let asked_again = join_all(ids.iter().map(|id| other.buy(id, "wait=60")));
    let (told, _worker) = tokio::join!(asked_again, shop.worker("w", &[]));
    assert!(told.iter().all(|response| response.status == 200 && response.code() == "reserved"));
    assert_eq!(shop.stock("ticket").await, (60, 40), "each was bought once");
}

#[tokio::test]
async fn a_broker_that_restarts_while_clients_wait_costs_them_time_and_nothing_else() {
    let (mut servers, shop) = Shop::private(&[("ticket", 100)]).await;
    let door = Door::open(&shop, "door", &[]).await;
    let ids: Vec<String> = (0..40).map(|number| format!("r-{number}")).collect();
    let waiting = join_all(ids.iter().map(|id| door.buy(id, "wait=60")));
    let restarting = async {
        until("the queue has them", async || depth(&shop).await > 0).await;
        servers.rabbitmq.restart().await.unwrap();
        let worker = shop.worker("w", &[]).await;
        // What comes meanwhile waits for the broker, too.
        (door.buy("late", "wait=60").await, worker)
    };
    let (told, (late, worker)) = tokio::join!(waiting, restarting);
    for response in told.iter().chain([&late]) {
        assert_eq!((response.status, response.code()), (200, "reserved".into()), "{response:?}");
    }
    assert_eq!(shop.stock("ticket").await, (59, 41), "what was published twice is bought once");
    drop((door, worker));
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_door_that_is_told_to_stop_says_where_to_ask_on_and_lets_nobody_in() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let mut door = Door::open(&shop, "door", &[]).await;
    let address = door.address.clone();
    let waiting = async { buy_at(&address, "r-1", "wait=60").await };
    let stopping = async {
        until("the queue has it", async || depth(&shop).await == 1).await;
        door.process.stop().await.unwrap()
    };
    let (told, exit) = tokio::join!(waiting, stopping);
    assert_eq!((told.status, exit.code()), (202, Some(0)), "{told:?}");
    assert!(TcpStream::connect(&address).await.is_err());
}

#[tokio::test]
async fn without_the_database_purchases_are_taken_and_decided_and_lookups_say_that_it_is_away() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let door = Door::open(&shop, "door", &[("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")]).await;
    let accepted = door.buy("r-1", "wait=0").await;
    assert_eq!(accepted.status, 202);
    let (told, _worker) = tokio::join!(door.buy("r-1", "wait=60"), shop.worker("w", &[]));
    assert_eq!((told.status, told.code()), (200, "reserved".into()));
    assert_eq!(door.get("/purchases/r-1").await.problem(), (503, "database_away".into()));
    assert_eq!(door.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn what_is_on_sale_is_told_from_the_last_reading_while_the_database_is_slow_and_not_for_ever() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let door = Door::open(&shop, "door", &[]).await;
    let known = door.get("/items").await;
    // Nobody reads it meanwhile.
    let lock = shop.begin("LOCK TABLE items IN ACCESS EXCLUSIVE MODE").await;
    let told = door.get("/items").await;
    assert_eq!((known.status, told.status, told.body), (200, 200, known.body));
    until("that is too long ago", async || door.get("/items").await.status == 503).await;
    assert_eq!(door.get("/items").await.problem(), (503, "database_away".into()));
    lock.rollback().await.unwrap();
    until("it is read again", async || door.get("/items").await.status == 200).await;
}

/// Whoever is told that it was not taken can buy elsewhere: it is not taken afterwards.
#[tokio::test]
async fn what_the_broker_does_not_confirm_is_503_and_is_not_bought_behind_the_clients_back() {
    let (servers, shop, door) = without_the_broker().await;
    assert_eq!(door.get("/readyz").await.problem(), (503, "not_ready".into()));
    let refused = door.buy("r-1", "wait=0").await;
    assert_eq!(refused.problem(), (503, "not_confirmed".into()));
    assert_eq!(refused.header("idempotency-key"), Some("r-1"));
    assert_nobody_has_bought(servers, shop, door).await;
}

/// Nobody is left to be told, and nobody is left who wants it.
#[tokio::test]
async fn what_the_broker_does_not_confirm_in_time_is_not_bought_either_where_its_client_has_left() {
    let (servers, shop, door) = without_the_broker().await;
    let mut client = TcpStream::connect(&door.address).await.unwrap();
    let (body, headers) = (r#"{"buyer":"b","quantity":1}"#, [JSON, ("Idempotency-Key", "r-1"), ("Prefer", "wait=0")]);
    let head = head("POST", "/items/ticket/purchases", &headers, body.len());
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let is_in_line = async || !door.get("/purchases/r-1?item=ticket").await.json()["ahead"].is_null();
    until("the door has it", is_in_line).await;
    drop(client);
    until("it is given up", async || !is_in_line().await).await;
    assert_nobody_has_bought(servers, shop, door).await;
}

/// Its verdict goes where nobody hears it: it is looked up.
#[tokio::test]
async fn a_purchase_that_the_broker_refuses_when_it_is_published_again_is_told_as_it_was_decided() {
    let (mut servers, shop) = Shop::private(&[("ticket", 9)]).await;
    let door = Door::open(&shop, "door", &[]).await;
    assert_eq!(door.buy("r-1", "wait=0").await.status, 202, "the queue has it");
    for queue in Topology::read().queues_of("purchase") {
        let (exchange, key) = ("purchase".into(), "1".into());
        shop.channel.queue_unbind(queue.into(), exchange, key, FieldTable::default()).await.unwrap();
    }
    servers.rabbitmq.restart().await.unwrap();
    let place = async || door.get("/purchases/r-1?item=ticket").await.json()["ahead"].clone();
    until("it is not waited for any more", async || place().await.is_null()).await;
    let worker = shop.worker("w", &[]).await;
    let told = door.ask("GET", "/purchases/r-1?item=ticket", &[("Prefer", "wait=60")], "").await;
    assert_eq!((told.status, told.code()), (200, "reserved".into()));
    drop((door, worker));
    servers.stop().await.unwrap();
}

/// Its queue was purged, and the same was asked elsewhere.
#[tokio::test]
async fn a_purchase_whose_reply_never_comes_is_told_from_the_record_and_a_repeat_tells_the_first() {
    let shop = Shop::open(&[("ticket", 9)]).await;
    let doors = [Door::open(&shop, "door-1", &[]).await, Door::open(&shop, "door-2", &[]).await];
    for id in ["r-1", "r-2"] {
        assert_eq!(doors[0].buy(id, "wait=0").await.status, 202);
    }
    for queue in Topology::read().queues_of("purchase") {
        shop.channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    }
    let _worker = shop.worker("w", &[]).await;
    let look = async |id: &str| {
        let told = doors[0].ask("GET", &format!("/purchases/{id}?item=ticket"), &[("Prefer", "wait=35")], "").await;
        (told.status, told.code())
    };
    let (elsewhere, again) = (doors[1].buy("r-1", "wait=60"), doors[0].buy("r-2", "wait=60"));
    let (first, second, elsewhere, again) = tokio::join!(look("r-1"), look("r-2"), elsewhere, again);
    for told in [first, second, (elsewhere.status, elsewhere.code()), (again.status, again.code())] {
        assert_eq!(told, (200, "reserved".into()));
    }
    assert_eq!(shop.stock("ticket").await, (7, 2));
}

#[tokio::test]
async fn a_queue_that_takes_nothing_more_is_503_at_once() {
    let (servers, shop) = Shop::private(&[("ticket", 9)]).await;
    let door = Door::open(&shop, "door", &[]).await;
    rabbitmqctl(&servers.rabbitmq, &["set_policy", "full", "^purchase", r#"{"max-length":1}"#]).await;
    until("the queue is full", async || door.buy("r-1", "wait=0").await.status == 503).await;
    assert_eq!(door.buy("r-1", "wait=0").await.problem(), (503, "not_taken".into()));
    drop(door);
    servers.stop().await.unwrap();
}
