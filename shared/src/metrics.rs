//! What is counted, shown to Prometheus over HTTP: `GET /metrics` at `--metrics-address`.
//!
//! Invariant: whoever asks, and however often, takes nothing from those who decide but the time to read their counters.

use anyhow::Context;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
pub use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time;

/// What the name of every metric begins with.
const PREFIX: &str = "turnstile";
const PATH: &str = "/metrics";
/// The most connections at one time; whoever comes on top of that takes the place of the oldest.
const CONNECTIONS_MAX: usize = 16;
/// How long one may last: a question and its answer, however slowly they are sent and read.
const CONNECTION_SECONDS_MAX: u64 = 5;
/// How long nobody is let in after that has failed.
const PAUSE_SECONDS: u64 = 1;
/// The format, as the library writes it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry of this function's metrics: each has its name as a label.
pub fn registry(function: &'static str) -> Registry {
    Registry::with_prefix_and_labels(PREFIX, [("function".into(), function.into())].into_iter())
}

/// Listens, and shows the registry until what is returned is dropped.
pub(crate) async fn show(address: SocketAddr, registry: Registry) -> anyhow::Result<JoinSet<()>> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address} (--metrics-address)"))?;
    let mut showing = JoinSet::new();
    showing.spawn(accept(listener, Arc::new(registry), Duration::from_secs(CONNECTION_SECONDS_MAX)));
    Ok(showing)
}

/// What is shown, for who has a server of their own.
pub fn written(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("a string can be written to");
    text
}

async fn accept(listener: TcpListener, registry: Arc<Registry>, lasts_max: Duration) {
    let mut connections = JoinSet::new();
    let mut open: Vec<AbortHandle> = Vec::with_capacity(CONNECTIONS_MAX);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    open.retain(|connection| !connection.is_finished());
                    if open.len() == CONNECTIONS_MAX {
                        open.remove(0).abort();
                    }
                    let registry = Arc::clone(&registry);
                    let service = service_fn(move |request| std::future::ready(answer(&request, &registry)));
                    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
                    open.push(connections.spawn(async move { drop(time::timeout(lasts_max, connection).await) }));
                }
                // Out of file descriptors, say: it would fail again at once, and again, on the time of those who decide.
                Err(error) => {
                    tracing::warn!(%error, "the metrics cannot be asked for");
                    time::sleep(Duration::from_secs(PAUSE_SECONDS)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn answer<Body>(request: &Request<Body>, registry: &Registry) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut text = String::new();
    let status = if request.uri().path() != PATH {
        StatusCode::NOT_FOUND
    } else if request.method() != Method::GET {
        StatusCode::METHOD_NOT_ALLOWED
    } else {
        text = written(registry);
        StatusCode::OK
    };
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    if status == StatusCode::OK {
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    const ASK: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

    async fn serve(lasts_max: Duration) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, mut showing) = (listener.local_addr().unwrap(), JoinSet::new());
        showing.spawn(accept(listener, Arc::new(registry("test")), lasts_max));
        (address, showing)
    }

    #[tokio::test]
    async fn however_many_say_nothing_or_never_stop_asking_whoever_comes_after_them_is_answered() {
        // Nobody is cut because of the time that it takes.
        let (address, _showing) = serve(Duration::from_secs(3_600)).await;
        let mut others = JoinSet::new();
        for number in 0..40 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            others.spawn(async move {
                // Nothing is read of the answers, and nothing asked by every other one.
                while number % 2 == 0 && stream.write_all(ASK).await.is_ok() {}
                std::future::pending::<TcpStream>().await
            });
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(ASK).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("# EOF\n"), "{answer}");
    }

    #[tokio::test]
    async fn whoever_asks_slowly_is_cut() {
        let (address, _showing) = serve(Duration::from_millis(50)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&ASK[..5]).await.unwrap();
        assert!(stream.read(&mut [0]).await.is_ok_and(|bytes| bytes == 0));
    }
}
