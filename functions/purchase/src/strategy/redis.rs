//! What Redis counts: how many units of an item are left, in place of what its row says.
//!
//! It answers as fast as it can, and may be wrong: units that came back, or were taken away, behind its back; units that it
//! gave to a request that never came to be recorded. PostgreSQL stays the truth: what is decided on Redis' count is committed
//! where it is true on the row, and nowhere else. So a count that was lost, restored or never given back sells no unit twice,
//! and sends nobody away while units are left; it costs a round.

use crate::decide::{Item, Snapshot};
use crate::store::Conflicts;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, InfoDict, IntoConnectionInfo, RedisError, RedisResult,
    Script, ServerErrorKind, TlsCertificates,
};
use shared::config::{UNREADABLE_URL, Unusable, check_redis_url, unusable_redis_url};
use shared::db::on_connection;
use shared::error::Error;
use shared::idempotency::Verdicts;
use shared::messages::{Identity, PurchaseRequest};
use shared::startup::wait_for_server;
use shared::tls::{self, Setting, Tls};
use sqlx::{PgConnection, PgPool};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use uuid::Uuid;

/// What there is to change about TLS.
const SETTING: Setting = Setting { schemes: ["rediss://", "redis://"], authority: "--redis-ca FILE (REDIS_CA)" };
/// How long connecting may take, and an answer; each is some milliseconds' work.
const SECONDS_MAX: u64 = 2;
/// How long a grant is kept: longer than a batch goes from hand to hand after a worker's death. One that is asked for after
/// that takes its units once more, and PostgreSQL has the last word on how many there are.
const GRANT_MS: u64 = 120_000;
/// How long a count is kept that nobody asks about: nobody else clears away what an old epoch leaves behind.
const COUNT_MS: u64 = 3_600_000;
/// How often an item is asked about when it is not counted: it is loaded in between, unless others have it forgotten, or
/// Redis runs out of room, just as fast.
const LOOKUPS_MAX: u32 = 3;
/// Conflicts after which an item is decided by its row, whatever Redis says. The first one may come of a commit that is on
/// its way: who waits for that, and asks again, gets the same answer, and then it is true.
const CONFLICTS_MAX: i64 = 1;
/// How often the fence is looked at, when other workers find other servers at the same time.
const FENCE_LOOKUPS_MAX: u32 = 5;

/// The fence: the epoch of the Redis with this run id, where it is the one that was known.
const READ_EPOCH: &str = "SELECT epoch FROM redis_fence WHERE is_only AND run_id = $1";
/// A new epoch for a Redis that was not known; nothing where somebody else was faster with it.
const NEW_EPOCH: &str = "
UPDATE redis_fence SET epoch = gen_random_uuid(), run_id = $1 WHERE is_only AND run_id <> $1 RETURNING epoch";

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/take.lua")));
static LOAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/load.lua")));

/// Whether the item is decided by its row, whatever Redis says.
pub(super) fn is_doubtful(conflicts: &Conflicts, item: &str) -> bool {
    conflicts.get(item).is_some_and(|count| *count > CONFLICTS_MAX)
}

/// Asks Redis. Connects when first asked, and again after every fault; copies share the connection.
#[derive(Clone)]
pub struct Counter {
    client: Client,
    /// Where it is spoken to so.
    tls: Option<Tls>,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Counter {
    /// At this URL; by TLS, with a server whose certificate is of this authority, or else of the system's.
    pub fn new(redis_url: &str, authority: Option<&Path>) -> Result<Self, Unusable> {
        check_redis_url(redis_url)?;
        let unreadable = |_: RedisError| unusable_redis_url(UNREADABLE_URL);
        let info = redis_url.into_connection_info().map_err(unreadable)?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let authority = tls::authority_of(redis_url, authority);
        let mut tls = None;
        if let ConnectionAddr::TcpTls { host, .. } = info.addr() {
            let with = Tls::with(host, authority.as_deref());
            tls = Some(with.map_err(|error| Unusable(format!("{error}; check REDIS_URL and REDIS_CA")))?);
        } else if let ConnectionAddr::Tcp(host, _) = info.addr() {
            tls::warn_of_plain("Redis is plain", host, "where it has TLS, REDIS_URL is rediss://…");
        }
        let client = if tls.is_some() {
            let root_cert = authority.map(fs::read).transpose().map_err(|error| Unusable(error.to_string()))?;
            Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
        } else {
            Client::open(info)
        };
        Ok(Self { client: client.map_err(unreadable)?, tls, connection: Arc::default() })
    }

    /// What of TLS keeps us from it.
    async fn fault(&self) -> Option<String> {
        let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) =
            self.client.get_connection_info().addr()
        else {
            return None;
        };
        tls::fault(host, *port, self.tls.as_ref(), SETTING).await
    }

