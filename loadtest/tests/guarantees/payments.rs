//! Orders are paid for: by message, through crashes, and a queue without room.

use crate::support::sale::rabbitmqctl;
use crate::support::shop::{Reply, Shop, memory_of, payment, until};
use shared::devstack::gateway::Behaviour;
use shared::devstack::{Gateway, fixture};
use shared::messages::{PAYMENT_QUEUE, RELEASE_QUEUE};
use std::time::Duration;

const SIMULATED: (&str, &str) = ("GATEWAY", "simulated");

#[tokio::test]
async fn a_decline_gives_the_hold_back_and_the_release_function_ends_it_in_its_time() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let order = shop.purchase("first").await.order().to_owned();
    let _payment = shop.worker_of("payment", "p", &[SIMULATED, ("GATEWAY_DECLINE_SHARE", "1")]).await;
    assert_eq!(shop.pay("p-1", &order).await.code(), "declined");
    assert_eq!(shop.stock("ticket").await, (0, 1), "still the first buyer's");
    shop.execute("UPDATE orders SET hold_until = now()").await;
    let _release = shop.worker_of("release", "r", &[]).await;
    until("the unit is back", async || shop.stock("ticket").await == (1, 0)).await;
    assert_eq!(shop.pay("p-2", &order).await.code(), "already_expired");
}

#[tokio::test]
async fn a_worker_killed_at_any_point_of_a_payment_leaves_one_charge_and_a_paid_order() {
    let mut shop = Shop::open(&[("ticket", 4)]).await;
    let gateway = Gateway::open(Behaviour::default()).await.unwrap();
    let _purchase = shop.worker("w", &[]).await;
    let _release = shop.worker_of("release", "r", &[]).await;
    // Marked, and not asked; charged, and not committed; committed, and not answered; answered, and not acknowledged.
    let places = [("paying", 0, "paying"), ("charged", 1, "paying"), ("decided", 1, "paid"), ("replied", 1, "paid")];
    for (number, (place, charges, state)) in places.into_iter().enumerate() {
        let order = shop.purchase(place).await.order().to_owned();
        let environment = [("GATEWAY", "http"), ("GATEWAY_URL", gateway.url()), ("TURNSTILE_PAUSE_AT", place)];
        let doomed_id = format!("doomed-{place}");
        let mut doomed = shop.worker_of("payment", &doomed_id, &environment).await;
        let id = format!("p-{place}");
        send(&shop, &id, &order).await;
        shop.paused(&doomed_id).await;
        assert_eq!((charges_of(&gateway, &order), state_of(&shop, &order).await.as_str()), (charges, state), "{place}");
        let told = if place == "replied" { Some(shop.reply().await) } else { None };
        doomed.kill().await.unwrap();

        // Nothing takes the unit from an order that may be charged, whatever the time.
        let pass = "UPDATE orders SET hold_until = now() WHERE id = $1::uuid";
        sqlx::query(pass).bind(&order).execute(&shop.pool).await.unwrap();
        if state == "paying" {
            assert_eq!(shop.cancel(&format!("c-{place}"), &order).await.code(), "payment_under_way");
        }
        let mut next = shop.worker_of("payment", &format!("next-{place}"), &environment[..2]).await;
        let reply = shop.reply_to(&id).await;
        assert_eq!(reply.code(), "paid");
        assert!(told.is_none_or(|told| told.body == reply.body), "the same, byte for byte");
        next.stop().await.unwrap();
        assert_eq!((charges_of(&gateway, &order), state_of(&shop, &order).await.as_str()), (1, "paid"), "{place}");
        let number = i64::try_from(number).unwrap() + 1;
        assert_eq!(shop.count("SELECT sold FROM items").await, number);
        assert_eq!(shop.count("SELECT count(*) FROM order_history").await, 2 * number);
    }
    assert_eq!(gateway.ledger().charges.len(), 4, "one key for each order, for ever");
}

