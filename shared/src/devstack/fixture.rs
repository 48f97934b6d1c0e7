//! What a test stands on: servers that a test program starts once, when the first test asks for them, and that stop when the
//! program ends, however it does; and a virtual host and a database for each test. It panics where they cannot be had.

use super::{Folder, Postgres, RabbitMq, Redis};
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as BlockingMutex};
use tokio::sync::{Mutex, OnceCell};

/// So many virtual hosts are made at once: to ask for them takes as long as to make a few.
const VHOSTS_AT_ONCE: usize = 16;

/// The virtual hosts of tests that have ended.
static LEFT: BlockingMutex<Vec<String>> = BlockingMutex::new(Vec::new());

thread_local! {
    /// Those of the test that this thread runs; it ends with it.
    static USED: RefCell<Used> = const { RefCell::new(Used(Vec::new())) };
}

struct Used(Vec<String>);

impl Drop for Used {
    fn drop(&mut self) {
        LEFT.lock().expect("nobody panics with it").append(&mut self.0);
    }
}

/// A virtual host and an empty database that nobody else uses.
#[derive(Debug)]
pub struct Fixture {
    pub amqp_url: String,
    pub database_url: String,
}

impl Fixture {
    pub async fn new() -> Self {
        let (amqp_url, database_url) = tokio::join!(vhost(), database());
        Self { amqp_url, database_url }
    }
}

/// The URL of an empty database that nobody else uses, for who needs no broker.
pub async fn database() -> String {
    static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let start = async || Postgres::start(&folder()).await.expect("a private PostgreSQL can be started");
    let postgres = POSTGRES.get_or_init(start).await;
    let name = name(NEXT.fetch_add(1, Ordering::Relaxed));
    postgres.create_database(&name).await.expect("a database can be created");
    postgres.url(&name)
}

async fn vhost() -> String {
    static NEXT: Mutex<usize> = Mutex::const_new(0);
    let mut next = NEXT.lock().await;
    if next.is_multiple_of(VHOSTS_AT_ONCE) {
        let names: Vec<String> = (*next..*next + VHOSTS_AT_ONCE).map(name).collect();
        rabbitmq().await.add_vhosts(&names).await.expect("virtual hosts can be made");
        // What nobody uses any more costs the broker time all the same: each queue is looked after, each few seconds.
        let left = std::mem::take(&mut *LEFT.lock().expect("nobody panics with it"));
        if !left.is_empty() {
            rabbitmq().await.delete_vhosts(&left).await.expect("virtual hosts can be removed");
        }
    }
    let name = name(*next);
    *next += 1;
    let url = rabbitmq().await.url(&name);
    USED.with_borrow_mut(|used| used.0.push(name));
    url
}

/// The broker of all tests of a program that do nothing to it.
pub async fn rabbitmq() -> &'static RabbitMq {
    static RABBITMQ: OnceCell<RabbitMq> = OnceCell::const_new();
    let start = async || RabbitMq::start(&folder(), &[], 1).await.expect("a private RabbitMQ can be started");
    RABBITMQ.get_or_init(start).await
}

/// A Redis for all tests of a program that do nothing to it. Each database counts there under names of its own.
pub async fn redis() -> &'static Redis {
    static REDIS: OnceCell<Redis> = OnceCell::const_new();
    let start = async || Redis::start(&folder()).await.expect("a private Redis can be started");
    REDIS.get_or_init(start).await
}

fn folder() -> Arc<Folder> {
    Arc::new(Folder::create().expect("there is a place for private servers"))
}

fn name(number: usize) -> String {
    format!("test{number}")
}
