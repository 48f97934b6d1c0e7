//! `restored`: a database that was set back is taken as it is, and the functions go on.

use crate::NAME;
use crate::failure::Failure;
use crate::report::{Drawn, Layout};
use clap::Args;
use serde_json::json;
use shared::config::StoreOptions;
use shared::db;
use shared::messages::time::text;
use sqlx::Executor;
use time::OffsetDateTime;

/// The relay may have the row locked for as long as it publishes.
const WAIT: &str = "SET LOCAL lock_timeout = '3s'";

/// How old the database is, and whether functions are held; until the transaction ends, no relay looks.
const READ: &str = "
SELECT marked_at, EXISTS (
    SELECT FROM pg_trigger
    WHERE tgname = 'refuse_until_restored' AND tgrelid = 'outbox'::regclass AND tgenabled <> 'D'
) FROM outbox_turn FOR UPDATE";

/// Newer than any mark that the database that was there before can have left.
const GO_ON: &str = "
SELECT hold_until_restored(false);
UPDATE outbox_turn SET marked_at = greatest(clock_timestamp(), marked_at)";

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    store: StoreOptions,
}

pub(crate) async fn run(Options { store }: Options) -> Result<Drawn, Failure> {
    let pool = db::open_as_it_is(&store, NAME).await?;
    let going_on = async {
        let mut transaction = pool.begin().await?;
        sqlx::query(WAIT).execute(&mut *transaction).await?;
        let read: (OffsetDateTime, bool) = sqlx::query_as(READ).fetch_one(&mut *transaction).await?;
        transaction.execute(GO_ON).await?;
        transaction.commit().await?;
        Ok::<_, sqlx::Error>(read)
    };
    let (marked_at, were_held) = db::answered(going_on).await?;
    let document = json!({ "marked_at": text(marked_at), "were_held": were_held });
    let mut drawn = Layout { lines: "marked_at were_held", tables: &[] }.of(document);
    drawn.notes.push("The functions go on with the database as it is.".to_owned());
    Ok(drawn)
}
