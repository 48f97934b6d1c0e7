//! What becomes of what was bought: paid for, let go of, and told to whoever watches.

use super::JSON;
use super::client::{Door, Response, Stream};
use crate::support::shop::{Shop, until};
use serde_json::json;

pub(super) async fn pay(door: &Door, id: &str, order: &str, wait: &str) -> Response {
    pay_as(door, id, order, &[("Prefer", wait)]).await
}

async fn pay_as(door: &Door, id: &str, order: &str, headers: &[(&str, &str)]) -> Response {
    let headers = [&[JSON, ("Idempotency-Key", id)], headers].concat();
    let body = r#"{"payment_method":"card","op":"void"}"#;
    door.ask("POST", &format!("/orders/{order}/payment"), &headers, body).await
}

async fn cancel(door: &Door, id: &str, order: &str, headers: &[(&str, &str)]) -> Response {
    let headers = [&[("Idempotency-Key", id), ("Prefer", "wait=60")], headers].concat();
    door.ask("DELETE", &format!("/orders/{order}"), &headers, "").await
}

pub(super) fn order_of(response: &Response) -> String {
    response.json()["order"]["id"].as_str().unwrap_or_else(|| panic!("{response:?}")).to_owned()
}

#[tokio::test]
async fn an_order_is_paid_for_another_is_let_go_of_and_the_item_says_so() {
    let shop = Shop::open(&[("ticket", 5)]).await;
    let _workers = shop.workers(&["purchase", "payment", "release"]).await;
    let doors = [Door::open(&shop, "door-1", &[]).await, Door::open(&shop, "door-2", &[]).await];
    let mut orders = Vec::new();
    for id in ["r-1", "r-2", "r-3"] {
        orders.push(order_of(&doors[0].buy(id, "wait=60").await));
    }
    let paid = pay(&doors[0], "p-1", &orders[0], "wait=60").await;
    assert_eq!((paid.status, paid.code()), (200, "paid".into()));
    let gone = cancel(&doors[1], "c-1", &orders[1], &[]).await;
    assert_eq!((gone.status, gone.code()), (200, "cancelled".into()));
    // Asked again anywhere, it is the one verdict; asked anew, it is another.
    assert_eq!(pay(&doors[1], "p-1", &orders[0], "wait=60").await.body, paid.body);
    assert_eq!(doors[1].get("/purchases/p-1").await.body, paid.body);
    assert_eq!(cancel(&doors[0], "c-2", &orders[0], &[]).await.code(), "already_paid");
    let nobodys = uuid::Uuid::now_v7().to_string();
    assert_eq!(cancel(&doors[0], "c-3", &nobodys, &[]).await.code(), "unknown_order");
    let invalid = cancel(&doors[0], "c-4", "nonsense", &[]).await;
    assert_eq!((invalid.status, invalid.code()), (400, "invalid_id".into()));
    let item = doors[0].get("/items/ticket").await.json();
    assert_eq!([&item["stock"], &item["available"], &item["held"], &item["sold"]], [5, 3, 1, 1]);
    assert_eq!((&item["item"], &item["sale"]), (&json!("ticket"), &json!("open")));
    assert_eq!(doors[0].get("/items/nothing").await.problem(), (404, "unknown_item".into()));
}