#[tokio::test]
async fn a_worker_killed_at_any_point_of_a_pending_payment_leaves_one_charge_and_a_paid_order_or_neither() {
    let mut shop = Shop::open(&[("ticket", 4)]).await;
    let gateway = Gateway::open(Behaviour::default()).await.unwrap();
    let (_purchase, _release) = (shop.worker("w", &[]).await, shop.worker_of("release", "r", &[]).await);
    // Its turn has come, and it is not asked about; asked about, and not committed.
    for (place, is_voided) in [("due", false), ("asked", false), ("due", true), ("asked", true)] {
        gateway.behave(|behaviour| behaviour.pending = ["card".to_owned()].into());
        let id = format!("p-{place}-{is_voided}");
        shop.buy(&format!("r-{id}"), "ticket").await;
        let order = reply_on(&mut shop, &format!("r-{id}")).await.order().to_owned();
        let seconds_max = ("PAYMENT_SECONDS_MAX", if is_voided { "1" } else { "900" });
        let environment =
            [("GATEWAY", "http"), ("GATEWAY_URL", gateway.url()), seconds_max, ("TURNSTILE_PAUSE_AT", place)];
        let doomed_id = format!("doomed-{id}");
        let mut doomed = shop.worker_of("payment", &doomed_id, &environment).await;
        send(&shop, &id, &order).await;
        gateway.until(|ledger| ledger.asked_about(&order) > 0).await;
        if !is_voided {
            gateway.behave(|behaviour| behaviour.pending.clear());
        }
        shop.paused(&doomed_id).await;
        assert_eq!(state_of(&shop, &order).await, "paying");
        doomed.kill().await.unwrap();
        let cancel = format!(r#"{{"request_id":"c-{id}","order_id":"{order}"}}"#);
        shop.send_to("", RELEASE_QUEUE, cancel.as_bytes(), shop.properties(&format!("c-{id}"))).await;
        assert_eq!(reply_on(&mut shop, &format!("c-{id}")).await.code(), "payment_under_way");

        let mut next = shop.worker_of("payment", &format!("next-{id}"), &environment[..3]).await;
        let (code, state) = if is_voided { ("already_expired", "expired") } else { ("paid", "paid") };
        assert_eq!(reply_on(&mut shop, &id).await.code(), code);
        next.stop().await.unwrap();
        assert_eq!(
            (charges_of(&gateway, &order), state_of(&shop, &order).await.as_str()),
            (usize::from(!is_voided), state)
        );
    }
    assert_eq!(shop.stock("ticket").await, (2, 0));
    assert_eq!(shop.count("SELECT count(*) FROM order_history").await, 8);
}

/// Not a test but a measurement: what ten thousand payments cost that the gateway does not decide.
#[tokio::test]
#[ignore = "takes two minutes: cargo test -p loadtest --test guarantees ten_thousand_pending -- --ignored --nocapture"]
async fn ten_thousand_pending_payments_are_cheap() {
    const PAYMENTS: usize = 10_000;
    let mut shop = Shop::open(&[("ticket", 10_000)]).await;
    let gateway =
        Gateway::open(Behaviour { pending: ["card".to_owned()].into(), ..Behaviour::default() }).await.unwrap();
    let _purchase = shop.worker("w", &[]).await;
    shop.line_up(PAYMENTS).await;
    let orders = shop.replies(PAYMENTS).await;
    let payment = shop.worker_of("payment", "p", &[("GATEWAY", "http"), ("GATEWAY_URL", gateway.url())]).await;
    until("it serves", async || shop.log("p").await.contains("consuming")).await;
    let before = memory_of(&payment);
    for reply in orders.into_values() {
        send(&shop, &format!("p-{}", reply.correlation_id), reply.order()).await;
    }
    let put_off = "SELECT count(*) FROM payments WHERE said IS NOT NULL";
    until("all are put off", async || shop.count(put_off).await == 10_000).await;
    let mut most = 0;
    let begun = gateway.ledger().asked;
    for _ in 0..60 {
        let before = gateway.ledger().asked;
        tokio::time::sleep(Duration::from_secs(1)).await;
        most = most.max(gateway.ledger().asked - before);
    }
    let asked = gateway.ledger().asked - begun;
    let after = memory_of(&payment);
    println!("asked in a minute: {asked}, in a second: {most} at most; memory before: {before}, after: {after}");
    assert!(most <= 50);
}

#[tokio::test]
async fn payments_that_are_put_off_into_a_queue_without_room_come_again_and_are_made() {
    // More than a worker takes at once, so that what waits behind it fills the queue.
    const PAYMENTS: usize = 80;
    let mut shop = Shop::open(&[("ticket", 80)]).await;
    let _purchase = shop.worker("w", &[]).await;
    shop.line_up(PAYMENTS).await;
    for reply in shop.replies(PAYMENTS).await.into_values() {
        send(&shop, &format!("p-{}", reply.correlation_id), reply.order()).await;
    }
    let vhost = shop.amqp_url.rsplit('/').next().unwrap();
    let policy = ["set_policy", "--vhost", vhost, "small", "^payment$", r#"{"max-length":1}"#, "--apply-to", "queues"];
    rabbitmqctl(fixture::rabbitmq().await, &policy).await;
    // Longer than a batch waits for.
    let slow = ("GATEWAY_LATENCY_MS", "1200");
    let _payment = shop.worker_of("payment", "p", &[SIMULATED, slow, ("BATCH_MAX", "16")]).await;
    let replies = shop.replies(PAYMENTS).await;
    assert!(replies.values().all(|reply| reply.code() == "paid"));
    assert!(shop.log("p").await.contains("not published"), "the queue had no room");
    assert_eq!(shop.count("SELECT sold FROM items").await, 80);
}

async fn send(shop: &Shop, id: &str, order: &str) {
    shop.send_to("", PAYMENT_QUEUE, payment(id, order).as_bytes(), shop.properties(id)).await;
}

/// The next reply to this request. Of a message that was put back when its worker was killed, there may be two.
async fn reply_on(shop: &mut Shop, id: &str) -> Reply {
    loop {
        let reply = shop.reply().await;
        if reply.correlation_id == id {
            return reply;
        }
    }
}

async fn state_of(shop: &Shop, order: &str) -> String {
    let read = "SELECT state FROM orders WHERE id = $1::uuid";
    sqlx::query_scalar(read).bind(order).fetch_one(&shop.pool).await.unwrap()
}

fn charges_of(gateway: &Gateway, order: &str) -> usize {
    usize::from(gateway.ledger().charges.contains_key(order))
}
