//! What tests of the functions put into their database, and look up there.

use super::{FUNCTIONS, fixture};
use crate::db;
use crate::handler::Answer;
use crate::messages::{Code, Identity, Sender, Status, Verdict};
use crate::order::State;
use futures_util::future::join_all;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Executor, PgPool, Postgres, Row, Transaction};
use std::time::Duration;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Enough for every test to have its sessions at once.
const CONNECTIONS_MAX: u32 = 16;

/// Longer than a test holds a lock to have somebody else wait for it, on a machine that is busy with other tests.
const PATIENT: [(&str, &str); 2] = [("lock_timeout", "20s"), ("statement_timeout", "30s")];
/// The row of the item `a` is refused, as a trigger or a constraint of somebody's may do it.
const REFUSE: &str = "
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'as the test wants it'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON items FOR EACH ROW WHEN (OLD.id = 'a') EXECUTE FUNCTION refuse()";
const SLOW_DOWN: &str = "
CREATE FUNCTION slow_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
CREATE TRIGGER slow_down BEFORE UPDATE ON items FOR EACH ROW WHEN (OLD.id = 'a') EXECUTE FUNCTION slow_down()";
const FORBID: &str = "ALTER TABLE items ADD CONSTRAINT forbidden CHECK (id <> 'a') NOT VALID";

/// There is no event to wait for: what failed is tried again when its time has come.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

const ITEM: &str = "INSERT INTO items (id, stock, available, held, sold) VALUES ($1, $2, $2 - $3 - $4, $3, $4)";
const ORDER: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
VALUES ($1, 'r-' || $1, $2, 'b', $3, now() + make_interval(secs => $4), now())";
const HISTORY: &str = "
SELECT from_state, to_state, cause, request_id FROM order_history WHERE order_id = $1 ORDER BY at";
/// Sessions of this test's database that wait for a lock. (`pg_locks` would show those of the whole server: a row's waiter
/// waits for a transaction, which belongs to no database.)
const WAITING_HERE: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// When a test's hold runs out.
#[derive(Debug, Clone, Copy)]
pub enum Due {
    Now,
    InAnHour,
}

/// An item's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx_macros::FromRow)]
pub struct Item {
    pub stock: i64,
    pub available: i64,
    pub held: i64,
    pub sold: i64,
    pub version: i64,
}

/// A migrated database of the test's own, with these items: stock, of which some is held and some is sold.
///
/// # Panics
/// As everything here: where a test could not go on.
pub async fn database(items: &[(&str, i64, i64, i64)]) -> PgPool {
    let pool = db::pool(&fixture::database().await, "test", CONNECTIONS_MAX).expect("the URL can be read");
    let patient = PgConnectOptions::clone(&pool.connect_options()).options(PATIENT);
    let pool = db::pool_with(patient, &[], CONNECTIONS_MAX);
    db::migrate(&pool).await.expect("the database can be migrated");
    for (id, stock, held, sold) in items {
        let insert = sqlx::query(ITEM).bind(id).bind(stock).bind(held).bind(sold);
        insert.execute(&pool).await.expect("the item is sound");
    }
    pool
}

/// The same database for a function, which may do less than a test.
pub fn functions(pool: &PgPool) -> PgPool {
    db::pool_with(PgConnectOptions::clone(&pool.connect_options()).username(FUNCTIONS), &[], CONNECTIONS_MAX)
}

/// The same for one that waits for nobody, nor do the connections that it makes by itself.
pub fn hurried(pool: &PgPool) -> PgPool {
    let options = PgConnectOptions::clone(&functions(pool).connect_options()).options(db::ISOLATED);
    db::pool_with(options, &[], CONNECTIONS_MAX)
}

/// The same, all of the items' units held.
pub async fn database_of_holds(items: &[(&str, i64)]) -> PgPool {
    database(&items.iter().map(|(id, held)| (*id, *held, *held, 0)).collect::<Vec<_>>()).await
}

/// Makes an order that holds these units; the item has them already.
pub async fn hold(pool: &PgPool, item: &str, quantity: i64, due: Due) -> Uuid {
    let id = Uuid::now_v7();
    let seconds = match due {
        Due::Now => -1.0,
        Due::InAnHour => 3_600.0,
    };
    let insert = sqlx::query(ORDER).bind(id).bind(item).bind(quantity).bind(seconds);
    insert.execute(pool).await.expect("the order is sound");
    id
}

