//! What others know of orders is held against the tables, and for each order that is off it is said what to do.

use crate::Shop;
use admin::failure::Failure;
use serde_json::{Value, json};
use shared::devstack::Folder;
use shared::order::State;
use uuid::Uuid;

fn event(kind: &str, id: Uuid) -> String {
    json!({"event_id": "1.0.1", "event": kind, "item": "ticket", "order": {"id": id, "quantity": 2}}).to_string()
}

/// Of each check of what is known: how many are off, and what is said of them.
fn known(audit: &Value) -> Vec<(Value, Vec<String>)> {
    let checks = audit["checks"].as_array().unwrap().iter();
    let known = checks.filter(|check| check["name"].as_str().unwrap().starts_with("known_"));
    known.map(|check| (check["offenders"].clone(), serde_json::from_value(check["named"].clone()).unwrap())).collect()
}

#[tokio::test]
async fn orders_that_the_tables_lack_or_that_had_come_further_are_named_with_what_to_do() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 100, 0, 0).await;
    let mut events = vec![json!({"event": "item.created", "item": "ticket", "detail": {}}).to_string(), String::new()];
    let mut orders = Vec::new();
    for state in State::ALL {
        for kind in ["order.declined", "order.cancelled", "order.paid"] {
            let id = shop.order("ticket", state).await;
            // What comes late says no less.
            events.extend(["order.reserved", kind, "order.paying"].map(|kind| event(kind, id)));
            orders.push((id, state.as_str(), kind));
        }
    }
    let lost = [(); 4].map(|()| Uuid::now_v7());
    let line = events.len() + 1;
    events.extend([event("order.reserved", lost[0]), event("order.expired", lost[1])]);
    events.extend(["order.reserved", "order.paying", "order.reserved"].map(|kind| event(kind, lost[3])));
    let folder = Folder::create().unwrap();
    let [told, charged, bad] = ["told", "charged", "bad"].map(|name| folder.path().join(name).display().to_string());
    // More than are looked up at once, and the second half comes again.
    std::fs::write(
        &told,
        events.join("\n") + &"\n".repeat(9) + &(event("order.reserved", lost[0]) + "\n").repeat(1_100),
    )
    .unwrap();
    let charge = json!({"order_id": lost[2], "charge_id": "ch-1", "item": "ticket\u{1b}", "quantity": 3});
    std::fs::write(&charged, format!("{charge}\n{}", json!({"order_id": lost[0]}))).unwrap();

    let arguments = ["audit", "--names", "99", "--known", &told, "--known", &charged];
    assert!(!shop.run(&arguments).await.unwrap().is_well);
    let audit = shop.json(&arguments).await;
    let [missing, behind] = &known(&audit)[..] else { panic!("{audit}") };
    let honour = "honour it (`admin remove";
    let expected = [
        format!("{} (paid by {charged}:2, not there): {honour} ITEM QUANTITY` takes", lost[0]),
        format!("{} (2 of ticket, ended by {told}:{}, not there): nothing is to be done", lost[1], line + 1),
        format!("{} (3 of ticket\\u{{1b}}, paid by {charged}:1, not there): {honour} ticket\\u{{1b}} 3`", lost[2]),
        format!("{} (2 of ticket, being paid by {told}:{}, not there): void or refund this", lost[3], line + 3),
    ];
    assert_eq!(missing.0, 4);
    for (said, expected) in missing.1.iter().zip(&expected) {
        assert!(said.starts_with(expected), "{said}\n{expected}");
    }
    let mut said = behind.1.iter();
    for (id, state, kind) in orders {
        let remedy = match (state, kind) {
            ("reserved", "order.cancelled") => "its buyer was told so: cancel it, by a message to the queue `release`",
            ("paying", "order.cancelled") => "its buyer was told so: payment ends it by itself, or `admin void",
            ("reserved", "order.paid") => "send its payment again",
            ("paying", "order.paid") => "payment asks the gateway again",
            ("expired" | "cancelled", "order.paid") => "refund it",
            _ => continue,
        };
        let said = said.next().unwrap();
        assert!(said.starts_with(&id.to_string()) && said.contains(&format!("is {state}): {remedy}")), "{said}");
    }
    assert_eq!((said.next(), &behind.0), (None, &json!(6)));
    assert!(known(&shop.json(&["audit"]).await).is_empty(), "nothing is known");

    for (line, reason) in
        [("{", "not JSON"), (r#"{"event":"order.paid"}"#, "neither"), (r#"{"order_id":7}"#, "neither")]
    {
        std::fs::write(&bad, format!("{charge}\n{line}\n")).unwrap();
        let Err(Failure::Broken(error)) = shop.run(&["audit", "--known", &bad]).await else { panic!("{line}") };
        let error = format!("{error:#}");
        assert!(error.contains(&format!("{bad}:2")) && error.contains(reason), "{error}");
    }
    folder.remove().await.unwrap();
}
