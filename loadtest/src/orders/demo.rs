//! What happens to two orders, shown after a sale: its winner pays; a unit that is held and not paid for goes to the next
//! buyer. Each step is told by its verdict or its event; at the end the database and the gateway are asked whether it is
//! true.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use shared::devstack::gateway::{Behaviour, Ledger};
use shared::messages::{
    Code, EventKind, Order, PAYMENT_QUEUE, PURCHASE_EXCHANGE, PaymentRequest, PurchaseRequest, Verdict,
};
use shared::order::State;
use uuid::Uuid;

use super::client::Client;
use super::report::DemoStep;
use super::{Functions, open_gateway};
use crate::audit::Invariant;
use crate::audit::database_state::{self, DatabaseState};
use crate::database::{failed as database_failed, open as open_database};
use crate::failure::Failure;
use crate::schedule::{ItemOnSale, Schedule};
use crate::servers::Endpoints;
use crate::stats::round;
use crate::workers::{WorkerSpec, Workers};

/// How long the demo's item is held.
const HOLD: Duration = Duration::from_secs(1);

/// Who got units in a sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Winner {
    pub buyer: String,
    pub order: Order,
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
        let item = ItemOnSale { id: format!("life-{}", Uuid::now_v7().simple()), stock: 1 };
        let database = open_database(&self.endpoints.database_url).await?;
        let on_sale = database_state::put_on_sale(&database, std::slice::from_ref(&item), Some(HOLD)).await;
        on_sale.map_err(database_failed)?;
        let gateway = open_gateway(self.gateway).await?;
        let purchase = WorkerSpec::purchase(self.purchase, 1, None);
        let mut specs = vec![purchase];
        specs.extend(self.functions.workers(&gateway));
        let workers = Workers::start(specs, self.endpoints).await?;
        let mut items = vec![item.id.as_str()];
        items.extend(winner.as_ref().map(|winner| winner.order.item.as_str()));
        let mut script = Script {
            client: Client::connect(&self.endpoints.amqp_url, &items).await?,
            item: item.id.clone(),
            began: Instant::now(),
            steps: Vec::new(),
            wrong: Vec::new(),
            paid: Vec::new(),
        };
        script.play(winner).await?;
        let Script { client, steps, mut wrong, paid, .. } = script;
        client.close().await;
        let unclean = workers.drain().await.into_iter().filter(|ending| !ending.clean);
        wrong.extend(unclean.map(|ending| format!("{} ended with {}", ending.worker_id, ending.how)));
        let ledger = gateway.close().await;
        let schedule = Schedule { items_prefix: item.id.clone(), items: vec![item], requests: Vec::new() };
        let state = database_state::read(&database, &schedule).await.map_err(database_failed)?;
        database.close().await;
        wrong.extend(untrue(&state, &ledger, &paid));
        let holds = wrong.is_empty();
        let detail = if holds { "as shown, on record and at the gateway".to_owned() } else { wrong.join("; ") };
        Ok((steps, Invariant { name: "life_as_shown", holds, detail }))
    }
}

struct Script {
    client: Client,
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
        self.buy("ann", &held, Code::Reserved).await?;
        self.buy("ben", "ben asks for it", Code::SoldOut).await?;
        self.event(EventKind::OrderExpired, "ann does not pay; her hold runs out").await?;
        let bought = self.buy("cleo", "cleo asks for the unit that came back", Code::Reserved).await?;
        match bought.order {
            Some(order) => self.pay("cleo", order.id).await,
            None => Ok(()),
        }
    }

    async fn buy(&mut self, buyer: &str, what: &str, expected: Code) -> Result<Verdict, Failure> {
        let request = PurchaseRequest {
            request_id: Uuid::now_v7().to_string(),
            item: self.item.clone(),
            buyer: buyer.to_owned(),
            quantity: 1,
            deadline: None,
        };
        let body = serde_json::to_vec(&request).expect("a request has only strings and numbers");
        let verdict = self.client.ask((PURCHASE_EXCHANGE, &request.item), &request.request_id, &body).await?;
        self.came(what, &verdict, expected);
        Ok(verdict)
    }

    async fn pay(&mut self, buyer: &str, order_id: Uuid) -> Result<(), Failure> {
        let (request_id, payment_method) = (Uuid::now_v7().to_string(), format!("card-of-{buyer}"));
        let request = PaymentRequest { request_id, order_id, payment_method };
        let body = serde_json::to_vec(&request).expect("a request has only strings");
        let verdict = self.client.ask(("", PAYMENT_QUEUE), &request.request_id, &body).await?;
        self.came(&format!("{buyer} pays"), &verdict, Code::Paid);
        if verdict.code == Code::Paid {
            self.paid.push(order_id);
            self.event(EventKind::OrderPaid, "the world is told").await?;
        }
        Ok(())
    }

    async fn event(&mut self, kind: EventKind, what: &str) -> Result<(), Failure> {
        let event = self.client.event(kind).await?;
        self.step(what, format!("event {}", event.event.as_str()));
        Ok(())
    }

    fn came(&mut self, what: &str, verdict: &Verdict, expected: Code) {
        if verdict.code != expected {
            self.wrong.push(format!("{what}: {} and not {}", verdict.code.as_str(), expected.as_str()));
        }
        self.step(what, verdict.code.as_str().to_owned());
    }

    fn step(&mut self, what: &str, came: String) {
        let seconds = round(self.began.elapsed().as_secs_f64(), 1e3);
        self.steps.push(DemoStep { seconds, what: what.to_owned(), came });
    }
}

/// What the database and the gateway say otherwise.
fn untrue(state: &DatabaseState, ledger: &Ledger, paid: &[Uuid]) -> Vec<String> {
    let mut wrong = Vec::new();
    let stock: Vec<_> = state.items.iter().map(|item| (item.available, item.held, item.sold)).collect();
    if stock != [(0, 0, 1)] {
        wrong.push(format!("the unit is not sold: available, held, sold are {stock:?}"));
    }
    let mut states: Vec<&str> = state.orders.iter().map(|order| order.state.as_str()).collect();
    states.sort_unstable();
    if states != [State::Expired.as_str(), State::Paid.as_str()] {
        wrong.push(format!("the orders of the unit ended as {states:?}"));
    }
    let mut charged: Vec<String> = ledger.kept().map(|(key, _)| key.to_owned()).collect();
    let mut paid: Vec<String> = paid.iter().map(Uuid::to_string).collect();
    charged.sort_unstable();
    paid.sort_unstable();
    if charged != paid {
        wrong.push(format!("paid are {paid:?}, charged are {charged:?}"));
    }
    wrong
}
