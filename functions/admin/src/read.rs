//! Reading the database without being felt: every look is a read-only transaction with limits of its own.
//!
//! Invariants: nothing here locks a row (no `FOR UPDATE`, no write), so no purchase, payment or release ever waits for an
//! operator, nor an operator for them: of tables, the weakest lock there is is taken, which conflicts with a change of the
//! schema alone. And nothing reads for longer than it may: an old snapshot keeps old versions of hot rows alive.

use crate::{NAME, failure::Failure};
use anyhow::anyhow;
use clap::Args;
use shared::{config::StoreOptions, db};
use sqlx::{PgConnection, PgPool};

/// How many of the latest orders are looked through for those that are wanted, unless asked otherwise.
pub const LOOK_BACK: u32 = 100_000;

/// How long a look that goes by key may take, in seconds a statement.
pub const BY_KEY_SECONDS_MAX: u32 = 10;

/// All statements of a look see one instant.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Until the transaction ends. Waiting for a change of the schema would have all others wait behind us.
const LIMIT: &str = "SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', '1s', true)";

/// For statements that read tables whole: [`store`]'s connections are made for those that look rows up by key. By one
/// process each, so that a sale keeps the other processors.
const READ_WHOLE: &str = "
SELECT set_config('enable_seqscan', 'on', true), set_config('plan_cache_mode', 'auto', true),
       set_config('max_parallel_workers_per_gather', '0', true)";

/// How a look reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By key, or along an index.
    ByKey,
    /// Tables from their beginning to their end.
    Whole,
}

/// What commands take that look through orders without an index for it.
#[derive(Debug, Clone, Copy, Args)]
pub struct LookBack {
    /// How many of the latest orders, of all items, are looked through for those that are wanted. Orders have no index by
    /// item: each purchase would pay for it.
    #[arg(long, default_value_t = LOOK_BACK, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub look_back: u32,
}

/// The database, its schema as this program knows it; nothing is changed to make it so.
///
/// # Errors
/// It cannot be reached, or its schema is another.
pub async fn open(options: &StoreOptions) -> Result<PgPool, Failure> {
    Ok(db::open_as_it_is(options, NAME).await?)
}

/// Looks at the database at one instant, for so many seconds a statement at most.
///
/// # Errors
/// The database's.
pub async fn look<T>(
    pool: &PgPool,
    way: Way,
    seconds_max: u32,
    look: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, Failure> {
    let looking = async {
        let mut transaction = pool.begin_with(BEGIN).await?;
        sqlx::query(LIMIT).bind(format!("{seconds_max}s")).execute(&mut *transaction).await?;
        match way {
            Way::ByKey => {}
            Way::Whole => {
                sqlx::query(READ_WHOLE).execute(&mut *transaction).await?;
            }
        }
        let seen = look(&mut transaction).await?;
        transaction.rollback().await?;
        Ok(seen)
    };
    looking.await.map_err(|error| explained(error, seconds_max))
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
