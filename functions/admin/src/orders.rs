//! `orders`: the latest orders, of an item or in a state; and `order ID`: one with its whole history.
//!
//! Orders have no index by item, because each purchase would pay for it. Their ids begin with the time at which they were
//! made, so the primary key, read from its end, gives the latest, and those are looked through, up to a limit: 100,000 take
//! a tenth of a second. How far that went is said.

use crate::Limit;
use crate::failure::Failure;
use crate::look::{LookBack, Scan, look};
use crate::report::{Drawn, Layout, time_text};
use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use shared::config::StoreOptions;
use shared::order::State;
use sqlx::PgConnection;
use sqlx_macros::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

/// Those among the latest $1 orders that are of item $2 and in state $3, where given; at most $4. The limit within is what
/// bounds the reading.
pub const FIND: &str = "
SELECT id, request_id, nullif(sender, '') AS sender, item, buyer, quantity, state, hold_until, created_at
FROM (SELECT * FROM orders ORDER BY id DESC LIMIT $1) AS latest
WHERE ($2::text IS NULL OR item = $2) AND ($3::text IS NULL OR state = $3)
ORDER BY id DESC LIMIT $4";

/// Whether there are more than $1 orders, and when the youngest behind the latest $1 was made.
pub const REACH: &str = "
SELECT created_at FROM orders ORDER BY id DESC OFFSET $1 LIMIT 1";

/// Of one order: itself, what became of it, and its payment. $1 is its id.
pub const ORDER: &str = "
SELECT id, request_id, nullif(sender, '') AS sender, item, buyer, quantity, state, hold_until, created_at
FROM orders WHERE id = $1";
pub const HISTORY: &str = "
SELECT from_state, to_state, cause, request_id, at FROM order_history WHERE order_id = $1 ORDER BY at";
pub const PAYMENT: &str = "
SELECT split_part(request_id, ' ', 1) AS request_id, payment_method, asked_at, charge_id FROM payments WHERE order_id = $1";

#[derive(Debug, Args)]
pub struct ListOptions {
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

#[derive(Serialize, FromRow)]
struct Order {
    id: Uuid,
    request_id: String,
    /// The broker's user who bought it, where the purchase said so.
    sender: Option<String>,
    item: String,
    buyer: String,
    quantity: i64,
    state: String,
    #[serde(with = "shared::messages::time")]
    hold_until: OffsetDateTime,
    #[serde(with = "shared::messages::time")]
    created_at: OffsetDateTime,
}

pub(crate) const TABLES: &[(&str, &str, &str)] =
    &[("orders", "No such orders.", "id item buyer quantity state created_at hold_until")];

pub(crate) async fn list(options: ListOptions) -> Result<Drawn, Failure> {
    let ListOptions { item, state, limit, look_back, store } = options;
    let read = async |connection: &mut _| find(connection, item.as_deref(), state, limit, look_back).await;
    let orders = look(&store, Scan::ByKey, read).await?;
    let mut drawn = Layout { lines: "", tables: TABLES }.of(json!(orders));
    drawn.notes.extend(orders.behind(limit));
    Ok(drawn)
}

impl Orders {
    /// Says that there are older ones, where there are.
    pub(crate) fn behind(&self, limit: Limit) -> Option<String> {
        let Some(time) = self.not_looked_at_before.map(time_text) else { return limit.note(self.orders.len()) };
        Some(format!("Orders made before about {time} were not looked at; --look-back N goes further back."))
    }
}

/// Finds the latest orders, of an item or in a state where given.
pub async fn find(
    connection: &mut PgConnection,
    item: Option<&str>,
    state: Option<State>,
    limit: Limit,
    LookBack { look_back }: LookBack,
) -> Result<Orders, sqlx::Error> {
    let (limit, look_back) = (limit.rows(), i64::from(look_back));
    let query = sqlx::query_as(FIND).bind(look_back).bind(item).bind(state.map(State::as_str)).bind(limit);
    let orders: Vec<Order> = query.fetch_all(&mut *connection).await?;
    let is_full = i64::try_from(orders.len()).is_ok_and(|found| found >= limit);
    let not_looked_at_before = match is_full {
        true => None,
        false => sqlx::query_scalar(REACH).bind(look_back).fetch_optional(connection).await?,
    };
    Ok(Orders { orders, not_looked_at_before })
}

fn state(word: &str) -> Result<State, String> {
    State::read(word).ok_or_else(|| format!("a state is one of {}", State::ALL.map(State::as_str).join(", ")))
}

#[derive(Debug, Args)]
pub struct OrderOptions {
    /// The order's id, as the verdict `reserved` names it.
    #[arg(value_name = "ID")]
    order: Uuid,
    #[command(flatten)]
    store: StoreOptions,
}

#[derive(Serialize)]
struct OrderWithHistory {
    #[serde(flatten)]
    order: Order,
    /// In order; the first entry is that it was reserved.
    history: Vec<Transition>,
    /// The one under way, or the last one.
    payment: Option<Payment>,
}

#[derive(Serialize, FromRow)]
struct Transition {
    #[serde(with = "shared::messages::time")]
    at: OffsetDateTime,
    from_state: Option<String>,
    to_state: String,
    cause: String,
    request_id: Option<String>,
}

#[derive(Serialize, FromRow)]
struct Payment {
    request_id: String,
    payment_method: String,
    /// When the gateway was last asked.
    #[serde(with = "shared::messages::time")]
    asked_at: OffsetDateTime,
    /// The gateway's name for the charge, once it is captured.
    charge_id: Option<String>,
}

pub(crate) async fn one(OrderOptions { order: id, store }: OrderOptions) -> Result<Drawn, Failure> {
    let found = look(&store, Scan::ByKey, async |connection| {
        let order: Option<Order> = sqlx::query_as(ORDER).bind(id).fetch_optional(&mut *connection).await?;
        let Some(order) = order else { return Ok(None) };
        let mut history = vec![Transition {
            at: order.created_at,
            from_state: None,
            to_state: "reserved".to_owned(),
            cause: "purchase".to_owned(),
            request_id: Some(order.request_id.clone()),
        }];
        history.extend(sqlx::query_as::<_, Transition>(HISTORY).bind(id).fetch_all(&mut *connection).await?);
        let payment = sqlx::query_as(PAYMENT).bind(id).fetch_optional(connection).await?;
        Ok(Some(OrderWithHistory { order, history, payment }))
    });
    let found = found.await?;
    let found =
        found.ok_or_else(|| Failure::Broken(anyhow!("there is no order {id}; `admin orders` lists the latest")))?;
    let lines = "id state item quantity buyer request_id sender created_at hold_until payment";
    let tables = &[("history", "", "at from_state to_state cause request_id")];
    Ok(Layout { lines, tables }.of(json!(found)))
}
