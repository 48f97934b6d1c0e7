//! A buyer is forgotten: what they bought stays, their id does not, and what they asked for is not sold again.

use super::{admin_json, command};
use crate::support::shop::{Reply, Shop};
use serde_json::{Value, json};
use shared::devstack::as_role;
use shared::messages::PAYMENT_QUEUE;

const BUYER: &str = "ann@example.com";
/// Whose id has the other one's in it.
const NEIGHBOUR: &str = "joann@example.com";

async fn buy(shop: &mut Shop, id: &str, buyer: &str, quantity: u32) -> Reply {
    let body = format!(r#"{{"request_id":"{id}","item":"ticket","buyer":"{buyer}","quantity":{quantity}}}"#);
    shop.send("ticket", body.as_bytes(), shop.properties(id)).await;
    shop.reply_to(id).await
}

async fn forget(shop: &Shop, arguments: &[&str]) -> (Option<i32>, Value) {
    let url = as_role(&shop.database_url, "turnstile_migrator");
    admin_json(shop, &[&["forget", BUYER, "--database-url", &url], arguments].concat()).await
}

/// In which tables there is a row that names the buyer, once for each.
async fn named(shop: &Shop) -> Vec<String> {
    let tables =
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1";
    let mut named = Vec::new();
    for table in sqlx::query_scalar::<_, String>(tables).fetch_all(&shop.pool).await.unwrap() {
        let find = format!(
            "SELECT count(*) FROM {table} AS t WHERE strpos(replace(t::text, '{NEIGHBOUR}', ''), '{BUYER}') > 0"
        );
        let rows: i64 = sqlx::query_scalar(&find).fetch_one(&shop.pool).await.unwrap();
        named.extend((0..rows).map(|_| table.clone()));
    }
    named
}

#[tokio::test]
async fn a_forgotten_buyer_stays_nowhere_what_they_bought_does_and_a_repeat_buys_nothing() {
    let mut shop = Shop::open(&[("ticket", 9)]).await;
    let _workers = shop.workers(&["purchase", "payment", "release", "relay"]).await;
    shop.execute("INSERT INTO buyers VALUES ('ann@example.com', 'vip'), ('joann@example.com', 'vip')").await;
    let paid = buy(&mut shop, "r-paid", BUYER, 2).await.order().to_owned();
    assert_eq!(buy(&mut shop, "r-none", BUYER, 1_000).await.code(), "sold_out");
    assert_eq!(buy(&mut shop, "r-joann", NEIGHBOUR, 1).await.code(), "reserved");
    // Both request ids name them.
    let (bought, cancelling) = (format!("{BUYER}:1"), format!("cancel:{BUYER}"));
    let cancelled = buy(&mut shop, &bought, BUYER, 1).await.order().to_owned();
    assert_eq!(shop.cancel(&cancelling, &cancelled).await.code(), "cancelled");
    let before = named(&shop).await;
    assert_eq!(before, ["buyers", "order_history", "orders", "orders", "verdicts", "verdicts"]);

    shop.outbox_is_empty().await;
    let url = as_role(&shop.database_url, "turnstile_migrator");
    let refused = command(&shop, &["forget", BUYER, "--database-url", &url]).await.output().await.unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains(&paid) && !said.contains(&cancelled), "{said}");
    assert_eq!(named(&shop).await, before, "nothing is forgotten by half");

    let pay = format!(r#"{{"request_id":"q-paid","order_id":"{paid}","payment_method":"card-of-ann"}}"#);
    assert_eq!(shop.ask(PAYMENT_QUEUE, "q-paid", &pay).await.code(), "paid");
    shop.outbox_is_empty().await;
    let (stock, code) = (shop.stock("ticket").await, Some(1));
    assert_eq!(
        forget(&shop, &[]).await,
        (code, json!({ "orders": 2, "verdicts": 5, "verdicts_left": 2, "verdicts_unknown": 0 }))
    );
    assert_eq!(named(&shop).await, ["verdicts", "verdicts"], "under request ids that repeats may have");
    for (id, quantity) in [("r-paid", 2), ("r-none", 1_000), (bought.as_str(), 1)] {
        assert_eq!(buy(&mut shop, id, BUYER, quantity).await.code(), "request_id_reused", "{id}");
    }
    assert_eq!(shop.cancel("c-late", &cancelled).await.code(), "already_cancelled");
    let done = json!({ "orders": 0, "verdicts": 2, "verdicts_left": 0, "verdicts_unknown": 0 });
    assert_eq!(forget(&shop, &["--with-request-ids"]).await, (Some(0), done));
    assert_eq!((named(&shop).await, shop.stock("ticket").await), (vec![], stock));
    for (count, left) in [
        (0, "SELECT count(*) FROM payments WHERE payment_method LIKE '%ann%'"),
        (1, "SELECT count(*) FROM orders WHERE state = 'paid' AND quantity = 2 AND request_id = 'r-paid'"),
        (1, "SELECT count(*) FROM buyers"),
    ] {
        assert_eq!(shop.count(left).await, count, "{left}");
    }
    let (code, audit) = admin_json(&shop, &["audit"]).await;
    assert_eq!(code, Some(0), "{audit}");
    assert_eq!(buy(&mut shop, &bought, BUYER, 1).await.code(), "reserved", "as nobody knows it any more");
    assert_eq!(buy(&mut shop, "r-joann", NEIGHBOUR, 1).await.code(), "reserved", "the neighbour's verdict, again");
    assert_eq!(shop.stock("ticket").await, (stock.0 - 1, stock.1 + 1));
}
