//! The servers of a run: those that the command line names, or private ones. Whatever is started is stopped, also
//! after a failure or a signal.

use crate::failure::Failure;
use crate::progress::Progress;
use anyhow::{Context, anyhow};
use clap::Args;
use shared::amqp::Nodes;
use shared::config::{Unusable, check_redis_url};
use shared::db;
use shared::devstack::{Folder, Missing, Postgres, Servers, as_user, install, urls_of};
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// The virtual host of private servers; it has nothing else in it.
pub(crate) const VHOST: &str = "sale";
const DATABASE: &str = "sale";

#[derive(Debug, Clone)]
pub struct Endpoints {
    /// The broker, with the virtual host.
    pub amqp_url: String,
    pub database_url: String,
    /// `None` where no worker's strategy needs it.
    pub redis_url: Option<String>,
    /// Whether these are for who may do everything, and functions connect as their own users, and roles.
    pub is_private: bool,
}

impl Endpoints {
    /// Where this function connects: broker and database.
    pub(crate) fn of_function(&self, function: &str) -> [String; 2] {
        match self.is_private {
            true => urls_of(function, &self.amqp_url, &self.database_url),
            false => [self.amqp_url.clone(), self.database_url.clone()],
        }
    }

    /// Where this user of the broker connects, who may do no more than `rabbitmq/users.json` says.
    pub(crate) fn of_user(&self, user: &str) -> String {
        match self.is_private {
            true => as_user(&self.amqp_url, user),
            false => self.amqp_url.clone(),
        }
    }
}

/// The servers as the command line or the environment gives them; an empty URL counts as none.
#[derive(Debug, Clone, Default, Args)]
pub struct Urls {
    /// The broker to use, of a cluster each node with commas between them; without it (and --database-url), private servers
    /// are started and stopped. What is measured wants it for itself.
    #[arg(long, value_name = "URL", env = "AMQP_URL", hide_env_values = true)]
    pub amqp_url: Option<String>,
    /// The database to use, by nobody else while it is measured; goes with --amqp-url.
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

impl Urls {
    pub(crate) fn is_any_given(&self) -> bool {
        [&self.amqp_url, &self.database_url].into_iter().flatten().any(|url| !url.is_empty())
    }
}

#[derive(Debug, Clone, Default, Args)]
pub struct RedisUrl {
    /// The Redis to use; goes with --amqp-url, where a strategy is redis.
    #[arg(long, value_name = "URL", env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
}

/// What a run needs besides a broker and a database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs<'a> {
    pub(crate) broker_nodes: usize,
    /// Whether private servers are reached by TLS alone.
    pub(crate) tls: bool,
    pub(crate) redis: Option<&'a RedisUrl>,
    /// Whether private PostgreSQL counts its statements.
    pub(crate) statements: bool,
    /// Where the data of private servers, of a broker of one node, are kept for the next time.
    pub(crate) keep: Option<&'a Path>,
}

impl Needs<'_> {
    pub(crate) const PLAIN: Self = Self { broker_nodes: 1, tls: false, redis: None, statements: false, keep: None };
}

