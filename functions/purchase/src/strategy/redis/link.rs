//! A connection to Redis, for as long as it lasts, with the epoch in which that server counts.
//!
//! Invariant: it is never repaired. What comes back after a fault may be another server, or the same one with an old
//! snapshot: so a connection that failed is dropped, and the next one passes the fence.

use super::fence;
use crate::decide::Item;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, InfoDict, RedisError, RedisResult, Script, ServerErrorKind,
    aio::MultiplexedConnection,
};
use shared::{
    error::Error,
    messages::{PurchaseRequest, Request},
};
use sqlx::PgConnection;
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

/// How long connecting may take.
const CONNECT_SECONDS_MAX: u64 = 2;
/// How long an answer may take; each is some milliseconds' work.
const ANSWER_SECONDS_MAX: u64 = 2;
/// How long a grant is kept: longer than a batch goes from hand to hand after a worker's death. One that is asked for after
/// that takes its units once more, and PostgreSQL has the last word on how many there are.
const GRANT_MS: u64 = 120_000;
/// How long a count is kept that nobody asks about: nobody else clears away what an old epoch leaves behind.
const COUNT_MS: u64 = 3_600_000;

/// An open connection, past the fence.
#[derive(Clone)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    epoch: Uuid,
    take: Script,
    load: Script,
}

impl Link {
    /// Connects, asks the server who it is, and has it learn the scripts.
    pub(super) async fn open(client: &Client, database: &mut PgConnection) -> Result<Self, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(CONNECT_SECONDS_MAX)))
            .set_response_timeout(Some(Duration::from_secs(ANSWER_SECONDS_MAX)));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.map_err(fault)?;
        let info: InfoDict = redis::cmd("INFO").arg("server").query_async(&mut connection).await.map_err(fault)?;
        let run_id: Option<String> = info.get("run_id");
        let run_id = run_id.ok_or_else(|| Error::Unfit("Redis does not say its run_id (INFO server)".to_owned()))?;
        let epoch = fence::epoch(database, &run_id).await?;
        let (take, load) = (Script::new(include_str!("take.lua")), Script::new(include_str!("load.lua")));
        let learnt: RedisResult<(String, String)> =
            redis::pipe().load_script(&take).load_script(&load).query_async(&mut connection).await;
        learnt.map_err(fault)?;
        Ok(Self { connection, epoch, take, load })
    }

    /// For each item, in their order, the units left before each of its requests, or `None`: it is not counted. One round
    /// trip. After a fault Redis may have taken the units; then it knows the requests when they are asked about again.
    pub(super) async fn take(
        &self,
        asked: &BTreeMap<&str, Vec<&PurchaseRequest>>,
    ) -> Result<Vec<Option<Vec<i64>>>, Error> {
        let mut pipe = redis::pipe();
        for (item, requests) in asked {
            let mut invocation = self.take.key(self.count_of(item));
            invocation.arg(GRANT_MS).arg(COUNT_MS);
            for request in requests {
                // The same name only for the same id and content.
                let name = Uuid::new_v5(&request.fingerprint(), request.request_id.as_bytes());
                invocation.key(self.key("grant", &name.simple().to_string())).arg(request.quantity);
            }
            pipe.invoke_script(&invocation);
        }
        let answers: Vec<Option<Vec<i64>>> = pipe.query_async(&mut self.connection.clone()).await.map_err(fault)?;
        let fits = |(answer, requests): (&Option<Vec<i64>>, &Vec<_>)| {
            answer.as_ref().is_none_or(|left| left.len() == requests.len())
        };
        match answers.len() == asked.len() && answers.iter().zip(asked.values()).all(fits) {
            true => Ok(answers),
            false => Err(Error::Unfit("Redis did not answer each question".to_owned())),
        }
    }

    /// Begins to count these items as their rows say, unless a newer reading was loaded meanwhile.
    pub(super) async fn load(&self, rows: impl Iterator<Item = (&str, &Item)>) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        for (item, row) in rows {
            let mut invocation = self.load.key(self.count_of(item));
            let name = Uuid::now_v7().simple().to_string();
            pipe.invoke_script(invocation.arg(row.available).arg(row.version).arg(name).arg(COUNT_MS));
        }
        pipe.exec_async(&mut self.connection.clone()).await.map_err(fault)
    }

    /// Has these items loaded when they are next asked about.
    pub(super) async fn forget(&self, items: &[&str]) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        for item in items {
            pipe.hdel(self.count_of(item), "left");
        }
        pipe.exec_async(&mut self.connection.clone()).await.map_err(fault)
    }

    fn count_of(&self, item: &str) -> String {
        self.key("item", item)
    }

    /// Every key is named after the epoch: that is the fence.
    fn key(&self, kind: &str, name: &str) -> String {
        format!("turnstile:{}:{kind}:{name}", self.epoch.simple())
    }
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