    /// Takes units for the requests that are to be decided. What Redis had of an item takes the place of what its row says,
    /// but for doubtful items, and for those whose rules look at buyers: these go by their version.
    /// Where it fails, Redis may have taken the units; then it knows the requests when they are asked about again.
    pub async fn count<'a>(
        &self,
        database: &mut PgConnection,
        requests: &[&'a PurchaseRequest],
        snapshot: &mut Snapshot,
        verdicts: &Verdicts<'a>,
        conflicts: &Conflicts<'a>,
    ) -> Result<(), Error> {
        let (mut ids, mut asked) = (HashSet::new(), BTreeMap::<_, Vec<_>>::new());
        for request in requests.iter().copied() {
            let is_counted = snapshot.items.get(&request.item).is_some_and(|item| !item.rules.look_at_buyers());
            if is_counted
                && !is_doubtful(conflicts, &request.item)
                && verdicts.answer(request).is_none()
                && ids.insert((request.request_id.as_str(), request.user()))
            {
                asked.entry(request.item.as_str()).or_default().push(request);
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        let mut connection = self.connection(database).await?;
        let units = connection.take(&snapshot.items, asked).await;
        for (item, units) in self.checked(connection.opened, units).await? {
            if let Some(item) = snapshot.items.get_mut(item) {
                item.available = units;
            }
        }
        Ok(())
    }

    /// Has these items loaded by their rows when they are next asked about, after a decision on their rows that Redis was not
    /// asked about.
    pub(super) async fn count_anew(&self, database: &mut PgConnection, items: Vec<&str>) {
        if items.is_empty() {
            return;
        }
        let forgotten = match self.connection(database).await {
            Ok(mut connection) => {
                let forgotten = connection.forget(&items).await;
                self.checked(connection.opened, forgotten).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            // What is committed stands; a count that stays wrong is found out by the next conflict.
            tracing::debug!(%error, "Redis cannot be told to count anew");
        }
    }

    /// Waits for a Redis that is not there yet, for a limited time.
    pub(super) async fn reach(&self, pool: &PgPool, seconds_max: u64) -> anyhow::Result<()> {
        let away = |error: &Error| {
            matches!(error, Error::Away(_) | Error::Row(_) | Error::Unhandled(_)).then(|| error.to_string())
        };
        let reached = wait_for_server("Redis", seconds_max, away, || async {
            let opened = on_connection(pool, async |database| self.connection(database).await).await;
            let fault = if opened.is_err() { self.fault().await } else { None };
            match fault {
                Some(fault) => Err(Error::Unfit(format!("Redis cannot be used: {fault}"))),
                None => opened.map(drop),
            }
        });
        match reached.await {
            Err(Error::Unfit(text)) => Err(Unusable(format!("{text}; check REDIS_URL")).into()),
            Err(error) => anyhow::bail!("{error}, for {seconds_max} s; is Redis running, and does REDIS_URL name it?"),
            Ok(()) => Ok(()),
        }
    }

    async fn connection(&self, database: &mut PgConnection) -> Result<Connection, Error> {
        let mut shared = self.connection.lock().await;
        match &*shared {
            Some(connection) => Ok(connection.clone()),
            None => Ok(shared.insert(Connection::open(&self.client, database).await?).clone()),
        }
    }

    /// A connection that failed is never repaired: what comes back may be another server, or the same one with an old
    /// snapshot. The next one passes the fence; it stays where somebody has opened it already.
    async fn checked<T>(&self, opened: Instant, outcome: RedisResult<T>) -> Result<T, Error> {
        if outcome.is_err() {
            self.connection.lock().await.take_if(|shared| shared.opened == opened);
        }
        outcome.map_err(fault)
    }
}

/// An open connection, with the epoch in which that server counts.
#[derive(Clone)]
struct Connection {
    redis: MultiplexedConnection,
    epoch: Uuid,
    opened: Instant,
}

impl Connection {
    /// Connects, asks the server who it is, and has it learn the scripts.
    async fn open(client: &Client, database: &mut PgConnection) -> Result<Self, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(SECONDS_MAX)))
            .set_response_timeout(Some(Duration::from_secs(SECONDS_MAX)));
        let mut redis = client.get_multiplexed_async_connection_with_config(&config).await.map_err(fault)?;
        let info: InfoDict = redis::cmd("INFO").arg("server").query_async(&mut redis).await.map_err(fault)?;
        let run_id: Option<String> = info.get("run_id");
        let run_id = run_id.ok_or_else(|| Error::Unfit("Redis does not say its run_id (INFO server)".to_owned()))?;
        let epoch = epoch(database, &run_id).await?;
        redis::pipe().load_script(&TAKE).load_script(&LOAD).exec_async(&mut redis).await.map_err(fault)?;
        Ok(Self { redis, epoch, opened: Instant::now() })
    }

