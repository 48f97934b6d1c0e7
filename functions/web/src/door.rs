//! What every request has at hand, and what every request is held to.

use crate::{
    lookup::Lookup,
    metrics::Metrics,
    on_sale::OnSale,
    problem::Problem,
    request::Unfit,
    store::{self, Recorded},
    tickets::Tickets,
    verdict::Verdict,
};
use axum::{
    extract::{FromRequestParts, Path, Request, State},
    http::{HeaderName, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use shared::{messages::CONTENT_TYPE, worker::Service};
use sqlx::PgPool;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// The most bytes of a request's path and headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The pause behind each query for verdicts.
const VERDICTS_PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Door {
    pub(crate) service: Service,
    pub(crate) tickets: Arc<Tickets>,
    pub(crate) on_sale: Arc<OnSale>,
    pub(crate) verdicts: Lookup<String, Recorded>,
    /// Where a proxy says who the buyer is.
    pub(crate) buyer_header: Option<HeaderName>,
    pub(crate) metrics: Metrics,
    open: Semaphore,
}

impl Door {
    pub(crate) fn new(
        service: Service,
        tickets: Arc<Tickets>,
        pool: &PgPool,
        buyer_header: Option<HeaderName>,
        metrics: Metrics,
        requests_max: usize,
    ) -> Self {
        let on_sale = OnSale::start(pool);
        let (pool, nodes, open) = (pool.clone(), service.nodes.clone(), Semaphore::new(requests_max));
        let verdicts = Lookup::start(VERDICTS_PAUSE, move |ids| {
            let (pool, user) = (pool.clone(), nodes.user().to_owned());
            async move { store::verdicts(&pool, &user, ids).await }
        });
        Self { service, tickets, on_sale, verdicts, buyer_header, metrics, open }
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

/// The one part of a path that is an id.
pub(crate) struct Id(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        read.map(|Path(id)| Self(id)).map_err(|_| Problem::NotFound)
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
