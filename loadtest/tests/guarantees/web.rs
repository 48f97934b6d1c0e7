//! The door for browsers: each client is told the verdict on their request, whatever dies, and is never bounced for want of a place.

mod bounds;
mod client;
mod clients;
mod described;
mod looks;
mod orders;
mod outages;
mod pages;
mod sale;
mod up;
mod webhooks;

use crate::support::shop::{Shop, until};
use client::{Door, Stream};
use futures_util::future::join_all;
use serde_json::json;

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[tokio::test]
async fn a_client_is_told_the_recorded_bytes_at_every_door_however_often_they_ask() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let _worker = shop.worker("w", &[]).await;
    let doors = [Door::open(&shop, "door-1", &[]).await, Door::open(&shop, "door-2", &[]).await];
    let sold = doors[0].buy("r-1", "wait=30").await;
    let out = doors[1].buy("r-2", "wait=30").await;
    assert_eq!((sold.status, sold.code(), out.status, out.code()), (200, "reserved".into(), 200, "sold_out".into()));
    for (id, told) in [("r-1", &sold), ("r-2", &out)] {
        let recorded: String = sqlx::query_scalar("SELECT reply FROM verdicts WHERE request_id = $1")
            .bind(id)
            .fetch_one(&shop.pool)
            .await
            .unwrap();
        assert_eq!((told.body.as_str(), told.header("idempotency-key")), (recorded.as_str(), Some(id)));
        for door in &doors {
            assert_eq!(door.buy(id, "wait=30").await.body, recorded);
            let looked_up = door.get(&format!("/purchases/{id}")).await;
            assert_eq!((looked_up.status, looked_up.body), (200, recorded.clone()));
        }
    }
    let another = doors[1].ask("POST", "/items/ticket/purchases", &[JSON, ("Idempotency-Key", "r-1")], BODY).await;
    assert_eq!((another.status, another.code()), (409, "request_id_reused".into()));
    // The id is made, and told.
    let nameless = doors[0].ask("POST", "/items/nothing/purchases", &[JSON], BODY).await;
    assert_eq!((nameless.status, nameless.code()), (200, "unknown_item".into()));
    assert_eq!(nameless.header("idempotency-key"), nameless.json()["request_id"].as_str());
}

const BODY: &str = r#"{"buyer":"ann","quantity":1}"#;

