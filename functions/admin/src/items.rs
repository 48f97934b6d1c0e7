//! `items`, `item NAME` and `conflicts`: what is on sale, one item with its rules and orders, and what is contended.

use crate::failure::Failure;
use crate::look::{LookBack, Scan, look};
use crate::orders::{self, Orders};
use crate::report::{Drawn, Layout};
use crate::{Limit, ListOptions};
use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::config::StoreOptions;
use shared::items::{ITEM, ITEMS, Item};
use sqlx_macros::FromRow;

/// Of the decisions, the version counts those that were committed. $1 is the most rows.
pub const CONFLICTS: &str = "
SELECT id AS item, conflicts, version AS decisions,
       conflicts::float8 / greatest(version, 1)::float8 AS conflicts_per_decision
FROM items WHERE conflicts > 0 ORDER BY conflicts DESC, id LIMIT $1";

const NONE: &str = "No items. `admin create NAME --stock N` makes one.";

pub(crate) async fn list(ListOptions { limit, store }: ListOptions) -> Result<Drawn, Failure> {
    let read = async |connection: &mut _| sqlx::query_as(ITEMS).bind(limit.rows()).fetch_all(connection).await;
    let items: Vec<Item> = look(&store, Scan::ByKey, read).await?;
    let tables = &[("items", NONE, "item stock available held sold version conflicts sale")];
    let mut drawn = Layout { lines: "", tables }.of(json!({ "items": items }));
    drawn.notes.extend(limit.note(items.len()));
    drawn.shown["items"].as_array_mut().into_iter().flatten().for_each(say_sale);
    Ok(drawn)
}

/// For people.
fn say_sale(item: &mut Value) {
    if item["sale"] == "not_open" {
        item["sale"] = json!("not open yet");
    }
}

#[derive(Debug, Args)]
pub struct ItemOptions {
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

pub(crate) async fn one(options: ItemOptions) -> Result<Drawn, Failure> {
    #[derive(Serialize)]
    struct ItemWithOrders {
        #[serde(flatten)]
        item: Item,
        #[serde(flatten)]
        orders: Orders,
    }
    let ItemOptions { item: id, limit, look_back, store } = options;
    let found = look(&store, Scan::ByKey, async |connection| {
        let Some(item) = sqlx::query_as(ITEM).bind([&id]).fetch_optional(&mut *connection).await? else {
            return Ok(None);
        };
        let orders = orders::find(connection, Some(&id), None, limit, look_back).await?;
        Ok(Some(ItemWithOrders { item, orders }))
    });
    let found = found.await?;
    let found = found.ok_or_else(|| Failure::Broken(anyhow!("there is no item {id}; `admin items` lists them")))?;
    let lines = "item stock available held sold version conflicts sale opens_at closes_at hold_ms max_per_buyer \
                 cooldown_ms tiers created_at";
    let mut drawn = Layout { lines, tables: orders::TABLES }.of(json!(found));
    say_sale(&mut drawn.shown);
    drawn.notes.extend(found.orders.behind(limit));
    Ok(drawn)
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

/// The most contended first.
pub(crate) async fn conflicts(ListOptions { limit, store }: ListOptions) -> Result<Drawn, Failure> {
    let read = async |connection: &mut _| sqlx::query_as(CONFLICTS).bind(limit.rows()).fetch_all(connection).await;
    let items: Vec<Contended> = look(&store, Scan::ByKey, read).await?;
    let tables = &[("items", "No conflicts.", "item conflicts decisions conflicts_per_decision")];
    let mut drawn = Layout { lines: "", tables }.of(json!({ "items": items }));
    drawn.notes.extend(limit.note(items.len()));
    Ok(drawn)
}
