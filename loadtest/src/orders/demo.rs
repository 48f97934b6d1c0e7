//! What happens to two orders, shown after a sale: its winner pays; a unit that is held and not paid for goes to the next
//! buyer. Each step is told by its verdict or its event; at the end the database and the gateway are asked whether it is
//! true.

use super::Functions;
use super::listener::{Listener, Storage};
use crate::audit::database_state::{self, DatabaseState};
use crate::audit::{Invariant, invariant};
use crate::database;
use crate::failure::Failure;
use crate::schedule::{ItemOnSale, Schedule};
use crate::servers::Endpoints;
use crate::stats::round;
use crate::workers::{WorkerSpec, Workers};
use anyhow::{Context, anyhow};
use serde::Serialize;
use shared::amqp::{self, Nodes, OutgoingRequest, RequestOutcome};
use shared::devstack::gateway::{Behaviour, Ledger};
use shared::messages::{
    Code, Event, EventKind, Order, PAYMENT_QUEUE, PURCHASE_EXCHANGE, PaymentRequest, PurchaseRequest, Verdict,
};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long the demo's item is held.
const HOLD: Duration = Duration::from_secs(1);
/// How long a verdict or an event may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Who got units in a sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Winner {
    pub buyer: String,
    pub order: Order,
}

/// A step of the demo, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemoStep {
    /// From the first step on.
    pub seconds: f64,
    /// What was done.
    pub what: String,
    /// A verdict's code, or an event.
    pub came: String,
}

pub struct Demo<'a> {
    pub endpoints: &'a Endpoints,
    /// The purchase function's program.
    pub purchase: PathBuf,
    pub functions: Functions,
    pub gateway: Behaviour,
}

impl Demo<'_> {
    /// Shows it, on an item of its own; says whether it was as it should be, and as it was told.
    pub async fn run(self, winner: Option<Winner>) -> Result<(Vec<DemoStep>, Invariant), Failure> {
        let Endpoints { amqp_url, database_url, .. } = self.endpoints;
        let items = vec![ItemOnSale { id: format!("life-{}", Uuid::now_v7().simple()), stock: 1 }];
        let database = database::open(database_url).await?;
        database_state::put_on_sale(&database, &items, Some(HOLD)).await?;
        let (gateway, others) = self.functions.start(self.gateway).await?;
        let purchase = WorkerSpec::purchase(self.purchase, 1, None);
        let workers = Workers::start([vec![purchase], others].concat(), self.endpoints).await?;
        let mut script = Script {
            nodes: Nodes::read(amqp_url)?,
            events: Listener::open(amqp_url, "", Storage::Memory).await?,
            item: items[0].id.clone(),
            began: Instant::now(),
            steps: Vec::new(),
            wrong: Vec::new(),
            paid: Vec::new(),
        };
        script.play(winner).await?;
        let Script { events, steps, mut wrong, paid, .. } = script;
        events.close().await?;
        let unclean = workers.drain().await.into_iter().filter(|ending| !ending.clean);
        wrong.extend(unclean.map(|ending| format!("{} ended with {}", ending.worker_id, ending.how)));
        let ledger = gateway.close().await;
        let schedule = Schedule { items, ..Schedule::default() };
        let state = database_state::read(&database, &schedule, false).await?;
        database.close().await;
        wrong.extend(untrue(&state, &ledger, &paid));
        Ok((steps, invariant("life_as_shown", "as shown, on record and at the gateway", wrong)))
    }
}

struct Script {
    nodes: Nodes,
    events: Listener,
    item: String,
    began: Instant,
    steps: Vec<DemoStep>,
    /// What should have come and did not, for people.
    wrong: Vec<String>,
    /// The orders that should be paid for, and charged.
    paid: Vec<Uuid>,
}

impl Script {
    async fn play(&mut self, winner: Option<Winner>) -> Result<(), Failure> {
        if let Some(winner) = winner {
            self.pay(&winner.buyer, winner.order.id).await?;
        }
        let held = format!("ann buys the only unit of another item, held for {} s", HOLD.as_secs());
        let held = self.buy("ann", &held, Code::Reserved).await?;
        self.buy("ben", "ben asks for it", Code::SoldOut).await?;
        if let Some(order) = held {
            self.event(EventKind::OrderExpired, order.id, "ann does not pay; the hold runs out").await?;
        }
        match self.buy("cleo", "cleo asks for the unit that came back", Code::Reserved).await? {
            Some(order) => self.pay("cleo", order.id).await,
            None => Ok(()),
        }
    }