#[tokio::test]
async fn where_a_proxy_names_the_buyer_an_order_is_theirs_alone() {
    let shop = Shop::open(&[("ticket", 5)]).await;
    let _workers = shop.workers(&["purchase", "payment", "release"]).await;
    let door = Door::open(&shop, "door", &[("BUYER_HEADER", "X-Buyer")]).await;
    let (ann, eve) = ([("X-Buyer", "ann")], [("X-Buyer", "eve")]);
    let headers = [JSON, ("Idempotency-Key", "r-1"), ("Prefer", "wait=60"), ann[0]];
    let order = order_of(&door.ask("POST", "/items/ticket/purchases", &headers, r#"{"quantity":1}"#).await);
    assert_eq!(cancel(&door, "c-1", &order, &eve).await.problem(), (404, "unknown_order".into()));
    assert_eq!(pay_as(&door, "p-1", &order, &eve).await.problem(), (404, "unknown_order".into()));
    assert_eq!(pay(&door, "p-2", &order, "wait=60").await.problem(), (403, "no_buyer".into()));
    let watched = async |as_whom: &[(&str, &str)]| door.ask("GET", "/purchases/r-1/events", as_whom, "").await;
    assert_eq!(watched(&eve).await.problem(), (404, "unknown_purchase".into()));
    assert_eq!(pay_as(&door, "p-3", &order, &ann).await.code(), "paid");
    assert_eq!(cancel(&door, "c-2", &order, &ann).await.code(), "already_paid");
}

#[tokio::test]
async fn a_stream_whose_order_is_gone_ends_so_that_a_browser_does_not_come_again() {
    let shop = Shop::open(&[("ticket", 5)]).await;
    let _worker = shop.worker("w", &[]).await;
    let door = Door::open(&shop, "door", &[]).await;
    assert_eq!(door.buy("r-1", "wait=60").await.code(), "reserved");
    let mut stream = Stream::open(&door, "/purchases/r-1/events", &[]).await;
    assert_eq!(stream.next().await.unwrap().0, "verdict");
    shop.execute("DELETE FROM order_history").await;
    shop.execute("DELETE FROM orders").await;
    assert_eq!(stream.next().await, Some((String::new(), json!(null), Some("end".to_owned()))));
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_client_hears_their_place_the_verdict_and_what_becomes_of_the_order_at_any_door() {
    let (mut servers, shop) = Shop::private(&[("ticket", 5)]).await;
    let doors = [Door::open(&shop, "door-1", &[]).await, Door::open(&shop, "door-2", &[]).await];
    let worker = shop.worker("w", &[]).await;
    let path = "/purchases/r-1/events?item=ticket";
    // Nothing is decided while the database is away.
    servers.postgres.kill().await.unwrap();
    until("it is away", async || doors[0].get("/items/ticket").await.status == 503).await;
    assert_eq!(doors[0].buy("r-1", "wait=0").await.status, 202);
    let mut streams = [Stream::open(&doors[0], path, &[]).await, Stream::open(&doors[1], path, &[]).await];
    for stream in &mut streams {
        let (name, data, _) = stream.next().await.unwrap();
        assert_eq!((name.as_str(), &data["request_id"]), ("position", &json!("r-1")));
    }
    servers.postgres.start_again().await.unwrap();
    let mut order = String::new();
    for stream in &mut streams {
        let (name, data, _) = stream.next_but("position").await.unwrap();
        assert_eq!((name.as_str(), &data["code"]), ("verdict", &json!("reserved")));
        order = data["order"]["id"].as_str().unwrap().to_owned();
    }
    let payment = shop.worker_of("payment", "p", &[("GATEWAY", "simulated")]).await;
    assert_eq!(pay(&doors[0], "p-1", &order, "wait=60").await.code(), "paid");
    for stream in &mut streams {
        let (name, data, id) = stream.next_but("paying").await.unwrap();
        assert_eq!((name.as_str(), &data["id"], id.as_deref()), ("paid", &json!(order), Some("end")));
        assert_eq!(stream.next().await, None, "there is nothing more to hear");
    }
    let back = doors[1].ask("GET", path, &[("Last-Event-ID", "end")], "").await;
    assert_eq!(back.status, 204, "and a browser does not come again");
    // Who comes late hears it all, but for the place.
    let mut late = Stream::open(&doors[1], "/purchases/r-1/events", &[]).await;
    assert_eq!((late.next().await.unwrap().0, late.next().await.unwrap().0), ("verdict".into(), "paid".into()));
    assert_eq!(doors[0].get("/purchases/nobody/events").await.problem(), (404, "unknown_purchase".into()));
    drop((doors, worker, payment));
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn streams_say_what_changes_have_a_bound_and_end_with_their_door() {
    let shop = Shop::open(&[("ticket", 2), ("short", 1)]).await;
    let _workers = shop.workers(&["purchase", "release"]).await;
    let mut door = Door::open(&shop, "door", &[("STREAMS_MAX", "2")]).await;
    let mut item = Stream::open(&door, "/items/ticket/events", &[]).await;
    assert_eq!(item.next().await.unwrap().1["available"], 2);
    let sold = door.buy("r-1", "wait=60").await;
    let (name, data, _) = item.next().await.unwrap();
    assert_eq!((name.as_str(), &data["available"], &data["held"]), ("item", &json!(1), &json!(1)));
    let short = [JSON, ("Idempotency-Key", "r-2"), ("Prefer", "wait=60")];
    door.ask("POST", "/items/short/purchases", &short, r#"{"buyer":"b","quantity":1}"#).await;
    let mut expires = Stream::open(&door, "/purchases/r-2/events", &[]).await;
    assert_eq!(door.get("/items/ticket/events").await.problem(), (503, "too_many_streams".into()));
    shop.execute("UPDATE orders SET hold_until = now() WHERE item = 'short'").await;
    assert_eq!(
        (expires.next().await.unwrap().0, expires.next().await.unwrap().0),
        ("verdict".into(), "expired".into())
    );
    assert_eq!(expires.next().await, None);
    let mut holds = Stream::open(&door, "/purchases/r-1/events", &[]).await;
    assert_eq!(holds.next().await.unwrap().1, sold.json());
    assert_eq!(door.process.stop().await.unwrap().code(), Some(0));
    assert_eq!((item.next().await, holds.next().await), (None, None));
}

#[tokio::test]
async fn pages_of_origins_that_are_named_may_ask_and_no_others() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let origin = "https://shop.example";
    let (open, closed) = tokio::join!(
        Door::open(&shop, "open", &[("CORS_ORIGIN", "http://localhost:3000,https://shop.example")]),
        Door::open(&shop, "closed", &[])
    );
    let path = "/items/ticket/purchases";
    let preflight = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "content-type")];
    for (door, from, may) in [(&open, origin, true), (&open, "https://eve.example", false), (&closed, origin, false)] {
        let headers = [&[("Origin", from)], &preflight[..]].concat();
        let (asked, got) =
            (door.ask("OPTIONS", path, &headers, "").await, door.ask("GET", "/items", &headers, "").await);
        assert_eq!(asked.status, if may { 204 } else { 405 });
        for response in [&asked, &got] {
            assert_eq!(response.header("access-control-allow-origin"), may.then_some(from));
        }
        let allowed =
            asked.header("access-control-allow-headers").is_some_and(|names| names.contains("idempotency-key"));
        assert!(allowed == may && got.status == 200);
    }
}
