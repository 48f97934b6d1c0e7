//! `buy`, `pay`, `cancel`: what a buyer does, sent as any other system would. The order is the broker's user's who has bought it, and
//! nobody else pays for it or cancels it.

use crate::failure::Failure;
use crate::payment::OrderOptions;
use crate::request::{RequestOptions, id, opaque_id, send, send_by};
use clap::Subcommand;
use shared::messages::{PaymentMessage, PaymentRequest, PurchaseRequest, QUANTITY_MAX, ReleaseRequest, Verdict};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Buy units of an item; they are held until they are paid for.
    Buy {
        /// The item's id.
        #[arg(value_parser = id)]
        item: String,
        /// The buyer's id.
        #[arg(value_parser = opaque_id)]
        buyer: String,
        /// Units; all of them, or none.
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(QUANTITY_MAX)))]
        quantity: u32,
        #[command(flatten)]
        request: RequestOptions,
    },
    /// Pay for an order that was bought by the same user of the broker.
    Pay {
        #[command(flatten)]
        order: OrderOptions,
        /// The gateway's name for what to charge.
        #[arg(long, default_value = "card", value_name = "ID", value_parser = opaque_id)]
        payment_method: String,
        #[command(flatten)]
        request: RequestOptions,
    },
    /// Cancel an order that was bought by the same user of the broker, and is not paid for.
    Cancel {
        #[command(flatten)]
        order: OrderOptions,
        #[command(flatten)]
        request: RequestOptions,
    },
}

pub(crate) async fn run(command: Command) -> Result<Verdict, Failure> {
    let sender = None;
    match command {
        Command::Buy { item, buyer, quantity, request } => {
            let purchase = |request_id| PurchaseRequest {
                request_id,
                item: item.clone(),
                buyer,
                quantity,
                deadline: None,
                sender,
            };
            send_by(&item, request, purchase).await
        }
        Command::Pay { order: OrderOptions { order: order_id }, payment_method, request } => {
            let payment = |request_id| PaymentRequest { request_id, order_id, payment_method, sender };
            send(request, |request_id| PaymentMessage::Pay(payment(request_id))).await
        }
        Command::Cancel { order: OrderOptions { order: order_id }, request } => {
            send(request, |request_id| ReleaseRequest { request_id, order_id, sender }).await
        }
    }
}
