//! The purchase function against a real PostgreSQL, and a real Redis: conflicts are forced, not waited for. What every strategy
//! promises is tested with every strategy.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod conflicts;
mod idempotency;
mod meanwhile;
mod oversell;
mod redis;
mod retention;
mod rules;
mod verdicts;

use clap::ValueEnum;
use futures_util::future::join_all;
use purchase::{
    Purchase,
    decide::{Snapshot, decide},
    store::{Check, commit, read},
    strategy::{StrategyName, StrategyOptions},
};
use shared::{
    db,
    devstack::fixture,
    handler::{Answer, Handler},
    idempotency::Verdicts,
    messages::{Code, PurchaseRequest, Verdict},
    retry::RetryPolicy,
};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};
use std::{collections::HashMap, sync::OnceLock};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Enough for every test here to run its deciders at once.
const CONNECTIONS_MAX: u32 = 16;
const VERDICTS: &str = "SELECT count(*) FROM verdicts";
const ORDERS: &str = "SELECT count(*) FROM orders";

/// A migrated database of the test's own, with these items and their stock on sale.
async fn database(items: &[(&str, i64)]) -> PgPool {
    let pool = migrated(&fixture::database().await).await;
    for (id, stock) in items {
        let insert = "INSERT INTO items (id, stock, available) VALUES ($1, $2, $2)";
        sqlx::query(insert).bind(id).bind(stock).execute(&pool).await.unwrap();
    }
    pool
}

async fn migrated(database_url: &str) -> PgPool {
    let pool = db::pool(database_url, "test", CONNECTIONS_MAX).unwrap();
    db::migrate(&pool).await.unwrap();
    pool
}

fn purchase(pool: &PgPool) -> Purchase {
    by(StrategyName::Optimistic, pool)
}

fn by(strategy: StrategyName, pool: &PgPool) -> Purchase {
    with_attempts(strategy, RetryPolicy::default().attempts_max, pool)
}

fn with_attempts(strategy: StrategyName, attempts_max: u32, pool: &PgPool) -> Purchase {
    let options = StrategyOptions { strategy, redis_url: shared_redis(), ..StrategyOptions::default() };
    Purchase::new(pool.clone(), options, RetryPolicy { attempts_max, ..RetryPolicy::default() }).unwrap()
}

/// Where the Redis is that all tests may use, once one of them has asked for it.
static REDIS_URL: OnceLock<String> = OnceLock::new();

fn shared_redis() -> String {
    REDIS_URL.get().cloned().unwrap_or_default()
}

/// Runs a test of what is promised whatever the strategy.
async fn with_every_strategy(mut test: impl AsyncFnMut(StrategyName)) {
    let redis_url = fixture::redis().await.url();
    REDIS_URL.get_or_init(|| redis_url);
    for strategy in StrategyName::value_variants() {
        eprintln!("with strategy {strategy:?}");
        test(*strategy).await;
    }
}

fn request(id: impl std::fmt::Display, item: &str, quantity: u32) -> PurchaseRequest {
    PurchaseRequest {
        request_id: format!("r-{id}"),
        item: item.to_owned(),
        buyer: format!("b-{id}"),
        quantity,
        deadline: None,
    }
}

async fn answers(purchase: &Purchase, requests: &[PurchaseRequest]) -> Vec<Answer> {
    purchase.handle(requests).await.unwrap()
}

async fn verdicts(purchase: &Purchase, requests: &[PurchaseRequest]) -> Vec<Verdict> {
    answers(purchase, requests).await.iter().map(verdict).collect()
}

async fn codes(purchase: &Purchase, requests: &[PurchaseRequest]) -> Vec<Code> {
    verdicts(purchase, requests).await.iter().map(|verdict| verdict.code).collect()
}

/// How many of these requests get their units.
async fn reserved(purchase: &Purchase, requests: &[PurchaseRequest]) -> usize {
    codes(purchase, requests).await.iter().filter(|code| **code == Code::Reserved).count()
}

/// Decides on its own, beside the test.
fn decides(purchase: &Purchase, requests: &[PurchaseRequest]) -> JoinHandle<Vec<Verdict>> {
    let (purchase, requests) = (purchase.clone(), requests.to_vec());
    tokio::spawn(async move { verdicts(&purchase, &requests).await })
}

/// What all of these come to, which run beside the test.
async fn joined<T>(running: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    join_all(running).await.into_iter().map(Result::unwrap).collect()
}

fn verdict(answer: &Answer) -> Verdict {
    match answer {
        Answer::Verdict(body) => serde_json::from_str(body).unwrap(),
        Answer::Rejected(rejection) => rejection.verdict(),
        Answer::Requeue => panic!("it is decided at once"),
    }
}

