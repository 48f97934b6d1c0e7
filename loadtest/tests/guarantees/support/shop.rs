//! A shop to test in: servers, items on sale, real worker processes, and one buyer who can send anything.

mod messages;

use super::queue;
pub(crate) use super::reply::Reply;
use super::sale::{add_user, private_servers};
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};
use shared::amqp::{self, Nodes};
use shared::db;
use shared::devstack::{Fixture, Folder, Program, Servers, Signal, Supervised, urls_of};
use shared::topology::Topology;
use sqlx::{PgPool, Postgres, Row, Transaction};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Nothing here takes this long; a test that waits longer has lost something.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Shop {
    /// For who may do everything; functions connect as their own users, and roles.
    pub(crate) amqp_url: String,
    pub(crate) database_url: String,
    pub(crate) pool: PgPool,
    pub(crate) channel: Channel,
    /// The buyer's own queue, named by the broker.
    pub(crate) reply_queue: ShortString,
    /// The broker's user that the buyer is, where their messages say so.
    pub(crate) user: Option<String>,
    replies: Consumer,
    /// The rest of an array.
    came_along: VecDeque<Reply>,
    connection: Connection,
}

impl Shop {
    /// A shop on servers that the other tests share, in a virtual host and a database of its own.
    pub(crate) async fn open(items: &[(&str, i64)]) -> Self {
        let fixture = Fixture::new().await;
        Self::on(&fixture.amqp_url, &fixture.database_url, items).await
    }

    /// A shop on servers of its own, which the test may stop and kill.
    pub(crate) async fn private(items: &[(&str, i64)]) -> (Servers, Self) {
        let (servers, endpoints) = private_servers(1).await;
        (servers, Self::on(&endpoints.amqp_url, &endpoints.database_url, items).await)
    }

    /// A shop on these servers.
    pub(crate) async fn on(amqp_url: &str, database_url: &str, items: &[(&str, i64)]) -> Self {
        let shop = Self::as_it_is(amqp_url, database_url).await;
        db::migrate(&shop.pool).await.unwrap();
        for (id, stock) in items {
            let insert = "INSERT INTO items (id, stock, available) VALUES ($1, $2, $2)";
            sqlx::query(insert).bind(id).bind(stock).execute(&shop.pool).await.unwrap();
        }
        amqp::declare(&shop.channel).await.unwrap();
        shop
    }

    /// A shop on servers that have what it needs already.
    pub(crate) async fn as_it_is(amqp_url: &str, database_url: &str) -> Self {
        let pool = db::pool(database_url, "test", 4).unwrap();
        let (nodes, mut connection) = (Nodes::read(amqp_url).unwrap(), None);
        // On a busy machine it may need longer than one try waits; workers come again, too.
        until("the broker answers", async || {
            connection = match amqp::connect(&nodes, "test").await {
                Err(amqp::Error::Unreachable(_)) => None,
                connected => Some(connected.unwrap()),
            };
            connection.is_some()
        })
        .await;
        let connection = connection.expect("it answered");
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let reply_queue = queue::exclusive(&channel).await;
        let replies = queue::consume(&channel, reply_queue.as_str()).await;
        let (amqp_url, database_url) = (amqp_url.to_owned(), database_url.to_owned());
        let (user, came_along) = (None, VecDeque::new());
        Self { amqp_url, database_url, pool, channel, reply_queue, user, replies, came_along, connection }
    }

    /// The same shop for another user of the shared broker, who may do everything there, and whose messages say who sent them.
    pub(crate) async fn of_user(&self, name: &str) -> Self {
        let user = add_user(self.amqp_url.rsplit('/').next().unwrap(), name).await;
        let amqp_url = self.amqp_url.replace("guest:guest", &format!("{user}:{user}"));
        let shop = Self::on(&amqp_url, &self.database_url, &[]).await;
        let reply_queue = queue::exclusive_named(&shop.channel, &format!("reply.{user}.1")).await;
        let replies = queue::consume(&shop.channel, reply_queue.as_str()).await;
        Self { reply_queue, replies, user: Some(user), ..shop }
    }

    /// Where a purchase worker finds the database, and waits for a row until whoever has it lets go.
    pub(crate) fn patient_url(&self) -> String {
        let [_, database_url] = urls_of("purchase", &self.amqp_url, &self.database_url);
        format!("{database_url}&options=-c%20lock_timeout%3D60s%20-c%20statement_timeout%3D60s")
    }

    /// Starts a real worker process of the purchase function.
    pub(crate) async fn worker(&self, id: &str, environment: &[(&str, &str)]) -> Supervised {
        self.worker_of("purchase", id, environment).await
    }

    /// One of each of these functions, with the function's name.
    pub(crate) async fn workers(&self, functions: &[&str]) -> Vec<Supervised> {
        let mut workers = Vec::new();
        for function in functions {
            workers.push(self.worker_of(function, function, &[("GATEWAY", "simulated")]).await);
        }
        workers
    }