    /// How many units of each item there are for its requests, which take them. One that is not counted is loaded by its row,
    /// and never taken for sold out; one that is missing here is one that nobody counts.
    async fn take<'a>(
        &mut self,
        rows: &HashMap<String, Item>,
        mut asked: BTreeMap<&'a str, Vec<&PurchaseRequest>>,
    ) -> RedisResult<HashMap<&'a str, i64>> {
        let mut units = HashMap::new();
        for _ in 0..LOOKUPS_MAX {
            let mut pipe = redis::pipe();
            for (item, requests) in &asked {
                let mut take = TAKE.key(self.key("item", item));
                take.arg(GRANT_MS).arg(COUNT_MS);
                for request in requests {
                    // The same name only for the same id, sender and content.
                    let name = Uuid::new_v5(&request.fingerprint(), request.own_key().as_bytes());
                    take.key(self.key("grant", &name.simple().to_string())).arg(request.quantity);
                }
                pipe.invoke_script(&take);
            }
            let answers: Vec<Option<i64>> = pipe.query_async(&mut self.redis).await?;
            units.extend(asked.keys().copied().zip(answers).filter_map(|(item, units)| Some((item, units?))));
            asked.retain(|item, _| !units.contains_key(item));
            if asked.is_empty() {
                break;
            }
            self.load(asked.keys().map(|item| (*item, &rows[*item]))).await?;
        }
        Ok(units)
    }

    /// Begins to count these items as their rows say, unless a newer reading was loaded meanwhile.
    async fn load(&mut self, rows: impl Iterator<Item = (&str, &Item)>) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        for (item, row) in rows {
            let name = Uuid::now_v7().simple().to_string();
            let mut load = LOAD.key(self.key("item", item));
            pipe.invoke_script(load.arg(row.available).arg(row.version).arg(name).arg(COUNT_MS));
        }
        pipe.exec_async(&mut self.redis).await
    }

    async fn forget(&mut self, items: &[&str]) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        for item in items {
            pipe.hdel(self.key("item", item), "left");
        }
        pipe.exec_async(&mut self.redis).await
    }

    /// Every key is named after the epoch: that is the fence.
    fn key(&self, kind: &str, name: &str) -> String {
        format!("turnstile:{}:{kind}:{name}", self.epoch.simple())
    }
}

/// The epoch in which the Redis with this run id counts; a new one where it is not the Redis that was known: it was restarted,
/// perhaps with an old snapshot, failed over or was replaced. So no two servers, or one before and after a restart, share one.
async fn epoch(database: &mut PgConnection, run_id: &str) -> Result<Uuid, Error> {
    for _ in 0..FENCE_LOOKUPS_MAX {
        if let Some(epoch) = sqlx::query_scalar(READ_EPOCH).bind(run_id).fetch_optional(&mut *database).await? {
            return Ok(epoch);
        }
        if let Some(epoch) = sqlx::query_scalar(NEW_EPOCH).bind(run_id).fetch_optional(&mut *database).await? {
            tracing::info!(run_id, %epoch, "this Redis was not known; it counts from the start");
            return Ok(epoch);
        }
    }
    Err(Error::Away("Redis is another one for each worker that asks; does REDIS_URL name one server?".to_owned()))
}

/// What a fault of Redis means; either way the batch is held. A plain error (`ERR`) may well pass: too many clients, say.
fn fault(error: RedisError) -> Error {
    // The library knows a wrong password, but not that one is missing.
    let is_refusal = error.code() == Some("NOAUTH")
        || matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed
                | ErrorKind::InvalidClientConfig
                | ErrorKind::Parse
                | ErrorKind::UnexpectedReturnType
                | ErrorKind::Server(ServerErrorKind::NoPerm)
        );
    // Of a pipeline, each command has its own; one says it.
    let reason = match error.clone().into_server_errors().as_deref() {
        Some([(_, first), ..]) => first.to_string(),
        Some([]) | None => error.to_string(),
    };
    if is_refusal {
        Error::Unfit(format!("Redis refuses ({reason})"))
    } else {
        Error::Away(format!("Redis does not answer ({reason})"))
    }
}
