//! The HTTP gateway against a server that misbehaves: what is not an outcome is unknown, and is asked again with the same
//! key.

use super::*;
use Act::{Cut, Send};
use std::sync::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

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
    for (act, is_away) in [
        (Send(answer(500, DECLINED)), true),
        (Send(answer(503, CAPTURED)), true),
        (Send(answer(429, "")), true),
        (Send(answer(409, "")), true),
        (Cut(incomplete(200, r#"{"status":"captured","#, 20)), true),
        (Cut(incomplete(402, r#"{"status":"declined""#, 20)), true),
        (Cut(String::new()), true),
        (Cut("220 mail.example.org ESMTP\r\n".to_owned()), true),
        (Send(String::new()), true),
        (Send(answer(401, DECLINED)), false),
        (Send(answer(404, "")), false),
        (Send(answer(400, DECLINED)), false),
        (Send(answer(402, "<html>a proxy's own page</html>")), false),
        (Send(answer(402, CAPTURED)), false),
        (Send(answer(200, r#"{"status":"pending"}"#)), false),
        (Send(answer(200, r#"{"status":"captured"}"#)), false),
        (Send(answer(200, "{\"status\":\"captured\",\"charge_id\":\"a\\u0000b\"}")), false),
        (Send(answer(200, &large)), false),
        (Send(redirect), false),
    ] {
        let server = Server::start(vec![act]).await;
        let found = gateway(&server, 300).charge(&charge()).await;
        match found {
            Err(Unknown::Away(reason)) => assert!(is_away, "{reason}"),
            Err(Unknown::Refused(reason)) => assert!(!is_away, "{reason}"),
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
    let payment = Payment::new(pool.clone(), Arc::new(gateway(&server, 200)), 300);
    // As often as its message comes round.
    let answer = loop {
        let mut answers = payment.handle(&[request(1, order, "card")]).await.unwrap();
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
struct Server {
    url: String,
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
    fn seen(&self) -> Vec<String> {
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