    async fn buy(&mut self, buyer: &str, what: &str, expected: Code) -> Result<Option<Order>, Failure> {
        let request = PurchaseRequest {
            request_id: Uuid::now_v7().to_string(),
            item: self.item.clone(),
            buyer: buyer.to_owned(),
            quantity: 1,
            deadline: None,
            sender: None,
        };
        let to = (PURCHASE_EXCHANGE, request.item.as_str());
        Ok(self.ask(to, &request.request_id, &request, what, expected).await?.order)
    }

    async fn pay(&mut self, buyer: &str, order_id: Uuid) -> Result<(), Failure> {
        let (request_id, payment_method) = (Uuid::now_v7().to_string(), format!("card-of-{buyer}"));
        let request = PaymentRequest { request_id, order_id, payment_method, sender: None };
        let what = format!("{buyer} pays");
        let verdict = self.ask((PAYMENT_QUEUE, ""), &request.request_id, &request, &what, Code::Paid).await?;
        if verdict.code == Code::Paid {
            self.paid.push(order_id);
            self.event(EventKind::OrderPaid, order_id, "the event is published").await?;
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        (exchange, routing_key): (&str, &str),
        request_id: &str,
        request: &impl Serialize,
        what: &str,
        expected: Code,
    ) -> Result<Verdict, Failure> {
        let body = serde_json::to_string(request).expect("a request has only strings and numbers");
        let request = OutgoingRequest { exchange, routing_key, correlation_id: request_id, body: &body };
        let verdict: Verdict =
            match amqp::request_reply(&self.nodes, "turnstile-loadtest client", request, TIMEOUT).await? {
                RequestOutcome::Verdict(reply) => serde_json::from_slice(&reply).context("a reply is no verdict"),
                RequestOutcome::NotYet | RequestOutcome::NoQueue => Err(anyhow!("no verdict came: {what}")),
            }?;
        if verdict.code != expected {
            self.wrong.push(format!("{what}: {} and not {}", verdict.code.as_str(), expected.as_str()));
        }
        self.step(what, verdict.code.as_str().to_owned());
        Ok(verdict)
    }

    /// Waits for this event; others are passed over.
    async fn event(&mut self, kind: EventKind, order_id: Uuid, what: &str) -> Result<(), Failure> {
        let is_it =
            |event: &Event| event.event == kind && event.order.as_ref().is_some_and(|order| order.id == order_id);
        let coming = async {
            while !serde_json::from_slice(&self.events.next().await?.body).is_ok_and(|event| is_it(&event)) {}
            Ok(())
        };
        let in_vain = || Failure::Broken(anyhow!("no event {} came: {what}", kind.as_str()));
        tokio::time::timeout(TIMEOUT, coming).await.unwrap_or_else(|_| Err(in_vain()))?;
        self.step(what, format!("event {}", kind.as_str()));
        Ok(())
    }

    fn step(&mut self, what: &str, came: String) {
        let seconds = round(self.began.elapsed().as_secs_f64(), 1e3);
        self.steps.push(DemoStep { seconds, what: what.to_owned(), came });
    }
}

/// What the database and the gateway say otherwise: of the one unit, of its two orders, and of all that was paid.
fn untrue(state: &DatabaseState, ledger: &Ledger, paid: &[Uuid]) -> Option<String> {
    let sorted = |mut words: Vec<String>| {
        words.sort_unstable();
        words
    };
    let stock: Vec<_> = state.items.iter().map(|item| (item.available, item.held, item.sold)).collect();
    let orders = sorted(state.orders.iter().map(|order| order.state.clone()).collect());
    let charged = sorted(ledger.kept().map(|(key, _)| key.to_owned()).collect());
    let is = format!("available, held, sold {stock:?}, orders {orders:?}, charged {charged:?}");
    let paid = sorted(paid.iter().map(Uuid::to_string).collect());
    let should = format!("available, held, sold [(0, 0, 1)], orders [\"expired\", \"paid\"], charged {paid:?}");
    (is != should).then(|| format!("{is} and not {should}"))
}
