//! The HTTP gateway against a server that misbehaves: what is not an outcome is unknown, and is asked again with the same
//! key.

use super::*;
use Act::{Cut, Send};
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CAPTURED: &str = r#"{"status":"captured","charge_id":"ch-1","livemode":false}"#;
const DECLINED: &str = r#"{"status":"declined","reason":"no funds\n"}"#;

#[tokio::test]
async fn what_is_sent_is_the_protocol_and_an_answer_is_an_outcome() {
    for (act, expected) in [
        (Send(answer(200, CAPTURED)), Outcome::Captured { charge_id: "ch-1".to_owned() }),
        (Send(answer(201, CAPTURED)), Outcome::Captured { charge_id: "ch-1".to_owned() }),
        (Send(answer(402, DECLINED)), Outcome::Declined { reason: "no funds".to_owned() }),
        (Send(answer(200, DECLINED)), Outcome::Declined { reason: "no funds".to_owned() }),
        (Send(answer(200, CAPTURED).repeat(2)), Outcome::Captured { charge_id: "ch-1".to_owned() }),
    ] {
        let server = Server::start(vec![act]).await;
        let gateway = gateway(&server, 5_000);
        let charge = charge();
        assert_eq!(gateway.charge(&charge).await, Ok(expected.clone()));
        assert_eq!(gateway.charge(&charge).await, Ok(expected), "also after whatever else was on the connection");
        let requests = server.seen();
        assert_eq!(requests.len(), 2);
        let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /v1/charges http/1.1"), "{head}");
        for header in [
            format!("idempotency-key: {}", charge.order_id),
            "authorization: bearer s3cret".to_owned(),
            "content-type: application/json".to_owned(),
        ] {
            assert!(head.lines().any(|line| line == header), "{header} in {head}");
        }
        let expected =
            format!(r#"{{"order_id":"{}","item":"a","quantity":2,"payment_method":"card"}}"#, charge.order_id);
        assert_eq!(body, expected);
    }
}

#[tokio::test]
async fn whatever_is_not_all_of_an_answer_is_unknown_and_never_declined() {
    let elsewhere = Server::start(vec![Send(answer(200, CAPTURED))]).await;
    let large = format!(r#"{{"status":"captured","charge_id":"{}"}}"#, "x".repeat(20_000));
    let redirect =
        format!("HTTP/1.1 307 Elsewhere\r\nlocation: {}/charges\r\ncontent-length: 0\r\n\r\n", elsewhere.url);
    for (act, expected) in [
        (Send(answer(500, DECLINED)), "away"),
        (Send(answer(503, CAPTURED)), "away"),
        (Send(answer(429, "")), "away"),
        (Send(answer(409, "")), "away"),
        (Cut(incomplete(200, r#"{"status":"captured","#, 20)), "away"),
        (Cut(incomplete(402, r#"{"status":"declined""#, 20)), "away"),
        (Cut(String::new()), "away"),
        (Cut("220 mail.example.org ESMTP\r\n".to_owned()), "away"),
        (Send(String::new()), "away"),
        (Send(answer(401, DECLINED)), "refused"),
        (Send(answer(402, "<html>a proxy's own page</html>")), "refused"),
        (Send(answer(402, CAPTURED)), "refused"),
        (Send(answer(400, CAPTURED)), "refused"),
        (Send(answer(200, r#"{"status":"captured"}"#)), "refused"),
        (Send(answer(200, "{\"status\":\"captured\",\"charge_id\":\"a\\u0000b\"}")), "refused"),
        (Send(answer(200, &large)), "refused"),
        (Send(redirect), "refused"),
        (Send(answer(200, r#"{"status":"pending"}"#)), "pending"),
        (Send(answer(200, r#"{"status":"requires_action"}"#)), "requires_action"),
        (Send(answer(202, "")), "202 Accepted"),
        (Send(answer(202, CAPTURED)), "202 Accepted"),
        (Send(answer(404, "")), "the gateway says 404 Not Found"),
        (Send(answer(400, DECLINED)), "no funds"),
        (Send(answer(422, "<html>")), "the gateway says 422 Unprocessable Entity"),
    ] {
        // Whoever says nothing is waited for; with all others it is not the time that tells.
        let wait_ms = if matches!(&act, Send(text) if text.is_empty()) { 300 } else { 5_000 };
        let server = Server::start(vec![act]).await;
        match gateway(&server, wait_ms).charge(&charge()).await {
            Err(Unknown::Away(reason)) => assert_eq!(expected, "away", "{reason}"),
            Err(Unknown::Refused(reason)) => assert_eq!(expected, "refused", "{reason}"),
            Err(Unknown::Pending(said) | Unknown::Unacceptable(said)) => assert_eq!(said, expected),
            Ok(outcome) => panic!("nobody said that: {outcome:?}"),
        }
        assert_eq!(server.seen().len(), 1, "one call is one attempt");
    }
    assert!(elsewhere.seen().is_empty(), "a redirect is not followed");
    let nobody = Http::new(&options("http://127.0.0.1:1", 1_000)).unwrap();
    assert!(matches!(nobody.charge(&charge()).await, Err(Unknown::Away(_))));
}

#[tokio::test]
async fn an_order_is_paid_through_a_gateway_that_fails_in_every_way_before_it_answers() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let half = Cut(incomplete(200, r#"{"status":"captured","charge_id":"#, 20));
    let whole = Send(answer(200, CAPTURED).repeat(2));
    let script = vec![Send(String::new()), Send(answer(500, "")), half, Cut(String::new()), whole];
    let server = Server::start(script).await;
    let payment = Payment::new(functions(&pool), Arc::new(gateway(&server, 2_000)), terms());
    // As often as its message comes round.
    let answer = loop {
        let mut answers = handled(&payment, &[request(1, order, "card")]).await;
        if answers[0] != Answer::Requeue {
            break answers.remove(0);
        }
    };
    assert_eq!(verdict(&answer).code, Code::Paid);
    assert_eq!((state(&pool, order).await, item(&pool, "a").await), (State::Paid, (0, 1, 0)));
    let key = format!("idempotency-key: {order}");
    let requests = server.seen();
    assert_eq!(requests.len(), 5);
    assert!(requests.iter().all(|request| request.to_ascii_lowercase().contains(&key)), "{requests:?}");
    assert_eq!(count(&pool, "SELECT count(*) FROM payments WHERE charge_id = 'ch-1'").await, 1);
}

#[tokio::test]
async fn which_statuses_are_a_decline_is_the_operators_to_say() {
    let server = Server::start(vec![Send(answer(404, ""))]).await;
    let options = |statuses: &str| HttpOptions { decline_statuses: statuses.to_owned(), ..options(&server.url, 5_000) };
    for statuses in ["", "422"] {
        let found = Http::new(&options(statuses)).unwrap().charge(&charge()).await;
        assert!(matches!(found, Err(Unknown::Refused(_))), "{found:?}");
    }
    assert!(Http::new(&options("400,502")).unwrap_err().to_string().contains("502, which is none of 400 to 499"));
}

#[tokio::test]
async fn a_void_is_voided_or_captured_and_nothing_else() {
    let answers = [(200, r#"{"status":"voided"}"#), (200, CAPTURED), (200, DECLINED), (404, ""), (202, ""), (503, "")];
    let script = answers.map(|(status, body)| Send(answer(status, body))).to_vec();
    let server = Server::start(script).await;
    let (gateway, order) = (gateway(&server, 5_000), Uuid::now_v7());
    assert_eq!(gateway.void(order).await, Ok(Outcome::Voided));
    assert_eq!(gateway.void(order).await, Ok(Outcome::Captured { charge_id: "ch-1".to_owned() }));
    for _ in 0..2 {
        assert!(matches!(gateway.void(order).await, Err(Unknown::Refused(_))));
    }
    assert!(matches!(gateway.void(order).await, Err(Unknown::Pending(_))));
    assert!(matches!(gateway.void(order).await, Err(Unknown::Away(_))));
    let request = server.seen().remove(0);
    assert!(request.starts_with("POST /v1/voids HTTP/1.1"), "{request}");
    assert!(request.to_ascii_lowercase().contains(&format!("idempotency-key: {order}")), "{request}");
}

#[tokio::test]
async fn a_refund_goes_by_the_same_key() {
    let server = Server::start(vec![Send(answer(500, "")), Send(answer(204, ""))]).await;
    let gateway = gateway(&server, 5_000);
    let order = Uuid::now_v7();
    assert!(gateway.refund(order).await.is_err());
    assert_eq!(gateway.refund(order).await, Ok(()));
    let request = server.seen().remove(1);
    assert!(request.starts_with("POST /v1/refunds HTTP/1.1"), "{request}");
    assert!(request.to_ascii_lowercase().contains(&format!("idempotency-key: {order}")), "{request}");
    assert!(request.ends_with(&format!(r#"{{"order_id":"{order}"}}"#)), "{request}");
}

#[test]
fn a_gateway_that_cannot_be_used_is_told_at_the_start() {
    for url in
        ["", "gateway.example.org", "ftp://example.org", "https://user:pw@example.org", "https://example.org/?a=b"]
    {
        let error = Http::new(&options(url, 1_000)).unwrap_err().to_string();
        assert!(error.contains("GATEWAY_URL"), "{error}");
    }
    let none = HttpOptions { url: None, ..options("", 1_000) };
    assert!(Http::new(&none).unwrap_err().to_string().contains("GATEWAY_URL is not set"));
    let token = HttpOptions { token: Some("a\nb".to_owned()), ..options("https://example.org", 1_000) };
    assert!(Http::new(&token).unwrap_err().to_string().contains("GATEWAY_TOKEN"));
    assert!(Http::new(&options("https://example.org/v1/", 1_000)).is_ok());
}

fn gateway(server: &Server, timeout_ms: u64) -> Http {
    Http::new(&options(&server.url, timeout_ms)).unwrap()
}

fn charge() -> Charge {
    Charge { order_id: Uuid::now_v7(), item: "a".to_owned(), quantity: 2, payment_method: "card".to_owned() }
}

/// A server that has another token than we.
pub(super) async fn refusing() -> Server {
    Server::start(vec![Send(answer(401, ""))]).await
}

/// What the server does with a request, once it has read all of it.
#[derive(Clone)]
enum Act {
    /// Sends this, and waits for the next request. Nothing: it stalls.
    Send(String),
    /// Sends this, and cuts the connection.
    Cut(String),
}

fn answer(status: u16, body: &str) -> String {
    incomplete(status, body, 0)
}

/// An answer that says that it has so many bytes more.
fn incomplete(status: u16, body: &str, missing: usize) -> String {
    format!("HTTP/1.1 {status} As-The-Test-Wants\r\ncontent-length: {}\r\n\r\n{body}", body.len() + missing)
}

/// A TCP server that answers as a script says, byte by byte: what no HTTP library would send. The last act is repeated.
pub(super) struct Server {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let server = Self { url, seen: seen.clone() };
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, script.clone(), seen.clone()));
            }
        });
        server
    }

    /// Every request as it came, head and body.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(mut socket: TcpStream, script: Vec<Act>, seen: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = read(&mut socket).await {
        let before = {
            let mut seen = seen.lock().unwrap();
            seen.push(request);
            seen.len() - 1
        };
        let (text, goes_on) = match &script[before.min(script.len() - 1)] {
            Send(text) => (text, true),
            Cut(text) => (text, false),
        };
        if socket.write_all(text.as_bytes()).await.is_err() || !goes_on {
            return;
        }
    }
}

/// The next request; `None`: the client is gone.
async fn read(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).map_or("0", |rest| rest.lines().next().unwrap());
            if body.len() >= length.parse().unwrap() {
                return Some(String::from_utf8(bytes).unwrap());
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