/// The second request with the key is told so; the key stays the first one's, whoever asks what became of it, and where.
#[tokio::test]
async fn a_key_that_is_used_again_while_its_request_is_under_way_is_still_the_first_ones() {
    let shop = Shop::open(&[("ticket", 9)]).await;
    let doors = [Door::open(&shop, "door-1", &[]).await, Door::open(&shop, "door-2", &[]).await];
    assert_eq!(doors[0].buy("r-1", "wait=0").await.status, 202);
    let another = async |door: &Door, wait: &str| {
        let headers = [JSON, ("Idempotency-Key", "r-1"), ("Prefer", wait)];
        door.ask("POST", "/items/ticket/purchases", &headers, r#"{"buyer":"eve","quantity":2}"#).await
    };
    let path = "/purchases/r-1?item=ticket";
    let events = "/purchases/r-1/events?item=ticket";
    let wait = async |door: &Door| door.ask("GET", path, &[("Prefer", "wait=60")], "").await;
    assert_eq!((another(&doors[0], "wait=0").await.status, another(&doors[1], "wait=0").await.status), (202, 202));
    let mut streams = [Stream::open(&doors[0], events, &[]).await, Stream::open(&doors[1], events, &[]).await];
    let (here, there, reused, _worker) =
        tokio::join!(wait(&doors[0]), wait(&doors[1]), another(&doors[1], "wait=60"), shop.worker("w", &[]));
    assert_eq!((here.status, here.code(), reused.status), (200, "reserved".into(), 409));
    assert_eq!((there.body, here.json()["order"]["quantity"].as_u64()), (here.body, Some(1)));
    for stream in &mut streams {
        let (name, verdict, _) = stream.next_but("position").await.unwrap();
        assert_eq!((name.as_str(), &verdict["code"]), ("verdict", &json!("reserved")));
    }
}

#[tokio::test]
async fn what_is_invalid_is_told_so_without_a_message() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let door = Door::open(&shop, "door", &[]).await;
    for (path, body, code) in [
        ("/items/ticket/purchases", r#"{"buyer":"b","quantity":0}"#, "invalid_quantity"),
        ("/items/ticket/purchases", r#"{"quantity":1}"#, "malformed"),
        ("/items/ticket/purchases", "[]", "malformed"),
        ("/items/t%20t/purchases", BODY, "invalid_id"),
    ] {
        let refused = door.ask("POST", path, &[JSON], body).await;
        let verdict = refused.json();
        assert_eq!((refused.status, &verdict["status"], &verdict["code"]), (400, &json!("invalid"), &json!(code)));
    }
    assert!(shop.is_drained().await && shop.dead_depth().await == 0);
}

/// One of them gets it, and nobody is bounced; what came while a publish was under way went out together.
#[tokio::test]
async fn a_thousand_buyers_at_once_for_one_unit_are_one_sale_and_999_refusals() {
    const BUYERS: usize = 1_000;
    let shop = Shop::open(&[("ticket", 1)]).await;
    let _workers = [shop.worker("w1", &[]).await, shop.worker("w2", &[]).await];
    let door = Door::open(&shop, "door", &[]).await;
    let ids: Vec<String> = (0..BUYERS).map(|number| format!("r-{number}")).collect();
    let responses = join_all(ids.iter().map(|id| door.buy(id, "wait=60"))).await;
    let told = |code: &str| responses.iter().filter(|told| told.status == 200 && told.code() == code).count();
    assert_eq!((told("reserved"), told("sold_out")), (1, BUYERS - 1));
    assert_eq!(shop.stock("ticket").await, (0, 1));
    let metrics = door.get("/metrics").await.body;
    let count = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{metrics}"));
        line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()
    };
    assert_eq!(count("turnstile_published_requests_total"), BUYERS);
    assert!(count("turnstile_published_messages_total") < BUYERS / 2, "{metrics}");
}

#[tokio::test]
async fn who_is_not_told_in_time_is_told_where_to_ask_and_any_door_knows_what_is_meant() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let doors = [Door::open(&shop, "door-1", &[]).await, Door::open(&shop, "door-2", &[]).await];
    let id = "a/b?c#d%";
    let accepted = doors[0].buy(id, "wait=0").await;
    let location = accepted.header("location").unwrap().to_owned();
    for at in [&doors[0], &doors[1]] {
        let waiting = at.get(&location).await;
        for response in [&accepted, &waiting] {
            assert_eq!((response.status, response.json()["request_id"].as_str()), (202, Some(id)));
            assert!(response.header("retry-after").is_some() && response.json()["known"].is_boolean());
        }
    }
    assert_eq!(doors[1].get("/purchases/nobody").await.problem(), (404, "unknown_purchase".into()));
    let wait = async |door: &Door| door.ask("GET", &location, &[("Prefer", "wait=60")], "").await;
    let (first, second, _worker) = tokio::join!(wait(&doors[0]), wait(&doors[1]), shop.worker("w", &[]));
    assert_eq!((first.status, first.code()), (200, "reserved".into()));
    assert_eq!(first.body, second.body);
}

#[tokio::test]
async fn a_place_in_a_line_that_stands_is_how_many_are_in_front_at_least() {
    let shop = Shop::open(&[("ticket", 9)]).await;
    let _worker = shop.worker("w", &[]).await;
    let door = Door::open(&shop, "door", &[]).await;
    // Nothing of the item is decided while somebody has its row.
    let lock = shop.begin("SELECT FROM items WHERE id = 'ticket' FOR UPDATE").await;
    for (id, ahead) in [("r-0", 0), ("r-1", 1), ("r-2", 2)] {
        let accepted = door.buy(id, "wait=0").await;
        assert_eq!((accepted.status, &accepted.json()["ahead"]), (202, &json!(ahead)));
    }
    let place = door.ask("GET", "/purchases/r-2", &[HEARD_OUT], "").await.json();
    let said = ["ahead", "wait_ms", "known"].map(|name| &place[name]);
    assert_eq!(said, [&json!(2), &json!(null), &json!(false)], "who else is in it, nobody knows");
    lock.rollback().await.unwrap();
    let told = door.ask("GET", "/purchases/r-2", &[("Prefer", "wait=60")], "").await;
    assert_eq!((told.status, told.code()), (200, "reserved".into()));
}

