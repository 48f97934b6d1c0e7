//! Pages of other origins that may ask: those that are named, and no others (CORS).

use crate::door::Door;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

const METHODS: &str = "GET, POST, DELETE";
const HEADERS: &str = "content-type, idempotency-key, prefer, last-event-id";
const EXPOSED: &str = "idempotency-key, location, retry-after";
/// How long a browser need not ask again whether it may.
const SECONDS_MAX: &str = "600";

pub(crate) async fn let_in(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).filter(|origin| door.cors_origins.contains(origin)).cloned();
    let is_question = request.method() == Method::OPTIONS && origin.is_some();
    let mut response = if is_question { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    if door.cors_origins.is_empty() {
        return response;
    }
    let headers = response.headers_mut();
    // What is kept of it is not for another.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(origin) = origin else { return response };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    if is_question {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(SECONDS_MAX));
    }
    response
}
