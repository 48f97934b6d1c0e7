//! The operator's program against a running shop: what it says is so, and what it changes is changed.

pub(crate) mod dead;
mod forget;
mod restored;

use crate::support::queue::way_into;
use crate::support::sale;
use crate::support::shop::{Shop, payment, purchase_program, request, until};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use shared::devstack::gateway::Behaviour;
use shared::devstack::{Gateway, urls_of};
use shared::messages::PAYMENT_QUEUE;
use std::collections::BTreeSet;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const PARTITIONS: usize = 8;
const MOVED: &str = "handed a partition over";

/// How the program ended, and what it printed.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

async fn command(shop: &Shop, arguments: &[&str]) -> Command {
    let mut command = Command::new(purchase_program().await.with_file_name("admin"));
    let [amqp_url, database_url] = urls_of("admin", &shop.amqp_url, &shop.database_url);
    command.args(arguments).env("AMQP_URL", amqp_url).env("DATABASE_URL", database_url);
    command
}

pub(crate) async fn admin(shop: &Shop, arguments: &[&str]) -> Ended {
    let output = command(shop, arguments).await.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// The exit code, and the document.
pub(crate) async fn admin_json(shop: &Shop, arguments: &[&str]) -> (Option<i32>, Value) {
    let Ended { code, out, err } = admin(shop, &[arguments, &["--json"]].concat()).await;
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out} {err}")))
}

/// Of each partition, who is active there, as the program says.
async fn active(shop: &Shop) -> Vec<Vec<String>> {
    let (_, document) = admin_json(shop, &["queues"]).await;
    let queues = document["queues"].as_array().unwrap().iter().filter(|queue| !queue["active"].is_null());
    queues.map(|queue| serde_json::from_value(queue["active"].clone()).unwrap()).collect()
}

/// On how many partitions this worker alone is active.
async fn partitions_of(shop: &Shop, worker: &str) -> usize {
    active(shop).await.iter().filter(|claimants| **claimants == [worker]).count()
}

