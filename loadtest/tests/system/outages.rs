//! The database goes away in mid-sale and comes back: nothing is lost, no message is burnt, the order stays.

use crate::shop::Shop;
use shared::devstack::Servers;

#[tokio::test]
async fn a_database_restart_in_mid_sale_costs_nothing_but_time() {
    let mut servers = Servers::start(&[]).await.unwrap();
    servers.postgres.create_database("sale").await.unwrap();
    let mut shop = Shop::on(&servers.rabbitmq.url("/"), &servers.postgres.url("sale"), &[("ticket", 1_000)]).await;
    let count = 2_000;
    for number in 0..count {
        shop.buy(&format!("r-{number:04}"), "ticket").await;
    }
    let mut worker = shop.worker("w", &[("BATCH_MAX", "20")]).await;
    let mut replies = shop.replies(100).await;
    servers.postgres.restart().await.unwrap();
    replies.extend(shop.replies(200).await);
    servers.postgres.kill_and_restart().await.unwrap();
    while replies.len() < count {
        let reply = shop.reply().await;
        assert!(replies.insert(reply.correlation_id.clone(), reply).is_none(), "nothing was delivered twice");
    }
    for number in 0..count {
        let expected = if number < 1_000 { "reserved" } else { "sold_out" };
        assert_eq!(replies[&format!("r-{number:04}")].code(), expected, "first come, first served: {number}");
    }
    assert_eq!(shop.depth("dead").await, 0);
    assert_eq!(worker.stop().await.unwrap().code(), Some(0));
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_told_to_stop_while_the_database_is_away_stops_and_loses_nothing() {
    let mut servers = Servers::start(&[]).await.unwrap();
    servers.postgres.create_database("sale").await.unwrap();
    let mut shop = Shop::on(&servers.rabbitmq.url("/"), &servers.postgres.url("sale"), &[("ticket", 10)]).await;
    let mut first = shop.worker("first", &[]).await;
    shop.buy("warm-up", "ticket").await;
    shop.reply().await;
    let frozen = servers.postgres.pid();
    signal(frozen, "STOP");
    shop.buy("held", "ticket").await;
    crate::shop::until("the worker has it", async || shop.is_drained().await).await;
    assert_eq!(first.stop().await.unwrap().code(), Some(0), "it does not wait for the database for ever");
    signal(frozen, "CONT");
    servers.postgres.restart().await.unwrap();
    let _second = shop.worker("second", &[]).await;
    let reply = shop.reply().await;
    assert_eq!((reply.correlation_id.as_str(), reply.code().as_str()), ("held", "reserved"));
    servers.stop().await.unwrap();
}

fn signal(pid: u32, signal: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
    assert!(status.success());
}
