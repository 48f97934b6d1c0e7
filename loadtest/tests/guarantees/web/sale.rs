//! Sales in which every buyer comes by HTTP, as the load generator plays and audits them.

use super::client::Door;
use crate::support::sale::{assert_fails, at, endpoints, number, result_of};
use crate::support::shop::Shop;
use serde_json::{Value, json};

fn of_doors(sale: &Value) -> Vec<&str> {
    let replied = sale["workers"].as_array().unwrap().iter();
    replied.filter(|door| number(&door["verdicts"]) > 0.0).map(|door| door["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_crowd_by_http_is_told_each_by_the_first_answer() {
    let arguments = "run --over http --doors 2 --buyers 2000 --items 3 --stock 700 --quantity 1-2 --json -";
    let sale = result_of(&endpoints().await, arguments).await;
    assert_eq!((&sale["passed"], &sale["doors"]["failures"]), (&json!(true), &json!({})));
    assert_eq!(of_doors(&sale), ["web-1", "web-2"]);
    let judged = sale["invariants"].as_array().unwrap();
    assert!(judged.iter().any(|one| one["name"] == "no_request_failed" && one["holds"] == true));
}

#[tokio::test]
async fn a_crowd_is_sent_to_a_door_that_is_given() {
    let shop = Shop::open(&[]).await;
    let door = Door::open(&shop, "given", &[]).await;
    let endpoints = at(&shop.amqp_url, &shop.database_url);
    let arguments = format!("run --over http --url http://{} --buyers 300 --stock 50 --json -", door.address);
    let sale = result_of(&endpoints, &arguments).await;
    assert_eq!((&sale["passed"], number(&sale["verdicts"]["reserved"])), (&json!(true), 50.0), "{sale}");
    let metrics = door.get("/metrics").await.body;
    assert!(metrics.contains("turnstile_published_requests_total{function=\"web\"} 300\n"), "{metrics}");
}

#[tokio::test]
async fn doors_that_die_and_come_in_a_sale_cost_nobody_their_verdict() {
    let arguments = "run --over http --doors 2 --buyers 4000 --stock 1500 --rate 1500 --hold 3s --pay-share 50% --cancel-share 10% \
                     --add-door-at 20% --kill-door-at 30% --kill-door-at 50% --add-door-at 60% --kill-door-at 80% --json -";
    for connections in ["", " --connections 100"] {
        let sale = result_of(&endpoints().await, &format!("{arguments}{connections}")).await;
        assert_eq!((&sale["passed"], &sale["lost"]), (&json!(true), &json!(0)), "{connections}");
        let killed = sale["events"].as_array().unwrap().iter().filter(|event| event["event"] == "kill_door");
        let killed: Vec<&str> = killed.map(|event| event["worker"].as_str().unwrap()).collect();
        assert_eq!(killed, ["web-1", "web-2", "web-3"], "{connections}");
        assert!(of_doors(&sale).contains(&"web-4"), "{connections}: {:?}", of_doors(&sale));
        assert!(number(&sale["life"]["paid"]) > 100.0 && number(&sale["life"]["cancelled"]) > 10.0, "{connections}");
    }
}

#[tokio::test]
async fn what_no_door_is_asked_for_is_wrong_usage() {
    let endpoints = endpoints().await;
    for (arguments, reason) in [
        ("run --doors 2", "--over http"),
        ("run --kill-door-at 50%", "--over http"),
        ("run --over http --requests-per-message 10", "doors make the messages"),
        ("run --over http --url http://127.0.0.1:1 --doors 2", "--doors"),
        ("run --over http --url http://127.0.0.1:1 --kill-door-at 5%", "leave --url away"),
        ("run --over http --url https://127.0.0.1:1", "without TLS"),
    ] {
        assert_fails(&endpoints, arguments, 2, reason).await;
    }
}
