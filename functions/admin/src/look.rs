//! Looking at the database without being felt: every look is a read-only transaction with limits of its own.
//!
//! Nothing here locks a row, so no sale ever waits for an operator, nor an operator for a sale: of tables, the weakest lock
//! is taken. And no look lasts longer than it may: an old snapshot keeps old versions of hot rows alive.

use crate::NAME;
use crate::failure::Failure;
use anyhow::anyhow;
use clap::Args;
use shared::config::StoreOptions;
use shared::db;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;

/// How long a look that goes by key may take, in seconds a statement.
const BY_KEY_SECONDS_MAX: u32 = 10;
/// No look has more statements; so the database, if it is there, has answered when each of them has had its time.
const STATEMENTS_MAX: u32 = 20;

/// All statements of a look see one instant.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Until the transaction ends. Waiting for a change of the schema would have all others wait behind us.
const LIMIT: &str = "SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', '1s', true)";

/// For statements that read tables whole: the connection is made for those that look rows up by key. By one process
/// each, so that a sale keeps the other processors.
const READ_WHOLE: &str = "
SELECT set_config('enable_seqscan', 'on', true), set_config('plan_cache_mode', 'auto', true),
       set_config('max_parallel_workers_per_gather', '0', true)";

/// How a look reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// By key, or along an index.
    ByKey,
    /// Tables from their beginning to their end, for so many seconds a statement at most.
    Whole { seconds_max: u32 },
}

#[derive(Debug, Clone, Copy, Args)]
pub struct LookBack {
    /// How many of the latest orders, of all items, are looked through for those that are wanted. Orders have no index by
    /// item: each purchase would pay for it.
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub look_back: u32,
}

/// Looks at the database at one instant. Its schema has to be there already; nothing is changed to make it so.
pub async fn look<T>(
    store: &StoreOptions,
    scan: Scan,
    read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, Failure> {
    look_at(&db::open_as_it_is(store, NAME).await?, scan, read).await
}

/// The same, where it was reached already: for who looks again and again.
pub(crate) async fn look_at<T>(
    pool: &PgPool,
    scan: Scan,
    read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, Failure> {
    let seconds_max = match scan {
        Scan::ByKey => BY_KEY_SECONDS_MAX,
        Scan::Whole { seconds_max } => seconds_max,
    };
    let looking = async {
        let mut transaction = pool.begin_with(BEGIN).await?;
        sqlx::query(LIMIT).bind(format!("{seconds_max}s")).execute(&mut *transaction).await?;
        if scan != Scan::ByKey {
            sqlx::query(READ_WHOLE).execute(&mut *transaction).await?;
        }
        let seen = read(&mut transaction).await?;
        transaction.rollback().await?;
        Ok(seen)
    };
    match tokio::time::timeout(Duration::from_secs(seconds_max.into()) * STATEMENTS_MAX, looking).await {
        Ok(seen) => seen.map_err(|error| explained(error, seconds_max)),
        Err(_) => Err(Failure::Unreachable(anyhow!("the database has gone silent; the connection to it may be lost"))),
    }
}

fn explained(error: sqlx::Error, seconds_max: u32) -> Failure {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
    match &*code {
        "57014" => Failure::Unreachable(anyhow!(
            "the database did not answer within {seconds_max} s, and was told to stop; ask for less (--limit, --look-back), \
             give it longer (audit: --check-seconds-max), or ask at a quieter time"
        )),
        "55P03" => Failure::Unreachable(anyhow!(
            "somebody is changing the database's schema, and to wait would have a sale wait, too; try again when that is done"
        )),
        _ => error.into(),
    }
}
