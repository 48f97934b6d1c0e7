//! What is there is shown, for people and for programs.

use crate::Shop;
use admin::failure::Failure;
use serde_json::{Value, json};
use shared::db::SCHEMA_VERSION;
use shared::order::State;

#[tokio::test]
async fn hot_items_come_first_and_contended_ones_too() {
    let shop = Shop::open().await;
    for (item, version, conflicts) in [("cold", 1, 0), ("hot", 900, 9), ("warm", 50, 25)] {
        shop.put_on_sale(item, 100, version, conflicts).await;
    }
    let items = shop.json(&["items", "--limit", "2"]).await;
    assert_eq!(each(&items["items"], "item"), ["hot", "warm"]);
    let first = &items["items"][0];
    let numbers = ["stock", "available", "held", "sold", "version", "conflicts"].map(|name| first[name].clone());
    assert_eq!(numbers, [100, 100, 0, 0, 900, 9]);
    assert_eq!(first["sale"], "open");

    assert_eq!(
        shop.json(&["conflicts"]).await["items"],
        json!([
            {"item": "warm", "conflicts": 25, "decisions": 50, "conflicts_per_decision": 0.5},
            {"item": "hot", "conflicts": 9, "decisions": 900, "conflicts_per_decision": 0.01},
        ])
    );
    let text = shop.text(&["items"]).await;
    let first: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(first, ["hot", "100", "100", "0", "0", "900", "9", "open"]);
}

#[tokio::test]
async fn the_sale_window_is_told_by_the_databases_clock() {
    let shop = Shop::open().await;
    for (item, sale, window) in [
        ("early", "not_open", "opens_at = now() + interval '1 h'"),
        ("late", "closed", "closes_at = now()"),
        ("running", "open", "opens_at = now() - interval '1 h', closes_at = now() + interval '1 h'"),
    ] {
        shop.put_on_sale(item, 1, 0, 0).await;
        let update = &format!("UPDATE items SET {window} WHERE id = '{item}'");
        sqlx::query(update).execute(&shop.pool).await.unwrap();
        assert_eq!(shop.json(&["item", item]).await["sale"], sale, "{item}");
    }
    for command in [&["items"][..], &["item", "early"]] {
        let text = shop.text(command).await;
        assert!(text.contains("not open yet") && !text.contains("not_open"), "{text}");
    }
}

#[tokio::test]
async fn an_item_is_shown_with_its_rules_and_its_own_orders_the_latest_first() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 0, 0).await;
    shop.put_on_sale("other", 10, 0, 0).await;
    shop.execute("UPDATE items SET counts_orders = true, max_per_buyer = 2, cooldown_ms = 60000, tiers = '{vip}'")
        .await;
    let first = shop.order("ticket", State::Paid).await;
    shop.order("other", State::Reserved).await;
    let last = shop.order("ticket", State::Reserved).await;

    let item = shop.json(&["item", "ticket"]).await;
    let numbers = ["available", "held", "sold", "max_per_buyer", "cooldown_ms"].map(|name| item[name].clone());
    assert_eq!((numbers, &item["tiers"]), ([8, 1, 1, 2, 60_000].map(Value::from), &json!(["vip"])));
    assert_eq!(each(&item["orders"], "id"), [json!(last), json!(first)]);
    let text = words(&shop.text(&["item", "ticket"]).await);
    assert!(text.contains("max_per_buyer 2 cooldown_ms 60000 tiers vip"), "{text}");
    assert!(matches!(shop.run(&["item", "unknown"]).await, Err(Failure::Broken(_))));
}

