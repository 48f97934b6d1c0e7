//! The purchase function against a real PostgreSQL, and a real Redis: conflicts are forced, not waited for. What every strategy
//! promises is tested with every strategy.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod conflicts;
mod idempotency;
mod oversell;
mod plans;
mod redis;
mod retention;
mod rows;
mod rules;
mod verdicts;

use clap::ValueEnum;
use purchase::Purchase;
use purchase::decide::{Snapshot, decide};
use purchase::store::{Check, Conflicts, commit, read};
use purchase::strategy::{StrategyName, StrategyOptions};
use shared::devstack::fixture;
use shared::devstack::seed::{self, all_of, count, execute, until_waiting, verdict};
use shared::handler::{Answer, Handler};
use shared::idempotency::Verdicts;
use shared::messages::{Code, PurchaseRequest, Verdict};
use shared::retry::RetryPolicy;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio::task::JoinHandle;
use uuid::Uuid;

const VERDICTS: &str = "SELECT count(*) FROM verdicts";
const ORDERS: &str = "SELECT count(*) FROM orders";
/// What somebody else does to the item `a` meanwhile: decides on it, takes its last unit, gives one back.
const MOVE_ON: &str = "UPDATE items SET version = version + 1 WHERE id = 'a'";
const TAKE_LAST: &str = "UPDATE items SET available = 0, held = stock, version = version + 1 WHERE id = 'a'";
const GIVE_BACK: &str = "UPDATE items SET available = 1, held = stock - 1, version = version + 1 WHERE id = 'a'";
/// What ann has, by the orders themselves.
const LIVE_UNITS: &str = "
SELECT coalesce(sum(quantity), 0)::bigint FROM orders
WHERE buyer = 'ann' AND state IN ('reserved', 'paying', 'paid')";
/// A live order of a buyer like $1 gives its units back, as the release function has it do.
const CANCEL_ONE: &str = "
WITH cancelled AS (
    UPDATE orders SET state = 'cancelled'
    WHERE id = (SELECT id FROM orders WHERE state = 'reserved' AND buyer LIKE $1 LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING item, quantity
)
UPDATE items SET available = available + quantity, held = held - quantity, version = version + 1
FROM cancelled WHERE items.id = cancelled.item";

/// A sale in a database of its own, and a worker of this strategy.
#[derive(Clone)]
struct Sale {
    strategy: StrategyName,
    redis_url: String,
    pool: PgPool,
    worker: Purchase,
}

/// Runs a test of what is promised whatever the strategy, on a sale of these items and their stock.
async fn with_every_strategy(items: &[(&str, i64)], mut test: impl AsyncFnMut(Sale)) {
    let redis_url = fixture::redis().await.url();
    for strategy in StrategyName::value_variants() {
        eprintln!("with strategy {strategy:?}");
        test(Sale::of(database(items).await, *strategy, &redis_url)).await;
    }
}

/// A sale whose worker has the default strategy.
async fn optimistic(items: &[(&str, i64)]) -> Sale {
    Sale::of(database(items).await, StrategyName::Optimistic, "")
}

async fn database(items: &[(&str, i64)]) -> PgPool {
    seed::database(&items.iter().map(|(id, stock)| (*id, *stock, 0, 0)).collect::<Vec<_>>()).await
}

impl Sale {
    fn of(pool: PgPool, strategy: StrategyName, redis_url: &str) -> Self {
        Self::with(pool, strategy, redis_url, 1, RetryPolicy::default().attempts_max)
    }

    fn with(pool: PgPool, strategy: StrategyName, redis_url: &str, in_flight: u16, attempts_max: u32) -> Self {
        let options = StrategyOptions { strategy, redis_url: redis_url.to_owned(), redis_ca: None, in_flight };
        let retry = RetryPolicy { attempts_max, ..RetryPolicy::default() };
        let worker = Purchase::new(seed::functions(&pool), options, retry).unwrap();
        Self { strategy, redis_url: redis_url.to_owned(), pool, worker }
    }

    /// The same sale by another worker.
    fn by_another(&self) -> Self {
        Self::of(self.pool.clone(), self.strategy, &self.redis_url)
    }

    /// The same by a worker that makes one attempt, and then decides under the row lock.
    fn by_one_attempt(&self) -> Self {
        Self::with(self.pool.clone(), self.strategy, &self.redis_url, 1, 1)
    }

    async fn answers(&self, requests: &[PurchaseRequest]) -> Vec<Answer> {
        self.worker.handle(requests).await.unwrap()
    }

    async fn verdicts(&self, requests: &[PurchaseRequest]) -> Vec<Verdict> {
        self.answers(requests).await.iter().map(verdict).collect()
    }

    async fn codes(&self, requests: &[PurchaseRequest]) -> Vec<Code> {
        seed::codes(&self.answers(requests).await)
    }

    /// How many of these requests get their units.
    async fn reserved(&self, requests: &[PurchaseRequest]) -> i64 {
        self.codes(requests).await.iter().filter(|code| **code == Code::Reserved).count() as i64
    }

    /// Decides beside the test.
    fn decides(&self, requests: &[PurchaseRequest]) -> JoinHandle<Vec<Verdict>> {
        let (sale, requests) = (self.clone(), requests.to_vec());
        tokio::spawn(async move { sale.verdicts(&requests).await })
    }

    /// What is decided while somebody else changes a row: it is read as it was before, and waited for.
    async fn decided_while(&self, change: &str, requests: &[PurchaseRequest]) -> Vec<Verdict> {
        let blocker = self.blocker(change).await;
        let deciding = self.decides(requests);
        self.release_when_waited_for(blocker).await;
        deciding.await.unwrap()
    }

    /// A transaction that has changed a row and holds it until released.
    async fn blocker(&self, change: &str) -> Transaction<'static, Postgres> {
        let mut blocker = self.pool.begin().await.unwrap();
        sqlx::raw_sql(change).execute(&mut *blocker).await.unwrap();
        blocker
    }

    async fn release_when_waited_for(&self, blocker: Transaction<'static, Postgres>) {
        until_waiting(&self.pool, 1).await;
        blocker.commit().await.unwrap();
    }

    /// (available, held, version, conflicts)
    async fn item(&self, id: &str) -> (i64, i64, i64, i64) {
        let select = "SELECT available, held, version, conflicts FROM items WHERE id = $1";
        sqlx::query_as(select).bind(id).fetch_one(&self.pool).await.unwrap()
    }

    async fn count(&self, sql: &'static str) -> i64 {
        count(&self.pool, sql).await
    }

    async fn run(&self, sql: &'static str) {
        execute(&self.pool, sql).await;
    }
}

