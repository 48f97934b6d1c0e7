//! A broker on which no function has ever started.

use crate::run_with;
use admin::failure::Failure;
use serde_json::{Value, json};
use shared::devstack::Fixture;

#[tokio::test]
async fn queues_that_are_not_there_are_told_and_not_made() {
    let url = Fixture::new().await.amqp_url;
    for _ in 0..2 {
        let document = run_with(&["queues", "--json", "--amqp-url", &url]).await.unwrap().text;
        let document: Value = serde_json::from_str(&document).unwrap();
        let first = json!({"queue": "purchase.0", "exists": false, "waiting": 0, "consumers": 0, "active": []});
        assert_eq!((&document["queues"][0], &document["workers"]), (&first, &json!([])));
        assert!(document["queues"].as_array().unwrap().iter().all(|queue| queue["exists"] == false), "{document}");
    }
    let text = run_with(&["queues", "--amqp-url", &url]).await.unwrap().text;
    assert!(text.contains("no such queue") && text.contains("No worker"), "{text}");
}

#[tokio::test]
async fn a_request_that_no_queue_takes_is_not_sent_and_dead_is_not_made() {
    let url = Fixture::new().await.amqp_url;
    let order = "019ac4b6-2d80-7c61-9f0e-2b6a1c8d4e5f";
    for (command, words) in [
        (&["close", "ticket"][..], "no queue restock, so nothing was sent"),
        (&["buy", "ticket", "ann"], "no queue purchase, so nothing was sent"),
        (&["pay", order], "no queue payment, so nothing was sent"),
        (&["cancel", order], "no queue release, so nothing was sent"),
        (&["dead", "list"], "no queue 'dead'"),
    ] {
        let ended = run_with(&[command, &["--amqp-url", &url]].concat()).await;
        let Err(Failure::Unreachable(error)) = ended else { panic!("nobody can answer {command:?}") };
        assert!(error.to_string().contains(words), "{error}");
    }
}
