//! Orders: paid for, let go of.

use crate::collector::Line;
use crate::door::{Door, Id};
use crate::lookup::Away;
use crate::problem::Problem;
use crate::purchases::answer;
use crate::request::{self, Unfit};
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use shared::messages::{PAYMENT_QUEUE, PaymentMessage, RELEASE_QUEUE, ReleaseRequest, Request};
use std::sync::Arc;
use uuid::Uuid;

/// `POST /orders/{id}/payment`
pub(crate) async fn pay(
    State(door): State<Arc<Door>>,
    Id(id): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Unfit> {
    let mut fields = request::read_object(&door.bodies, &headers, body).await?;
    // How a payment ends is for others to say.
    fields.remove("op");
    send::<PaymentMessage>(&door, PAYMENT_QUEUE, id, &headers, fields).await
}

/// `DELETE /orders/{id}`
pub(crate) async fn cancel(State(door): State<Arc<Door>>, Id(id): Id, headers: HeaderMap) -> Result<Response, Unfit> {
    send::<ReleaseRequest>(&door, RELEASE_QUEUE, id, &headers, Map::new()).await
}

async fn send<R: Request + Serialize>(
    door: &Door,
    exchange: &'static str,
    order: String,
    headers: &HeaderMap,
    fields: Map<String, Value>,
) -> Result<Response, Unfit> {
    let buyer = request::buyer_of(headers, door.buyer_header.as_ref())?;
    let request: R = request::read(headers, fields, [("order_id", order.clone())])?;
    if let (Some(buyer), Ok(order)) = (&buyer, Uuid::parse_str(&order)) {
        is_of(door, order, buyer).await?;
    }
    let body = serde_json::to_string(&request).expect("a request is representable as JSON");
    // However its id is written, an order is one.
    let line = Line { exchange, routing_key: order.to_ascii_lowercase() };
    Ok(answer(door, headers, door.tickets.ask(line, request.request_id(), buyer, body)?).await)
}

/// Whether the order is this buyer's.
async fn is_of(door: &Door, order: Uuid, buyer: &str) -> Result<(), Problem> {
    match door.orders.get(order).await {
        Ok(Some(order)) if order.buyer == buyer => Ok(()),
        Ok(_) => Err(Problem::UnknownOrder),
        Err(Away) => Err(Problem::DatabaseAway),
    }
}
