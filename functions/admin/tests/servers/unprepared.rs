//! A broker on which no function has ever started.

use admin::{
    failure::Failure,
    options::CommandLine,
    report::{Report, Style},
    run,
};
use clap::Parser;
use serde_json::{Value, json};
use shared::devstack::Fixture;

#[tokio::test]
async fn queues_that_are_not_there_are_told_and_not_made() {
    let url = Fixture::new().await.amqp_url;
    for _ in 0..2 {
        let told: Value = serde_json::from_str(&on(&url, &["queues", "--json"]).await.unwrap().text).unwrap();
        let first = json!({"queue": "purchase.0", "exists": false, "waiting": 0, "consumers": 0, "active": []});
        assert_eq!((&told["queues"][0], &told["workers"]), (&first, &json!([])));
        assert!(told["queues"].as_array().unwrap().iter().all(|queue| queue["exists"] == false), "{told}");
    }
    let text = on(&url, &["queues"]).await.unwrap().text;
    assert!(text.contains("no such queue") && text.contains("No worker"), "{text}");
}

#[tokio::test]
async fn a_wish_that_no_queue_takes_is_not_sent_and_dead_is_not_made() {
    let url = Fixture::new().await.amqp_url;
    let Err(Failure::Unreachable(error)) = on(&url, &["close", "ticket"]).await else { panic!("nobody can answer") };
    assert!(error.to_string().contains("nothing was sent"), "{error}");
    let Err(Failure::Unreachable(error)) = on(&url, &["dead", "list"]).await else { panic!("there is no such queue") };
    assert!(error.to_string().contains("no queue 'dead'"), "{error}");
}

async fn on(amqp_url: &str, arguments: &[&str]) -> Result<Report, Failure> {
    let line = [&["admin"], arguments, &["--amqp-url", amqp_url]].concat();
    run(CommandLine::try_parse_from(line).unwrap(), Style::Plain).await
}
