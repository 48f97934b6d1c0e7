//! The payment function against a real PostgreSQL, and a real HTTP server: who meets whom, and who crashes where, is forced,
//! not waited for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod crashes;
mod http;
mod meeting;
mod paying;
mod pending;
mod plans;

use futures_util::future::{BoxFuture, join_all};
use payment::gateway::{Charge, Gateway, Http, HttpOptions, Outcome, Unknown};
use payment::{Payment, Terms};
use shared::devstack::gateway::{self, Behaviour};
use shared::devstack::seed::{
    self, Due, Fault, all_of, assert_one_verdict_per_id, by, codes, count, database_of_holds as database, execute,
    functions, hold, holds, lock, one_hold, published, sold_to, state, until_decided, until_waiting, verdict,
    violated_by,
};
use shared::handler::{Answer, Handler};
use shared::messages::{Code, End, EndRequest, PaymentMessage, PaymentRequest, Settlement, Status};
use shared::order::State;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The user who may end payments.
const OPERATOR: &str = "operator";

/// A gateway, and who asks it.
#[derive(Clone)]
struct Bank {
    gateway: Arc<gateway::Gateway>,
    client: Arc<Http>,
}

impl Bank {
    /// It captures whatever it is asked for, at once.
    async fn open() -> Self {
        let gateway = gateway::Gateway::open(Behaviour::default()).await.unwrap();
        let client = Http::new(&options(gateway.url(), 60_000)).unwrap();
        Self { gateway: Arc::new(gateway), client: Arc::new(client) }
    }

    /// It keeps its answers about these orders to itself, until they are let out.
    async fn silent_on(orders: &[Uuid]) -> Self {
        Self::open().await.but(|behaviour| behaviour.silent_on = orders.iter().map(Uuid::to_string).collect())
    }

    fn but(self, change: impl FnOnce(&mut Behaviour)) -> Self {
        self.gateway.behave(change);
        self
    }

    fn declines(self, method: &str) -> Self {
        self.but(|behaviour| {
            behaviour.declined.insert(method.to_owned());
        })
    }

    fn let_out(&self, order: Uuid) {
        self.gateway.behave(|behaviour| {
            behaviour.silent_on.remove(&order.to_string());
        });
    }

    fn asked(&self) -> u64 {
        self.gateway.ledger().asked
    }

    /// How many charges are captured and not given back.
    fn charges(&self) -> usize {
        self.gateway.ledger().kept().count()
    }

    async fn until_asked(&self, times: u64) {
        self.gateway.until(|ledger| ledger.asked >= times).await;
    }
}

fn options(url: &str, timeout_ms: u64) -> HttpOptions {
    let (url, token, decline_statuses) = (Some(url.to_owned()), Some("s3cret".to_owned()), "400,404,422".to_owned());
    HttpOptions { url, token, authority: None, timeout_ms, decline_statuses }
}

fn request(id: impl std::fmt::Display, order_id: Uuid, payment_method: &str) -> PaymentRequest {
    PaymentRequest { request_id: format!("p-{id}"), order_id, payment_method: payment_method.to_owned(), sender: None }
}

/// A payment function as it is after its process started: it knows nothing but the database and the bank.
fn process(pool: &PgPool, bank: &Bank) -> Payment {
    Payment::new(functions(pool), bank.client.clone(), terms())
}

fn terms() -> Terms {
    Terms { lost_seconds: 300, seconds_max: 900, settle_users: vec![OPERATOR.to_owned()] }
}

/// What a function answers to payments among all messages.
async fn handled(payment: &Payment, requests: &[PaymentRequest]) -> Vec<Answer> {
    let messages: Vec<_> = requests.iter().cloned().map(PaymentMessage::Pay).collect();
    payment.handle(&messages).await.unwrap()
}

/// What a process of its own answers, once the bank has said it all.
async fn answers(pool: &PgPool, bank: &Bank, requests: &[PaymentRequest]) -> Vec<Answer> {
    process(pool, bank).pay(requests, TIMEOUT).await.unwrap()
}

/// The bank does not say in time, so all of these are put off; the process dies, and then the bank lets them out.
async fn left_unknown(pool: &PgPool, bank: &Bank, requests: &[PaymentRequest]) {
    let found = handled(&process(pool, bank), requests).await;
    assert!(found.iter().all(|answer| *answer == Answer::Requeue), "{found:?}");
    requests.iter().for_each(|request| bank.let_out(request.order_id));
}

/// The same for a lone request, once it is waited for.
fn paying(pool: &PgPool, bank: &Bank, request: PaymentRequest) -> JoinHandle<Vec<Answer>> {
    let (pool, bank) = (pool.clone(), bank.clone());
    tokio::spawn(async move { answers(&pool, &bank, &[request]).await })
}

/// The code that a lone request is answered with.
async fn code(pool: &PgPool, bank: &Bank, request: PaymentRequest) -> &'static str {
    verdict(&answers(pool, bank, &[request]).await[0]).code.as_str()
}

/// (held, sold, version)
async fn item(pool: &PgPool, id: &str) -> (i64, i64, i64) {
    let item = seed::item(pool, id).await;
    (item.held, item.sold, item.version)
}

/// Where the order went, step by step, with the request that caused it.
async fn history(pool: &PgPool, order: Uuid) -> Vec<(String, String)> {
    seed::history(pool, order).await.into_iter().map(|(_, to, _, request)| (to, request.unwrap())).collect()
}

fn steps(steps: &[(&str, &str)]) -> Vec<(String, String)> {
    steps.iter().map(|(to, by)| ((*to).to_owned(), (*by).to_owned())).collect()
}
