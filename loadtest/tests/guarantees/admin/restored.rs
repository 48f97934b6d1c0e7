//! A backup is restored: it is noticed, what was lost is named, and the shop goes on when the operator says so.

use super::{admin_json, command};
use crate::support::{
    listener::Listener,
    shop::{Shop, until},
};
use shared::{
    db,
    devstack::{Folder, Supervised},
    messages::{Event, EventKind, PAYMENT_QUEUE},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{fs, path::Path};

/// Who sells, takes money, and relays.
async fn start(shop: &Shop, number: u32, ready_file: &Path) -> [Supervised; 3] {
    let ready_file = ready_file.to_str().unwrap();
    [
        shop.worker(&format!("w{number}"), &[]).await,
        shop.worker_of("payment", &format!("p{number}"), &[("GATEWAY", "simulated")]).await,
        shop.worker_of("relay", &format!("r{number}"), &[("READY_FILE", ready_file)]).await,
    ]
}

async fn stop(workers: [Supervised; 3]) {
    for mut worker in workers {
        worker.stop().await.unwrap();
    }
}

/// Pays for an order; the verdict's code.
async fn pay(shop: &mut Shop, id: &str, order: &str) -> String {
    let body = format!(r#"{{"request_id":"{id}","order_id":"{order}","payment_method":"card"}}"#);
    shop.ask(PAYMENT_QUEUE, id, &body).await.code().to_owned()
}

/// The events up to this one of this order, each once.
async fn heard(listener: &mut Listener, order: &str, kind: EventKind) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        events.push(listener.next_new().await);
        let last = events.last().unwrap();
        if last.event == kind && last.order.as_ref().unwrap().id.to_string() == order {
            return events;
        }
    }
}

/// Copies the shop's database, which nobody may use meanwhile; the URL of the copy.
async fn back_up(shop: &mut Shop) -> String {
    shop.pool.close().await;
    let (server, host) = shop.database_url.split_once('?').unwrap();
    let (server, name) = server.rsplit_once('/').unwrap();
    let mut connection = PgConnection::connect(&format!("{server}/postgres?{host}")).await.unwrap();
    let copy = AssertSqlSafe(format!("CREATE DATABASE {name}_backup TEMPLATE {name}"));
    sqlx::query(copy).execute(&mut connection).await.unwrap();
    shop.pool = db::pool(&shop.database_url, "test", 4).unwrap();
    format!("{server}/{name}_backup?{host}")
}

#[tokio::test]
async fn a_database_that_was_set_back_is_noticed_what_it_lost_is_named_and_it_goes_on_when_told_to() {
    let mut shop = Shop::open(&[("ticket", 10)]).await;
    let mut listener = Listener::to(&shop, "order.#").await;
    let folder = Folder::create().unwrap();
    let [ready, events, charges] = ["ready", "events", "charges"].map(|name| folder.path().join(name));
    let workers = start(&shop, 1, &ready).await;
    let early = shop.purchase("early").await.order().to_owned();
    let mut told = heard(&mut listener, &early, EventKind::OrderReserved).await;
    until("the outbox is empty", async || shop.count("SELECT count(*) FROM outbox").await == 0).await;
    stop(workers).await;
    let backup = back_up(&mut shop).await;
    let workers = start(&shop, 2, &ready).await;
    let held = shop.purchase("held").await.order().to_owned();
    let paid = shop.purchase("paid").await.order().to_owned();
    assert_eq!(pay(&mut shop, "p-paid", &paid).await, "paid");
    assert_eq!(pay(&mut shop, "p-early", &early).await, "paid");
    told.extend(heard(&mut listener, &early, EventKind::OrderPaid).await);
    let (last, marked) = (told.last().unwrap().at, "SELECT marked_at > $1 FROM outbox_turn");
    until("it is marked", async || sqlx::query_scalar(marked).bind(last).fetch_one(&shop.pool).await.unwrap()).await;
    stop(workers).await;

    shop.pool = db::pool(&backup, "test", 4).unwrap();
    shop.database_url = backup;
    let workers = start(&shop, 3, &ready).await;
    until("it is noticed", async || shop.log("r3").await.contains("older than what RabbitMQ has seen: its mark")).await;
    // One that starts now stays, too.
    let [mut before, paying, relaying] = workers;
    before.stop().await.unwrap();
    let workers = [shop.worker("w4", &[]).await, paying, relaying];
    shop.buy("late", "ticket").await;
    until("it is held", async || shop.log("w4").await.contains("requests cannot be decided, and are held")).await;
    assert!(shop.log("w4").await.contains("then say `admin restored`"));
    // That another relay has the turn says nothing of the database.
    let mut turn = shop.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM outbox_turn FOR UPDATE").execute(&mut *turn).await.unwrap();
    let others_turn = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'turnstile-relay r3'
                       AND query = 'ROLLBACK' AND state_change > backend_start + interval '1.5 s'";
    until("it has seen so twice", async || shop.count(others_turn).await > 0).await;
    assert!(!shop.log("r3").await.contains("over: events cannot be published") && !ready.exists());
    turn.rollback().await.unwrap();
    assert_eq!((shop.stock("ticket").await, shop.dead_depth().await), ((9, 1), 0));

    let lines: Vec<String> = told.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    fs::write(&events, lines.join("\n")).unwrap();
    fs::write(&charges, format!(r#"{{"order_id":"{paid}"}}"#)).unwrap();
    let known = ["audit", "--known", events.to_str().unwrap(), "--known", charges.to_str().unwrap()];
    let (code, audit) = admin_json(&shop, &known).await;
    let off = audit["checks"].as_array().unwrap().iter().filter(|check| check["holds"] == false);
    let off: Vec<_> = off.map(|check| (check["name"].as_str().unwrap(), check["named"].as_array().unwrap())).collect();
    let [("known_orders_exist", lost), ("known_ends_are_there", behind)] = off[..] else { panic!("{off:?}") };
    assert_eq!((code, lost.len(), behind.len()), (Some(1), 2, 1));
    let said = [(&lost[0], &held, "paid nothing"), (&lost[1], &paid, "`admin remove ticket 1`")];
    for (said, order, remedy) in [said[0], said[1], (&behind[0], &early, "send its payment again")] {
        let said = said.as_str().unwrap();
        assert!(said.starts_with(order) && said.contains(remedy), "{said}");
    }

    for were_held in [true, false] {
        let (code, restored) = admin_json(&shop, &["restored"]).await;
        assert_eq!((code, &restored["were_held"]), (Some(0), &were_held.into()));
    }
    let late = shop.reply_to("late").await;
    assert_eq!((late.code(), shop.stock("ticket").await), ("reserved", (8, 2)));
    let new = heard(&mut listener, late.order(), EventKind::OrderReserved).await;
    assert!(new.len() == 1 && told.iter().all(|old| old.event_id != new[0].event_id), "{new:?}");
    until("it is ready", async || ready.exists()).await;
    // As was said; the simulated gateway takes no money twice.
    assert_eq!(pay(&mut shop, "p-early", &early).await, "paid");
    assert_eq!(pay(&mut shop, "p-paid", &paid).await, "unknown_order");
    let mut piped = command(&shop, &["audit", "--known", "-"]).await;
    let piped = piped.stdin(fs::File::open(&events).unwrap()).output().await.unwrap();
    let text = String::from_utf8(piped.stdout).unwrap();
    assert!(text.contains("✗ known_orders_exist") && text.contains("✓ known_ends_are_there"), "{text}");
    stop(workers).await;
    folder.remove().await.unwrap();
}
