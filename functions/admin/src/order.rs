//! `order ID`: one order and its whole history.

use crate::{
    failure::Failure,
    look::{Scan, look},
    orders::Order,
    report::{Document, counted, moment_text, or_dash, time_text},
};
use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use shared::{
    config::StoreOptions,
    table::{Style, table},
};
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

/// $1 is its id.
pub const ORDER: &str = "
SELECT id, request_id, item, buyer, quantity, state, hold_until, created_at FROM orders WHERE id = $1";

/// $1 is the order's id.
pub const HISTORY: &str = "
SELECT from_state, to_state, cause, request_id, at FROM order_history WHERE order_id = $1 ORDER BY at";

/// $1 is the order's id.
pub const PAYMENT: &str = "
SELECT request_id, payment_method, asked_at, charge_id FROM payments WHERE order_id = $1";

#[derive(Debug, Args)]
pub struct Options {
    /// The order's id, as the verdict `reserved` names it.
    #[arg(value_name = "ID")]
    order: Uuid,
    #[command(flatten)]
    store: StoreOptions,
}

/// The document of `order ID --json`.
#[derive(Serialize)]
pub(crate) struct OrderWithHistory {
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

pub(crate) async fn run(options: Options) -> Result<OrderWithHistory, Failure> {
    let id = options.order;
    let found = look(&options.store, Scan::ByKey, async |connection| find(connection, id).await).await?;
    found.ok_or_else(|| Failure::Broken(anyhow!("there is no order {id}; `admin orders` lists the latest")))
}

async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<OrderWithHistory>, sqlx::Error> {
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
}

impl Document for OrderWithHistory {
    fn text(&self, style: Style) -> String {
        let Order { id, request_id, item, buyer, quantity, state, hold_until, .. } = &self.order;
        let mut text = format!(
            "{}\n  state    {state}\n  item     {item}, {}\n  buyer    {buyer}\n  request  {request_id}\n  \
             hold     until {}\n",
            style.title(&id.to_string()),
            counted(*quantity, "unit"),
            time_text(*hold_until)
        );
        if let Some(Payment { request_id, payment_method, asked_at, charge_id }) = &self.payment {
            let charge = charge_id.as_ref().map_or("no charge".to_owned(), |charge| format!("charge {charge}"));
            let asked_at = time_text(*asked_at);
            text += &format!("  payment  {charge}, by {payment_method}, asked {asked_at} for request {request_id}\n");
        }
        let row = |step: &Transition| {
            let Transition { at, from_state, to_state, cause, request_id } = step;
            let (from, request) = (or_dash(from_state.clone()), or_dash(request_id.clone()));
            vec![moment_text(*at), from, to_state.clone(), cause.clone(), request]
        };
        text + "\n" + &table(&["AT", "FROM", "TO", "CAUSE", "REQUEST"], self.history.iter().map(row), style)
    }
}
