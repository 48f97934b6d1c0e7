//! What the gateway answers, byte by byte, and what is in its books then.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What comes back; empty where the connection was cut.
async fn ask(gateway: &Gateway, path: &str, key: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(gateway.url().strip_prefix("http://").unwrap()).await.unwrap();
    let key = if key.is_empty() { String::new() } else { format!("Idempotency-Key: {key}\r\n") };
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{key}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn bill(order: &str, card: &str) -> String {
    json!({ "order_id": order, "item": "ticket", "quantity": 1, "payment_method": card }).to_string()
}

#[tokio::test]
async fn each_question_gets_its_answer_and_one_key_is_one_charge_that_is_never_taken_again_once_refunded() {
    let mut behaviour = Behaviour { declined: HashSet::from(["empty".into()]), ..Behaviour::default() };
    behaviour.pending.insert("slow".into());
    behaviour.nonsense.insert("x".into());
    let gateway = Gateway::open(behaviour).await.unwrap();
    let too_long = " ".repeat(BODY_BYTES_MAX + 1);
    for (path, key, body, status, says) in [
        // What cannot be understood is refused, and is no question.
        ("/charges", "", bill("o-1", "a"), 400, "the header Idempotency-Key is missing"),
        ("/charges", "o-1", "{}".to_owned(), 400, "the body is no bill"),
        ("/charges", "o-1", too_long, 413, ""),
        ("/elsewhere", "o-1", bill("o-1", "a"), 404, "there are POST /charges, /voids and /refunds"),
        // These are questions.
        ("/refunds", "o-1", String::new(), 200, r#""status":"nothing_to_refund""#),
        ("/charges", "o-1", bill("o-1", "empty"), 402, r#"{"reason":"insufficient_funds","status":"declined"}"#),
        ("/charges", "o-1", bill("o-1", "a"), 200, r#"{"charge_id":"charge-1","status":"captured"}"#),
        ("/charges", "o-1", bill("o-1", "b"), 200, r#"{"charge_id":"charge-1","status":"captured"}"#),
        ("/charges", "o-2", bill("o-2", "a"), 200, r#"{"charge_id":"charge-2","status":"captured"}"#),
        ("/charges", "o-2", bill("o-9", "a"), 200, r#"{"charge_id":"charge-2","status":"captured"}"#),
        ("/refunds", "o-1", "{}".to_owned(), 200, r#""status":"refunded""#),
        ("/refunds", "o-1", "{}".to_owned(), 200, r#""status":"refunded""#),
        ("/charges", "o-1", bill("o-1", "a"), 402, r#"{"reason":"refunded","status":"declined"}"#),
        ("/charges", "o-3", bill("o-3", "slow"), 202, r#"{"status":"pending"}"#),
        ("/charges", "o-3", bill("o-3", "x"), 422, r#"{"reason":"no_such_method","status":"declined"}"#),
        ("/voids", "o-3", String::new(), 200, r#"{"status":"voided"}"#),
        ("/charges", "o-3", bill("o-3", "a"), 402, r#"{"reason":"voided","status":"declined"}"#),
        ("/voids", "o-2", String::new(), 200, r#"{"charge_id":"charge-2","status":"captured"}"#),
    ] {
        let answer = ask(&gateway, path, key, &body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(says), "{path}: {answer}");
    }
    let ledger = gateway.close().await;
    assert_eq!((ledger.charges.len(), ledger.asked, ledger.asked_about("o-2")), (2, 14, 3));
    assert_eq!(ledger.kept().map(|(key, charge)| (key, charge.is_reused)).collect::<Vec<_>>(), [("o-2", true)]);
    assert!(!ledger.charges["o-1"].is_reused, "whatever the payment method; one key for two orders is a fault");
}

#[tokio::test]
async fn questions_with_one_key_at_the_same_time_are_one_charge() {
    let slow = Behaviour { latency: Duration::from_millis(5), ..Behaviour::default() };
    let (gateway, bill) = (Gateway::open(slow).await.unwrap(), bill("o-1", "a"));
    let asked = (0..20).map(|_| ask(&gateway, "/charges", "o-1", &bill));
    for answer in futures_util::future::join_all(asked).await {
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""charge_id":"charge-1""#), "{answer}");
    }
    let ledger = gateway.close().await;
    assert_eq!((ledger.charges.len(), ledger.asked), (1, 20));
}

#[tokio::test]
async fn a_spoilt_answer_is_a_500_or_none_and_the_money_is_taken_once() {
    let gateway = Gateway::open(Behaviour { failure_percent: 60, seed: 42, ..Behaviour::default() }).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(ask(&gateway, "/charges", "o-1", &bill("o-1", "a")).await);
    }
    let count = |beginning: &str| answers.iter().filter(|answer| answer.starts_with(beginning)).count();
    let cut = answers.iter().filter(|answer| answer.is_empty()).count();
    assert!(cut > 0 && count("HTTP/1.1 500") > 0 && count("HTTP/1.1 200") > 0, "{answers:?}");
    assert_eq!(cut + count("HTTP/1.1 500") + count("HTTP/1.1 200"), 40);
    let ledger = gateway.close().await;
    assert_eq!((ledger.charges.len(), ledger.spoilt), (1, (cut + count("HTTP/1.1 500")) as u64));
}

#[test]
fn a_seed_decides_who_is_declined_and_which_answers_are_spoilt_in_each_of_three_ways() {
    let mut behaviour = Behaviour { decline_percent: 50, failure_percent: 50, seed: 42, ..Behaviour::default() };
    let mut ledger = Ledger::default();
    let mut declined = |card: &str| {
        let bill = serde_json::from_str(&bill(card, card)).unwrap();
        ledger.charge(card, bill, &behaviour).is_err()
    };
    let cards: Vec<String> = (0..1_000).map(|number| format!("card-{number}")).collect();
    let [first, again] = [(); 2].map(|()| cards.iter().map(|card| declined(card)).collect::<Vec<bool>>());
    assert_eq!(first, again);
    let count = first.iter().filter(|declined| **declined).count();
    assert!((430..570).contains(&count), "{count}");
    assert_eq!(ledger.charges.len() + count, 1_000);

    let faults: Vec<Option<Fault>> = (0..100).map(|_| ledger.asked("o-1", "card", &mut behaviour)).collect();
    for fault in [None, Some(Fault::BeforeWork), Some(Fault::AfterWork), Some(Fault::Cut)] {
        assert!(faults.contains(&fault), "{fault:?}");
    }
}
