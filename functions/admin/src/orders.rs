//! `orders`: the latest orders, of an item or in a state.
//!
//! What it costs: orders have no index by item, because each purchase would pay for it. Order ids begin with the time at
//! which they were made, so the primary key, read from its end, gives the latest ones, and those are looked through, up to
//! a limit; 100,000 take a tenth of a second. How far that went is said.

use crate::{
    failure::Failure,
    options::Limit,
    read::{self, BY_KEY_SECONDS_MAX, LookBack, Way},
    report::{Column, Report, Shape, table, time_text},
};
use clap::Args;
use serde::Serialize;
use shared::{config::StoreOptions, order::State};
use sqlx::{PgConnection, Row, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

/// Those among the latest $1 orders that are of item $2 and in state $3, where given; at most $4. The limit within is what
/// bounds the reading.
pub const FIND: &str = "
SELECT id, request_id, item, buyer, quantity, state, hold_until, created_at
FROM (SELECT * FROM orders ORDER BY id DESC LIMIT $1) AS latest
WHERE ($2::text IS NULL OR item = $2) AND ($3::text IS NULL OR state = $3)
ORDER BY id DESC LIMIT $4";

/// Whether there are more than $1 orders, and when the oldest of the latest $1 was made.
pub const REACH: &str = "
SELECT created_at FROM orders ORDER BY id DESC OFFSET $1 LIMIT 1";

/// What `orders` takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Only orders of this item.
    #[arg(long, value_name = "NAME")]
    pub item: Option<String>,
    /// Only orders in this state.
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub state: Option<State>,
    /// How much to show.
    #[command(flatten)]
    pub limit: Limit,
    /// How far to look.
    #[command(flatten)]
    pub look_back: LookBack,
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
}

/// Which orders are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Of this item.
    pub item: Option<&'a str>,
    /// In this state.
    pub state: Option<State>,
}

/// The document of `orders --json`.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The latest first.
    pub orders: Vec<Order>,
    /// Orders made before this time were not looked at; `null`: all were, or as many were found as were wanted.
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_looked_at_before: Option<OffsetDateTime>,
}

/// An order.
#[derive(Debug, Clone, Serialize)]
pub struct Order {
    /// Its id.
    pub id: Uuid,
    /// The purchase request that it came from.
    pub request_id: String,
    /// The item's id.
    pub item: String,
    /// Who ordered.
    pub buyer: String,
    /// Units.
    pub quantity: i64,
    /// Its state.
    pub state: String,
    /// Its units are kept until then.
    #[serde(with = "time::serde::rfc3339")]
    pub hold_until: OffsetDateTime,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Runs the command.
///
/// # Errors
/// The database's.
pub async fn run(options: Options, shape: Shape) -> Result<Report, Failure> {
    let pool = read::open(&options.store).await?;
    let wanted = Wanted { item: options.item.as_deref(), state: options.state };
    let found = read::look(&pool, Way::ByKey, BY_KEY_SECONDS_MAX, async |connection| {
        find(connection, wanted, options.limit, options.look_back).await
    })
    .await?;
    Ok(Report::of(shape, &found, |_| text(&found)))
}

/// Finds the latest orders that are wanted.
///
/// # Errors
/// The database's.
pub async fn find(
    connection: &mut PgConnection,
    wanted: Wanted<'_>,
    limit: Limit,
    back: LookBack,
) -> Result<Found, sqlx::Error> {
    let rows = sqlx::query(FIND)
        .bind(i64::from(back.look_back))
        .bind(wanted.item)
        .bind(wanted.state.map(State::as_str))
        .bind(i64::from(limit.limit))
        .fetch_all(&mut *connection)
        .await?;
    let orders = rows.iter().map(Order::read).collect::<Result<Vec<_>, _>>()?;
    let not_looked_at_before = if rows.len() < usize::try_from(limit.limit).unwrap_or(usize::MAX) {
        let next = sqlx::query(REACH).bind(i64::from(back.look_back)).fetch_optional(connection).await?;
        next.map(|row| row.try_get("created_at")).transpose()?
    } else {
        None
    };
    Ok(Found { orders, not_looked_at_before })
}

impl Order {
    /// Reads a row of [`FIND`], or of one with the same columns.
    ///
    /// # Errors
    /// A column is missing.
    pub fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            request_id: row.try_get("request_id")?,
            item: row.try_get("item")?,
            buyer: row.try_get("buyer")?,
            quantity: row.try_get("quantity")?,
            state: row.try_get("state")?,
            hold_until: row.try_get("hold_until")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// The orders found, for people.
#[must_use]
pub fn text(found: &Found) -> String {
    let columns = [
        Column::Words("ORDER"),
        Column::Words("ITEM"),
        Column::Words("BUYER"),
        Column::Number("QUANTITY"),
        Column::Words("STATE"),
        Column::Words("CREATED"),
        Column::Words("HOLD UNTIL"),
    ];
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
    let mut text = table(&columns, found.orders.iter().map(row).collect(), "No such orders.");
    if let Some(time) = found.not_looked_at_before {
        let time = time_text(time);
        text += &format!("\nOrders made before about {time} were not looked at; --look-back N goes further back.\n");
    }
    text
}

fn state(word: &str) -> Result<State, String> {
    State::read(word).ok_or_else(|| format!("a state is one of {}", State::ALL.map(State::as_str).join(", ")))
}