#[tokio::test]
async fn a_place_in_a_line_that_moves_is_known_while_nobody_else_publishes() {
    let shop = slow_shop().await;
    let _worker = shop.worker("w", &[("BATCH_MAX", "1")]).await;
    let door = Door::open(&shop, "door", &[]).await;
    // Longer than it may be in doubt, where a busy machine was late with a word.
    let in_line = 6 * IN_LINE;
    let last = buy_slowly(in_line, &[&door]).await;
    let place = async || door.get(&last).await.json();
    until("it has moved, and workers tell of nobody else", async || place().await["known"] == true).await;
    let moving = place().await;
    assert!(moving["ahead"].as_u64() < Some(in_line - 1) && moving["wait_ms"].as_u64() > Some(0), "{moving}");
    for number in 0..9 {
        shop.buy(&format!("x-{number}"), "other").await;
    }
    until("somebody else publishes", async || {
        let place = place().await;
        assert!(place["known"].is_boolean(), "decided before that was found: {place}");
        place["known"] == false
    })
    .await;
}

#[tokio::test]
async fn of_two_doors_with_half_of_a_line_each_none_says_that_its_own_half_is_all() {
    let shop = slow_shop().await;
    let _worker = shop.worker("w", &[("BATCH_MAX", "1")]).await;
    let doors = [Door::open(&shop, "door-1", &[]).await, Door::open(&shop, "door-2", &[]).await];
    let last = buy_slowly(IN_LINE, &[&doors[0], &doors[1]]).await;
    until("it is decided", async || {
        let told = doors[0].get(&last).await;
        assert!(told.status == 200 || told.json()["known"] == false, "{told:?}");
        told.status == 200
    })
    .await;
}

const IN_LINE: u64 = 60;
/// For so long that the door has heard the workers out.
const HEARD_OUT: (&str, &str) = ("Prefer", "wait=8");

/// Some four tickets are sold in a second.
async fn slow_shop() -> Shop {
    let shop = Shop::open(&[("ticket", 999), ("other", 9)]).await;
    for statement in [
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.25); RETURN NEW; END'",
        "CREATE TRIGGER slow BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.item = 'ticket') EXECUTE FUNCTION slow()",
    ] {
        shop.execute(statement).await;
    }
    shop
}

/// So many in line, at these doors in turns, once the workers are heard out; where to look for the last one at the first door.
async fn buy_slowly(in_line: u64, doors: &[&Door]) -> String {
    let nobody = doors[0].ask("GET", "/purchases/nobody?item=ticket", &[HEARD_OUT], "").await;
    assert_eq!(nobody.status, 202);
    for number in 0..in_line {
        let door = doors[usize::try_from(number).unwrap() % doors.len()];
        assert_eq!(door.buy(&format!("r-{number}"), "wait=0").await.status, 202);
    }
    format!("/purchases/r-{}?item=ticket", in_line - u64::try_from(doors.len()).unwrap())
}

/// Whoever is named in the header that a proxy sets is the buyer, and nobody else sees what they hold.
#[tokio::test]
async fn where_a_proxy_names_the_buyer_the_body_cannot_name_another() {
    let shop = Shop::open(&[("ticket", 9)]).await;
    let _worker = shop.worker("w", &[]).await;
    let door = Door::open(&shop, "door", &[("BUYER_HEADER", "X-Buyer")]).await;
    let buy = async |buyer: &str, body: &str| {
        let headers = [JSON, ("Idempotency-Key", "r-1"), ("Prefer", "wait=30"), ("X-Buyer", buyer)];
        door.ask("POST", "/items/ticket/purchases", &headers, body).await
    };
    assert_eq!(buy("eve", BODY).await.problem(), (403, "another_buyer".into()));
    assert_eq!(buy("", BODY).await.problem(), (403, "no_buyer".into()));
    let bought = buy("ann", r#"{"quantity":1}"#).await;
    assert_eq!((bought.status, bought.code()), (200, "reserved".into()));
    assert_eq!(buy("ann", BODY).await.body, bought.body);
    assert_eq!(shop.count("SELECT count(*) FROM orders WHERE buyer = 'ann'").await, 1);
    let look = async |buyer: &str| door.ask("GET", "/purchases/r-1", &[("X-Buyer", buyer)], "").await;
    assert_eq!((look("ann").await.body, look("eve").await.problem()), (bought.body, (404, "unknown_purchase".into())));
    assert_eq!(door.get("/purchases/r-1").await.problem(), (403, "no_buyer".into()));
}