    /// Starts a real worker process of any function.
    pub(crate) async fn worker_of(&self, function: &str, id: &str, environment: &[(&str, &str)]) -> Supervised {
        let log = self.log_path(id).await;
        let [amqp_url, database_url] = urls_of(function, &self.amqp_url, &self.database_url);
        let mut program = Program::new(purchase_program().await.with_file_name(function))
            .args(["--worker-id", id])
            .env("AMQP_URL", amqp_url)
            .env("DATABASE_URL", database_url)
            .env("RUST_LOG", "debug,lapin=info,sqlx=info")
            .log(log)
            .stop(Signal::SIGTERM, WAIT_MAX);
        for (name, value) in environment {
            program = program.env(*name, *value);
        }
        Supervised::spawn(program).await.unwrap()
    }

    /// What a worker has logged.
    pub(crate) async fn log(&self, id: &str) -> String {
        std::fs::read_to_string(self.log_path(id).await).unwrap()
    }

    /// Waits until a worker stands still at its fail point.
    pub(crate) async fn paused(&self, id: &str) {
        until("the worker stands still", async || self.log(id).await.contains("paused")).await;
    }

    async fn log_path(&self, id: &str) -> PathBuf {
        logs().await.join(format!("{}-{id}.log", self.reply_queue))
    }

    /// Whether no request waits in any partition: each is settled, or with a worker.
    pub(crate) async fn is_drained(&self) -> bool {
        let mut ready = 0;
        for queue in Topology::read().queues_of("purchase") {
            ready += self.depth(&queue).await;
        }
        ready == 0
    }

    /// How many messages could not be handled, whoever's fault that is.
    pub(crate) async fn dead_depth(&self) -> u32 {
        self.depth("dead").await + self.depth("dead.invalid").await
    }

    /// The largest frame that this broker takes.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        self.connection.configuration().frame_max().try_into().unwrap()
    }

    /// How many messages wait in a queue.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
    }

    /// Changes something behind everybody's back.
    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    /// A transaction in which this is done, and which holds what it has locked.
    pub(crate) async fn begin(&self, sql: &'static str) -> Transaction<'static, Postgres> {
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut *transaction).await.unwrap();
        transaction
    }

    /// Waits until every event is published.
    pub(crate) async fn outbox_is_empty(&self) {
        until("the outbox is empty", async || self.count("SELECT count(*) FROM outbox").await == 0).await;
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query(sql).fetch_one(&self.pool).await.unwrap().get(0)
    }

    /// (available, held)
    pub(crate) async fn stock(&self, item: &str) -> (i64, i64) {
        let row = sqlx::query("SELECT available, held FROM items WHERE id = $1").bind(item);
        let row = row.fetch_one(&self.pool).await.unwrap();
        (row.get(0), row.get(1))
    }
}

/// A request's body.
pub(crate) fn request(id: &str, item: &str, quantity: u32) -> String {
    format!(r#"{{"request_id":"{id}","item":"{item}","buyer":"b-{id}","quantity":{quantity}}}"#)
}

/// The body of a request to pay for an order.
pub(crate) fn payment(id: &str, order: &str) -> String {
    format!(r#"{{"request_id":"{id}","order_id":"{order}","payment_method":"card"}}"#)
}

/// The body of a request to cancel one.
pub(crate) fn cancellation(id: &str, order: &str) -> String {
    format!(r#"{{"request_id":"{id}","order_id":"{order}"}}"#)
}

/// Looks again until it holds; there is no event to wait for in another process.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, looking).await.unwrap_or_else(|_| panic!("waited too long until {what}"));
}

/// After a start of the broker.
pub(crate) async fn all_queues_are_up(amqp_url: &str) {
    let (nodes, queues) = (Nodes::read(amqp_url).unwrap(), Topology::read().queues.iter());
    let names: Vec<_> = queues.map(|queue| queue.name.clone()).collect();
    until("all queues are up", async || {
        let states = amqp::queue_states(&nodes, "test", &names).await;
        states.is_ok_and(|states| states.iter().all(Option::is_some))
    })
    .await;
}

/// The worker program, and beside it all others, built once for this test program.
pub(crate) async fn purchase_program() -> PathBuf {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    PROGRAM.get_or_init(async || loadtest::programs::all().await.unwrap()).await.clone()
}

async fn logs() -> PathBuf {
    static LOGS: OnceCell<Folder> = OnceCell::const_new();
    LOGS.get_or_init(async || Folder::create().unwrap()).await.path().to_owned()
}

/// What a process takes of memory now, and took at most.
pub(crate) fn memory_of(process: &Supervised) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let is_memory = |line: &&str| ["VmHWM", "RssAnon"].iter().any(|name| line.starts_with(name));
    status.lines().filter(is_memory).collect::<Vec<_>>().join(", ")
}

/// One figure of these, such as `VmHWM`: the most that it took.
pub(crate) fn kib_of(process: &Supervised, name: &str) -> u64 {
    let memory = memory_of(process);
    let found = memory.split_whitespace().skip_while(|word| word.trim_end_matches(':') != name).nth(1);
    found.unwrap_or_else(|| panic!("{name} in {memory}")).parse().unwrap()
}
