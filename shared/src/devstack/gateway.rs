//! A payment gateway over HTTP, as a shop's provider would be: slow, sometimes out of order, and exact about the money.
//!
//! `POST /charges`, `POST /voids` and `POST /refunds`, each with an `Idempotency-Key`. Invariants: one key is charged at most
//! once, however often it is asked for, and never after it was refunded or voided; and what an answer says is in the [`Ledger`] before it is sent,
//! whether or not it arrives.

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

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

/// How the gateway behaves; by default it captures whatever it is asked for, at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Of all payment methods: how many are declined.
    pub decline_percent: u32,
    /// Of all answers: how many are spoilt.
    pub failure_percent: u32,
    /// Chooses both.
    pub seed: u64,
    /// How long it thinks before it answers; it has decided by then.
    pub latency: Duration,
    /// Payment methods that are declined, whatever the seed says.
    pub declined: HashSet<String>,
    /// Payment methods of which it says that it has not decided, as long as they stand here.
    pub pending: HashSet<String>,
    /// Payment methods that it takes for nonsense.
    pub nonsense: HashSet<String>,
    /// Keys about which it says nothing, as long as they stand here.
    pub silent_on: HashSet<String>,
    /// How many of the next answers are lost on their way.
    pub lost_answers: u32,
    /// Does nothing, and says that it is out of order.
    pub is_away: bool,
}

/// Everything that the gateway did.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// By the idempotency key.
    pub charges: HashMap<String, Charge>,
    /// Keys under which nothing is charged any more.
    pub voided: HashSet<String>,
    /// Questions, of any kind and with any outcome.
    pub asked: u64,
    /// Answers that were spoilt on purpose.
    pub spoilt: u64,
    /// How often each key was asked with, by what it was about: the payment method, or the key itself for a refund.
    pub attempts: HashMap<(String, String), u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// What was charged for: the first bill with this key.
    pub bill: Bill,
    /// The gateway's name for it.
    pub id: String,
    /// Whether the money went back.
    pub is_refunded: bool,
    /// Whether the same key came with another bill than the first; that is a fault of whoever asks.
    pub is_reused: bool,
}

/// What somebody asks the gateway to take.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Bill {
    pub order_id: String,
    pub item: String,
    pub quantity: u32,
    pub payment_method: String,
}

/// What goes wrong with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The gateway says 500 before it has done anything.
    BeforeWork,
    /// It has done what was asked, and says 500.
    AfterWork,
    /// It has done what was asked, and the connection ends without an answer.
    Cut,
}

impl Gateway {
    /// Listens on a free loopback port.
    pub async fn open(behaviour: Behaviour) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        // An answer is one small packet, and somebody waits for it.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let books = Books::new((behaviour, Ledger::default()));
        let router = Router::new()
            .route("/charges", post(charge))
            .route("/voids", post(void))
            .route("/refunds", post(refund))
            .fallback(|| async { refused(StatusCode::NOT_FOUND, "there are POST /charges, /voids and /refunds") })
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
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Has it behave otherwise from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        self.books.send_modify(|(behaviour, _)| change(behaviour));
    }

    /// What it has done so far.
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
    let charge = move |ledger: &mut Ledger, behaviour: &Behaviour| match ledger.charge(key, bill, behaviour) {
        Ok(id) => (StatusCode::OK, json!({ "status": "captured", "charge_id": id })),
        Err("pending") => (StatusCode::ACCEPTED, json!({ "status": "pending" })),
        Err(reason @ "no_such_method") => {
            (StatusCode::UNPROCESSABLE_ENTITY, json!({ "status": "declined", "reason": reason }))
        }
        Err(reason) => (StatusCode::PAYMENT_REQUIRED, json!({ "status": "declined", "reason": reason })),
    };
    answer(&books, key, &method, charge).await
}

