//! Many requests in one message: each is answered as it is alone, in order, and costs its neighbours nothing.

use crate::admin::{admin, admin_json};
use crate::poison::doom;
use crate::support::shop::{Shop, request, until};
use serde_json::Value;
use shared::messages::{ARRAY_BYTES_MAX, BODY_BYTES_MAX, REQUESTS_MAX};

fn array(requests: &[String]) -> String {
    format!("[{}]", requests.join(","))
}

/// Sends an array, and returns the verdicts.
async fn verdicts(shop: &mut Shop, id: &str, requests: &[String]) -> Vec<String> {
    shop.send("ticket", array(requests).as_bytes(), shop.properties(id)).await;
    let reply = shop.reply_to(id).await;
    let verdicts: Vec<&serde_json::value::RawValue> = serde_json::from_str(&reply.body).unwrap();
    let verdicts: Vec<String> = verdicts.iter().map(|verdict| verdict.get().to_owned()).collect();
    assert_eq!(array(&verdicts), reply.body, "and nothing between them");
    verdicts
}

/// The program, by its own word, has a message of so many requests in `dead`, and sends it again.
async fn replay(shop: &Shop, requests: usize) {
    let (_, listed) = admin_json(shop, &["dead", "list"]).await;
    // A worker that is killed between a copy and its acknowledgement has the next one make it again.
    let message = listed["messages"].as_array().unwrap().iter().find(|message| message["requests"] == requests);
    let id = message.unwrap_or_else(|| panic!("{requests}: {listed:#}"))["id"].as_str().unwrap();
    let replayed = admin(shop, &["dead", "replay", id]).await;
    assert_eq!(replayed.code, Some(0), "{} {}", replayed.out, replayed.err);
}

fn codes(verdicts: &[String]) -> Vec<Value> {
    verdicts.iter().map(|verdict| serde_json::from_str::<Value>(verdict).unwrap()["code"].clone()).collect()
}

#[tokio::test]
async fn each_request_of_an_array_has_one_verdict_for_ever_however_it_is_sent_and_what_is_invalid_is_so_alone() {
    let mut shop = Shop::open(&[("ticket", 3), ("other", 3)]).await;
    let _worker = shop.worker("w", &[]).await;
    let invalid = [
        r#"{"item":"ticket","buyer":"b","quantity":1}"#,
        r#"{"request_id":"none","item":"ticket","buyer":"b","quantity":0}"#,
        r#"{"request_id":"away","item":"other","buyer":"b","quantity":1}"#,
        r#" {"request_id":"r-1" , "item":"ticket","buyer":"another","quantity":1}"#,
        "7",
    ];
    let mut requests: Vec<String> = (0..5).map(|number| request(&format!("r-{number}"), "ticket", 1)).collect();
    for (place, text) in [1, 3, 3, 6, 9].into_iter().zip(invalid) {
        requests.insert(place, text.to_owned());
    }
    requests.push(request("r-0", "ticket", 1));
    let properties = shop.properties("many").with_message_id("stands-in-for-none".into());
    shop.send("ticket", array(&requests).as_bytes(), properties).await;
    let body = shop.reply_to("many").await.body;
    let many = verdicts(&mut shop, "again", &requests).await;
    assert_eq!(array(&many), body);
    let expected = [
        "reserved",
        "malformed",
        "reserved",
        "wrong_routing_key",
        "invalid_quantity",
        "reserved",
        "request_id_reused",
        "sold_out",
        "sold_out",
        "malformed",
        "reserved",
    ];
    assert_eq!(codes(&many), expected);
    assert_eq!((shop.stock("ticket").await, shop.stock("other").await), ((0, 3), (3, 0)));

    // Alone, a part of them, and some twice.
    for (place, (request, verdict)) in requests.iter().zip(&many).enumerate() {
        let id = format!("alone-{place}");
        shop.send("ticket", request.as_bytes(), shop.properties(&id)).await;
        assert_eq!(shop.reply_to(&id).await.body, *verdict);
    }
    let part = [10, 0, 0, 5, 8].map(|place: usize| requests[place].clone());
    assert_eq!(verdicts(&mut shop, "part", &part).await, [10, 0, 0, 5, 8].map(|place: usize| many[place].clone()));

    let mut kept: Vec<_> = shop.dead(15).await.into_iter().map(|(_, body)| String::from_utf8(body).unwrap()).collect();
    let mut sent: Vec<_> =
        invalid.iter().flat_map(|text| [text.trim(), text.trim(), *text]).map(str::to_owned).collect();
    kept.sort();
    sent.sort();
    assert_eq!(kept, sent, "each alone, as it was sent");
}

