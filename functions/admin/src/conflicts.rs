//! `conflicts`: which items are contended.

use crate::{
    failure::Failure,
    options::Limit,
    read::{self, BY_KEY_SECONDS_MAX, Way},
    report::{Column, Report, Shape, table},
};
use clap::Args;
use serde::Serialize;
use shared::config::StoreOptions;
use sqlx::Row;

/// The most contended first. $1 is the most rows.
pub const CONFLICTS: &str = "
SELECT id, version, conflicts FROM items WHERE conflicts > 0 ORDER BY conflicts DESC, id LIMIT $1";

/// What `conflicts` takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How much to show.
    #[command(flatten)]
    pub limit: Limit,
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
}

/// The document of `conflicts --json`.
#[derive(Debug, Serialize)]
pub struct Conflicts {
    /// The most contended first; none without conflicts.
    pub items: Vec<Contended>,
}

/// An item on which decisions met.
#[derive(Debug, Serialize)]
pub struct Contended {
    /// The item's id.
    pub item: String,
    /// How often a decision was made again, because the version had moved on.
    pub conflicts: i64,
    /// Decisions that were committed.
    pub decisions: i64,
    /// The one by the other. Above some hundredths, two workers are at it at once: a partition moved, or payments, releases
    /// and purchases come at one rate.
    pub conflicts_per_decision: f64,
}

/// Runs the command.
///
/// # Errors
/// The database's.
pub async fn run(options: Options, shape: Shape) -> Result<Report, Failure> {
    let pool = read::open(&options.store).await?;
    let items = read::look(&pool, Way::ByKey, BY_KEY_SECONDS_MAX, async |connection| {
        let rows = sqlx::query(CONFLICTS).bind(i64::from(options.limit.limit)).fetch_all(connection).await?;
        let read = |row: &sqlx::postgres::PgRow| {
            let (conflicts, decisions): (i64, i64) = (row.try_get("conflicts")?, row.try_get("version")?);
            let conflicts_per_decision = conflicts as f64 / decisions.max(1) as f64;
            Ok(Contended { item: row.try_get("id")?, conflicts, decisions, conflicts_per_decision })
        };
        rows.iter().map(read).collect::<Result<Vec<_>, sqlx::Error>>()
    })
    .await?;
    let document = Conflicts { items };
    Ok(Report::of(shape, &document, |_| text(&document)))
}

fn text(document: &Conflicts) -> String {
    let columns = [
        Column::Words("ITEM"),
        Column::Number("CONFLICTS"),
        Column::Number("DECISIONS"),
        Column::Number("CONFLICTS PER DECISION"),
    ];
    let row = |of: &Contended| {
        let ratio = format!("{:.4}", of.conflicts_per_decision);
        vec![of.item.clone(), of.conflicts.to_string(), of.decisions.to_string(), ratio]
    };
    table(&columns, document.items.iter().map(row).collect(), "No conflicts.")
}
