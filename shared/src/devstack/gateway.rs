//! A payment gateway over HTTP, as a shop's provider would be: slow, sometimes out of order, and exact about the money.
//!
//! `POST /charges` and `POST /refunds`, each with an `Idempotency-Key`. Invariant: what an answer says is in the [`Ledger`]
//! before it is sent, and it is there whether or not the answer arrives.

mod ledger;

pub use ledger::{Behaviour, Bill, Charge, Ledger};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
    serve::ListenerExt,
};
use ledger::{Decision, Fault};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};

/// The header that makes a question the same question.
const KEY_HEADER: &str = "idempotency-key";
/// The largest body that is read.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// A gateway that answers until it is dropped.
#[derive(Debug)]
pub struct Gateway {
    url: String,
    books: Books,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

/// What every request shares. Whoever waits for a change of it is woken by each.
type Books = watch::Sender<(Behaviour, Ledger)>;

impl Gateway {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// The system has none.
    pub async fn open(behaviour: Behaviour) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        // An answer is one small packet, and somebody waits for it.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let books = Books::new((behaviour, Ledger::default()));
        let router = Router::new()
            .route("/charges", post(charge))
            .route("/refunds", post(refund))
            .fallback(|| async { refused(StatusCode::NOT_FOUND, "there are POST /charges and POST /refunds") })
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(books.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            // Also when the gateway is dropped, and the sender with it.
            let stopped = async { drop(stopped.await) };
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::warn!(%error, "the payment gateway ended");
            }
        });
        Ok(Self { url, books, stop, serving })
    }

    /// Where it is, for `--gateway-url`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Has it behave otherwise from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        self.books.send_modify(|(behaviour, _)| change(behaviour));
    }

    /// What it has done so far.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.books.borrow().1.clone()
    }

    /// Returns when the ledger is as wanted.
    pub async fn until(&self, mut is_so: impl FnMut(&Ledger) -> bool) {
        // It cannot be closed: a sender of it is here.
        drop(self.books.subscribe().wait_for(|(_, ledger)| is_so(ledger)).await);
    }

    /// Answers what it was asked, closes, and hands over the ledger.
    pub async fn close(self) -> Ledger {
        drop(self.stop);
        drop(self.serving.await);
        self.books.borrow().1.clone()
    }
}

async fn charge(State(books): State<Books>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(key) = key(&headers) else { return keyless() };
    let bill: Bill = match serde_json::from_slice(&body) {
        Ok(bill) => bill,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &format!("the body is no bill: {error}")),
    };
    let method = bill.payment_method.clone();
    let capture = move |ledger: &mut Ledger, behaviour: &Behaviour| match ledger.charge(key, bill, behaviour) {
        Decision::Captured(id) => (StatusCode::OK, json!({ "status": "captured", "charge_id": id })),
        Decision::Declined(reason) => (StatusCode::PAYMENT_REQUIRED, json!({ "status": "declined", "reason": reason })),
    };
    answer(&books, key, &method, capture).await
}

async fn refund(State(books): State<Books>, headers: HeaderMap) -> Response {
    let Some(key) = key(&headers) else { return keyless() };
    let give_back = |ledger: &mut Ledger, _: &Behaviour| {
        let status = if ledger.refund(key) { "refunded" } else { "nothing_to_refund" };
        (StatusCode::OK, json!({ "status": status }))
    };
    answer(&books, key, key, give_back).await
}

/// Does what is asked at once, unless it is out of order, and answers when it may.
async fn answer(
    books: &Books,
    key: &str,
    about: &str,
    work: impl FnOnce(&mut Ledger, &Behaviour) -> (StatusCode, Value),
) -> Response {
    let out_of_order = || refused(StatusCode::INTERNAL_SERVER_ERROR, "out of order; ask again");
    let (mut answer, mut latency) = (out_of_order(), std::time::Duration::ZERO);
    books.send_modify(|(behaviour, ledger)| {
        latency = behaviour.latency;
        let fault = ledger.asked(key, about, behaviour);
        if fault == Some(Fault::BeforeWork) {
            return;
        }
        let (status, body) = work(ledger, behaviour);
        answer = match fault {
            None => (status, Json(body)).into_response(),
            Some(Fault::BeforeWork | Fault::AfterWork) => out_of_order(),
            Some(Fault::Cut) => cut(),
        };
    });
    tokio::time::sleep(latency).await;
    drop(books.subscribe().wait_for(|(behaviour, _)| !behaviour.silent_on.contains(key)).await);
    answer
}

