//! `orders`: the latest orders, of an item or in a state.
//!
//! Orders have no index by item, because each purchase would pay for it. Their ids begin with the time at which they were
//! made, so the primary key, read from its end, gives the latest, and those are looked through, up to a limit: 100,000 take
//! a tenth of a second. How far that went is said.

use crate::{
    Limit,
    failure::Failure,
    look::{LookBack, Scan, look},
    report::{Document, table_or, time_text},
};
use clap::Args;
use serde::Serialize;
use shared::{config::StoreOptions, order::State, table::Style};
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

/// Those among the latest $1 orders that are of item $2 and in state $3, where given; at most $4. The limit within is what
/// bounds the reading.
pub const FIND: &str = "
SELECT id, request_id, item, buyer, quantity, state, hold_until, created_at
FROM (SELECT * FROM orders ORDER BY id DESC LIMIT $1) AS latest
WHERE ($2::text IS NULL OR item = $2) AND ($3::text IS NULL OR state = $3)
ORDER BY id DESC LIMIT $4";

/// Whether there are more than $1 orders, and when the youngest behind the latest $1 was made.
pub const REACH: &str = "
SELECT created_at FROM orders ORDER BY id DESC OFFSET $1 LIMIT 1";

#[derive(Debug, Args)]
pub struct Options {
    /// Only orders of this item.
    #[arg(long, value_name = "NAME")]
    item: Option<String>,
    /// Only orders in this state.
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<State>,
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    look_back: LookBack,
    #[command(flatten)]
    store: StoreOptions,
}

/// The document of `orders --json`, the latest first.
#[derive(Serialize)]
pub struct Orders {
    orders: Vec<Order>,
    /// Orders made before this time were not looked at; `null`: all were, or as many were found as were wanted.
    #[serde(with = "shared::messages::time::option")]
    not_looked_at_before: Option<OffsetDateTime>,
}

/// A row of [`FIND`], or of a query with the same columns.
#[derive(Serialize, FromRow)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    pub(crate) request_id: String,
    pub(crate) item: String,
    pub(crate) buyer: String,
    pub(crate) quantity: i64,
    pub(crate) state: String,
    #[serde(with = "shared::messages::time")]
    pub(crate) hold_until: OffsetDateTime,
    #[serde(with = "shared::messages::time")]
    pub(crate) created_at: OffsetDateTime,
}

pub(crate) async fn run(options: Options) -> Result<Orders, Failure> {
    let Options { item, state, limit, look_back, store } = options;
    look(&store, Scan::ByKey, async |connection| find(connection, item.as_deref(), state, limit, look_back).await).await
}

/// Finds the latest orders, of an item or in a state where given.
///
/// # Errors
/// The database's.
pub async fn find(
    connection: &mut PgConnection,
    item: Option<&str>,
    state: Option<State>,
    Limit { limit }: Limit,
    LookBack { look_back }: LookBack,
) -> Result<Orders, sqlx::Error> {
    let (limit, look_back) = (i64::from(limit), i64::from(look_back));
    let query = sqlx::query_as(FIND).bind(look_back).bind(item).bind(state.map(State::as_str)).bind(limit);
    let orders: Vec<Order> = query.fetch_all(&mut *connection).await?;
    let is_full = i64::try_from(orders.len()).is_ok_and(|found| found >= limit);
    let not_looked_at_before = match is_full {
        true => None,
        false => sqlx::query_scalar(REACH).bind(look_back).fetch_optional(connection).await?,
    };
    Ok(Orders { orders, not_looked_at_before })
}

impl Document for Orders {
    fn text(&self, style: Style) -> String {
        let headings = ["ORDER", "ITEM", "BUYER", ">QUANTITY", "STATE", "CREATED", "HOLD UNTIL"];
        let row = |order: &Order| {
            vec![
                order.id.to_string(),
                order.item.clone(),
                order.buyer.clone(),
                order.quantity.to_string(),
                order.state.clone(),
                time_text(order.created_at),
                time_text(order.hold_until),
            ]
        };
        let mut text = table_or("No such orders.", &headings, self.orders.iter().map(row).collect(), style);
        if let Some(time) = self.not_looked_at_before.map(time_text) {
            text +=
                &format!("\nOrders made before about {time} were not looked at; --look-back N goes further back.\n");
        }
        text
    }
}

fn state(word: &str) -> Result<State, String> {
    State::read(word).ok_or_else(|| format!("a state is one of {}", State::ALL.map(State::as_str).join(", ")))
}
