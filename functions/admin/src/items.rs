//! `items`: what is on sale, hot ones first. Also the item as every command tells it.

use crate::{
    failure::Failure,
    options::Limit,
    read::{self, BY_KEY_SECONDS_MAX, Way},
    report::{Column, Report, Shape, table},
};
use clap::Args;
use serde::Serialize;
use shared::config::StoreOptions;
use sqlx::{Row, postgres::PgRow};
use time::OffsetDateTime;

/// Hot ones first: the version counts the decisions. $1 is the most rows.
pub const ITEMS: &str = "
SELECT id, stock, available, held, sold, version, conflicts, hold_ms, opens_at, closes_at, created_at,
       max_per_buyer, cooldown_ms, tiers, counts_orders, now() < opens_at AS is_early, now() >= closes_at AS is_late
FROM items ORDER BY version DESC, id LIMIT $1";

/// What `items` takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How much to show.
    #[command(flatten)]
    pub limit: Limit,
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
}

/// The document of `items --json`.
#[derive(Debug, Serialize)]
pub struct Items {
    /// Hot ones first.
    pub items: Vec<Item>,
}

/// An item.
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    /// Its id.
    pub item: String,
    /// Units that exist.
    pub stock: i64,
    /// Units that can be reserved now.
    pub available: i64,
    /// Units kept by orders that are reserved or being paid for.
    pub held: i64,
    /// Units paid for.
    pub sold: i64,
    /// Goes up with every decision.
    pub version: i64,
    /// How often a decision was made again.
    pub conflicts: i64,
    /// `open`, `not_open` or `closed`, by the database's clock.
    pub sale: Sale,
    /// The sale begins then; `null`: it has begun.
    #[serde(with = "time::serde::rfc3339::option")]
    pub opens_at: Option<OffsetDateTime>,
    /// The sale ends then; `null`: it does not end.
    #[serde(with = "time::serde::rfc3339::option")]
    pub closes_at: Option<OffsetDateTime>,
    /// How long an order keeps its units, in milliseconds.
    pub hold_ms: i64,
    /// Units that one buyer may have.
    pub max_per_buyer: Option<i64>,
    /// The least time between two purchases of one buyer, in milliseconds.
    pub cooldown_ms: Option<i64>,
    /// The tiers that may buy.
    pub tiers: Option<Vec<String>>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Whether an item can be bought, stock aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sale {
    /// It can.
    Open,
    /// Not yet.
    NotOpen,
    /// No more.
    Closed,
}

/// Runs the command.
///
/// # Errors
/// The database's.
pub async fn run(options: Options, shape: Shape) -> Result<Report, Failure> {
    let pool = read::open(&options.store).await?;
    let items = read::look(&pool, Way::ByKey, BY_KEY_SECONDS_MAX, async |connection| {
        let rows = sqlx::query(ITEMS).bind(i64::from(options.limit.limit)).fetch_all(connection).await?;
        rows.iter().map(Item::read).collect::<Result<Vec<_>, _>>()
    })
    .await?;
    let document = Items { items };
    Ok(Report::of(shape, &document, |_| text(&document)))
}

impl Item {
    /// Reads a row of [`ITEMS`], or of one with the same columns.
    ///
    /// # Errors
    /// A column is missing.
    pub fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let is = |column: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<bool>, _>(column)?.unwrap_or(false));
        let sale = match (is("is_late")?, is("is_early")?) {
            (true, _) => Sale::Closed,
            (false, true) => Sale::NotOpen,
            (false, false) => Sale::Open,
        };
        Ok(Self {
            item: row.try_get("id")?,
            stock: row.try_get("stock")?,
            available: row.try_get("available")?,
            held: row.try_get("held")?,
            sold: row.try_get("sold")?,
            version: row.try_get("version")?,
            conflicts: row.try_get("conflicts")?,
            sale,
            opens_at: row.try_get("opens_at")?,
            closes_at: row.try_get("closes_at")?,
            hold_ms: row.try_get("hold_ms")?,
            max_per_buyer: row.try_get("max_per_buyer")?,
            cooldown_ms: row.try_get("cooldown_ms")?,
            tiers: row.try_get("tiers")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl Sale {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::NotOpen => "not open yet",
            Self::Closed => "closed",
        }
    }
}

fn text(document: &Items) -> String {
    let columns = [
        Column::Words("ITEM"),
        Column::Number("STOCK"),
        Column::Number("AVAILABLE"),
        Column::Number("HELD"),
        Column::Number("SOLD"),
        Column::Number("VERSION"),
        Column::Number("CONFLICTS"),
        Column::Words("SALE"),
    ];
    let row = |item: &Item| {
        let mut row = vec![item.item.clone()];
        let numbers = [item.stock, item.available, item.held, item.sold, item.version, item.conflicts];
        row.extend(numbers.map(|number| number.to_string()));
        row.push(item.sale.as_str().to_owned());
        row
    };
    table(&columns, document.items.iter().map(row).collect(), "No items. `admin create NAME --stock N` makes one.")
}
