//! What a test stands on: servers started once for each test program, a virtual host and a database for each test.

use super::{Folder, Redis, Servers};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::OnceCell;

/// The most tests of one program that can have a virtual host of their own.
const VHOSTS: usize = 160;

/// A virtual host and an empty database that nobody else uses.
#[derive(Debug)]
pub struct Fixture {
    /// Of the virtual host.
    pub amqp_url: String,
    /// Of the database.
    pub database_url: String,
}

impl Fixture {
    /// The next free pair. The servers start with the first, and stop when the program ends, however it does.
    ///
    /// # Panics
    /// The servers cannot be had, or a program has more tests than there are virtual hosts.
    pub async fn new() -> Self {
        static SERVERS: OnceCell<Servers> = OnceCell::const_new();
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let servers = SERVERS
            .get_or_init(|| async {
                let vhosts: Vec<String> = (0..VHOSTS).map(name).collect();
                let vhosts: Vec<&str> = vhosts.iter().map(String::as_str).collect();
                Servers::start(&vhosts).await.expect("private servers can be started")
            })
            .await;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < VHOSTS, "more tests than virtual hosts: raise VHOSTS");
        let name = name(number);
        servers.postgres.create_database(&name).await.expect("a database can be created");
        Self { amqp_url: servers.rabbitmq.url(&name), database_url: servers.postgres.url(&name) }
    }
}

/// A Redis for all tests of a program that do nothing to it. Each database counts there under names of its own.
///
/// # Panics
/// It cannot be had.
pub async fn redis() -> &'static Redis {
    static REDIS: OnceCell<Redis> = OnceCell::const_new();
    REDIS
        .get_or_init(|| async {
            let folder = Arc::new(Folder::create().expect("there is a place for a private Redis"));
            Redis::start(&folder).await.expect("a private Redis can be started")
        })
        .await
}

fn name(number: usize) -> String {
    format!("test{number}")
}
