//! What every request has at hand, and what every request is held to.

use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::on_sale::OnSale;
use crate::options::Options;
use crate::problem::Problem;
use crate::request::{BODIES_BYTES_MAX, Unfit};
use crate::store::{self, Order, Recorded};
use crate::tickets::Tickets;
use crate::verdict::Verdict;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use shared::messages::CONTENT_TYPE;
use shared::worker::Service;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// The most bytes of a request's path and headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The pause behind each query for verdicts, and for orders.
const DECIDED_PAUSE: Duration = Duration::from_millis(50);
/// The same for items, which are the rows that everybody's purchases change.
const ITEMS_PAUSE: Duration = Duration::from_millis(250);

pub(crate) struct Door {
    pub(crate) service: Service,
    pub(crate) tickets: Arc<Tickets>,
    pub(crate) on_sale: Arc<OnSale>,
    pub(crate) verdicts: Lookup<String, Recorded>,
    pub(crate) orders: Lookup<Uuid, Order>,
    pub(crate) items: Lookup<String, String>,
    /// Where a proxy says who the buyer is.
    pub(crate) buyer_header: Option<HeaderName>,
    /// What webhooks are signed with, where any are taken.
    pub(crate) webhook_key: Option<ring::hmac::Key>,
    /// Whose pages may ask.
    pub(crate) cors_origins: Vec<HeaderValue>,
    pub(crate) metrics: Metrics,
    pub(crate) streams: Arc<Semaphore>,
    /// Bytes that bodies may have while they come.
    pub(crate) bodies: Semaphore,
    open: Semaphore,
}

impl Door {
    pub(crate) fn new(
        service: Service,
        tickets: Arc<Tickets>,
        pool: &PgPool,
        options: Options,
        webhook_key: Option<ring::hmac::Key>,
        metrics: Metrics,
    ) -> Self {
        let nodes = service.nodes.clone();
        let [of_verdicts, of_orders, of_items] = std::array::from_fn(|_| pool.clone());
        Self {
            service,
            tickets,
            on_sale: OnSale::start(pool),
            verdicts: Lookup::start(DECIDED_PAUSE, move |ids| {
                store::verdicts(of_verdicts.clone(), nodes.user().to_owned(), ids)
            }),
            orders: Lookup::start(DECIDED_PAUSE, move |ids| store::orders(of_orders.clone(), ids)),
            items: Lookup::start(ITEMS_PAUSE, move |ids| store::items(of_items.clone(), ids)),
            buyer_header: options.buyer_header,
            webhook_key,
            cors_origins: options.cors_origin,
            metrics,
            streams: Arc::new(Semaphore::new(options.streams_max as usize)),
            bodies: Semaphore::new(BODIES_BYTES_MAX),
            open: Semaphore::new(options.requests_max as usize),
        }
    }
}

/// Holds a request to what everybody's is held to.
pub(crate) async fn within_bounds(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if path + headers.sum::<usize>() > HEAD_BYTES_MAX {
        return Problem::HeadersTooLarge.into_response();
    }
    match door.open.try_acquire() {
        Ok(_open) => next.run(request).await,
        Err(_) => Problem::TooManyRequests.into_response(),
    }
}

pub(crate) async fn counted(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    door.metrics.responded(response.status().as_u16());
    response
}

/// The one part of a path that is an id, or whatever the parts are.
pub(crate) struct Id<T = String>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // PostgreSQL takes no NUL in a text, and one query is for all who look.
        if parts.uri.path().contains("%00") {
            return Err(Problem::NotFound);
        }
        Path::from_request_parts(parts, state).await.map(|Path(id)| Self(id)).map_err(|_| Problem::NotFound)
    }
}

impl IntoResponse for Verdict {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).expect("a verdict has a status of ours");
        (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], self.bytes).into_response()
    }
}

impl IntoResponse for Unfit {
    fn into_response(self) -> Response {
        match self {
            Self::Invalid(verdict) => verdict.into_response(),
            Self::Problem(problem) => problem.into_response(),
        }
    }
}