/// A decider that has read what a request needs, and not committed.
struct Reader {
    request: &'static PurchaseRequest,
    snapshot: Snapshot,
    verdicts: Verdicts<'static>,
}

impl Reader {
    async fn reads(connection: &mut PgConnection, request: &PurchaseRequest) -> Self {
        let request: &PurchaseRequest = Box::leak(Box::new(request.clone()));
        let (snapshot, verdicts) = read(connection, &[request]).await.unwrap();
        Self { request, snapshot, verdicts }
    }

    /// What it decides on what it has read, and the units that this reserves.
    fn decides(&self) -> (Verdict, i64) {
        let decided = decide(&[self.request], &self.snapshot, &mut self.verdicts.clone(), Uuid::now_v7);
        let units = decided.changes.values().map(|change| change.units).sum();
        (verdict(&decided.answers[0]), units)
    }

    /// Returns on how many items its decision holds.
    async fn commits(mut self, connection: &mut PgConnection) -> Result<usize, sqlx::Error> {
        let decided = decide(&[self.request], &self.snapshot, &mut self.verdicts, Uuid::now_v7);
        let held = commit(connection, &decided, &self.verdicts, Check::Version, &HashMap::new()).await?;
        Ok(held.len())
    }
}

/// (available, held, version, conflicts)
async fn item(pool: &PgPool, id: &str) -> (i64, i64, i64, i64) {
    let select = "SELECT available, held, version, conflicts FROM items WHERE id = $1";
    sqlx::query_as(select).bind(id).fetch_one(pool).await.unwrap()
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(pool).await.unwrap().get(0)
}

async fn run(executor: impl sqlx::PgExecutor<'_>, sql: &'static str) {
    sqlx::query(sql).execute(executor).await.unwrap();
}

/// The constraint that a statement violates.
async fn violated_by(pool: &PgPool, statement: &str) -> Option<String> {
    let error = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(pool).await.unwrap_err();
    error.as_database_error().and_then(|error| error.constraint()).map(str::to_owned)
}

/// The plan that a worker's connection makes of a statement with these types of parameters.
async fn plan(connection: &mut PgConnection, statement: &str, types: &str, arguments: &str) -> String {
    let explain = format!("PREPARE it {types} AS {statement}; EXPLAIN EXECUTE it {arguments}; DEALLOCATE it");
    let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(connection).await.unwrap();
    plan.iter().map(|line| line.get::<String, _>(0) + "\n").collect()
}

/// Sessions of this test's database that wait for a lock. (`pg_locks` would show those of the whole server: a row's
/// waiter waits for a transaction, which belongs to no database.)
const WAITING_HERE: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// Ends when this many sessions wait for a lock that another one holds.
async fn until_waiting(pool: &PgPool, sessions: i64) {
    while count(pool, WAITING_HERE).await < sessions {
        tokio::task::yield_now().await;
    }
}

/// What somebody else does to the item `a` meanwhile: decides on it, takes its last unit, gives one back.
const MOVE_ON: &str = "UPDATE items SET version = version + 1 WHERE id = 'a'";
const TAKE_LAST: &str = "UPDATE items SET available = 0, held = stock, version = version + 1 WHERE id = 'a'";
const GIVE_BACK: &str = "UPDATE items SET available = 1, held = stock - 1, version = version + 1 WHERE id = 'a'";

/// A live order gives its units back, as the release function has it do.
const CANCEL_ONE: &str = "
WITH cancelled AS (
    UPDATE orders SET state = 'cancelled'
    WHERE id = (SELECT id FROM orders WHERE state = 'reserved' LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING item, quantity
)
UPDATE items SET available = available + quantity, held = held - quantity, version = version + 1
FROM cancelled WHERE items.id = cancelled.item";

/// A transaction that has changed an item's row and holds it until released.
struct Blocker(sqlx::Transaction<'static, sqlx::Postgres>);

impl Blocker {
    async fn runs(pool: &PgPool, update: &'static str) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        run(&mut *transaction, update).await;
        Self(transaction)
    }

    /// The other side has read the row as it was, and now waits for it.
    async fn release_when_waited_for(self, pool: &PgPool) {
        until_waiting(pool, 1).await;
        self.0.commit().await.unwrap();
    }
}

/// What is decided while somebody else changes a row: it is read as it was before, and waited for.
async fn decided_while(
    pool: &PgPool,
    change: &'static str,
    purchase: &Purchase,
    requests: &[PurchaseRequest],
) -> Vec<Verdict> {
    let blocker = Blocker::runs(pool, change).await;
    let deciding = decides(purchase, requests);
    blocker.release_when_waited_for(pool).await;
    deciding.await.unwrap()
}