#[tokio::test]
async fn the_active_worker_of_each_partition_is_the_one_that_answers_and_looking_moves_nothing() {
    let mut shop = Shop::open(&[("ticket", 1_000)]).await;
    assert_eq!(active(&shop).await, vec![Vec::<String>::new(); PARTITIONS], "nobody is there");
    let first = shop.worker("w1", &[]).await;
    until("a lone worker has all partitions", async || partitions_of(&shop, "w1").await == PARTITIONS).await;
    let _second = shop.worker("w2", &[]).await;
    until("it hands half of them over", async || partitions_of(&shop, "w2").await == PARTITIONS / 2).await;
    let moved = async |shop: &Shop| [shop.log("w1").await, shop.log("w2").await].concat().matches(MOVED).count();
    let (before, mut claimed) = (moved(&shop).await, Vec::new());
    until("each has one active worker, who is heard", async || {
        claimed = active(&shop).await.concat();
        claimed.len() == PARTITIONS
    })
    .await;
    for (partition, worker) in claimed.iter().enumerate() {
        let id = format!("r-{partition}");
        let body = request(&id, "ticket", 1);
        let way = way_into(&shop.channel, &format!("purchase.{partition}")).await;
        shop.send_to(&way, "ticket", body.as_bytes(), shop.properties(&id)).await;
        assert_eq!(&shop.reply().await.worker_id, worker, "it answers for partition {partition}");
    }
    until("they are as they were", async || active(&shop).await.concat() == claimed).await;
    assert_eq!(moved(&shop).await, before, "who looks is not counted as a worker");

    let (_, mut queues) = admin_json(&shop, &["queues"]).await;
    until("both are heard", async || {
        queues = admin_json(&shop, &["queues"]).await.1;
        queues["workers"].as_array().unwrap().len() == 2
    })
    .await;
    let each = |list: &str, name: &str| -> BTreeSet<String> {
        queues[list].as_array().unwrap().iter().map(|entry| entry[name].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(each("workers", "worker_id"), ["w1", "w2"].map(String::from).into());
    let names = ["purchase.0", "release", "payment", "restock", "dead"].map(String::from);
    assert!(each("queues", "queue").is_superset(&names.into()), "{queues}");
    drop(first);
    until("who is left has all of them", async || partitions_of(&shop, "w2").await == PARTITIONS).await;
}

#[tokio::test]
async fn a_sale_is_made_changed_and_closed_by_the_operators_requests_and_a_fault_ends_the_audit_with_one() {
    let mut shop = Shop::open(&[]).await;
    let _workers = shop.workers(&["purchase", "restock"]).await;
    let create = ["create", "ticket", "--stock", "5", "--hold-ms", "60000", "--request-id", "a-1"];
    let created = admin_json(&shop, &create).await;
    assert_eq!((created.0, &created.1["code"]), (Some(0), &json!("created")));
    assert_eq!(admin_json(&shop, &create).await, created, "asked again, the same verdict");
    assert_eq!(shop.purchase("first").await.code(), "reserved");
    for (arguments, ended, code) in [
        (&["add", "ticket", "2"][..], 0, "added"),
        (&["remove", "ticket", "7"], 1, "stock_in_use"),
        (&["remove", "ticket", "3"], 0, "removed"),
        (&["rules", "ticket", "--max-per-buyer", "2", "--tiers", "vip,staff"], 0, "rules_set"),
        (&["open", "ticket", "--opens-at", "2099-01-01T00:00:00Z"], 0, "opened"),
        (&["close", "ticket"], 0, "closed"),
        (&["add", "ticket", "1", "--request-id", "a-1"], 1, "request_id_reused"),
    ] {
        let (exit_code, verdict) = admin_json(&shop, arguments).await;
        assert_eq!((exit_code, &verdict["code"]), (Some(ended), &json!(code)), "{arguments:?}");
    }
    let said = admin(&shop, &["close", "ticket", "--request-id", "a-2"]).await.out;
    assert!(said.starts_with("closed: ") && said.contains("a-2"), "for people: {said}");
    let (_, item) = admin_json(&shop, &["item", "ticket"]).await;
    let found = ["stock", "held", "sale", "max_per_buyer", "tiers"].map(|name| item[name].clone());
    assert_eq!(found, [json!(4), json!(1), json!("closed"), json!(2), json!(["staff", "vip"])]);
    assert_eq!(admin(&shop, &["rules", "ticket", "--none"]).await.code, Some(0));
    assert_eq!(admin_json(&shop, &["item", "ticket"]).await.1["tiers"], Value::Null, "no rules any more");

    let audit = admin(&shop, &["audit"]).await;
    assert_eq!(audit.code, Some(0), "{}{}", audit.out, audit.err);
    assert!(audit.out.contains("Everything holds.") && !audit.out.contains('\x1b'), "{}", audit.out);
    shop.execute("DELETE FROM verdicts WHERE status = 'reserved'").await;
    let (code, audit) = admin_json(&shop, &["audit"]).await;
    let off = audit["checks"].as_array().unwrap().iter().filter(|check| check["holds"] == false);
    let off: Vec<_> = off.map(|check| &check["name"]).collect();
    assert_eq!((code, off), (Some(1), vec![&json!("orders_have_verdicts")]));
}

#[tokio::test]
async fn a_payment_that_no_gateway_ends_is_ended_by_hand_by_who_may_and_by_nobody_else() {
    let mut shop = Shop::open(&[("ticket", 2)]).await;
    let gateway =
        Gateway::open(Behaviour { pending: ["card".to_owned()].into(), ..Behaviour::default() }).await.unwrap();
    let environment = [("GATEWAY", "http"), ("GATEWAY_URL", gateway.url()), ("SETTLE_USERS", "finance,operator")];
    let _purchase = shop.worker("w", &[]).await;
    let mut worker = shop.worker_of("payment", "p-1", &environment[..2]).await;
    let mut orders = Vec::new();
    for id in ["paid", "voided"] {
        let order = shop.purchase(id).await.order().to_owned();
        let id = format!("p-{id}");
        shop.send_to("", PAYMENT_QUEUE, payment(&id, &order).as_bytes(), shop.properties(&id)).await;
        orders.push(order);
    }
    let [paid, voided] = &orders[..] else { panic!("two") };
    gateway.until(|ledger| ledger.asked >= 2).await;
    // Nobody may, unless payment is told who.
    let refused = admin(&shop, &["settle", paid, "--captured", "ch-7"]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.out.contains("not_allowed") && refused.out.contains("SETTLE_USERS"), "{}", refused.out);
    worker.stop().await.unwrap();

    let _payment = shop.worker_of("payment", "p-2", &environment).await;
    let settle =
        format!(r#"{{"request_id":"e-1","order_id":"{paid}","op":"settle","outcome":"captured","charge_id":"c"}}"#);
    assert_eq!(shop.ask(PAYMENT_QUEUE, "e-1", &settle).await.code(), "not_allowed", "it does not say who sent it");
    // Nor does the broker take a message that names another than its sender.
    let connection = Connection::connect(&shop.amqp_url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let (options, forged) = (BasicPublishOptions::default(), shop.properties("e-2").with_user_id("finance".into()));
    let sent = channel.basic_publish("".into(), PAYMENT_QUEUE.into(), options, settle.as_bytes(), forged).await;
    let error = sent.unwrap().await.unwrap_err().to_string();
    assert!(error.contains("user_id property set to 'finance' but authenticated user was 'guest'"), "{error}");

    let (_, known) = admin_json(&shop, &["payment", paid]).await;
    assert_eq!((&known["state"], &known["said"]), (&json!("paying"), &json!("the gateway has not decided: pending")));
    let settled = admin(&shop, &["settle", paid, "--captured", "ch-7"]).await;
    assert_eq!((settled.code, shop.reply_to("p-paid").await.code()), (Some(0), "paid"), "{}", settled.out);
    let (_, known) = admin_json(&shop, &["payment", paid]).await;
    assert_eq!((&known["is_under_way"], &known["charge_id"]), (&json!(false), &json!("ch-7")));
    let voided_by_hand = admin(&shop, &["void", voided]).await;
    assert_eq!(voided_by_hand.code, Some(0), "{}", voided_by_hand.out);
    assert_eq!(shop.reply_to("p-voided").await.code(), "already_expired");
    assert!(gateway.ledger().voided.contains(voided));
    assert_eq!(shop.stock("ticket").await, (1, 0));
}

#[tokio::test]
async fn a_buyer_at_a_terminal_is_held_units_pays_for_them_and_lets_them_go() {
    let shop = Shop::open(&[("ticket", 3)]).await;
    let _workers = shop.workers(&["purchase", "payment", "release"]).await;
    let buy = async |more: &[&str]| admin_json(&shop, &[&["buy", "ticket"], more].concat()).await;
    let mut orders = Vec::new();
    for (arguments, quantity) in [(&["ann", "2", "--request-id", "b-1"][..], 2), (&["ben"], 1)] {
        let (code, bought) = buy(arguments).await;
        assert_eq!(
            (code, &bought["code"], &bought["order"]["quantity"]),
            (Some(0), &json!("reserved"), &json!(quantity))
        );
        orders.push(bought["order"]["id"].as_str().unwrap().to_owned());
    }
    let [anns, bens] = &orders[..] else { panic!("two") };
    let again = admin(&shop, &["buy", "ticket", "ann", "2", "--request-id", "b-1"]).await;
    assert!(again.code == Some(0) && again.out.starts_with("reserved: "), "{}", again.out);
    assert!(again.out.contains(anns), "asked again, the same order, for people: {}", again.out);
    let (code, refused) = buy(&["cleo"]).await;
    assert_eq!((code, &refused["code"]), (Some(1), &json!("sold_out")));
    for (arguments, ended, code) in [
        (&["pay", anns][..], 0, "paid"),
        (&["cancel", anns], 1, "already_paid"),
        (&["cancel", bens], 0, "cancelled"),
        (&["pay", bens, "--payment-method", "token"], 1, "already_cancelled"),
    ] {
        let (exit_code, verdict) = admin_json(&shop, arguments).await;
        assert_eq!((exit_code, &verdict["code"]), (Some(ended), &json!(code)), "{arguments:?}");
    }
    assert_eq!(shop.stock("ticket").await, (1, 0));
    let buyers: Vec<String> =
        sqlx::query_scalar("SELECT buyer FROM orders ORDER BY id").fetch_all(&shop.pool).await.unwrap();
    assert_eq!(buyers, ["ann", "ben"]);
}

#[tokio::test]
async fn whoever_waits_in_vain_is_told_how_to_ask_again() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let ended = admin(&shop, &["add", "ticket", "5", "--wait-seconds-max", "1", "--request-id", "a-1"]).await;
    assert_eq!(ended.code, Some(69), "{}", ended.err);
    assert!(ended.err.contains("--request-id a-1") && ended.out.is_empty(), "{}", ended.err);
    until("the request waits for a restock function", async || shop.depth("restock").await == 1).await;
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let mut child = command(&shop, &["items"]).await.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn an_interrupted_command_says_so() {
    let shop = Shop::open(&[]).await;
    let mut child = command(&shop, &["queues", "--listen-ms", "60000"]).await.stdout(Stdio::piped()).spawn().unwrap();
    // Whoever listens has a queue there, so what is said there is no longer returned.
    until("it listens", async || {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, properties) = ("purchase.workers".into(), BasicProperties::default());
        let confirm = shop.channel.basic_publish(exchange, "".into(), options, b"noise", properties).await.unwrap();
        confirm.await.unwrap().take_message().is_none()
    })
    .await;
    sale::signal(child.id().unwrap(), Signal::SIGINT);
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
}

#[tokio::test]
async fn a_pipe_that_says_no_more_is_waited_for_in_no_transaction_until_the_command_is_interrupted() {
    let shop = Shop::open(&[]).await;
    let mut child = command(&shop, &["audit", "--known", "-"]).await.stdin(Stdio::piped()).spawn().unwrap();
    let (mut pipe, line) = (child.stdin.take().unwrap(), json!({ "order_id": uuid::Uuid::now_v7() }));
    // As many as are held against the tables at once.
    pipe.write_all(format!("{line}\n").repeat(1_000).as_bytes()).await.unwrap();
    let is_idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'turnstile-admin'
                   AND state = 'idle' AND query = 'ROLLBACK'";
    until("it has looked, and waits", async || shop.count(is_idle).await > 0).await;
    sale::signal(child.id().unwrap(), Signal::SIGINT);
    until("it has ended", async || child.try_wait().unwrap().is_some()).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
}
