//! Items as whoever only looks sees them: one list and one statement for `admin`, the board and the shop.

use serde::Serialize;
use sqlx_macros::FromRow;
use time::OffsetDateTime;

/// Hot ones first: the version counts the decisions. $1 is the most rows.
pub const ITEMS: &str = "
SELECT id AS item, stock, available, held, sold, version, conflicts, hold_ms, opens_at, closes_at, created_at,
       max_per_buyer, cooldown_ms, tiers,
       CASE WHEN now() >= closes_at THEN 'closed' WHEN now() < opens_at THEN 'not_open' ELSE 'open' END AS sale
FROM items ORDER BY version DESC, id LIMIT $1";

/// $1 are their ids.
pub const ITEM: &str = "
SELECT id AS item, stock, available, held, sold, version, conflicts, hold_ms, opens_at, closes_at, created_at,
       max_per_buyer, cooldown_ms, tiers,
       CASE WHEN now() >= closes_at THEN 'closed' WHEN now() < opens_at THEN 'not_open' ELSE 'open' END AS sale
FROM items WHERE id = ANY($1)";

/// As it is shown to people and programs.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Item {
    pub item: String,
    pub stock: i64,
    pub available: i64,
    pub held: i64,
    pub sold: i64,
    pub version: i64,
    /// How often a decision was made again.
    pub conflicts: i64,
    /// Whether it can be bought by the database's clock, stock aside: `open`, `not_open`, `closed`.
    pub sale: String,
    #[serde(with = "crate::messages::time::option")]
    pub opens_at: Option<OffsetDateTime>,
    #[serde(with = "crate::messages::time::option")]
    pub closes_at: Option<OffsetDateTime>,
    pub hold_ms: i64,
    pub max_per_buyer: Option<i64>,
    pub cooldown_ms: Option<i64>,
    pub tiers: Option<Vec<String>>,
    #[serde(with = "crate::messages::time")]
    pub created_at: OffsetDateTime,
}
