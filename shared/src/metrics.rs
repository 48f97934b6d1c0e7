//! What is counted, shown to Prometheus over HTTP: `GET /metrics` at `--metrics-address`.
//!
//! Knows neither broker nor database. Invariant: whoever asks, and however often, takes nothing from those who decide but the
//! time to read their counters.

use anyhow::Context;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
pub use prometheus_client::registry::Registry;
use std::{convert::Infallible, net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};

/// What the name of every metric begins with.
const PREFIX: &str = "turnstile";
/// The only path there is.
const PATH: &str = "/metrics";
/// The most connections at one time; whoever comes on top of that waits.
const CONNECTIONS_MAX: usize = 16;
/// The format, as the library writes it.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry of this function's metrics: each has its name as a label.
pub(crate) fn registry(function: &'static str) -> Registry {
    Registry::with_prefix_and_labels(PREFIX, [("function".into(), function.into())].into_iter())
}

/// Listens, and shows the registry until it is dropped.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn show(address: SocketAddr, registry: Registry) -> anyhow::Result<JoinSet<()>> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address} (--metrics-address)"))?;
    let mut showing = JoinSet::new();
    showing.spawn(accept(listener, Arc::new(registry)));
    Ok(showing)
}

async fn accept(listener: TcpListener, registry: Arc<Registry>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let registry = Arc::clone(&registry);
                    let service = service_fn(move |request| std::future::ready(answer(&request, &registry)));
                    // With a timer, whoever says nothing is hung up on.
                    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
                    connections.spawn(async { drop(connection.await) });
                }
                // Out of file descriptors, say: whoever asks will ask again.
                Err(error) => tracing::warn!(%error, "the metrics cannot be asked for"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn answer<Body>(request: &Request<Body>, registry: &Registry) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != PATH {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    } else {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, registry) {
            Ok(()) => {
                response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
                *response.body_mut() = Full::new(text.into());
            }
            Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
    Ok(response)
}
