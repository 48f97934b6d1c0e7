//! `order ID`: one order and its whole history.

use crate::{
    failure::Failure,
    orders::Order,
    read::{self, BY_KEY_SECONDS_MAX, Way},
    report::{Column, Report, Shape, Style, counted, moment_text, table, time_text},
};
use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use shared::config::StoreOptions;
use sqlx::{PgConnection, Row, postgres::PgRow};
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

/// What `order` takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The order's id, as the verdict `reserved` told it.
    #[arg(value_name = "ID")]
    pub order: Uuid,
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
}

/// The document of `order ID --json`.
#[derive(Debug, Serialize)]
pub struct OrderWithHistory {
    /// The order.
    #[serde(flatten)]
    pub order: Order,
    /// What happened to it, in order; the first entry is that it was reserved.
    pub history: Vec<Transition>,
    /// Its payment: the one under way, or the last one.
    pub payment: Option<Payment>,
}

/// One step of an order's life.
#[derive(Debug, Serialize)]
pub struct Transition {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The state before; `null`: there was no order.
    pub from_state: Option<String>,
    /// The state from then on.
    pub to_state: String,
    /// What caused it.
    pub cause: String,
    /// The request that asked for it.
    pub request_id: Option<String>,
}

/// How an order is paid for.
#[derive(Debug, Serialize)]
pub struct Payment {
    /// The request that pays.
    pub request_id: String,
    /// With what.
    pub payment_method: String,
    /// When somebody last began to ask the gateway.
    #[serde(with = "time::serde::rfc3339")]
    pub asked_at: OffsetDateTime,
    /// The gateway's name for the charge, once it is captured.
    pub charge_id: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// There is no such order; the database's.
pub async fn run(options: Options, shape: Shape) -> Result<Report, Failure> {
    let pool = read::open(&options.store).await?;
    let seen =
        read::look(&pool, Way::ByKey, BY_KEY_SECONDS_MAX, async |connection| find(connection, options.order).await)
            .await?;
    let missing = || Failure::Broken(anyhow!("there is no order {}; `admin orders` lists the latest", options.order));
    let document = seen.ok_or_else(missing)?;
    Ok(Report::of(shape, &document, |style| text(&document, style)))
}

async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<OrderWithHistory>, sqlx::Error> {
    let Some(row) = sqlx::query(ORDER).bind(id).fetch_optional(&mut *connection).await? else { return Ok(None) };
    let order = Order::read(&row)?;
    let mut history = vec![Transition {
        at: order.created_at,
        from_state: None,
        to_state: "reserved".to_owned(),
        cause: "purchase".to_owned(),
        request_id: Some(order.request_id.clone()),
    }];
    for row in sqlx::query(HISTORY).bind(id).fetch_all(&mut *connection).await? {
        history.push(read_transition(&row)?);
    }
    let payment = sqlx::query(PAYMENT).bind(id).fetch_optional(connection).await?;
    let payment = payment.as_ref().map(read_payment).transpose()?;
    Ok(Some(OrderWithHistory { order, history, payment }))
}

fn read_transition(row: &PgRow) -> Result<Transition, sqlx::Error> {
    Ok(Transition {
        at: row.try_get("at")?,
        from_state: row.try_get("from_state")?,
        to_state: row.try_get("to_state")?,
        cause: row.try_get("cause")?,
        request_id: row.try_get("request_id")?,
    })
}

fn read_payment(row: &PgRow) -> Result<Payment, sqlx::Error> {
    Ok(Payment {
        request_id: row.try_get("request_id")?,
        payment_method: row.try_get("payment_method")?,
        asked_at: row.try_get("asked_at")?,
        charge_id: row.try_get("charge_id")?,
    })
}

fn text(document: &OrderWithHistory, style: Style) -> String {
    let Order { id, request_id, item, buyer, quantity, state, hold_until, .. } = &document.order;
    let units = counted(*quantity, "unit");
    let mut text = format!(
        "{}\n  state    {state}\n  item     {item}, {units}\n  buyer    {buyer}\n  request  {request_id}\n  \
         hold     until {}\n",
        style.title(&id.to_string()),
        time_text(*hold_until)
    );
    if let Some(payment) = &document.payment {
        let charge = payment.charge_id.as_deref().map_or("no charge".to_owned(), |charge| format!("charge {charge}"));
        let Payment { request_id, payment_method, asked_at, .. } = payment;
        let asked_at = time_text(*asked_at);
        text += &format!("  payment  {charge}, by {payment_method}, asked {asked_at} for request {request_id}\n");
    }
    let columns = [
        Column::Words("AT"),
        Column::Words("FROM"),
        Column::Words("TO"),
        Column::Words("CAUSE"),
        Column::Words("REQUEST"),
    ];
    let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
    let row = |step: &Transition| {
        vec![
            moment_text(step.at),
            or_dash(&step.from_state),
            step.to_state.clone(),
            step.cause.clone(),
            or_dash(&step.request_id),
        ]
    };
    text + "\n" + &table(&columns, document.history.iter().map(row).collect(), "")
}
