//! `items`: what is on sale, hot ones first.

use crate::{
    ListOptions,
    failure::Failure,
    look::{Scan, look},
    report::{Document, table_or},
};
use serde::Serialize;
use shared::table::Style;
use sqlx::{FromRow, Row, postgres::PgRow};
use time::OffsetDateTime;

/// Hot ones first: the version counts the decisions. $1 is the most rows.
pub const ITEMS: &str = "
SELECT id AS item, stock, available, held, sold, version, conflicts, hold_ms, opens_at, closes_at, created_at,
       max_per_buyer, cooldown_ms, tiers, now() < opens_at AS is_early, now() >= closes_at AS is_late
FROM items ORDER BY version DESC, id LIMIT $1";

/// The document of `items --json`.
#[derive(Serialize)]
pub(crate) struct Items {
    items: Vec<Item>,
}

/// A row of [`ITEMS`], or of a query with the same columns.
#[derive(Serialize, FromRow)]
pub(crate) struct Item {
    pub(crate) item: String,
    pub(crate) stock: i64,
    pub(crate) available: i64,
    pub(crate) held: i64,
    pub(crate) sold: i64,
    /// Goes up with every decision.
    pub(crate) version: i64,
    /// How often a decision was made again.
    pub(crate) conflicts: i64,
    #[sqlx(flatten)]
    pub(crate) sale: Sale,
    #[serde(with = "shared::messages::time::option")]
    pub(crate) opens_at: Option<OffsetDateTime>,
    #[serde(with = "shared::messages::time::option")]
    pub(crate) closes_at: Option<OffsetDateTime>,
    pub(crate) hold_ms: i64,
    pub(crate) max_per_buyer: Option<i64>,
    pub(crate) cooldown_ms: Option<i64>,
    pub(crate) tiers: Option<Vec<String>>,
    #[serde(with = "shared::messages::time")]
    pub(crate) created_at: OffsetDateTime,
}

/// Whether an item can be bought by the database's clock, stock aside.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sale {
    Open,
    NotOpen,
    Closed,
}

pub(crate) async fn run(options: ListOptions) -> Result<Items, Failure> {
    let items = look(&options.store, Scan::ByKey, async |connection| {
        sqlx::query_as(ITEMS).bind(i64::from(options.limit.limit)).fetch_all(connection).await
    });
    Ok(Items { items: items.await? })
}

impl FromRow<'_, PgRow> for Sale {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let is = |column: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<bool>, _>(column)?.unwrap_or(false));
        Ok(match (is("is_late")?, is("is_early")?) {
            (true, _) => Self::Closed,
            (false, true) => Self::NotOpen,
            (false, false) => Self::Open,
        })
    }
}

impl Sale {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::NotOpen => "not open yet",
            Self::Closed => "closed",
        }
    }
}

impl Document for Items {
    fn text(&self, style: Style) -> String {
        let headings = ["ITEM", ">STOCK", ">AVAILABLE", ">HELD", ">SOLD", ">VERSION", ">CONFLICTS", "SALE"];
        let row = |item: &Item| {
            let numbers = [item.stock, item.available, item.held, item.sold, item.version, item.conflicts];
            let mut row = vec![item.item.clone()];
            row.extend(numbers.map(|number| number.to_string()));
            row.push(item.sale.text().to_owned());
            row
        };
        let none = "No items. `admin create NAME --stock N` makes one.";
        table_or(none, &headings, self.items.iter().map(row).collect(), style)
    }
}
