//! Pays for held orders through a payment gateway: at most one charge for each order, and each charge a paid order.
//!
//! The [`processor`] marks an order as being paid for, which keeps its units; asks the [`gateway`] under a key that is the
//! order's id for ever, for as long as it takes (`pending.rs`); and commits what it says ([`decide`], [`store`]).
//! Of a payment that the gateway has not decided, or whose message is gone, [`recovery`] asks it again, more and more slowly,
//! and has it voided in the end.

pub mod decide;
pub mod gateway;
mod pending;
pub mod processor;
pub mod recovery;
pub mod store;

use clap::{Args, ValueEnum};
use futures_util::future::BoxFuture;
use gateway::{Gateway, Http, HttpOptions, Simulated, SimulatedOptions};
use pending::Pending;
use shared::config::{StoreOptions, Unusable, WorkerOptions};
use shared::db;
use shared::error::Error;
use shared::handler::{Answer, Handler};
use shared::isolation::{Decide, Isolation, Row};
use shared::messages::PaymentMessage;
use shared::outbox::Notifier;
use shared::upkeep::Upkeep;
use sqlx::PgPool;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a batch takes at least of which nothing is decided, so that payments that are put off do not keep the broker busy
/// with going round.
const PUT_OFF_PAUSE: Duration = Duration::from_millis(500);

/// The whole program. Here and not in `main.rs`, which would compile much of it once more.
pub fn main() -> ExitCode {
    shared::worker::main(Payment::connect)
}

/// The payment function's own options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    store: StoreOptions,
    /// Which payment gateway to ask. There is no default: a forgotten setting must not give goods away.
    #[arg(long = "gateway", env = "GATEWAY", value_enum, value_name = "KIND")]
    kind: Option<GatewayKind>,
    #[command(flatten)]
    http: HttpOptions,
    #[command(flatten)]
    simulated: SimulatedOptions,
    #[command(flatten)]
    terms: Terms,
}

/// What holds for every payment.
#[derive(Debug, Clone, Args)]
pub struct Terms {
    /// A payment that nobody has asked the gateway about for so long has lost its message (its queue was purged, say), and
    /// is taken up again, in seconds. Longer than a message waits in its queue.
    #[arg(long = "payment-lost-seconds", env = "PAYMENT_LOST_SECONDS", default_value_t = 300, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub lost_seconds: u32,
    /// How long a gateway may take to decide a payment, in seconds. Then it is told to void it, and the order's hold ends.
    #[arg(long = "payment-seconds-max", env = "PAYMENT_SECONDS_MAX", default_value_t = 900, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=2_592_000))]
    pub seconds_max: u32,
    /// The users of the broker whose word on how a payment ends is taken (`settle`, `void`), with commas between them: the
    /// gateway's and the operators'. There is no default: nobody else may give goods away.
    #[arg(long = "settle-users", env = "SETTLE_USERS", value_delimiter = ',', value_name = "USER,…")]
    pub settle_users: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GatewayKind {
    /// Moves no money: for demos, tests and measurements
    Simulated,
    /// The one at --gateway-url
    Http,
}

impl Options {
    async fn gateway(&self) -> Result<Arc<dyn Gateway>, Unusable> {
        match self.kind {
            None => Err(Unusable(
                "no payment gateway is chosen: set GATEWAY=http and GATEWAY_URL, or GATEWAY=simulated to move no money"
                    .to_owned(),
            )),
            Some(GatewayKind::Http) => {
                let gateway = Http::new(&self.http)?;
                gateway.check(&self.http).await?;
                Ok(Arc::new(gateway))
            }
            Some(GatewayKind::Simulated) => {
                tracing::warn!("the payment gateway is simulated: orders become paid, and no money moves");
                Ok(Arc::new(Simulated(self.simulated)))
            }
        }
    }
}

/// The handler of payment requests; beside that, lost payments are taken up again.
#[derive(Clone)]
pub struct Payment {
    pool: PgPool,
    isolation: Isolation,
    pending: Arc<Pending>,
    notifier: Notifier,
    terms: Arc<Terms>,
}

impl Payment {
    /// A handler on the database and the gateway that the options name, the database's schema up to date.
    pub async fn connect(worker: WorkerOptions, options: Options) -> anyhow::Result<Self> {
        let gateway = options.gateway().await?;
        let name = worker.name(Self::NAME);
        let pool = db::open(&options.store, &name, worker.startup_seconds_max, worker.migrate).await?;
        Ok(Self::new(pool, gateway, options.terms))
    }

    /// A handler on a database whose schema is up to date.
    pub fn new(pool: PgPool, gateway: Arc<dyn Gateway>, terms: Terms) -> Self {
        let (notifier, isolation) = (Notifier::start(&pool), Isolation::new(&pool));
        Self { notifier, isolation, pending: Arc::new(Pending::at(gateway)), pool, terms: Arc::new(terms) }
    }
}

impl Handler for Payment {
    type Request = PaymentMessage;

    async fn handle(&self, messages: &[PaymentMessage]) -> Result<Vec<Answer>, Error> {
        let pause = Instant::now() + PUT_OFF_PAUSE;
        let answers = self.isolation.answer(self, messages).await?;
        let is_put_off = |answer: &Answer| matches!(answer, Answer::Requeue | Answer::Later);
        if answers.contains(&Answer::Requeue) && answers.iter().all(is_put_off) {
            sleep_until(pause).await;
        }
        Ok(answers)
    }

    fn upkeep(&self, failing: watch::Sender<Option<String>>) -> BoxFuture<'static, ()> {
        self.clone().keep_looking(failing)
    }
}

impl Decide for Payment {
    type Request = PaymentMessage;

    fn row(message: &PaymentMessage) -> Row {
        match message {
            PaymentMessage::Pay(request) => Row::Order(request.order_id),
            PaymentMessage::End(request) => Row::Order(request.order_id),
        }
    }

    async fn decide(&self, pool: &PgPool, messages: &[PaymentMessage]) -> Result<Vec<Answer>, Error> {
        let (mut pays, mut ends) = (Vec::new(), Vec::new());
        for message in messages {
            match message {
                PaymentMessage::Pay(request) => pays.push(request.clone()),
                PaymentMessage::End(request) => ends.push(request.clone()),
            }
        }
        let on_it = Self { pool: pool.clone(), ..self.clone() };
        // What is known of a payment is known before it is asked about.
        let mut ended = on_it.settle(&ends).await?.into_iter();
        let mut paid = on_it.pay(&pays, processor::TIMEOUT).await?.into_iter();
        let answers = messages.iter().map(|message| match message {
            PaymentMessage::Pay(_) => paid.next(),
            PaymentMessage::End(_) => ended.next(),
        });
        Ok(answers.collect::<Option<_>>().expect("one answer for each"))
    }
}