#[tokio::test]
async fn what_is_no_array_of_requests_is_refused_whole_and_kept_and_nothing_of_it_is_decided() {
    let mut shop = Shop::open(&[("ticket", 10_000)]).await;
    let _worker = shop.worker("w", &[]).await;
    let good = request("r", "ticket", 1);
    let large = format!("{}{}", array(std::slice::from_ref(&good)), " ".repeat(ARRAY_BYTES_MAX));
    let cases = [
        ("invalid_array", "[]".to_owned()),
        ("invalid_array", array(&[good.clone(), array(std::slice::from_ref(&good))])),
        ("invalid_array", array(&vec![good.clone(); REQUESTS_MAX + 1])),
        ("malformed", format!("[{good}")),
        ("too_large", large),
    ];
    for (number, (code, body)) in cases.iter().enumerate() {
        let id = format!("bad-{number}");
        shop.send("ticket", body.as_bytes(), shop.properties(&id)).await;
        let reply = shop.reply_to(&id).await;
        crate::contract::assert_describes(&reply.verdict);
        assert_eq!(reply.code(), *code, "{body:.80}");
    }
    let unfit = shop.properties("unfit").with_content_type("text/plain".into());
    shop.send("ticket", array(std::slice::from_ref(&good)).as_bytes(), unfit).await;
    assert_eq!(shop.reply_to("unfit").await.code(), "unsupported_content_type");
    let kept = shop.dead(cases.len() + 1).await;
    let of = |code: &str| kept.iter().filter(|(reason, _)| reason == code).map(|(_, body)| body.len()).max();
    let most = cases.iter().filter(|(code, _)| *code == "invalid_array").map(|(_, body)| body.len()).max();
    assert_eq!((of("invalid_array"), of("too_large")), (most.min(Some(BODY_BYTES_MAX)), Some(BODY_BYTES_MAX)));
    assert_eq!(shop.stock("ticket").await, (10_000, 0));
}

