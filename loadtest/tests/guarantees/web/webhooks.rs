//! What the payment gateway says by itself ends a payment that is under way, and does no harm otherwise.

use super::client::{Door, Response};
use super::orders::{order_of, pay};
use crate::support::shop::{Shop, until};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::hmac::{HMAC_SHA256, Key, sign};
use serde_json::json;
use shared::devstack::Gateway;
use shared::devstack::gateway::Behaviour;
use std::time::{SystemTime, UNIX_EPOCH};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// As the gateway would send it, so many seconds ago.
async fn say(door: &Door, id: &str, body: &str, ago: u64, secret: &str) -> Response {
    let at = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - ago).to_string();
    let key = Key::new(HMAC_SHA256, &BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap());
    let tag = BASE64_STANDARD.encode(sign(&key, format!("{id}.{at}.{body}").as_bytes()));
    let signature = format!("v1,{tag}");
    let headers = [("webhook-id", id), ("webhook-timestamp", &*at), ("webhook-signature", &*signature)];
    door.ask("POST", "/webhooks/payments", &headers, body).await
}

fn captured(order: &str, charge: &str) -> String {
    json!({"type": "payment.captured", "data": {"order_id": order, "charge_id": charge}}).to_string()
}

fn declined(order: &str, method: &str) -> String {
    json!({"type": "payment.declined", "data": {"order_id": order, "payment_method": method}}).to_string()
}

#[tokio::test]
async fn a_webhook_that_the_broker_does_not_take_is_503_and_settles_nothing_until_it_is_sent_again() {
    let (mut servers, shop) = Shop::private(&[("ticket", 5)]).await;
    let gateway =
        Gateway::open(Behaviour { pending: ["card".to_owned()].into(), ..Behaviour::default() }).await.unwrap();
    let of_gateway = [("GATEWAY", "http"), ("GATEWAY_URL", gateway.url()), ("SETTLE_USERS", "web")];
    let workers = [shop.worker("w", &[]).await, shop.worker_of("payment", "p", &of_gateway).await];
    let door = Door::open(&shop, "door", &[("WEBHOOK_SECRET", SECRET)]).await;
    let order = order_of(&door.buy("r-1", "wait=60").await);
    assert_eq!(pay(&door, "pay-1", &order, "wait=0").await.status, 202);
    let of_state = async |state: &'static str| shop.count(state).await == 1;
    const PAYING: &str = "SELECT count(*) FROM orders WHERE state = 'paying'";
    const PAID: &str = "SELECT count(*) FROM orders WHERE state = 'paid'";
    until("it is under way", async || of_state(PAYING).await).await;
    let node = servers.rabbitmq.node_names()[0].to_owned();
    servers.rabbitmq.kill_node(&node).await.unwrap();
    until("the door has noticed", async || door.get("/readyz").await.status == 503).await;
    let said = say(&door, "msg-1", &captured(&order, "ch-1"), 0, SECRET).await;
    assert_eq!(said.problem(), (503, "not_confirmed".into()));
    servers.rabbitmq.start_killed().await.unwrap();
    // What the door publishes again stands before this.
    assert_eq!(door.buy("r-2", "wait=60").await.code(), "reserved");
    let behind = say(&door, "msg-2", &captured(&uuid::Uuid::now_v7().to_string(), "ch-2"), 0, SECRET).await;
    assert_eq!(behind.status, 204);
    assert!(of_state(PAYING).await, "nothing has settled it");
    assert_eq!(say(&door, "msg-1", &captured(&order, "ch-1"), 0, SECRET).await.status, 204);
    until("it is paid for", async || of_state(PAID).await).await;
    drop((door, workers));
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_webhook_ends_a_payment_under_way_and_repeated_late_or_out_of_order_it_changes_nothing() {
    let shop = Shop::open(&[("ticket", 5)]).await;
    let gateway =
        Gateway::open(Behaviour { pending: ["card".to_owned()].into(), ..Behaviour::default() }).await.unwrap();
    let of_gateway = [("GATEWAY", "http"), ("GATEWAY_URL", gateway.url())];
    let _worker = shop.worker("w", &[]).await;
    let mut payment = shop.worker_of("payment", "p-1", &of_gateway).await;
    let door = Door::open(&shop, "door", &[("WEBHOOK_SECRET", SECRET)]).await;
    let mut orders = Vec::new();
    for id in ["r-1", "r-2"] {
        orders.push(order_of(&door.buy(id, "wait=60").await));
        assert_eq!(pay(&door, &format!("pay-{id}"), orders.last().unwrap(), "wait=0").await.status, 202);
    }
    until("both are under way", async || shop.count("SELECT count(*) FROM orders WHERE state = 'paying'").await == 2)
        .await;
    // Nobody has said yet that payment takes our word: the gateway is told to come again.
    let first = captured(&orders[0], "ch-1");
    let refused = loop {
        let said = say(&door, "msg-1", &first, 0, SECRET).await;
        // Where payment takes longer than the door waits for it.
        if said.status != 204 {
            break said;
        }
        let paying = shop.count("SELECT count(*) FROM orders WHERE state = 'paying'").await;
        assert_eq!(paying, 2, "nothing is settled by who may not");
    };
    assert_eq!(refused.code(), "not_allowed");
    payment.stop().await.unwrap();
    let _payment = shop.worker_of("payment", "p-2", &[&of_gateway[..], &[("SETTLE_USERS", "web")]].concat()).await;
    for (id, body, ago) in [
        // Of a try before this one, by another card: it comes late.
        ("msg-0", &*declined(&orders[0], "declined"), 0),
        ("msg-1", &first, 0),
        ("msg-1", &first, 200),
        ("msg-2", &declined(&orders[1], "card"), 0),
        ("msg-3", &declined(&orders[0], "card"), 0),
        ("msg-4", &captured(&orders[0], "ch-1"), 0),
        ("msg-5", r#"{"type":"customer.created"}"#, 0),
    ] {
        assert_eq!(say(&door, id, body, ago, SECRET).await.status, 204, "{id}");
    }
    let told = async |id: &str| {
        door.ask("GET", &format!("/purchases/pay-{id}?order=o"), &[("Prefer", "wait=60")], "").await.code()
    };
    assert_eq!((told("r-1").await, told("r-2").await), ("paid".into(), "declined".into()));
    // What is not signed by the gateway, or too long ago, is nobody's word.
    let others = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for refused in [
        say(&door, "msg-6", &captured(&orders[1], "ch-2"), 0, others).await,
        say(&door, "msg-6", &captured(&orders[1], "ch-2"), 400, SECRET).await,
        door.ask("POST", "/webhooks/payments", &[], &captured(&orders[1], "ch-2")).await,
    ] {
        assert_eq!(refused.problem(), (401, "not_signed".into()));
    }
    assert_eq!(say(&door, "msg-7", r#"{"type":"payment.captured"}"#, 0, SECRET).await.status, 400);
    assert_eq!(shop.count("SELECT count(*) FROM orders WHERE state = 'paid'").await, 1);
    let unknown = captured(&uuid::Uuid::now_v7().to_string(), "ch-9");
    assert_eq!(say(&door, "msg-8", &unknown, 0, SECRET).await.status, 204);
    until("its operators are told of money that is nobody's", async || shop.log("p-2").await.contains("ch-9")).await;
    assert!(!shop.log("p-2").await.contains("ch-1"), "and of no other");
    let deaf = Door::open(&shop, "deaf", &[]).await;
    assert_eq!(say(&deaf, "msg-8", &first, 0, SECRET).await.problem(), (404, "not_found".into()));
}
