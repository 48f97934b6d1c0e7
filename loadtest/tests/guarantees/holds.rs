//! Units come back: of a hold that ran out, and of a cancelled order, and the next buyer gets them.

use crate::support::shop::{Shop, until};

/// Holds that run out as soon as they are made.
const HOLD_NOTHING: &str = "UPDATE items SET hold_ms = 1";
const HOLD_AN_HOUR: &str = "UPDATE items SET hold_ms = 3600000";

#[tokio::test]
async fn the_unpaid_hold_of_a_sold_out_ticket_runs_out_and_the_next_buyer_gets_the_unit() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _purchase = shop.worker("w", &[]).await;
    shop.execute(HOLD_NOTHING).await;
    assert_eq!(shop.purchase("first").await.code(), "reserved");
    assert_eq!(shop.purchase("second").await.code(), "sold_out");
    shop.execute(HOLD_AN_HOUR).await;

    let _releases = [shop.worker_of("release", "r1", &[]).await, shop.worker_of("release", "r2", &[]).await];
    until("the unit is back", async || shop.stock("ticket").await == (1, 0)).await;
    assert_eq!(shop.purchase("third").await.code(), "reserved");
    assert_eq!(shop.stock("ticket").await, (0, 1));
    assert_eq!(shop.count("SELECT count(*) FROM order_history WHERE to_state = 'expired'").await, 1);
}

#[tokio::test]
async fn the_unit_of_a_cancelled_order_goes_to_the_next_buyer() {
    let mut shop = Shop::open(&[("ticket", 1)]).await;
    let _purchase = shop.worker("w", &[]).await;
    let _releases = [shop.worker_of("release", "r1", &[]).await, shop.worker_of("release", "r2", &[]).await];
    let first = shop.purchase("first").await;
    assert_eq!(shop.purchase("second").await.code(), "sold_out");
    let cancelled = shop.cancel("c-1", first.order()).await;
    assert_eq!(cancelled.code(), "cancelled");
    assert_eq!(shop.purchase("third").await.code(), "reserved");
    assert_eq!(shop.cancel("c-1", first.order()).await.body, cancelled.body, "a repeat, byte for byte");
    assert_eq!(shop.stock("ticket").await, (0, 1), "the unit is the third buyer's");
}