/// A sender who may act for themself alone.
pub fn by(user: &str) -> Sender {
    Sender { user: user.to_owned(), is_trusted: false }
}

/// Has all orders be bought by this user.
pub async fn sold_to(pool: &PgPool, user: &str) {
    sqlx::query("UPDATE orders SET sender = $1").bind(user).execute(pool).await.expect("it can be changed");
}

/// Orders that hold one unit each, of these items.
pub async fn holds<const ORDERS: usize>(pool: &PgPool, items: [&str; ORDERS], due: Due) -> [Uuid; ORDERS] {
    let mut orders = [Uuid::nil(); ORDERS];
    for (order, item) in orders.iter_mut().zip(items) {
        *order = hold(pool, item, 1, due).await;
    }
    orders
}

/// A database with the item `a`, whose one unit is held by this order.
pub async fn one_hold(due: Due) -> (PgPool, Uuid) {
    let pool = database_of_holds(&[("a", 1)]).await;
    let order = hold(&pool, "a", 1, due).await;
    (pool, order)
}

pub async fn item(pool: &PgPool, id: &str) -> Item {
    let read = sqlx::query_as("SELECT stock, available, held, sold, version FROM items WHERE id = $1").bind(id);
    read.fetch_one(pool).await.expect("there is the item")
}

pub async fn state(pool: &PgPool, order: Uuid) -> State {
    let read = sqlx::query_scalar("SELECT state FROM orders WHERE id = $1").bind(order);
    read.fetch_one(pool).await.expect("there is the order, in a state that we know")
}

/// The order's history: (from, to, cause, request id).
pub async fn history(pool: &PgPool, order: Uuid) -> Vec<(String, String, String, Option<String>)> {
    sqlx::query_as(HISTORY).bind(order).fetch_all(pool).await.expect("the history can be read")
}

/// The kinds of event in the outbox, in order.
pub async fn published(pool: &PgPool) -> Vec<String> {
    let read = sqlx::query_scalar("SELECT kind FROM outbox ORDER BY id");
    read.fetch_all(pool).await.expect("the outbox can be read")
}

/// Changes rows.
pub async fn execute(pool: &PgPool, sql: &'static str) {
    pool.execute(sql).await.expect("the statement can be run");
}

pub async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.expect("the statement counts")
}

/// A transaction that holds a row of `items` or `orders` until it is dropped.
pub async fn lock(pool: &PgPool, table: &str, id: impl std::fmt::Display) -> Transaction<'static, Postgres> {
    let mut transaction = pool.begin().await.expect("there is a connection");
    let lock = format!("SELECT 1 FROM {table} WHERE id = '{id}' FOR NO KEY UPDATE");
    sqlx::query(&lock).fetch_one(&mut *transaction).await.expect("there is the row");
    transaction
}

/// What can be wrong with the row of the item `a`.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Locked,
    Refused,
    Forbidden,
    /// Whatever changes it is ended for taking too long. Each attempt takes its time, so [`Self::ALL`] is without it.
    Slow,
}

/// A fault that is there until it is mended.
pub struct Faulty {
    pool: PgPool,
    lock: Option<Transaction<'static, Postgres>>,
    mend: &'static str,
}

impl Fault {
    pub const ALL: [Self; 3] = [Self::Locked, Self::Refused, Self::Forbidden];

    pub async fn begin(self, pool: &PgPool) -> Faulty {
        eprintln!("with the fault {self:?}");
        let (lock, begin, mend) = match self {
            Self::Locked => (Some(lock(pool, "items", "a").await), "", ""),
            Self::Refused => (None, REFUSE, "DROP FUNCTION refuse CASCADE"),
            Self::Slow => (None, SLOW_DOWN, "DROP FUNCTION slow_down CASCADE"),
            Self::Forbidden => (None, FORBID, "ALTER TABLE items DROP CONSTRAINT forbidden"),
        };
        execute(pool, begin).await;
        Faulty { pool: pool.clone(), lock, mend }
    }
}

impl Faulty {
    pub async fn mend(self) {
        drop(self.lock);
        execute(&self.pool, self.mend).await;
    }
}

