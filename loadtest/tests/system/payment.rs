//! Orders are paid for: by message, through crashes, a gateway that comes and goes, and a queue that somebody purges.

use crate::{
    asyncapi::assert_describes,
    shop::{Reply, Shop, until},
};
use lapin::options::QueuePurgeOptions;
use serde_json::Value;
use shared::{
    devstack::Servers,
    messages::{PAYMENT_QUEUE, RELEASE_QUEUE},
};
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const SIMULATED: (&str, &str) = ("GATEWAY", "simulated");

#[tokio::test]
async fn an_order_is_paid_for_and_nothing_else_becomes_of_it() {
    let mut shop = Shop::open(&[("ticket", 2)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let _release = shop.worker_of("release", "r", &[]).await;
    let _payments =
        [shop.worker_of("payment", "p1", &[SIMULATED]).await, shop.worker_of("payment", "p2", &[SIMULATED]).await];
    let order = order_of(&mut shop, "first").await;
    let paid = pay(&mut shop, "p-1", &order).await;
    assert_eq!(paid.code(), "paid");
    assert_eq!(pay(&mut shop, "p-1", &order).await.body, paid.body, "a repeat, byte for byte");
    assert_eq!(pay(&mut shop, "p-2", &order).await.code(), "already_paid");
    assert_eq!(cancel(&mut shop, "c-1", &order).await.code(), "already_paid");
    assert_eq!(shop.count("SELECT sold FROM items").await, 1);

    let other = order_of(&mut shop, "second").await;
    assert_eq!(cancel(&mut shop, "c-2", &other).await.code(), "cancelled");
    assert_eq!(pay(&mut shop, "p-3", &other).await.code(), "already_cancelled");
    assert_eq!(pay(&mut shop, "p-4", "019ac4b6-2d80-7c61-9f0e-2b6a1c8d4e5f").await.code(), "unknown_order");
    assert_eq!(pay(&mut shop, "p-1", &other).await.code(), "request_id_reused");
    assert_eq!(pay(&mut shop, "p-5", "order-7").await.code(), "invalid_id");
    let reasons: Vec<String> = shop.dead(2).await.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["request_id_reused", "invalid_id"]);
    assert_eq!(shop.stock("ticket").await, (1, 0));
}

#[tokio::test]
async fn a_decline_gives_the_hold_back_and_the_release_function_ends_it_in_its_time() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let order = order_of(&mut shop, "first").await;
    let _payment = shop.worker_of("payment", "p", &[SIMULATED, ("GATEWAY_DECLINE_SHARE", "1")]).await;
    assert_eq!(pay(&mut shop, "p-1", &order).await.code(), "declined");
    assert_eq!(shop.stock("ticket").await, (0, 1), "still the first buyer's");
    sqlx::query("UPDATE orders SET hold_until = now()").execute(&shop.pool).await.unwrap();
    let _release = shop.worker_of("release", "r", &[]).await;
    until("the unit is back", async || shop.stock("ticket").await == (1, 0)).await;
    assert_eq!(pay(&mut shop, "p-2", &order).await.code(), "already_expired");
}