#[tokio::test]
async fn orders_are_found_by_item_and_state_and_what_was_not_looked_at_is_said() {
    let shop = Shop::open().await;
    shop.put_on_sale("a", 100, 0, 0).await;
    shop.put_on_sale("b", 100, 0, 0).await;
    for _ in 0..5 {
        shop.order("a", State::Reserved).await;
    }
    let paid = shop.order("a", State::Paid).await;
    for _ in 0..5 {
        shop.order("b", State::Reserved).await;
    }
    let found = shop.json(&["orders", "--item", "a", "--state", "paid"]).await;
    assert_eq!(each(&found["orders"], "id"), [json!(paid)]);
    assert!(found["not_looked_at_before"].is_null(), "all were looked at");
    let enough = shop.json(&["orders", "--item", "b", "--limit", "2", "--look-back", "4"]).await;
    assert_eq!(enough["orders"].as_array().unwrap().len(), 2);
    assert!(enough["not_looked_at_before"].is_null(), "as many were found as were wanted");
    let look_back = ["orders", "--item", "a", "--look-back", "4"];
    let short = shop.json(&look_back).await;
    assert_eq!(short["orders"], json!([]));
    assert!(short["not_looked_at_before"].is_string(), "there are older ones");
    for command in [&look_back[..], &["item", "a", "--look-back", "4"]] {
        let text = shop.text(command).await;
        assert!(text.contains("were not looked at; --look-back N goes further back."), "{text}");
    }
    assert!(!shop.text(&["orders"]).await.contains("ooked at"), "all were looked at");
    for (limit, is_full) in [("11", true), ("12", false)] {
        let text = shop.text(&["orders", "--limit", limit]).await;
        assert_eq!(text.contains("These are the first 11; --limit N shows more."), is_full, "{text}");
    }
}

#[tokio::test]
async fn an_orders_whole_history_is_told_in_order() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 0, 0).await;
    let id = shop.order("ticket", State::Paid).await.to_string();
    let order = shop.json(&["order", &id]).await;
    assert_eq!(each(&order["history"], "to_state"), ["reserved", "paying", "paid"]);
    assert_eq!(each(&order["history"], "cause"), ["purchase", "payment_begun", "payment_captured"]);
    assert_eq!((&order["state"], &order["payment"]["charge_id"]), (&json!("paid"), &json!("charge-1")));
    assert_eq!(order["history"][0]["request_id"], order["request_id"]);
    let text = words(&shop.text(&["order", &id]).await);
    assert!(text.contains("charge_id charge-1") && text.contains("payment_captured"), "{text}");
    let unknown = uuid::Uuid::now_v7().to_string();
    assert!(matches!(shop.run(&["order", &unknown]).await, Err(Failure::Broken(_))));
}

#[tokio::test]
async fn what_is_known_of_a_payment_is_told() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 0, 0).await;
    let id = shop.order("ticket", State::Paying).await.to_string();
    shop.execute("UPDATE payments SET said = 'the gateway has not decided: requires_action'").await;
    let payment = shop.json(&["payment", &id]).await;
    assert_eq!((&payment["state"], &payment["is_under_way"]), (&json!("paying"), &json!(true)));
    assert!(payment["next_ask_at"].is_string() && payment["void_at"].is_string(), "{payment}");
    let text = words(&shop.text(&["payment", &id]).await);
    assert!(text.contains("said the gateway has not decided: requires_action"), "{text}");
    let unpaid = shop.order("ticket", State::Reserved).await.to_string();
    assert!(matches!(shop.run(&["payment", &unpaid]).await, Err(Failure::Broken(_))));
}

#[tokio::test]
async fn a_database_without_our_schema_is_refused_and_left_alone() {
    let shop = Shop::without_schema().await;
    for command in ["items", "audit", "orders"] {
        assert!(matches!(shop.run(&[command]).await, Err(Failure::Configuration(_))), "{command}");
    }
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&shop.pool).await.unwrap(), 0);

    for found in [0, SCHEMA_VERSION] {
        assert_eq!(shop.json(&["migrate"]).await, json!({ "version_found": found, "version": SCHEMA_VERSION }));
    }
    shop.execute(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'breaking: later', true, '', 0)",
    )
    .await;
    let Err(Failure::Configuration(error)) = shop.run(&["items"]).await else { panic!("it is of a newer version") };
    assert!(error.to_string().contains("version 9999"), "{error}");
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A field of each object of a list.
fn each(list: &Value, field: &str) -> Vec<Value> {
    list.as_array().unwrap().iter().map(|object| object[field].clone()).collect()
}