fn request(id: impl std::fmt::Display, item: &str, quantity: u32) -> PurchaseRequest {
    let [request_id, buyer] = ["r", "b"].map(|kind| format!("{kind}-{id}"));
    PurchaseRequest { request_id, item: item.to_owned(), buyer, quantity, deadline: None, sender: None }
}

fn by_ann(request: PurchaseRequest) -> PurchaseRequest {
    PurchaseRequest { buyer: "ann".to_owned(), ..request }
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

    /// The units that its decision reserves.
    fn units(&self) -> i64 {
        let decided = decide(&[self.request], &self.snapshot, &mut self.verdicts.clone(), Uuid::now_v7);
        decided.changes.values().map(|change| change.units).sum()
    }

    /// Returns on how many items its decision holds.
    async fn commits(mut self, connection: &mut PgConnection) -> Result<usize, sqlx::Error> {
        let decided = decide(&[self.request], &self.snapshot, &mut self.verdicts, Uuid::now_v7);
        Ok(commit(connection, &decided, &self.verdicts, Check::Version, &Conflicts::new()).await?.len())
    }
}

/// Each statement is refused by this constraint.
async fn assert_violates(pool: &PgPool, cases: &[(&str, &str)]) {
    for (statement, constraint) in cases {
        let error = sqlx::query(statement).execute(pool).await.unwrap_err();
        assert_eq!(error.as_database_error().and_then(|error| error.constraint()), Some(*constraint), "{statement}");
    }
}
