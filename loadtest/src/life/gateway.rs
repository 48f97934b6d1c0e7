//! A payment gateway over HTTP, as a shop's provider would be: slow, sometimes rude, and exact about the money.
//!
//! `POST /charges` and `POST /refunds`, each with an `Idempotency-Key`. Knows nothing of the sale. Invariant: what an
//! answer says is in the [`Ledger`] before it is sent, and it is there whether or not the answer arrives.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::life::ledger::{Bill, Decision, Fault, Ledger, Manners};

/// The header that makes a question the same question.
const KEY_HEADER: &str = "idempotency-key";
/// The largest body that is read.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// The most connections at one time; whoever comes on top of that waits.
const CONNECTIONS_MAX: usize = 4_096;

/// How a gateway behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayOptions {
    /// Whom it declines, and what goes wrong.
    pub manners: Manners,
    /// How long it thinks before it answers; it has decided by then.
    pub latency: Duration,
}

/// A gateway that answers until it is dropped.
pub struct Gateway {
    address: SocketAddr,
    desk: Arc<Desk>,
    /// The accepting task, and within it every connection.
    serving: JoinSet<()>,
}

/// What every connection shares.
struct Desk {
    ledger: Mutex<Ledger>,
    options: GatewayOptions,
}

impl Desk {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing that holds the lock leaves the books half written.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gateway {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// The system has none.
    pub async fn open(options: GatewayOptions) -> Result<Self, Failure> {
        let opened = async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            Ok::<_, std::io::Error>((listener.local_addr()?, listener))
        };
        let opened = opened.await.context("open the payment gateway on a loopback port");
        let (address, listener) = opened.map_err(Failure::Broken)?;
        let desk = Arc::new(Desk { ledger: Mutex::default(), options });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&desk)));
        Ok(Self { address, desk, serving })
    }

    /// Where it is, for `--gateway-url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes, and hands over the books. To be called when nobody asks any more.
    pub async fn close(mut self) -> Ledger {
        self.serving.shutdown().await;
        self.desk.ledger().clone()
    }
}

async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, Arc::clone(&desk)))),
                // Out of file descriptors, say: whoever asks will ask again.
                Err(error) => tracing::warn!(%error, "the payment gateway cannot take a connection"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>) {
    // An answer is one small packet, and somebody waits for it.
    drop(stream.set_nodelay(true));
    let service = service_fn(|request| answer(request, &desk));
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the payment gateway ended");
    }
}

/// Ends the connection instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut on purpose")]
struct Cut;

async fn answer(request: Request<Incoming>, desk: &Desk) -> Result<Response<Full<Bytes>>, Cut> {
    let refused = |status, why: &str| Ok(response(status, &json!({ "error": why })));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let key = request.headers().get(KEY_HEADER).and_then(|key| key.to_str().ok()).map(str::to_owned);
    let Some(key) = key.filter(|key| !key.is_empty()) else {
        return refused(StatusCode::BAD_REQUEST, "the header Idempotency-Key is missing");
    };
    let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await else {
        return refused(StatusCode::BAD_REQUEST, "the body is cut short, or too large");
    };
    let answered = match (method, path.as_str()) {
        (Method::POST, "/charges") => match serde_json::from_slice::<Bill>(&body.to_bytes()) {
            Ok(bill) => charge(desk, &key, bill),
            Err(error) => return refused(StatusCode::BAD_REQUEST, &format!("the body is no bill: {error}")),
        },
        (Method::POST, "/refunds") => refund(desk, &key),
        (_, _) => return refused(StatusCode::NOT_FOUND, "there are POST /charges and POST /refunds"),
    };
    tokio::time::sleep(desk.options.latency).await;
    answered.ok_or(Cut)
}

