//! What a test stands on: servers started once for each test program, a virtual host and a database for each test.

use super::{Folder, Redis, Servers};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::OnceCell;

/// The most tests of one program that can have a virtual host of their own.
const VHOSTS: usize = 160;

/// A virtual host and an empty database that nobody else uses.
#[derive(Debug)]
pub struct Fixture {
    pub amqp_url: String,
    pub database_url: String,
}

impl Fixture {
    /// The next free pair. The servers start with the first, and stop when the program ends, however it does.
    pub async fn new() -> Self {
        static SERVERS: OnceCell<Servers> = OnceCell::const_new();
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = |number: usize| format!("test{number}");
        let start = async || {
            let vhosts: Vec<String> = (0..VHOSTS).map(name).collect();
            let vhosts: Vec<&str> = vhosts.iter().map(String::as_str).collect();
            Servers::start(&vhosts).await.expect("private servers can be started")
        };
        let servers = SERVERS.get_or_init(start).await;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < VHOSTS, "more tests than virtual hosts: raise VHOSTS");
        servers.postgres.create_database(&name(number)).await.expect("a database can be created");
        Self { amqp_url: servers.rabbitmq.url(&name(number)), database_url: servers.postgres.url(&name(number)) }
    }
}

/// A Redis for all tests of a program that do nothing to it. Each database counts there under names of its own.
pub async fn redis() -> &'static Redis {
    static REDIS: OnceCell<Redis> = OnceCell::const_new();
    let start = async || {
        let folder = Arc::new(Folder::create().expect("there is a place for a private Redis"));
        Redis::start(&folder).await.expect("a private Redis can be started")
    };
    REDIS.get_or_init(start).await
}
