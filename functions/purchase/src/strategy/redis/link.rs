//! A connection to Redis, for as long as it lasts, with the epoch in which that server counts.
//!
//! Invariant: it is never repaired. What comes back after a fault may be another server, or the same one with an old
//! snapshot: so a connection that failed is dropped, and the next one passes the fence.

use super::fence;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, InfoDict, RedisError, RedisResult, Script, ServerErrorKind,
    aio::MultiplexedConnection,
};
use shared::error::Error;
use sqlx::PgConnection;
use std::time::Duration;
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

/// What one item's requests are to be asked about.
pub(super) struct Question<'a> {
    /// The item's id.
    pub(super) item: &'a str,
    /// A name for each request, the same only for a request of the same id and content; and its quantity.
    pub(super) requests: Vec<(Uuid, u32)>,
}

/// What an item's row says.
pub(super) struct Row {
    pub(super) item: String,
    pub(super) version: i64,
    pub(super) available: i64,
}

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
    ///
    /// # Errors
    /// Redis or the database is away or unfit.
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

    /// For each question the units left before each of its requests, or `None`: the item is not counted. One round trip.
    ///
    /// # Errors
    /// Redis is away or unfit. It may have taken the units; then it knows the requests when they are asked about again.
    pub(super) async fn take(&self, questions: &[Question<'_>]) -> Result<Vec<Option<Vec<i64>>>, Error> {
        let mut pipe = redis::pipe();
        for question in questions {
            let mut invocation = self.take.key(self.count_of(question.item));
            invocation.arg(GRANT_MS).arg(COUNT_MS);
            for (name, quantity) in &question.requests {
                invocation.key(self.key("grant", &name.simple().to_string())).arg(*quantity);
            }
            pipe.invoke_script(&invocation);
        }
        let answers: Vec<Option<Vec<i64>>> = pipe.query_async(&mut self.connection.clone()).await.map_err(fault)?;
        let fits = |(answer, question): (&Option<Vec<i64>>, &Question<'_>)| {
            answer.as_ref().is_none_or(|left| left.len() == question.requests.len())
        };
        match answers.len() == questions.len() && answers.iter().zip(questions).all(fits) {
            true => Ok(answers),
            false => Err(Error::Unfit("Redis did not answer each question".to_owned())),
        }
    }

    /// Begins to count these items as their rows say, unless a newer reading was loaded meanwhile.
    ///
    /// # Errors
    /// Redis is away or unfit.
    pub(super) async fn load(&self, rows: &[Row]) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        for row in rows {
            let mut invocation = self.load.key(self.count_of(&row.item));
            let name = Uuid::now_v7().simple().to_string();
            pipe.invoke_script(invocation.arg(row.available).arg(row.version).arg(name).arg(COUNT_MS));
        }
        pipe.exec_async(&mut self.connection.clone()).await.map_err(fault)
    }

    /// Has these items counted anew when they are next asked about.
    ///
    /// # Errors
    /// Redis is away or unfit.
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
