//! `conflicts`: which items are contended, the most contended first.

use crate::{
    ListOptions,
    failure::Failure,
    look::{Scan, look},
    report::{Document, table_or},
};
use serde::Serialize;
use shared::table::Style;
use sqlx::FromRow;

/// Of the decisions, the version counts those that were committed. $1 is the most rows.
pub const CONFLICTS: &str = "
SELECT id AS item, conflicts, version AS decisions,
       conflicts::float8 / greatest(version, 1)::float8 AS conflicts_per_decision
FROM items WHERE conflicts > 0 ORDER BY conflicts DESC, id LIMIT $1";

/// The document of `conflicts --json`.
#[derive(Serialize)]
pub(crate) struct Conflicts {
    items: Vec<Contended>,
}

#[derive(Serialize, FromRow)]
struct Contended {
    item: String,
    /// How often a decision was made again, because the version had moved on.
    conflicts: i64,
    decisions: i64,
    /// Above some hundredths, two workers are at it at once: a partition moved, or payments, releases and purchases come
    /// at one rate.
    conflicts_per_decision: f64,
}

pub(crate) async fn run(options: ListOptions) -> Result<Conflicts, Failure> {
    let items = look(&options.store, Scan::ByKey, async |connection| {
        sqlx::query_as(CONFLICTS).bind(i64::from(options.limit.limit)).fetch_all(connection).await
    });
    Ok(Conflicts { items: items.await? })
}

impl Document for Conflicts {
    fn text(&self, style: Style) -> String {
        let row = |of: &Contended| {
            let ratio = format!("{:.4}", of.conflicts_per_decision);
            vec![of.item.clone(), of.conflicts.to_string(), of.decisions.to_string(), ratio]
        };
        let headings = ["ITEM", ">CONFLICTS", ">DECISIONS", ">CONFLICTS PER DECISION"];
        table_or("No conflicts.", &headings, self.items.iter().map(row).collect(), style)
    }
}