/// What is answered once nothing is put off any more.
pub async fn until_decided(answers: impl AsyncFn() -> Vec<Answer>) -> Vec<Answer> {
    loop {
        let found = answers().await;
        if !found.iter().any(|answer| matches!(answer, Answer::Later | Answer::Requeue)) {
            return found;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Ends when this many sessions wait for a lock that another one holds.
pub async fn until_waiting(pool: &PgPool, sessions: i64) {
    while count(pool, WAITING_HERE).await < sessions {
        tokio::task::yield_now().await;
    }
}

/// What each of these comes to; all of them run meanwhile.
pub async fn all_of<T>(tasks: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    join_all(tasks).await.into_iter().map(|ended| ended.expect("it does not panic")).collect()
}

/// What an answer says.
pub fn verdict(answer: &Answer) -> Verdict {
    match answer {
        Answer::Verdict(body) => serde_json::from_str(body).expect("a reply can be read"),
        Answer::Rejected(rejection) => rejection.verdict(),
        Answer::Requeue | Answer::Later => panic!("it is decided at once"),
    }
}

pub fn codes(answers: &[Answer]) -> Vec<Code> {
    answers.iter().map(|answer| verdict(answer).code).collect()
}

/// Holds the promise of every function about a request's id: `done` and `refused` get one verdict each, byte for byte,
/// whether they come twice in a batch, at the same instant, or again; `other`, which has the id of `done` and other content,
/// is told so, and so is `foreign`, whose id a purchase has had.
pub async fn assert_one_verdict_per_id<R: Identity + Clone>(
    pool: &PgPool,
    [done, refused, other, foreign]: [R; 4],
    answers: impl AsyncFn(&[R]) -> Vec<Answer>,
) {
    let is_reused = |answer: &Answer| matches!(answer, Answer::Rejected(by) if by.code == Code::RequestIdReused);
    let batch = [done.clone(), done, refused, other.clone()];
    let at_once = join_all((0..6).map(|_| answers(&batch))).await;
    let first = &at_once[0];
    assert!(first[0] == first[1] && first[2] != first[0] && is_reused(&first[3]), "{first:?}");
    assert_eq!((verdict(&first[0]).status, verdict(&first[2]).status), (Status::Done, Status::Refused));
    assert!(at_once.iter().all(|found| found == first), "at the same instant: {at_once:?}");
    assert_eq!(&answers(&batch).await, first, "again");
    let purchase = sqlx::query("INSERT INTO verdicts VALUES ($1, 'a', gen_random_uuid(), 'reserved', '{}', now())");
    purchase.bind(foreign.request_id()).execute(pool).await.expect("it is on record");
    for reused in [other, foreign] {
        assert!(is_reused(&answers(&[reused]).await[0]), "it is told so");
    }
    assert_eq!(count(pool, "SELECT count(*) FROM verdicts").await, 3, "the refusal is recorded, too");
}

/// The constraint of the schema that a statement violates.
pub async fn violated_by(pool: &PgPool, statement: &str) -> String {
    let error = sqlx::query(statement).execute(pool).await.expect_err("the schema forbids it");
    error.as_database_error().and_then(|error| error.constraint()).expect("it says which constraint").to_owned()
}

/// Holds the plans of statements, in empty tables and in `full` ones, against the indexes and whatever else has to be in them
/// (after a `!`: must not be). None reads a table whole. Returns them.
pub async fn assert_plans(
    pool: &PgPool,
    settings: &[(&str, &str)],
    full: &str,
    statements: &[(&str, &[&str])],
) -> Vec<String> {
    let mut plans = Vec::new();
    for fill in ["", full] {
        pool.execute(fill).await.expect("the tables can be filled");
        for (statement, parts) in statements {
            let plan = plan(pool, settings, statement).await;
            for part in parts.iter().chain(&["!Seq Scan"]) {
                let holds = part.strip_prefix('!').map_or_else(|| plan.contains(part), |part| !plan.contains(part));
                assert!(holds, "{part}, after {fill:?}\n{plan}");
            }
            plans.push(plan);
        }
    }
    plans
}

/// The plan that a connection like those of the pool, with these settings besides, makes of a statement, whatever its
/// parameters are.
pub async fn plan(pool: &PgPool, settings: &[(&str, &str)], statement: &str) -> String {
    let mut connection = db::connect(&pool.connect_options(), settings).await.expect("the database is there");
    let parameters = (1..).take_while(|number| statement.contains(&format!("${number}"))).count();
    let arguments = vec!["NULL"; parameters].join(", ");
    let arguments = if parameters == 0 { arguments } else { format!("({arguments})") };
    let explain = format!("PREPARE it AS {statement}; EXPLAIN EXECUTE it {arguments}");
    let plan = connection.fetch_all(explain.as_str()).await.expect("it can be explained");
    plan.iter().map(|line| line.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}
