//! What is there is shown, for people and for programs.

use crate::Shop;
use admin::failure::Failure;
use serde_json::json;
use shared::{db, devstack::Fixture, order::State};
use sqlx::Row;

#[tokio::test]
async fn hot_items_come_first_and_contended_ones_too() {
    let shop = Shop::open().await;
    for (item, version, conflicts) in [("cold", 1, 0), ("hot", 900, 9), ("warm", 50, 25)] {
        shop.put_on_sale(item, 100, version, conflicts).await;
    }
    let items = shop.json(&["items", "--limit", "2"]).await;
    let names: Vec<&str> =
        items["items"].as_array().unwrap().iter().map(|item| item["item"].as_str().unwrap()).collect();
    assert_eq!(names, ["hot", "warm"]);
    let first = &items["items"][0];
    assert_eq!((&first["stock"], &first["version"], &first["conflicts"]), (&json!(100), &json!(900), &json!(9)));
    assert_eq!((&first["available"], &first["held"], &first["sold"]), (&json!(100), &json!(0), &json!(0)));
    assert_eq!(first["sale"], "open");

    let conflicts = shop.json(&["conflicts"]).await;
    assert_eq!(
        conflicts["items"],
        json!([
            {"item": "warm", "conflicts": 25, "decisions": 50, "conflicts_per_decision": 0.5},
            {"item": "hot", "conflicts": 9, "decisions": 900, "conflicts_per_decision": 0.01},
        ])
    );
    let text = shop.run(&["items"]).await.unwrap().text;
    let first: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(first, ["hot", "100", "100", "0", "0", "900", "9", "open"]);
}

#[tokio::test]
async fn the_sale_window_is_told_by_the_databases_clock() {
    let shop = Shop::open().await;
    for (item, window) in [
        ("early", "opens_at = now() + interval '1 h'"),
        ("late", "closes_at = now()"),
        ("running", "opens_at = now() - interval '1 h', closes_at = now() + interval '1 h'"),
    ] {
        shop.put_on_sale(item, 1, 0, 0).await;
        let update = sqlx::AssertSqlSafe(format!("UPDATE items SET {window} WHERE id = '{item}'"));
        sqlx::query(update).execute(&shop.pool).await.unwrap();
    }
    for (item, sale) in [("early", "not_open"), ("late", "closed"), ("running", "open")] {
        assert_eq!(shop.json(&["item", item]).await["sale"], sale, "{item}");
    }
}

#[tokio::test]
async fn an_item_is_shown_with_its_rules_and_its_own_orders_the_latest_first() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 0, 0).await;
    shop.put_on_sale("other", 10, 0, 0).await;
    let rules = "UPDATE items SET counts_orders = true, max_per_buyer = 2, cooldown_ms = 60000, tiers = '{vip}'";
    sqlx::query(rules).execute(&shop.pool).await.unwrap();
    let first = shop.order("ticket", State::Paid).await;
    shop.order("other", State::Reserved).await;
    let last = shop.order("ticket", State::Reserved).await;

    let item = shop.json(&["item", "ticket"]).await;
    assert_eq!((&item["available"], &item["held"], &item["sold"]), (&json!(8), &json!(1), &json!(1)));
    assert_eq!(
        (&item["max_per_buyer"], &item["cooldown_ms"], &item["tiers"]),
        (&json!(2), &json!(60_000), &json!(["vip"]))
    );
    let orders: Vec<_> = item["orders"].as_array().unwrap().iter().map(|order| order["id"].clone()).collect();
    assert_eq!(orders, [json!(last), json!(first)]);
    let text = shop.run(&["item", "ticket"]).await.unwrap().text;
    assert!(text.contains("at most 2 for each buyer; no second purchase within 60 s; only for vip"), "{text}");
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
    assert_eq!((&found["orders"][0]["id"], found["orders"].as_array().unwrap().len()), (&json!(paid), 1));
    assert!(found["not_looked_at_before"].is_null(), "all were looked at");
    let enough = shop.json(&["orders", "--item", "b", "--limit", "2", "--look-back", "4"]).await;
    assert_eq!(enough["orders"].as_array().unwrap().len(), 2);
    assert!(enough["not_looked_at_before"].is_null(), "as many were found as were wanted");
    let short = shop.json(&["orders", "--item", "a", "--look-back", "4"]).await;
    assert_eq!(short["orders"], json!([]));
    assert!(short["not_looked_at_before"].is_string(), "there are older ones");
    assert!(
        shop.run(&["orders", "--item", "a", "--look-back", "4"]).await.unwrap().text.contains("were not looked at")
    );
}

#[tokio::test]
async fn an_orders_whole_history_is_told_in_order() {
    let shop = Shop::open().await;
    shop.put_on_sale("ticket", 10, 0, 0).await;
    let order = shop.order("ticket", State::Paid).await;
    let told = shop.json(&["order", &order.to_string()]).await;
    let steps: Vec<_> =
        told["history"].as_array().unwrap().iter().map(|step| (&step["to_state"], &step["cause"])).collect();
    let expected = [("reserved", "purchase"), ("paying", "payment_begun"), ("paid", "payment_captured")];
    assert_eq!(
        steps,
        expected.map(|(to, cause)| (json!(to), json!(cause))).iter().map(|(to, cause)| (to, cause)).collect::<Vec<_>>()
    );
    assert_eq!((&told["state"], &told["payment"]["charge_id"]), (&json!("paid"), &json!("charge-1")));
    assert_eq!(told["history"][0]["request_id"], told["request_id"]);
    let text = shop.run(&["order", &order.to_string()]).await.unwrap().text;
    assert!(text.contains("charge charge-1") && text.contains("payment_captured"), "{text}");
    let unknown = uuid::Uuid::now_v7().to_string();
    assert!(matches!(shop.run(&["order", &unknown]).await, Err(Failure::Broken(_))));
}

#[tokio::test]
async fn a_database_without_our_schema_is_refused_and_left_alone() {
    let url = Fixture::new().await.database_url;
    let pool = db::pool(&url, "test", 1).unwrap();
    let shop = Shop { url, pool };
    for command in [&["items"][..], &["audit"], &["orders"]] {
        assert!(matches!(shop.run(command).await, Err(Failure::Configuration(_))), "{command:?}");
    }
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(sqlx::query(tables).fetch_one(&shop.pool).await.unwrap().get::<i64, _>(0), 0);

    db::migrate(&shop.pool).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'later', true, '', 0)";
    sqlx::query(newer).execute(&shop.pool).await.unwrap();
    let Err(Failure::Configuration(error)) = shop.run(&["items"]).await else { panic!("it is of a newer version") };
    assert!(error.to_string().contains("version 9999"), "{error}");
}
