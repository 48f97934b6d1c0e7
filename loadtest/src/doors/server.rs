//! The server behind a door: `POST /purchase`, decided before it is answered, and `GET /counts`.
//!
//! As a competent user would set it up: a pool of connections that are open before the first request, limits on every wait,
//! no delay of small packets; the listen backlog is tokio's own. Knows nothing of the crowd. Invariant: a purchase that was
//! begun is finished, also where its buyer is gone.

mod counts;
mod desk;

use std::future::IntoFuture;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::files;
use crate::cli::DoorServerOptions;
use crate::failure::Failure;
use counts::Counting;
pub(super) use counts::Counts;
use desk::{Decision, Desk, Fault, Purchase};

/// Connections to the database.
const POOL_CONNECTIONS: u32 = 50;
/// How long a request waits for one of them.
const POOL_WAIT_MAX: Duration = Duration::from_secs(5);
/// What the database ends by itself.
const LIMITS: [(&str, &str); 2] = [("lock_timeout", "5s"), ("statement_timeout", "10s")];

/// Serves until SIGTERM. Once it listens, its address stands in the file that the options name.
///
/// # Errors
/// The database cannot be reached, or the system refuses a socket.
pub(crate) async fn serve(options: &DoorServerOptions) -> Result<(), Failure> {
    files::allow_most()?;
    let pool = pool(&options.database_url).await?;
    let (strategy, payment, retry) = (options.strategy, Duration::from_millis(options.payment_ms), options.retry);
    let desk = Arc::new(Desk { pool, strategy, payment, retry, counting: Counting::default() });
    let routes = Router::new().route("/purchase", post(purchase)).route("/counts", get(counts)).with_state(desk);
    let mut terminate = signal(SignalKind::terminate()).context("listen for signals").map_err(Failure::Broken)?;
    let serving = async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen on a loopback port")?;
        announce(&options.address_file, &listener.local_addr()?.to_string())?;
        // An answer is one small packet, and somebody waits for it.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let stopped = async move {
            let _closed_or_received = terminate.recv().await;
        };
        Ok(axum::serve(listener, routes).with_graceful_shutdown(stopped).into_future().await?)
    };
    serving.await.map_err(Failure::Broken)
}

/// With every connection open: who comes first does not wait for that.
async fn pool(database_url: &str) -> Result<PgPool, Failure> {
    let options = PgConnectOptions::from_str(database_url).context("DATABASE_URL cannot be read");
    let options = options.map_err(Failure::Configuration)?.application_name("loadtest door").options(LIMITS);
    let pool = PgPoolOptions::new()
        .max_connections(POOL_CONNECTIONS)
        .acquire_timeout(POOL_WAIT_MAX)
        // A round trip before every use, otherwise.
        .test_before_acquire(false)
        .connect_lazy_with(options);
    let opened = try_join_all((0..POOL_CONNECTIONS).map(|_| pool.acquire())).await;
    opened.map_err(|error| {
        Failure::Unreachable(anyhow!(
            "the door's {POOL_CONNECTIONS} connections to the database cannot be opened ({error}); is PostgreSQL running, \
             does DATABASE_URL name it, and does its max_connections leave room for them?"
        ))
    })?;
    Ok(pool)
}

/// Whole or not at all: somebody is looking for the file.
fn announce(file: &Path, address: &str) -> anyhow::Result<()> {
    let half = file.with_extension("half");
    std::fs::write(&half, address).with_context(|| format!("write {}", half.display()))?;
    std::fs::rename(&half, file).with_context(|| format!("write {}", file.display()))
}

/// What a buyer sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Form {
    pub(super) request_id: Uuid,
    pub(super) item: String,
    pub(super) buyer: String,
    pub(super) quantity: NonZeroU16,
}

async fn purchase(State(desk): State<Arc<Desk>>, Json(form): Json<Form>) -> (StatusCode, Json<Value>) {
    let Form { request_id, item, buyer, quantity } = form;
    let purchase = Purchase { request_id, item, buyer, quantity: i64::from(quantity.get()) };
    // On its own, so that a buyer who hangs up cuts no transaction in half: a request thread would go on, too.
    let selling = tokio::spawn(async move { desk.sell(&purchase).await });
    let answer = |status, word: &str, why: String| (status, Json(json!({ "status": word, "message": why })));
    match selling.await {
        Ok(Ok(Decision::Sold)) => (StatusCode::OK, Json(json!({ "status": "sold", "order": request_id }))),
        Ok(Ok(Decision::SoldOut)) => answer(StatusCode::GONE, "sold_out", "nothing is left".to_owned()),
        Ok(Ok(Decision::Conflict)) => answer(StatusCode::CONFLICT, "conflict", "somebody was faster".to_owned()),
        Ok(Err(Fault::Busy(error))) => answer(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string()),
        Ok(Err(Fault::Broken(error))) => answer(StatusCode::INTERNAL_SERVER_ERROR, "failed", error.to_string()),
        Err(panic) => answer(StatusCode::INTERNAL_SERVER_ERROR, "failed", panic.to_string()),
    }
}

async fn counts(State(desk): State<Arc<Desk>>) -> Json<Counts> {
    Json(*desk.counting.now())
}
