//! A backup is restored beside a queue that went on: it is noticed, what was lost is named, and the shop goes on when the
//! operator says so.

use super::{admin_json, command};
use crate::support::listener::Listener;
use crate::support::shop::{Shop, until};
use shared::db;
use shared::devstack::{Folder, Supervised, postgres_program};
use shared::messages::{Event, EventKind};
use std::fs;
use std::path::Path;
use tokio::process::Command;

async fn relay(shop: &Shop, number: u32, ready_file: &Path) -> Supervised {
    shop.worker_of("relay", &format!("r{number}"), &[("READY_FILE", ready_file.to_str().unwrap())]).await
}

/// Who sells, and takes money.
async fn sellers(shop: &Shop, number: u32) -> [Supervised; 2] {
    let payment = shop.worker_of("payment", &format!("p{number}"), &[("GATEWAY", "simulated")]).await;
    [shop.worker(&format!("w{number}"), &[]).await, payment]
}

async fn stop<const COUNT: usize>(workers: [Supervised; COUNT]) {
    for mut worker in workers {
        worker.stop().await.unwrap();
    }
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

/// Runs one of PostgreSQL's programs on a database.
async fn run(program: &str, database_url: &str, arguments: &[&str]) {
    let mut command = Command::new(postgres_program(program).await.unwrap());
    let done = command.args(["--dbname", database_url]).args(arguments).output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Restores a dump as another database; its URL.
async fn restore(shop: &Shop, dump: &str) -> String {
    let (server, host) = shop.database_url.split_once('?').unwrap();
    let name = format!("{}_restored", server.rsplit_once('/').unwrap().1);
    let create = &format!("CREATE DATABASE {name} TEMPLATE template0");
    sqlx::query(create).execute(&shop.pool).await.unwrap();
    let url = format!("{server}_restored?{host}");
    run("pg_restore", &url, &["--exit-on-error", dump]).await;
    url
}

/// By what others know, told events and the gateway's charges, the audit finds what the database has lost.
async fn assert_lost_is_named(
    shop: &Shop,
    [events, charges]: [&Path; 2],
    told: &[Event],
    [held, paid, early]: [&str; 3],
) {
    let lines: Vec<String> = told.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    fs::write(events, lines.join("\n")).unwrap();
    fs::write(charges, format!(r#"{{"order_id":"{paid}"}}"#)).unwrap();
    let known = ["audit", "--known", events.to_str().unwrap(), "--known", charges.to_str().unwrap()];
    let (code, audit) = admin_json(shop, &known).await;
    let off = audit["checks"].as_array().unwrap().iter().filter(|check| check["holds"] == false);
    let off: Vec<_> = off.map(|check| (check["name"].as_str().unwrap(), check["named"].as_array().unwrap())).collect();
    let [("known_orders_exist", lost), ("known_ends_are_there", behind)] = off[..] else { panic!("{off:?}") };
    assert_eq!((code, lost.len(), behind.len()), (Some(1), 2, 1));
    let said = [(&lost[0], held, "paid nothing"), (&lost[1], paid, "`admin remove ticket 1`")];
    for (said, order, remedy) in [said[0], said[1], (&behind[0], early, "send its payment again")] {
        let said = said.as_str().unwrap();
        assert!(said.starts_with(order) && said.contains(remedy), "{said}");
    }
}

#[tokio::test]
async fn a_database_that_was_set_back_is_noticed_what_it_lost_is_named_and_it_goes_on_when_told_to() {
    let mut shop = Shop::open(&[("ticket", 10)]).await;
    let mut listener = Listener::to(&shop, "order.#").await;
    let folder = Folder::create().unwrap();
    let [ready, events, charges, dump] = ["ready", "events", "charges", "dump"].map(|name| folder.path().join(name));
    let dump = dump.to_str().unwrap();
    let (relaying, selling) = (relay(&shop, 1, &ready).await, sellers(&shop, 1).await);
    let first = shop.purchase("early").await;
    let early = first.order().to_owned();
    let mut told = heard(&mut listener, &early, EventKind::OrderReserved).await;
    shop.outbox_is_empty().await;
    // While everybody goes on.
    run("pg_dump", &shop.database_url, &["--format=custom", "--file", dump]).await;
    let held = shop.purchase("held").await.order().to_owned();
    let paid = shop.purchase("paid").await.order().to_owned();
    assert_eq!(shop.pay("p-paid", &paid).await.code(), "paid");
    assert_eq!(shop.pay("p-early", &early).await.code(), "paid");
    told.extend(heard(&mut listener, &early, EventKind::OrderPaid).await);
    let (last, marked) = (told.last().unwrap().at, "SELECT marked_at > $1 FROM outbox_turn");
    until("it is marked", async || sqlx::query_scalar(marked).bind(last).fetch_one(&shop.pool).await.unwrap()).await;
    stop(selling).await;
    stop([relaying]).await;
    // Nobody is there, and the queue goes on.
    shop.buy("late", "ticket").await;

    let restored = restore(&shop, dump).await;
    shop.pool = db::pool(&restored, "test", 4).unwrap();
    shop.database_url = restored;
    let relaying = relay(&shop, 3, &ready).await;
    until("it is noticed", async || shop.log("r3").await.contains("older than what RabbitMQ has seen: its mark")).await;
    let selling = sellers(&shop, 4).await;
    until("it is held", async || shop.log("w4").await.contains("requests cannot be decided, and are held")).await;
    assert!(shop.log("w4").await.contains("then say `admin restored`"));
    // That another relay has the turn says nothing of the database.
    let turn = shop.begin("SELECT FROM outbox_turn FOR UPDATE").await;
    let others_turn = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'turnstile-relay r3'
                       AND query = 'ROLLBACK' AND state_change > backend_start + interval '1.5 s'";
    until("it has seen so twice", async || shop.count(others_turn).await > 0).await;
    assert!(!shop.log("r3").await.contains("over: events cannot be published") && !ready.exists());
    turn.rollback().await.unwrap();
    assert_eq!((shop.stock("ticket").await, shop.dead_depth().await), ((9, 1), 0));

    assert_lost_is_named(&shop, [&events, &charges], &told, [&held, &paid, &early]).await;
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
    assert_eq!(shop.pay("p-early", &early).await.code(), "paid");
    assert_eq!(shop.pay("p-paid", &paid).await.code(), "unknown_order");
    let mut piped = command(&shop, &["audit", "--known", "-"]).await;
    let piped = piped.stdin(fs::File::open(&events).unwrap()).output().await.unwrap();
    let text = String::from_utf8(piped.stdout).unwrap();
    assert!(text.contains("✗ known_orders_exist") && text.contains("✓ known_ends_are_there"), "{text}");
    // Whose reply is known to the database gets it again; whose reply it lost buys again.
    assert_eq!(shop.purchase("early").await.body, first.body);
    let again = shop.purchase("held").await;
    assert!(again.code() == "reserved" && again.order() != held, "{}", again.body);
    let (code, audit) = admin_json(&shop, &["audit"]).await;
    assert_eq!(code, Some(0), "what is there is right: {audit}");
    stop(selling).await;
    stop([relaying]).await;
    folder.remove().await.unwrap();
}
