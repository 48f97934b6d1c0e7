//! `item NAME`: one item, its rules and its latest orders.

use crate::{
    Limit,
    failure::Failure,
    items::Item,
    look::{LookBack, Scan, look},
    orders::{self, Orders},
    report::{Document, counted, or_dash, span_text, time_text},
};
use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use shared::{config::StoreOptions, table::Style};

/// $1 is its id.
pub const ITEM: &str = "
SELECT id AS item, stock, available, held, sold, version, conflicts, hold_ms, opens_at, closes_at, created_at,
       max_per_buyer, cooldown_ms, tiers, now() < opens_at AS is_early, now() >= closes_at AS is_late
FROM items WHERE id = $1";

#[derive(Debug, Args)]
pub struct Options {
    /// The item's id.
    #[arg(value_name = "NAME")]
    item: String,
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    look_back: LookBack,
    #[command(flatten)]
    store: StoreOptions,
}

/// The document of `item NAME --json`.
#[derive(Serialize)]
pub(crate) struct ItemWithOrders {
    #[serde(flatten)]
    item: Item,
    #[serde(flatten)]
    orders: Orders,
}

pub(crate) async fn run(options: Options) -> Result<ItemWithOrders, Failure> {
    let Options { item: id, limit, look_back, store } = options;
    let found = look(&store, Scan::ByKey, async |connection| {
        let item: Option<Item> = sqlx::query_as(ITEM).bind(&id).fetch_optional(&mut *connection).await?;
        let Some(item) = item else { return Ok(None) };
        let orders = orders::find(connection, Some(&id), None, limit, look_back).await?;
        Ok(Some(ItemWithOrders { item, orders }))
    });
    found.await?.ok_or_else(|| Failure::Broken(anyhow!("there is no item {id}; `admin items` lists them")))
}

impl Document for ItemWithOrders {
    fn text(&self, style: Style) -> String {
        let Item { item, stock, available, held, sold, version, conflicts, .. } = &self.item;
        let of = &self.item;
        let mut rules = vec![];
        rules.extend(of.max_per_buyer.map(|units| format!("at most {units} for each buyer")));
        rules.extend(of.cooldown_ms.map(|time| format!("no second purchase within {}", span_text(time))));
        rules.extend(of.tiers.as_ref().map(|tiers| format!("only for {}", tiers.join(", "))));
        let rules = if rules.is_empty() { "none".to_owned() } else { rules.join("; ") };
        let (opens, closes) = (or_dash(of.opens_at.map(time_text)), or_dash(of.closes_at.map(time_text)));
        format!(
            "{}\n  stock    {stock} = {available} available + {held} held + {sold} sold\n  \
             version  {version}, {}\n  sale     {} (opens {opens}, closes {closes})\n  \
             hold     {}\n  rules    {rules}\n  created  {}\n\n{}",
            style.title(item),
            counted(*conflicts, "conflict"),
            of.sale.text(),
            span_text(of.hold_ms),
            time_text(of.created_at),
            self.orders.text(style)
        )
    }
}
