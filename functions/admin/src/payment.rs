//! `payment`, `settle`, `void`: what is known of a payment, and how it ends where its gateway does not end it.
//!
//! What ends one goes as a request to the payment function, which takes it from the users that its `SETTLE_USERS` names.

use crate::failure::Failure;
use crate::look::{Scan, look};
use crate::report::{Drawn, Layout, Output, Report};
use crate::request::{RequestOptions, id, send};
use anyhow::anyhow;
use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use shared::config::StoreOptions;
use shared::messages::{End, EndRequest, PaymentMessage, Settlement};
use sqlx_macros::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

/// The payment of the order $1: the one under way, or the last one.
pub const PAYMENT: &str = "
SELECT id AS order_id, state, item, quantity, hold_until, split_part(payments.request_id, ' ', 1) AS request_id, payment_method, is_under_way, asked_at, said,
       CASE WHEN is_under_way THEN next_ask_at END AS next_ask_at, CASE WHEN is_under_way THEN void_at END AS void_at,
       charge_id
FROM payments JOIN orders ON orders.id = payments.order_id WHERE payments.order_id = $1";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the payment of an order: what the gateway said of it, when it is asked again, when it is voided.
    Payment {
        #[command(flatten)]
        order: OrderOptions,
        #[command(flatten)]
        store: StoreOptions,
    },
    /// Say how the payment of an order ended, where its gateway does not.
    #[command(group = ArgGroup::new("outcome").required(true).args(["captured", "declined"]))]
    Settle {
        #[command(flatten)]
        order: OrderOptions,
        /// The money is taken; the gateway's name for the charge.
        #[arg(long, value_name = "CHARGE_ID", value_parser = id)]
        captured: Option<String>,
        /// No money is taken, and none will be; why, for the buyer.
        #[arg(long, value_name = "REASON")]
        declined: Option<String>,
        #[command(flatten)]
        request: RequestOptions,
    },
    /// Have the gateway void the payment of an order now, and not when its time is over. Then its hold ends.
    Void {
        #[command(flatten)]
        order: OrderOptions,
        #[command(flatten)]
        request: RequestOptions,
    },
}

#[derive(Debug, Args)]
pub struct OrderOptions {
    /// The order's id, as the verdict `reserved` names it.
    #[arg(value_name = "ORDER")]
    pub(crate) order: Uuid,
}

pub(crate) async fn run(command: Command, output: Output) -> Result<Report, Failure> {
    let (OrderOptions { order: order_id }, end, request) = match command {
        Command::Payment { order, store } => return Ok(output.report(&show(order.order, &store).await?)),
        Command::Settle { order, captured, declined, request } => {
            let declined = Settlement::Declined { reason: declined.unwrap_or_default(), payment_method: None };
            (order, End::Settle(captured.map_or(declined, |charge_id| Settlement::Captured { charge_id })), request)
        }
        Command::Void { order, request } => (order, End::Void, request),
    };
    let verdict =
        send(request, |request_id| PaymentMessage::End(EndRequest { request_id, order_id, end, user: None })).await?;
    Ok(output.report(&verdict))
}

#[derive(Serialize, FromRow)]
struct Payment {
    order_id: Uuid,
    /// The order's.
    state: String,
    item: String,
    quantity: i64,
    #[serde(with = "shared::messages::time")]
    hold_until: OffsetDateTime,
    /// Of the request that pays.
    request_id: String,
    payment_method: String,
    is_under_way: bool,
    /// When the gateway was last asked.
    #[serde(with = "shared::messages::time")]
    asked_at: OffsetDateTime,
    /// What it said then, where that was no outcome.
    said: Option<String>,
    /// When it is asked again, and from when on to void it.
    #[serde(with = "shared::messages::time::option")]
    next_ask_at: Option<OffsetDateTime>,
    #[serde(with = "shared::messages::time::option")]
    void_at: Option<OffsetDateTime>,
    /// The gateway's name for the charge, once it is captured.
    charge_id: Option<String>,
}

async fn show(id: Uuid, store: &StoreOptions) -> Result<Drawn, Failure> {
    let read = async |connection: &mut _| sqlx::query_as(PAYMENT).bind(id).fetch_optional(connection).await;
    let payment: Option<Payment> = look(store, Scan::ByKey, read).await?;
    let none = || anyhow!("there is no payment of an order {id}; `admin order {id}` says whether there is the order");
    let payment = payment.ok_or_else(|| Failure::Broken(none()))?;
    let lines = "order_id state item quantity hold_until request_id payment_method is_under_way asked_at said next_ask_at \
                 void_at charge_id";
    Ok(Layout { lines, tables: &[] }.of(json!(payment)))
}