/// `None` where the connection is to end without an answer.
fn charge(desk: &Desk, key: &str, bill: Bill) -> Option<Response<Full<Bytes>>> {
    let mut ledger = desk.ledger();
    let fault = ledger.asked(key, &bill.payment_method, &desk.options.manners);
    if fault == Some(Fault::BeforeWork) {
        return Some(out_of_order());
    }
    let (status, body) = match ledger.charge(key, bill, &desk.options.manners) {
        Decision::Captured(id) => (StatusCode::OK, json!({ "status": "captured", "charge_id": id })),
        Decision::Declined(reason) => (StatusCode::PAYMENT_REQUIRED, json!({ "status": "declined", "reason": reason })),
    };
    spoil(fault, response(status, &body))
}

/// As [`charge`].
fn refund(desk: &Desk, key: &str) -> Option<Response<Full<Bytes>>> {
    let mut ledger = desk.ledger();
    let fault = ledger.asked(key, key, &desk.options.manners);
    if fault == Some(Fault::BeforeWork) {
        return Some(out_of_order());
    }
    let status = if ledger.refund(key) { "refunded" } else { "nothing_to_refund" };
    spoil(fault, response(StatusCode::OK, &json!({ "status": status })))
}

fn spoil(fault: Option<Fault>, answer: Response<Full<Bytes>>) -> Option<Response<Full<Bytes>>> {
    match fault {
        None => Some(answer),
        Some(Fault::BeforeWork | Fault::AfterWork) => Some(out_of_order()),
        Some(Fault::Cut) => None,
    }
}

fn out_of_order() -> Response<Full<Bytes>> {
    response(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "out of order; ask again" }))
}

fn response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::life::plan::Share;

    const KIND: Manners = Manners { decline: Share::NONE, failure: Share::NONE, seed: 1 };

    async fn open(manners: Manners, latency: Duration) -> Gateway {
        Gateway::open(GatewayOptions { manners, latency }).await.unwrap()
    }

    /// What comes back, byte for byte; empty where the connection was cut.
    async fn ask(gateway: &Gateway, path: &str, key: Option<&str>, body: &str) -> String {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
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
        let gateway = open(KIND, Duration::from_millis(5)).await;
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
        let gateway = open(KIND, Duration::ZERO).await;
        assert!(ask(&gateway, "/refunds", Some("o-1"), "").await.contains(r#""status":"nothing_to_refund""#));
        ask(&gateway, "/charges", Some("o-1"), &bill("o-1")).await;
        assert!(ask(&gateway, "/refunds", Some("o-1"), "{}").await.contains(r#""status":"refunded""#));
        assert_eq!(gateway.close().await.kept().count(), 0);
    }

    #[tokio::test]
    async fn who_is_declined_is_told_why() {
        let manners = Manners { decline: "100%".parse().unwrap(), ..KIND };
        let gateway = open(manners, Duration::ZERO).await;
        let answer = ask(&gateway, "/charges", Some("o-1"), &bill("o-1")).await;
        assert!(answer.starts_with("HTTP/1.1 402") && answer.contains(r#""status":"declined""#), "{answer}");
        assert_eq!(gateway.close().await.kept().count(), 0);
    }

    #[tokio::test]
    async fn a_spoilt_answer_is_a_500_or_none_and_the_money_is_taken_once() {
        let manners = Manners { failure: "60%".parse().unwrap(), ..KIND };
        let gateway = open(manners, Duration::ZERO).await;
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
        let gateway = open(KIND, Duration::ZERO).await;
        for (path, key, body, status) in [
            ("/charges", None, bill("o-1"), "400"),
            ("/charges", Some("o-1"), "{}".to_owned(), "400"),
            ("/charges", Some("o-1"), " ".repeat(BODY_BYTES_MAX + 1), "400"),
            ("/elsewhere", Some("o-1"), bill("o-1"), "404"),
        ] {
            let answer = ask(&gateway, path, key, &body).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        }
        let ledger = gateway.close().await;
        assert_eq!((ledger.charges.len(), ledger.asked), (0, 0));
    }
}