/// Works on the servers that are given, or on private ones; only those are handed over to be killed and filled.
pub(crate) async fn with_servers<T>(
    urls: &Urls,
    needs: Needs<'_>,
    progress: &Progress,
    work: impl AsyncFnOnce(&Endpoints, Option<&mut Servers>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if let Some(endpoints) = given(urls, needs.redis)? {
        let done = or_interrupted(work(&endpoints, None)).await;
        progress.clear();
        return done;
    }
    progress.stage("starting a private RabbitMQ and a private PostgreSQL");
    let start = async {
        match needs.keep {
            Some(folder) => Servers::start_keeping(folder, &[VHOST]).await,
            None => Servers::start_cluster(&[VHOST], needs.broker_nodes, needs.tls).await,
        }
    };
    let mut servers = or_interrupted(async { start.await.map_err(not_started) }).await?;
    let worked = or_interrupted(async {
        let endpoints = private_endpoints(&mut servers, needs, progress).await.map_err(not_started)?;
        work(&endpoints, Some(&mut servers)).await
    });
    stopped(worked.await, servers.stop(), progress).await
}

/// Works on a new database of a private PostgreSQL alone.
pub(crate) async fn with_private_postgres<T>(
    progress: &Progress,
    work: impl AsyncFnOnce(String) -> Result<T, Failure>,
) -> Result<T, Failure> {
    progress.stage("starting a private PostgreSQL");
    let start = async {
        // Before the folder, which belongs to the server's user.
        install::ensure(&[install::Server::Postgres]).await?;
        let folder = Arc::new(Folder::create()?);
        let postgres = Postgres::start(&folder).await?;
        postgres.create_database(DATABASE).await?;
        Ok((postgres, folder))
    };
    let (postgres, folder) = or_interrupted(async { start.await.map_err(not_started) }).await?;
    let worked = or_interrupted(work(postgres.url(DATABASE))).await;
    let stop = async {
        postgres.stop().await?;
        Arc::into_inner(folder).context("somebody else holds the private folder")?.remove().await
    };
    stopped(worked, stop, progress).await
}

/// Gives the work up when a signal asks to stop (Ctrl-C, SIGTERM, or the terminal going away).
pub(crate) async fn or_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let listen = |kind| signal(kind).context("listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(Failure::Interrupted),
        _ = terminate.recv() => Err(Failure::Interrupted),
        _ = hangup.recv() => Err(Failure::Interrupted),
    }
}

/// Whatever came of the work, the servers are stopped.
async fn stopped<T>(
    worked: Result<T, Failure>,
    stop: impl Future<Output = anyhow::Result<()>>,
    progress: &Progress,
) -> Result<T, Failure> {
    progress.stage("stopping the private servers");
    let stopped = stop.await.context("stop the private servers");
    progress.clear();
    let done = worked?;
    stopped?;
    Ok(done)
}

/// Both or none; and Redis with them, where it is needed.
fn given(urls: &Urls, redis: Option<&RedisUrl>) -> Result<Option<Endpoints>, Failure> {
    let url = |url: &Option<String>| url.clone().filter(|url| !url.is_empty());
    let redis_url = redis.and_then(|given| url(&given.redis_url));
    let text = match (url(&urls.amqp_url), url(&urls.database_url)) {
        (Some(amqp_url), Some(database_url)) if redis_url.is_some() || redis.is_none() => {
            Nodes::read(&amqp_url)?;
            db::read(&database_url)?;
            let checked = redis_url.as_deref().map_or(Ok(()), check_redis_url);
            checked.map_err(|error| Failure::Configuration(error.into()))?;
            return Ok(Some(Endpoints { amqp_url, database_url, redis_url, is_private: false }));
        }
        (None, None) if redis_url.is_none() => return Ok(None),
        (Some(_), Some(_)) | (None, None) => {
            "with --strategy redis (which is one of compare's unless others are named), AMQP_URL, DATABASE_URL and \
             REDIS_URL go together: set them all to use your servers, or none to use private ones"
        }
        (Some(_), None) | (None, Some(_)) => {
            "AMQP_URL and DATABASE_URL go together: set both to use your servers, or neither to use private ones"
        }
    };
    Err(Failure::Configuration(anyhow!(text)))
}

/// The virtual host, a new database, and a Redis where it is needed.
async fn private_endpoints(servers: &mut Servers, needs: Needs<'_>, progress: &Progress) -> anyhow::Result<Endpoints> {
    if needs.statements {
        // Before there is a database, as only those that come later are counted in.
        servers.postgres.count_statements().await?;
    }
    servers.postgres.create_database(DATABASE).await?;
    let (amqp_url, database_url) = (servers.rabbitmq.url(VHOST), servers.postgres.url(DATABASE));
    let mut redis_url = None;
    if needs.redis.is_some() {
        progress.stage("starting a private Redis");
        redis_url = Some(servers.start_redis().await?.url());
    }
    Ok(Endpoints { amqp_url, database_url, redis_url, is_private: true })
}

pub(crate) fn not_started(error: anyhow::Error) -> Failure {
    if error.is::<Unusable>() {
        return Failure::Configuration(error);
    }
    match error.downcast_ref::<Missing>() {
        Some(_) => Failure::Unreachable(error),
        None => Failure::Unreachable(error.context("the private servers do not start")),
    }
}
