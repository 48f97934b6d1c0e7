//! Private servers for the demo, the tests and the benchmarks: real RabbitMQ, PostgreSQL and Redis.
//!
//! [`Servers::start`] starts the first two, and [`Servers::start_redis`] the third, in a private folder, on ports and sockets
//! of their own, so that any number of stacks run side by side. They end with us, however we end ([`process`]), and leave no
//! file behind ([`folder`]), but for data that are to be kept ([`Servers::start_keeping`]). Where one does not start, the error has the end of its log.

pub mod authority;
pub mod fixture;
pub mod folder;
pub mod forwarder;
pub mod gateway;
pub mod install;
mod kept;
pub mod mapped;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod rabbitmq;
pub mod redis;
pub mod seed;
mod server;

use anyhow::{Context, Result};
use std::path::Path;
use std::sync::Arc;

pub use self::redis::Redis;
pub use authority::{Authority, TlsFront};
pub use fixture::Fixture;
pub use folder::Folder;
pub use forwarder::{Disturbance, Forwarder};
pub use gateway::Gateway;
pub use install::Missing;
pub use mapped::as_mapped;
pub use pgbouncer::{PgBouncer, PoolMode};
pub use postgres::{Postgres, as_role, program as postgres_program};
pub use process::{Program, Signal, Supervised};
pub use rabbitmq::{RabbitMq, as_user};

/// The role of all functions but `web`, which only looks.
pub const FUNCTIONS: &str = "turnstile_functions";
const READER: &str = "turnstile_reader";

/// Where a function connects on private servers: as the user of `rabbitmq/users.json` and the role of `migrations/roles.sql`
/// that it is to have.
pub fn urls_of(function: &str, amqp_url: &str, database_url: &str) -> [String; 2] {
    let (user, role) = match function {
        "relay" => ("relay", FUNCTIONS),
        "web" => ("web", READER),
        "admin" => ("operator", FUNCTIONS),
        _ => ("worker", FUNCTIONS),
    };
    [as_user(amqp_url, user), as_role(database_url, role)]
}

/// A running RabbitMQ and a running PostgreSQL, in one private folder; a running Redis, too, for who asks for it.
#[derive(Debug)]
pub struct Servers {
    pub rabbitmq: RabbitMq,
    pub postgres: Postgres,
    /// What counts for the workers' strategy of that name; `None` until [`Servers::start_redis`].
    pub redis: Option<Redis>,
    folder: Arc<Folder>,
}

impl Servers {
    /// Starts both at once; `vhosts` are the broker's virtual hosts besides `/`. [`Missing`] (found with `downcast_ref`) if
    /// a server is not installed.
    pub async fn start(vhosts: &[&str]) -> Result<Servers> {
        Servers::start_cluster(vhosts, 1, false).await
    }

    /// The same, with a broker of so many nodes; reached by TLS alone, if so.
    pub async fn start_cluster(vhosts: &[&str], broker_nodes: usize, is_tls: bool) -> Result<Servers> {
        install::ensure(&[install::Server::RabbitMq, install::Server::Postgres]).await?;
        Servers::start_in(if is_tls { Folder::with_authority() } else { Folder::create() }?, vhosts, broker_nodes).await
    }

    /// The same, with what they had the last time that they were started with this folder, and keeping it there.
    /// [`Unusable`](crate::config::Unusable) where the folder is none for that.
    pub async fn start_keeping(data: &Path, vhosts: &[&str]) -> Result<Servers> {
        install::ensure(&[install::Server::RabbitMq, install::Server::Postgres]).await?;
        let servers = Servers::start_in(Folder::keeping(data)?, vhosts, 1).await?;
        servers.folder.complete()?;
        Ok(servers)
    }

    async fn start_in(folder: Folder, vhosts: &[&str], broker_nodes: usize) -> Result<Servers> {
        let folder = Arc::new(folder);
        let (rabbitmq, postgres) =
            tokio::try_join!(RabbitMq::start(&folder, vhosts, broker_nodes), Postgres::start(&folder))?;
        Ok(Servers { rabbitmq, postgres, redis: None, folder })
    }

    /// Starts a Redis beside them, unless there is one already.
    pub async fn start_redis(&mut self) -> Result<&mut Redis> {
        let redis = match self.redis.take() {
            Some(redis) => redis,
            None => Redis::start(&self.folder).await?,
        };
        Ok(self.redis.insert(redis))
    }

    /// The private folder, with the servers' logs in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops them all and removes the folder.
    pub async fn stop(self) -> Result<()> {
        let redis = async {
            match self.redis {
                Some(redis) => redis.stop().await,
                None => Ok(()),
            }
        };
        let (rabbitmq, postgres, redis) = tokio::join!(self.rabbitmq.stop(), self.postgres.stop(), redis);
        rabbitmq.and(postgres).and(redis)?;
        let folder = Arc::into_inner(self.folder).context("somebody else holds the private folder")?;
        folder.remove().await
    }
}