fn key(headers: &HeaderMap) -> Option<&str> {
    headers.get(KEY_HEADER).and_then(|key| key.to_str().ok()).filter(|key| !key.is_empty())
}

fn keyless() -> Response {
    refused(StatusCode::BAD_REQUEST, "the header Idempotency-Key is missing")
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

/// Ends the connection instead of an answer: the body fails before anything is sent.
fn cut() -> Response {
    let nothing = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("cut on purpose"))]);
    Body::from_stream(nothing).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::SocketAddr, time::Duration};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    async fn open(behaviour: Behaviour) -> Gateway {
        Gateway::open(behaviour).await.unwrap()
    }

    /// What comes back, byte for byte; empty where the connection was cut.
    async fn ask(gateway: &Gateway, path: &str, key: Option<&str>, body: &str) -> String {
        let address: SocketAddr = gateway.url().strip_prefix("http://").unwrap().parse().unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{key}Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn bill(order: &str) -> String {
        json!({ "order_id": order, "item": "ticket", "quantity": 1, "payment_method": "card" }).to_string()
    }

    #[tokio::test]
    async fn questions_with_one_key_at_the_same_time_are_one_charge() {
        let gateway = open(Behaviour { latency: Duration::from_millis(5), ..Behaviour::default() }).await;
        let bill = bill("o-1");
        let asked = (0..20).map(|_| ask(&gateway, "/charges", Some("o-1"), &bill));
        for answer in futures_util::future::join_all(asked).await {
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""charge_id":"charge-1""#), "{answer}");
        }
        let ledger = gateway.close().await;
        assert_eq!((ledger.charges.len(), ledger.asked), (1, 20));
    }

    #[tokio::test]
    async fn a_refund_gives_back_what_was_taken_and_says_so_where_nothing_was() {
        let gateway = open(Behaviour::default()).await;
        assert!(ask(&gateway, "/refunds", Some("o-1"), "").await.contains(r#""status":"nothing_to_refund""#));
        ask(&gateway, "/charges", Some("o-1"), &bill("o-1")).await;
        assert!(ask(&gateway, "/refunds", Some("o-1"), "{}").await.contains(r#""status":"refunded""#));
        assert_eq!(gateway.close().await.kept().count(), 0);
    }

    #[tokio::test]
    async fn who_is_declined_is_told_why() {
        let gateway = open(Behaviour { decline_percent: 100, ..Behaviour::default() }).await;
        let answer = ask(&gateway, "/charges", Some("o-1"), &bill("o-1")).await;
        assert!(answer.starts_with("HTTP/1.1 402") && answer.contains(r#""status":"declined""#), "{answer}");
        assert_eq!(gateway.close().await.kept().count(), 0);
    }

    #[tokio::test]
    async fn a_spoilt_answer_is_a_500_or_none_and_the_money_is_taken_once() {
        let gateway = open(Behaviour { failure_percent: 60, ..Behaviour::default() }).await;
        let mut answers = Vec::new();
        for _ in 0..40 {
            answers.push(ask(&gateway, "/charges", Some("o-1"), &bill("o-1")).await);
        }
        let count = |beginning: &str| answers.iter().filter(|answer| answer.starts_with(beginning)).count();
        let cut = answers.iter().filter(|answer| answer.is_empty()).count();
        assert!(cut > 0 && count("HTTP/1.1 500") > 0 && count("HTTP/1.1 200") > 0, "{answers:?}");
        assert_eq!(cut + count("HTTP/1.1 500") + count("HTTP/1.1 200"), 40);
        assert_eq!(gateway.close().await.charges.len(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_understood_is_refused_and_changes_nothing() {
        let gateway = open(Behaviour::default()).await;
        for (path, key, body, status) in [
            ("/charges", None, bill("o-1"), "400"),
            ("/charges", Some("o-1"), "{}".to_owned(), "400"),
            ("/charges", Some("o-1"), " ".repeat(BODY_BYTES_MAX + 1), "413"),
            ("/elsewhere", Some("o-1"), bill("o-1"), "404"),
        ] {
            let answer = ask(&gateway, path, key, &body).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        }
        let ledger = gateway.close().await;
        assert_eq!((ledger.charges.len(), ledger.asked), (0, 0));
    }
}
