//! `outbox`: the rows of events that could not be published are listed, put back for the relay, or dropped.
//!
//! A row that is put back keeps its number, and so its events keep their ids: who has had some of them already drops those.
//! They come late, behind what happened after them.

use crate::failure::Failure;
use crate::look::{Scan, look};
use crate::report::{Drawn, Layout, Output, Report};
use crate::{Limit, NAME};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use shared::config::StoreOptions;
use shared::db;
use sqlx_macros::FromRow;
use time::OffsetDateTime;

/// The first $1 rows, and how many there are in all.
pub const LIST: &str = "
SELECT id, kind, coalesce(cardinality(order_ids), 1) AS events, item, at, failed_at, reason, count(*) OVER () AS total
FROM outbox_failed ORDER BY id LIMIT $1";

/// Those of $1, or all where it is NULL.
pub const REPLAY: &str = "
WITH back AS (
    DELETE FROM outbox_failed WHERE $1::bigint[] IS NULL OR id = ANY($1)
    RETURNING id, kind, order_ids, item, detail, at
)
INSERT INTO outbox (id, kind, order_ids, item, detail, at) OVERRIDING SYSTEM VALUE
SELECT id, kind, order_ids, item, detail, at FROM back RETURNING id, kind";

/// The same.
pub const DROP: &str = "
DELETE FROM outbox_failed WHERE $1::bigint[] IS NULL OR id = ANY($1) RETURNING id, kind";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the rows that were set aside, with the reasons, oldest first.
    List {
        #[command(flatten)]
        limit: Limit,
        #[command(flatten)]
        store: StoreOptions,
    },
    /// Have the relay publish rows again, with the same event ids, once what kept them from it is put right.
    Replay(Selection),
    /// Remove rows for good: their events are never published.
    Drop(Selection),
}

/// Which rows are meant.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "all"]))]
pub struct Selection {
    /// The rows' numbers, as `outbox list` tells them.
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// Every row.
    #[arg(long, requires = "yes")]
    all: bool,
    /// With --all: yes, as many as that are.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    store: StoreOptions,
}

#[derive(Serialize, FromRow)]
struct Row {
    id: i64,
    kind: String,
    events: i32,
    item: Option<String>,
    #[serde(with = "shared::messages::time")]
    at: OffsetDateTime,
    #[serde(with = "shared::messages::time")]
    failed_at: OffsetDateTime,
    reason: String,
    #[serde(skip)]
    total: i64,
}

const NONE: &str = "No such rows.";

pub(crate) async fn run(command: Command, output: Output) -> Result<Report, Failure> {
    Ok(match command {
        Command::List { limit, store } => output.report(&list(limit, &store).await?),
        Command::Replay(selection) => output.report(&change(selection, REPLAY).await?),
        Command::Drop(selection) => output.report(&change(selection, DROP).await?),
    })
}

async fn list(limit: Limit, store: &StoreOptions) -> Result<Drawn, Failure> {
    let read = async |connection: &mut _| sqlx::query_as(LIST).bind(limit.rows()).fetch_all(connection).await;
    let rows: Vec<Row> = look(store, Scan::ByKey, read).await?;
    let total = rows.first().map_or(0, |row| row.total);
    let not_shown = usize::try_from(total).unwrap_or(usize::MAX).saturating_sub(rows.len());
    let tables = &[("rows", NONE, "id kind item events at failed_at reason")];
    let mut drawn = Layout { lines: "", tables }.of(json!({ "rows": rows, "not_shown": not_shown }));
    if not_shown > 0 {
        drawn.notes.push(format!("Not shown: {not_shown} behind these; --limit N shows more."));
    }
    Ok(drawn)
}

/// Runs the statement on what is meant; the relay looks by itself, now and then.
async fn change(selection: Selection, statement: &'static str) -> Result<Drawn, Failure> {
    let Selection { ids, all, yes: _, store } = selection;
    let pool = db::open_as_it_is(&store, NAME).await?;
    let meant = (!all).then_some(&ids);
    let mut changed: Vec<(i64, String)> = db::answered(sqlx::query_as(statement).bind(meant).fetch_all(&pool)).await?;
    changed.sort();
    let is_changed = |id: &&i64| changed.iter().any(|(changed, _)| changed == *id);
    let not_found: Vec<_> = ids.iter().filter(|id| !is_changed(id)).collect();
    let rows: Vec<_> = changed.iter().map(|(id, kind)| json!({ "id": id, "kind": kind })).collect();
    let tables = &[("rows", NONE, "id kind")];
    let mut drawn = Layout { lines: "", tables }.of(json!({ "rows": rows, "not_found": not_found }));
    drawn.notes.extend(not_found.iter().map(|id| format!("There is no row {id}.")));
    drawn.is_well = not_found.is_empty();
    Ok(drawn)
}