async fn void(State(books): State<Books>, headers: HeaderMap) -> Response {
    let Some(key) = key(&headers) else { return keyless() };
    let void = |ledger: &mut Ledger, _: &Behaviour| match ledger.charges.get(key).filter(|charge| !charge.is_refunded) {
        Some(charge) => (StatusCode::OK, json!({ "status": "captured", "charge_id": charge.id })),
        None => {
            ledger.voided.insert(key.to_owned());
            (StatusCode::OK, json!({ "status": "voided" }))
        }
    };
    answer(&books, key, key, void).await
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
    let (mut answer, mut latency) = (out_of_order(), Duration::ZERO);
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

impl Ledger {
    /// The charges that were not refunded: whose money the shop has.
    pub fn kept(&self) -> impl Iterator<Item = (&str, &Charge)> {
        self.charges.iter().filter(|(_, charge)| !charge.is_refunded).map(|(key, charge)| (key.as_str(), charge))
    }

    /// How often this key was asked with.
    pub fn asked_about(&self, key: &str) -> u64 {
        self.attempts.iter().filter(|((asked, _), _)| asked == key).map(|(_, attempts)| attempts).sum()
    }

    /// Captures the bill, as a gateway that declines nobody.
    pub fn capture(&mut self, key: &str, bill: Bill) -> &mut Charge {
        let id = format!("charge-{}", self.charges.len() + 1);
        let charge = Charge { bill, id, is_refunded: false, is_reused: false };
        self.charges.entry(key.to_owned()).or_insert(charge)
    }

    /// Gives the money back; `false` where none was taken with this key.
    pub fn refund(&mut self, key: &str) -> bool {
        self.charges.get_mut(key).is_some_and(|charge| {
            charge.is_refunded = true;
            true
        })
    }

    /// Takes the money, unless this key was charged or voided before, or this payment method is no good: the charge's id, or
    /// why not.
    fn charge(&mut self, key: &str, bill: Bill, behaviour: &Behaviour) -> Result<String, &'static str> {
        if let Some(charge) = self.charges.get_mut(key) {
            let about = |bill: &Bill| (bill.order_id.clone(), bill.item.clone(), bill.quantity);
            charge.is_reused |= about(&charge.bill) != about(&bill);
            return if charge.is_refunded { Err("refunded") } else { Ok(charge.id.clone()) };
        }
        if self.voided.contains(key) {
            return Err("voided");
        }
        if behaviour.pending.contains(&bill.payment_method) {
            return Err("pending");
        }
        if behaviour.nonsense.contains(&bill.payment_method) {
            return Err("no_such_method");
        }
        let is_unlucky = draw(behaviour.seed, &bill.payment_method) < behaviour.decline_percent;
        if is_unlucky || behaviour.declined.contains(&bill.payment_method) {
            return Err("insufficient_funds");
        }
        Ok(self.capture(key, bill).id.clone())
    }

    /// Counts a question, and says what is to go wrong with its answer. Drawn by what it is about and how often that was
    /// asked, not by the order in which questions come: so a seed spoils the same answers each time.
    fn asked(&mut self, key: &str, about: &str, behaviour: &mut Behaviour) -> Option<Fault> {
        self.asked += 1;
        let attempts = self.attempts.entry((key.to_owned(), about.to_owned())).or_default();
        *attempts += 1;
        let drawn = |what: &str| draw(behaviour.seed, &format!("{about}\n{attempts}\n{what}"));
        let fault = if behaviour.is_away {
            Some(Fault::BeforeWork)
        } else if behaviour.lost_answers > 0 {
            behaviour.lost_answers -= 1;
            Some(Fault::Cut)
        } else if drawn("spoilt") < behaviour.failure_percent {
            Some([Fault::BeforeWork, Fault::AfterWork, Fault::Cut][drawn("how") as usize % 3])
        } else {
            None
        };
        self.spoilt += u64::from(fault.is_some());
        fault
    }
}

/// 0 to 99, the same for the same seed and text with every version of everything.
fn draw(seed: u64, text: &str) -> u32 {
    // The top bits: those below hold the UUID's version.
    let bits = Uuid::new_v5(&Uuid::from_u128(seed.into()), text.as_bytes()).as_u128() >> 96;
    (bits % 100) as u32
}

#[cfg(test)]
mod tests;