#[tokio::test]
async fn a_worker_killed_at_any_point_of_a_payment_leaves_one_charge_and_a_paid_order() {
    let mut shop = Shop::open(&[("ticket", 4)]).await;
    let gateway = Gateway::open().await;
    let _purchase = shop.worker("w", &[]).await;
    let _release = shop.worker_of("release", "r", &[]).await;
    // Marked, and not asked; charged, and not committed; committed, and not answered; answered, and not acknowledged.
    let places = [("paying", 0, "paying"), ("charged", 1, "paying"), ("decided", 1, "paid"), ("replied", 1, "paid")];
    for (number, (place, charges, state)) in places.into_iter().enumerate() {
        let order = order_of(&mut shop, place).await;
        let environment = [("GATEWAY", "http"), ("GATEWAY_URL", &*gateway.url), ("TURNSTILE_PAUSE_AT", place)];
        let doomed_id = format!("doomed-{place}");
        let mut doomed = shop.worker_of("payment", &doomed_id, &environment).await;
        let id = format!("p-{place}");
        send(&shop, PAYMENT_QUEUE, &id, &payment(&id, &order)).await;
        until("it stands still", async || shop.log(&doomed_id).await.contains("paused")).await;
        assert_eq!((gateway.charges_of(&order), state_of(&shop, &order).await.as_str()), (charges, state), "{place}");
        let told = if place == "replied" { Some(shop.reply().await) } else { None };
        doomed.kill().await.unwrap();

        // Nothing takes the unit from an order that may be charged, whatever the time.
        let pass = "UPDATE orders SET hold_until = now() WHERE id = $1::uuid";
        sqlx::query(pass).bind(&order).execute(&shop.pool).await.unwrap();
        if state == "paying" {
            assert_eq!(cancel(&mut shop, &format!("c-{place}"), &order).await.code(), "payment_under_way");
        }
        let mut next = shop.worker_of("payment", &format!("next-{place}"), &environment[..2]).await;
        let reply = shop.reply().await;
        assert_eq!((reply.correlation_id.as_str(), reply.code().as_str()), (id.as_str(), "paid"));
        assert!(told.is_none_or(|told| told.body == reply.body), "the same, byte for byte");
        next.stop().await.unwrap();
        assert_eq!((gateway.charges_of(&order), state_of(&shop, &order).await.as_str()), (1, "paid"), "{place}");
        let number = i64::try_from(number).unwrap() + 1;
        assert_eq!(shop.count("SELECT sold FROM items").await, number);
        assert_eq!(shop.count("SELECT count(*) FROM order_history").await, 2 * number);
    }
    assert_eq!(gateway.charged().len(), 4, "one key for each order, for ever");
}

