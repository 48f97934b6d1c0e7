//! Orders are paid for: by message, through crashes, a gateway that comes and goes, and a queue that somebody purges.

use crate::support::{
    sale::rabbitmqctl,
    shop::{Reply, Shop, until},
};
use lapin::options::QueuePurgeOptions;
use shared::{
    devstack::{Gateway, gateway::Behaviour},
    messages::PAYMENT_QUEUE,
};

const SIMULATED: (&str, &str) = ("GATEWAY", "simulated");

#[tokio::test]
async fn an_order_is_paid_for_and_nothing_else_becomes_of_it() {
    let mut shop = Shop::open(&[("ticket", 2)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let _release = shop.worker_of("release", "r", &[]).await;
    let _payments =
        [shop.worker_of("payment", "p1", &[SIMULATED]).await, shop.worker_of("payment", "p2", &[SIMULATED]).await];
    let order = shop.purchase("first").await.order();
    let paid = pay(&mut shop, "p-1", &order).await;
    assert_eq!(paid.code(), "paid");
    assert_eq!(pay(&mut shop, "p-1", &order).await.body, paid.body, "a repeat, byte for byte");
    assert_eq!(pay(&mut shop, "p-2", &order).await.code(), "already_paid");
    assert_eq!(shop.cancel("c-1", &order).await.code(), "already_paid");
    assert_eq!(shop.count("SELECT sold FROM items").await, 1);

    let other = shop.purchase("second").await.order();
    assert_eq!(shop.cancel("c-2", &other).await.code(), "cancelled");
    assert_eq!(pay(&mut shop, "p-3", &other).await.code(), "already_cancelled");
    assert_eq!(pay(&mut shop, "p-4", "019ac4b6-2d80-7c61-9f0e-2b6a1c8d4e5f").await.code(), "unknown_order");
    assert_eq!(pay(&mut shop, "p-1", &other).await.code(), "request_id_reused");
    assert_eq!(pay(&mut shop, "p-5", "order-7").await.code(), "invalid_id");
    assert_eq!(shop.dead_reasons(2).await, ["request_id_reused", "invalid_id"]);
    assert_eq!(shop.stock("ticket").await, (1, 0));
}

#[tokio::test]
async fn a_decline_gives_the_hold_back_and_the_release_function_ends_it_in_its_time() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let order = shop.purchase("first").await.order();
    let _payment = shop.worker_of("payment", "p", &[SIMULATED, ("GATEWAY_DECLINE_SHARE", "1")]).await;
    assert_eq!(pay(&mut shop, "p-1", &order).await.code(), "declined");
    assert_eq!(shop.stock("ticket").await, (0, 1), "still the first buyer's");
    shop.execute("UPDATE orders SET hold_until = now()").await;
    let _release = shop.worker_of("release", "r", &[]).await;
    until("the unit is back", async || shop.stock("ticket").await == (1, 0)).await;
    assert_eq!(pay(&mut shop, "p-2", &order).await.code(), "already_expired");
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
        let order = shop.purchase(place).await.order();
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
        let reply = shop.reply().await;
        assert_eq!((reply.correlation_id.as_str(), reply.code().as_str()), (id.as_str(), "paid"));
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
async fn while_the_gateway_is_away_payments_wait_keep_their_units_and_are_made_when_it_is_back() {
    let mut shop = Shop::open(&[("ticket", 3)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let mut orders = Vec::new();
    for number in 0..3 {
        orders.push(shop.purchase(&format!("b-{number}")).await.order());
    }
    let gateway = Gateway::open(Behaviour::default()).await.unwrap();
    gateway.behave(|behaviour| behaviour.is_away = true);
    let environment = [("GATEWAY", "http"), ("GATEWAY_URL", gateway.url())];
    let _payment = shop.worker_of("payment", "p", &environment).await;
    for (number, order) in orders.iter().enumerate() {
        let id = format!("p-{number}");
        send(&shop, &id, order).await;
    }
    let paying = "SELECT count(*) FROM orders WHERE state = 'paying'";
    // One that is alone in its batch may be refused as often by itself.
    until("all are asked about", async || gateway.ledger().spoilt >= 6 && shop.count(paying).await == 3).await;
    gateway.behave(|behaviour| behaviour.is_away = false);
    let replies = shop.replies(3).await;
    assert!(replies.values().all(|reply| reply.code() == "paid"));
    assert_eq!((gateway.ledger().charges.len(), shop.depth("dead").await), (3, 0));
}

#[tokio::test]
async fn a_payment_whose_message_is_purged_is_made_all_the_same() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let order = shop.purchase("first").await.order();
    let mut doomed = shop.worker_of("payment", "doomed", &[SIMULATED, ("TURNSTILE_PAUSE_AT", "paying")]).await;
    send(&shop, "p-1", &order).await;
    shop.paused("doomed").await;
    doomed.kill().await.unwrap();
    until("the message is back", async || shop.depth(PAYMENT_QUEUE).await == 1).await;
    shop.channel.queue_purge(PAYMENT_QUEUE.into(), QueuePurgeOptions::default()).await.unwrap();

    let _next = shop.worker_of("payment", "next", &[SIMULATED, ("PAYMENT_LOST_SECONDS", "1")]).await;
    until("it is paid", async || shop.count("SELECT sold FROM items").await == 1).await;
    assert_eq!(pay(&mut shop, "p-1", &order).await.code(), "paid", "on record, for whoever asks");
}

#[tokio::test]
async fn payments_that_are_put_off_into_a_queue_without_room_come_again_and_are_made() {
    // More than a worker takes at once, so that what waits behind it fills the queue.
    const PAYMENTS: usize = 80;
    let (servers, mut shop) = Shop::private(&[("ticket", 80)]).await;
    let _purchase = shop.worker("w", &[]).await;
    shop.line_up(PAYMENTS).await;
    for reply in shop.replies(PAYMENTS).await.into_values() {
        send(&shop, &format!("p-{}", reply.correlation_id), &reply.order()).await;
    }
    let policy = ["set_policy", "small", "^payment$", r#"{"max-length":1}"#, "--apply-to", "queues"];
    rabbitmqctl(&servers.rabbitmq, &policy).await;
    // Longer than a batch waits for.
    let slow = ("GATEWAY_LATENCY_MS", "1500");
    let _payment = shop.worker_of("payment", "p", &[SIMULATED, slow, ("BATCH_MAX", "16")]).await;
    let replies = shop.replies(PAYMENTS).await;
    assert!(replies.values().all(|reply| reply.code() == "paid"));
    assert!(shop.log("p").await.contains("not published"), "the queue had no room");
    assert_eq!(shop.count("SELECT sold FROM items").await, 80);
}

#[tokio::test]
async fn a_payment_function_without_a_gateway_says_what_to_set_and_exits_with_78() {
    let shop = Shop::open(&[]).await;
    for (environment, says) in [
        (&[][..], "no payment gateway is chosen"),
        (&[("GATEWAY", "http")][..], "GATEWAY_URL is not set"),
        (&[("GATEWAY", "http"), ("GATEWAY_URL", "gateway:80")][..], "GATEWAY_URL is not of the form"),
    ] {
        let mut payment = shop.worker_of("payment", "p", environment).await;
        assert_eq!(payment.wait().await.unwrap().code(), Some(78));
        assert!(shop.log("p").await.contains(says), "{says}");
    }
}

fn payment(id: &str, order: &str) -> String {
    format!(r#"{{"request_id":"{id}","order_id":"{order}","payment_method":"card"}}"#)
}

async fn pay(shop: &mut Shop, id: &str, order: &str) -> Reply {
    shop.ask(PAYMENT_QUEUE, id, &payment(id, order)).await
}

async fn send(shop: &Shop, id: &str, order: &str) {
    shop.send_to("", PAYMENT_QUEUE, payment(id, order).as_bytes(), shop.properties(id)).await;
}

async fn state_of(shop: &Shop, order: &str) -> String {
    let read = "SELECT state FROM orders WHERE id = $1::uuid";
    sqlx::query_scalar(read).bind(order).fetch_one(&shop.pool).await.unwrap()
}

fn charges_of(gateway: &Gateway, order: &str) -> usize {
    usize::from(gateway.ledger().charges.contains_key(order))
}
