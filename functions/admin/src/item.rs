//! `item NAME`: one item, its rules and its latest orders.

use crate::{
    failure::Failure,
    items::Item,
    options::Limit,
    orders::{self, Found, Wanted},
    read::{self, BY_KEY_SECONDS_MAX, LookBack, Way},
    report::{Report, Shape, Style, counted, span_text, time_or_dash, time_text},
};
use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use shared::config::StoreOptions;

/// $1 is its id.
pub const ITEM: &str = "
SELECT id, stock, available, held, sold, version, conflicts, hold_ms, opens_at, closes_at, created_at,
       max_per_buyer, cooldown_ms, tiers, now() < opens_at AS is_early, now() >= closes_at AS is_late
FROM items WHERE id = $1";

/// What `item` takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The item's id.
    #[arg(value_name = "NAME")]
    pub item: String,
    /// How many of its orders to show.
    #[command(flatten)]
    pub limit: Limit,
    /// How far to look for them.
    #[command(flatten)]
    pub look_back: LookBack,
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
}

/// The document of `item NAME --json`.
#[derive(Debug, Serialize)]
pub struct ItemWithOrders {
    /// The item.
    #[serde(flatten)]
    pub item: Item,
    /// Its latest orders.
    #[serde(flatten)]
    pub found: Found,
}

/// Runs the command.
///
/// # Errors
/// There is no such item; the database's.
pub async fn run(options: Options, shape: Shape) -> Result<Report, Failure> {
    let pool = read::open(&options.store).await?;
    let seen = read::look(&pool, Way::ByKey, BY_KEY_SECONDS_MAX, async |connection| {
        let Some(row) = sqlx::query(ITEM).bind(&options.item).fetch_optional(&mut *connection).await? else {
            return Ok(None);
        };
        let wanted = Wanted { item: Some(&options.item), state: None };
        let found = orders::find(connection, wanted, options.limit, options.look_back).await?;
        Ok(Some(ItemWithOrders { item: Item::read(&row)?, found }))
    })
    .await?;
    let missing = || Failure::Broken(anyhow!("there is no item {}; `admin items` lists them", options.item));
    let document = seen.ok_or_else(missing)?;
    Ok(Report::of(shape, &document, |style| text(&document, style)))
}

fn text(document: &ItemWithOrders, style: Style) -> String {
    let Item { item, stock, available, held, sold, version, conflicts, .. } = &document.item;
    let of = &document.item;
    let mut rules = vec![];
    rules.extend(of.max_per_buyer.map(|units| format!("at most {units} for each buyer")));
    rules.extend(of.cooldown_ms.map(|time| format!("no second purchase within {}", span_text(time))));
    rules.extend(of.tiers.as_ref().map(|tiers| format!("only for {}", tiers.join(", "))));
    let rules = if rules.is_empty() { "none".to_owned() } else { rules.join("; ") };
    let sale = of.sale.as_str();
    let (opens, closes) = (time_or_dash(of.opens_at), time_or_dash(of.closes_at));
    format!(
        "{}\n  stock    {stock} = {available} available + {held} held + {sold} sold\n  \
         version  {version}, {}\n  sale     {sale} (opens {opens}, closes {closes})\n  \
         hold     {}\n  rules    {rules}\n  created  {}\n\n{}",
        style.title(item),
        counted(*conflicts, "conflict"),
        span_text(of.hold_ms),
        time_text(of.created_at),
        orders::text(&document.found)
    )
}