#[tokio::test]
async fn while_the_gateway_is_away_payments_wait_keep_their_units_and_are_made_when_it_is_back() {
    let mut shop = Shop::open(&[("ticket", 3)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let mut orders = Vec::new();
    for number in 0..3 {
        orders.push(order_of(&mut shop, &format!("b-{number}")).await);
    }
    let gateway = Gateway::open().await;
    gateway.is_away(true);
    let environment = [("GATEWAY", "http"), ("GATEWAY_URL", &*gateway.url)];
    let _payment = shop.worker_of("payment", "p", &environment).await;
    for (number, order) in orders.iter().enumerate() {
        let id = format!("p-{number}");
        send(&shop, PAYMENT_QUEUE, &id, &payment(&id, order)).await;
    }
    let paying = "SELECT count(*) FROM orders WHERE state = 'paying'";
    // One that is alone in its batch may be refused as often by itself.
    until("all are asked about", async || gateway.refused() >= 6 && shop.count(paying).await == 3).await;
    gateway.is_away(false);
    let replies = shop.replies(3).await;
    assert!(replies.values().all(|reply| reply.code() == "paid"));
    assert_eq!((gateway.charged().len(), shop.depth("dead").await), (3, 0));
}

#[tokio::test]
async fn a_payment_whose_message_is_purged_is_made_all_the_same() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let order = order_of(&mut shop, "first").await;
    let mut doomed = shop.worker_of("payment", "doomed", &[SIMULATED, ("TURNSTILE_PAUSE_AT", "paying")]).await;
    send(&shop, PAYMENT_QUEUE, "p-1", &payment("p-1", &order)).await;
    until("it stands still", async || shop.log("doomed").await.contains("paused")).await;
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
    let servers = Servers::start(&[]).await.unwrap();
    servers.postgres.create_database("sale").await.unwrap();
    let mut shop = Shop::on(&servers.rabbitmq.url("/"), &servers.postgres.url("sale"), &[("ticket", 80)]).await;
    let _purchase = shop.worker("w", &[]).await;
    for number in 0..PAYMENTS {
        shop.buy(&format!("b-{number}"), "ticket").await;
    }
    for reply in shop.replies(PAYMENTS).await.into_values() {
        let verdict: Value = serde_json::from_str(&reply.body).unwrap();
        let (id, order) = (format!("p-{}", reply.correlation_id), verdict["order"]["id"].as_str().unwrap());
        send(&shop, PAYMENT_QUEUE, &id, &payment(&id, order)).await;
    }
    let policy = ["set_policy", "small", "^payment$", r#"{"max-length":1}"#, "--apply-to", "queues"];
    let set = servers.rabbitmq.rabbitmqctl().args(policy).output().await.unwrap();
    assert!(set.status.success(), "{set:?}");
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
    answered(shop, PAYMENT_QUEUE, id, &payment(id, order)).await
}

async fn cancel(shop: &mut Shop, id: &str, order: &str) -> Reply {
    answered(shop, RELEASE_QUEUE, id, &format!(r#"{{"request_id":"{id}","order_id":"{order}"}}"#)).await
}

async fn state_of(shop: &Shop, order: &str) -> String {
    let read = "SELECT state FROM orders WHERE id = $1::uuid";
    sqlx::query_scalar(read).bind(order).fetch_one(&shop.pool).await.unwrap()
}

/// Sends, and waits for the answer, which is one that is described.
async fn answered(shop: &mut Shop, queue: &str, id: &str, body: &str) -> Reply {
    send(shop, queue, id, body).await;
    let reply = shop.reply().await;
    assert_eq!(reply.correlation_id, id);
    assert_describes(&serde_json::from_str(&reply.body).unwrap());
    reply
}

async fn send(shop: &Shop, queue: &str, id: &str, body: &str) {
    shop.send_to("", queue, body.as_bytes(), shop.properties(id)).await;
}

async fn order_of(shop: &mut Shop, id: &str) -> String {
    shop.buy(id, "ticket").await;
    let body: Value = serde_json::from_str(&shop.reply().await.body).unwrap();
    body["order"]["id"].as_str().unwrap().to_owned()
}

/// A payment gateway: an HTTP server that captures whatever it is asked for, once a key.
struct Gateway {
    url: String,
    books: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    /// The keys that were charged, each once.
    charged: Vec<String>,
    is_away: bool,
    refused: usize,
}

impl Gateway {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let books = Arc::new(Mutex::new(Books::default()));
        let shared = books.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, shared.clone()));
            }
        });
        Self { url, books }
    }

    fn charged(&self) -> Vec<String> {
        self.books.lock().unwrap().charged.clone()
    }

    fn charges_of(&self, order: &str) -> usize {
        self.charged().iter().filter(|key| *key == order).count()
    }

    fn is_away(&self, is_away: bool) {
        self.books.lock().unwrap().is_away = is_away;
    }

    /// How often it said that it is away.
    fn refused(&self) -> usize {
        self.books.lock().unwrap().refused
    }
}

async fn serve(mut socket: TcpStream, books: Arc<Mutex<Books>>) {
    let mut text = Vec::new();
    while socket.read_buf(&mut text).await.is_ok_and(|bytes| bytes > 0) {
        // The body is the last thing to come, and ends in its only closing brace.
        if text.last() != Some(&b'}') {
            continue;
        }
        let request = String::from_utf8(std::mem::take(&mut text)).unwrap().to_ascii_lowercase();
        let key = request.lines().find_map(|line| line.strip_prefix("idempotency-key: ")).unwrap().to_owned();
        let (status, body) = {
            let mut books = books.lock().unwrap();
            if books.is_away {
                books.refused += 1;
                (503, String::new())
            } else {
                if !books.charged.contains(&key) {
                    books.charged.push(key.clone());
                }
                (201, format!(r#"{{"status":"captured","charge_id":"ch-{key}"}}"#))
            }
        };
        let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