#[tokio::test]
async fn an_array_of_which_many_requests_are_invalid_is_kept_once_and_costs_no_thousand_messages() {
    let mut shop = Shop::open(&[("ticket", 3)]).await;
    let _worker = shop.worker("w", &[]).await;
    for (count, kept) in [(16, 16), (17, 1), (999, 1)] {
        let id = format!("{count}");
        let mut requests = vec!["{}".to_owned(); count];
        requests.push(request(&id, "ticket", 1));
        let verdicts = verdicts(&mut shop, &id, &requests).await;
        assert!(verdicts[..count].iter().all(|verdict| verdict.contains("malformed")));
        assert!(verdicts[count].contains(r#""code":"reserved""#), "its neighbour is served");
        let expected = if kept == 1 { array(&requests) } else { "{}".to_owned() };
        assert_eq!(shop.dead(kept).await, vec![("malformed".to_owned(), expected.into_bytes()); kept]);
    }
    assert_eq!(shop.dead_depth().await, 0);
}

#[tokio::test]
async fn an_array_of_which_most_are_for_another_item_is_sent_again_into_the_line_that_it_came_for() {
    let mut shop = Shop::open(&[("ticket", 1), ("other", 100)]).await;
    let _worker = shop.worker("w", &[]).await;
    let mut requests = vec![request("right", "ticket", 1)];
    requests.extend((0..17).map(|number| request(&format!("wrong-{number}"), "other", 1)));
    let first = verdicts(&mut shop, "many", &requests).await;
    until("it is in dead.invalid, once", async || shop.depth("dead.invalid").await == 1).await;
    replay(&shop, 18).await;
    assert_eq!(shop.reply_to("many").await.body, array(&first), "nobody jumps the line of the other item by it");
    assert_eq!((shop.stock("ticket").await, shop.stock("other").await), ((0, 1), (100, 0)));
}

/// What PostgreSQL says to it is its own fault, not the row's.
const UNFIT: &str = "
CREATE FUNCTION unfit() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN IF NEW.buyer = ''b-unfit'' THEN RAISE data_exception; END IF; RETURN NEW; END'";

#[tokio::test]
async fn one_request_of_an_array_that_cannot_be_handled_is_told_so_at_its_place_and_its_neighbours_are_decided() {
    let mut shop = Shop::open(&[("ticket", 2)]).await;
    let _worker = shop.worker("w", &[]).await;
    assert_eq!(shop.purchase("before").await.code(), "reserved");
    shop.execute(UNFIT).await;
    shop.execute("CREATE TRIGGER unfit BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION unfit()").await;
    let three: Vec<String> = ["unfit", "one", "two"].map(|id| request(id, "ticket", 1)).into();
    let first = verdicts(&mut shop, "first", &three).await;
    assert_eq!(codes(&first), ["not_handled", "reserved", "sold_out"]);
    assert_eq!(shop.dead(1).await, [("not_handled".to_owned(), three[0].clone().into_bytes())], "alone");

    // Where it stands among many that are their sender's fault, the array is kept as what is nobody's.
    shop.execute("UPDATE items SET stock = stock + 1, available = available + 1, version = version + 1").await;
    let mut many = vec!["{}".to_owned(); 17];
    many.insert(16, three[0].clone());
    assert_eq!(codes(&verdicts(&mut shop, "many", &many).await)[15..], ["malformed", "not_handled", "malformed"]);
    until("it is in dead", async || shop.depth("dead").await == 1).await;
    assert_eq!(shop.dead(1).await, [("not_handled".to_owned(), array(&many).into_bytes())]);
    assert_eq!(shop.dead_depth().await, 0);
}

#[tokio::test]
async fn a_full_array_is_answered_by_no_more_than_a_megabyte_whatever_is_in_it() {
    let item = "t".repeat(128);
    let mut shop = Shop::open(&[(&item, 1_000)]).await;
    let _worker = shop.worker("w", &[]).await;
    let bytes = ARRAY_BYTES_MAX / REQUESTS_MAX - 1;
    let fits = |number: usize| {
        let text = |id: &str| format!(r#"{{"request_id":"{id}","item":"{item}","buyer":"b","quantity":1}}"#);
        let rest = bytes - text("").len();
        text(&format!("{number:0>rest$}"))
    };
    let largest = |from: usize| (from..from + REQUESTS_MAX).map(fits).collect();
    let [reserved, not_eligible] = [largest(0), largest(REQUESTS_MAX)];
    let empty = vec!["{}".to_owned(); REQUESTS_MAX];
    for (id, requests) in [("reserved", reserved), ("not_eligible", not_eligible), ("malformed", empty)] {
        if id == "not_eligible" {
            // Four of these are named, more than of longer ones.
            shop.execute("UPDATE items SET tiers = array_fill(repeat('v', 60), ARRAY[16])").await;
            shop.execute("INSERT INTO buyers (id, tier) VALUES ('b', repeat('w', 128))").await;
        }
        let body = array(&requests);
        assert!(body.len() <= ARRAY_BYTES_MAX);
        shop.send(&item, body.as_bytes(), shop.properties(id)).await;
        let reply = shop.reply_to(id).await;
        assert_eq!(reply.verdict.as_array().unwrap().iter().filter(|it| it["code"] == id).count(), REQUESTS_MAX);
        assert!(reply.body.len() <= 1_000_000, "{} bytes", reply.body.len());
    }
}

#[tokio::test]
async fn requests_are_decided_in_the_order_of_messages_and_within_them_also_past_a_row_that_is_locked() {
    let mut shop = Shop::open(&[("ticket", 25), ("other", 1)]).await;
    let locked = shop.begin("SELECT FROM items WHERE id = 'ticket' FOR UPDATE").await;
    let _worker = shop.worker("w", &[("BATCH_MAX", "4")]).await;
    let ids: Vec<String> = (0..50).map(|number| format!("r-{number:02}")).collect();
    for (number, part) in ids.chunks(10).enumerate() {
        let (alone, together) = part.split_at(1);
        shop.buy(&alone[0], "ticket").await;
        let together: Vec<_> = together.iter().map(|id| request(id, "ticket", 1)).collect();
        shop.send("ticket", array(&together).as_bytes(), shop.properties(&format!("a-{number}"))).await;
    }
    shop.send("other", array(&[request("o", "other", 1)]).as_bytes(), shop.properties("other")).await;
    assert_eq!(shop.reply_to("other").await.verdict[0]["code"], "reserved", "who wants another item does not wait");
    locked.rollback().await.unwrap();
    let mut found = Vec::new();
    while found.len() < ids.len() {
        let reply = shop.reply().await;
        let verdicts = reply.verdict.as_array().cloned().unwrap_or_else(|| vec![reply.verdict.clone()]);
        found.extend(verdicts.iter().map(|verdict| (verdict["request_id"].clone(), verdict["code"].clone())));
    }
    let code = |number: usize| if number < 25 { "reserved" } else { "sold_out" };
    let expected: Vec<_> =
        ids.iter().enumerate().map(|(number, id)| (id.as_str().into(), code(number).into())).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_array_that_ends_its_workers_is_put_away_alone_and_both_kinds_of_dead_letters_are_sent_again() {
    let mut shop = Shop::open(&[("ticket", 100)]).await;
    let fatal = [request("fatal", "ticket", 1), request("beside", "ticket", 1), "{}".to_owned()];
    shop.send("ticket", array(&fatal).as_bytes(), shop.properties("array")).await;
    shop.buy("behind", "ticket").await;
    shop.send("ticket", array(&[request("too", "ticket", 1)]).as_bytes(), shop.properties("too")).await;
    doom(&shop, "fatal").await;
    let _worker = shop.worker("next", &[]).await;
    let mut replies = shop.replies(3).await;
    assert_eq!(replies.remove("array").unwrap().code(), "delivery_limit");
    assert_eq!(replies["behind"].code(), "reserved", "its neighbours are served");
    assert_eq!(replies["too"].verdict[0]["code"], "reserved");

    replay(&shop, 3).await;
    // The last of the doomed may have been killed between a reply and its acknowledgement.
    let mut reply = shop.reply_to("array").await;
    while reply.verdict.is_object() {
        reply = shop.reply_to("array").await;
    }
    let codes: Vec<_> = reply.verdict.as_array().unwrap().iter().map(|verdict| verdict["code"].clone()).collect();
    assert_eq!(codes, ["reserved", "reserved", "malformed"]);
    until("its last request is dead", async || shop.depth("dead.invalid").await == 1).await;
    replay(&shop, 1).await;
    assert_eq!(shop.reply_to("array").await.code(), "malformed", "alone, it is answered alone");
}
